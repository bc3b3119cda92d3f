"""Write what validation images said of each tuned and frozen run early in its training.

    python scripts/early_validations.py RESULTS

RESULTS is the folder in which the grids of `grids/evidence/` were run. The first validation after a
fifth and after half of the epochs is taken from each run's history, for the families that advice is
scored on, and `results/evidence/advice-validations.csv` is written. `analysis.advice.left_out`
replays races from it that give up one of two arms then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from analysis.advice.left_out import RACES, arms
from analysis.advice.left_out_tables import FAMILIES, VALIDATIONS
from analysis.leaderboard.read import read
from bench.core.files import write_csv
from bench.results.history import read_history
from bench.results.store import Store

EVIDENCE = Path(__file__).parents[1] / "results" / "evidence"


def rows(results: Path, evidence: Path = EVIDENCE) -> Iterator[dict[str, object]]:
    """Rows for each run that tunes or freezes all layers but the last, in the order of ids."""
    wanted: dict[str, int] = {}
    for family in FAMILIES:
        board = read(evidence / f"{family}.csv")
        table = arms(board)
        runs = board.loc[table.index[table["role"] != ""]]
        wanted |= dict(zip(runs["run_id"], runs["epochs"].astype(int), strict=True))
    folders = {folder.run_id: folder for folder in Store(results).find("")}
    for run, epochs in sorted(wanted.items()):
        history = read_history(folders[run])
        validated = [line for line in history if line["val_top1_accuracy"] is not None]
        for share in RACES:
            line = next(one for one in validated if (one["epoch"] or 0) + 1 >= share * epochs)
            yield {
                "run_id": run,
                "share": share,
                "epoch": int(line["epoch"] or 0) + 1,
                "epochs": epochs,
                "val_top1_accuracy": round(line["val_top1_accuracy"] or 0.0, 6),
            }


def main() -> None:
    """Write the table from the runs below the folder that is named."""
    write_csv(EVIDENCE / VALIDATIONS, list(rows(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
