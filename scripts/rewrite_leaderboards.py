"""Write the committed leaderboards again from their own rows, by planning their grids.

The folders of those runs are not in the repository; a leaderboard keeps each run's id, and planning
the same grid gives each id its spec, and so its settings and condition. Results are taken over as
they are written; a run that the grid plans and the leaderboard lacks is an error, and so is the
reverse.

    python scripts/rewrite_leaderboards.py --data-root FOLDER
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

from bench.core.files import write_atomic
from bench.planning.workspace import open_session
from bench.results.aggregate import aggregate
from bench.results.leaderboard import columns_of, describe, sort_rows, to_csv
from bench.results.records import COLUMNS
from bench.results.resolved import PRECISION

ROOT = Path(__file__).parents[1]
PAPERS = ("best-practices", "multifaceted", "selective-joint", "soft-fine-tuning")
COMMITTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "results/tiny-imagenet.csv": ("grids/tiny-imagenet.yaml", ("preset=bfloat16",)),
    "results/borrowing.csv": ("grids/borrowing.yaml", ()),
    "results/borrowing-tiny-imagenet.csv": ("grids/borrowing-tiny-imagenet.yaml", ()),
    **{
        f"results/papers/{name}.csv": (f"grids/papers/{name}.yaml", ("preset=miniature",))
        for name in PAPERS
    },
}
"""Each committed leaderboard, its grid and what was set."""
_TAKEN_OVER = tuple(
    c.name
    for c in COLUMNS
    if c.kind in ("metric", "cost") or c.name in ("status", "reason", "verification_warning")
)


def rewritten(
    leaderboard: str, data_root: Path | None, path: Path, results: Path
) -> tuple[str, str]:
    """The leaderboard and its conditions as CSV, with the columns of this version.

    Args:
        leaderboard: of `COMMITTED`.
        path: where its rows lie.
        results: an empty folder, or one that other leaderboards left their opened data sets in.

    Raises:
        SystemExit: the grid does not plan the runs that the leaderboard has.
    """
    grid, overrides = COMMITTED[leaderboard]
    with path.open(newline="") as file:
        old = {row["run_id"]: row for row in csv.DictReader(file)}
    session = open_session(ROOT / grid, results=results, data_root=data_root, overrides=overrides)
    resolved = {key: {PRECISION: row[PRECISION]} for key, row in old.items() if row.get(PRECISION)}
    rows = describe(session.plan, resolved)
    if rows.keys() != old.keys():
        lost, new = len(old.keys() - rows.keys()), len(rows.keys() - old.keys())
        raise SystemExit(f"{leaderboard}: {lost} runs are not planned by {grid}, {new} are new")
    for key, row in rows.items():
        found = {name: _typed(old[key][name]) for name in _TAKEN_OVER if name in old[key]}
        row |= {name: value for name, value in found.items() if value is not None}
    table = sort_rows(rows.values())
    return to_csv(table, columns_of(table)), to_csv(aggregate(table, session.plan))


def _typed(text: str) -> Any:
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main() -> None:
    """Rewrite those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("names", nargs="*", help="such as results/tiny-imagenet.csv; all if none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        for name in given.names or COMMITTED:
            root = given.data_root.resolve()
            board, conditions = rewritten(name, root, ROOT / name, Path(results))
            write_atomic(ROOT / name, board)
            write_atomic(ROOT / name.replace(".csv", "-aggregated.csv"), conditions)
            print(name)


if __name__ == "__main__":
    main()
