"""Curves over epochs, from the history that each run leaves (LI Figs. 4 and 5, SFT Fig. 5).

The papers draw test accuracy. No run looks at its test images before it ends, so the curves here
are of validation images, where a run has them, and of training images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.comparisons.curves import shared_runs
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import comparisons, pair
from analysis.leaderboard import arms
from analysis.leaderboard.labels import number
from analysis.leaderboard.read import (
    COPIED,
    LOSS,
    NOT_CONVERGED,
    PATTERN,
    SEEDS,
    SOURCE,
    finished,
    key_of,
    repetition,
    varies,
    varying,
)

LEAST_LEVEL = 0.7
"""The training accuracy from which on SFT counts the lead in epochs."""
_LINES = ["line", "run_id", "repetition"]
_LEAST = 3
"""Rates or sizes of a source that a figure needs."""


def _with_own_stuck(board: pd.DataFrame) -> pd.DataFrame:
    """The board with runs whose own training never left chance, which a curve shows, as done."""
    if "not_converged" not in board.columns:
        return board
    own = (board["status"] == NOT_CONVERGED) & (board["not_converged"] == "run")
    return board.assign(status=board["status"].mask(own, "done"))


def _most_repeated(rows: pd.DataFrame, x: str, vary: Collection[str]) -> pd.DataFrame:
    """The runs of the condition with most runs that has three values of x, each as often."""
    known = rows[rows[x].notna()]
    if known.empty:
        return known.assign(x=[])
    held = [n for n in varying(known) if not varies(n, vary) and not repetition(n)]
    of_x = known.assign(x=known[x].astype(float))
    groups = [group for _, group in of_x.groupby(key_of(known, held), sort=True)]
    return max((shared_runs(group, _LEAST, x)[0] for group in groups), key=len)


def rate_lines(evidence: Evidence) -> pd.DataFrame:
    """The runs of plain fine-tuning at three or more rates, a line for each rate (LI Fig. 4).

    Returns:
        line, run_id, repetition; empty without three rates.
    """
    board = _with_own_stuck(evidence.board)
    rows = _most_repeated(board[arms.fine_tuned(board) & finished(board)], "lr", ("lr",))
    rows = rows.sort_values(["x", "task", "seed"], ascending=[False, True, True])
    return _lines(rows, [f"rate {number(x)}" for x in rows["x"]])


def source_lines(evidence: Evidence) -> pd.DataFrame:
    """Plain fine-tuning from sources of three or more sizes (LI Fig. 5), a line for each.

    Beside them stand the same targets trained from scratch, and the scratch networks trained once
    more, whatever their rates.

    Returns:
        line, run_id, repetition; empty without three sizes.
    """
    board = _with_own_stuck(evidence.board)
    tuned = arms.fine_tuned(board) & finished(board)
    tuned &= (board["source_side"] != "self") & (board["source_links"] == 1)
    # The seeds of a source are not those of another one: a repetition is one of the target's.
    rows = board[tuned].assign(seed=key_of(board[tuned], SEEDS))
    rows = _most_repeated(rows, "source_classes", SOURCE)
    rows = rows.sort_values(["x", "task", "seed"], ascending=[False, True, True])
    found = [_lines(rows, [f"{number(x)} source classes" for x in rows["x"]])]
    others = {
        "scratch model, tuned again": arms.fine_tuned_again(board),
        "scratch": arms.scratch(board),
    }
    chosen = pd.Series(board.index.isin(rows.index), index=board.index)
    for line, arm in others.items():
        pairs = pair(board, chosen, arm, (*SOURCE, *PATTERN, *COPIED, "lr")).frame
        if len(pairs):
            beside = board.loc[_places(board, next(comparisons(pairs))["right_runs"])]
            found.append(_lines(beside, [line] * len(beside)))
    return pd.concat(found, ignore_index=True)


def soft_lines(evidence: Evidence) -> pd.DataFrame:
    """Soft fine-tuning and plain fine-tuning in pairs, all else equal (SFT Fig. 5).

    Returns:
        line, run_id, repetition; empty without a pair.
    """
    board = evidence.board
    soft, plain = arms.soft(board), arms.fine_tuned(board)
    pairs = evidence.pairs(soft, plain, LOSS).frame
    if pairs.empty:
        return pd.DataFrame(columns=_LINES)
    most, found = next(comparisons(pairs)), []
    for line, runs in (("soft fine-tuning", "left_runs"), ("fine-tuning", "right_runs")):
        rows = board.loc[_places(board, most[runs])]
        found.append(_lines(rows, [line] * len(rows)))
    return pd.concat(found, ignore_index=True)


def _places(board: pd.DataFrame, runs: pd.Series[str]) -> list[object]:
    """The rows of the board that pairs name by the text of their index, each once."""
    named = dict.fromkeys(word for words in runs for word in str(words).split())
    known = {str(place): place for place in board.index}
    return [known[word] for word in named]


def _lines(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    repeated = rows["task"].astype(str) + "|" + rows["seed"].astype(str)
    values = zip(names, rows["run_id"], repeated, strict=True)
    return pd.DataFrame(list(values), columns=_LINES)


def over_epochs(
    lines: pd.DataFrame, histories: Mapping[str, pd.DataFrame], column: str
) -> pd.DataFrame:
    """One column of the histories, a row for each run and epoch, and the mean of each line.

    The mean ends where a run of its line ends, as a run that diverged does, and leaves out epochs
    that a run has no value for.

    Args:
        lines: of `rate_lines` and its like.
        histories: by run id, as `bench.training.job.Outcome` describes them.

    Returns:
        line, run_id (empty for the mean), x (the epoch, from 1), y, runs (behind the mean).
    """
    parts = []
    for line, group in lines.groupby("line", sort=False):
        series = {}
        for key in group["run_id"]:
            if key in histories and column in histories[key].columns:
                history = histories[key]
                values = history[column].astype(float)
                series[key] = pd.Series(values.to_numpy(), index=history["epoch"] + 1).dropna()
        known = {key: values for key, values in series.items() if len(values)}
        if not known:
            continue
        wide = pd.DataFrame(known)
        mean = wide.dropna().mean(axis=1)
        known = {"": mean, **known}
        for key, values in known.items():
            part = pd.DataFrame({"x": values.index.astype(float), "y": values.to_numpy()})
            parts.append(part.assign(line=line, run_id=key, runs=len(known) - 1))
    columns = ["line", "run_id", "x", "y", "runs"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


@dataclass(frozen=True)
class Lead:
    """How far one line's mean runs ahead of another's.

    Attributes:
        gain: mean over the epochs that both have of the difference of accuracies.
        least_gain: the smallest difference.
        epochs: the smallest number of epochs by which the line ahead reaches a level of the other
            from `LEAST_LEVEL` on before it; None where no level is so high in both.
    """

    gain: float
    least_gain: float
    epochs: float | None


def lead(table: pd.DataFrame, ahead: str, behind: str) -> Lead:
    """The lead of soft fine-tuning in training accuracy (SFT §4.4).

    Args:
        table: of `over_epochs`, of accuracies.
    """
    means = table[table["run_id"] == ""]
    one, other = (means[means["line"] == line].set_index("x")["y"] for line in (ahead, behind))
    gains = (one - other).dropna()
    leads, highest = [], -1.0
    for epoch, level in zip(other.index, other, strict=True):
        if level > highest and level >= LEAST_LEVEL and (one >= level).any():
            leads.append(float(epoch - one.index[one >= level][0]))
        highest = max(highest, level)
    return Lead(float(gains.mean()), float(gains.min()), min(leads) if leads else None)
