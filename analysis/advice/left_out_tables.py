"""Ways of choosing an arm against each other, on tasks left out: the table, and a page's section.

Two ways are compared on the same task, so no best arm has to be named. Intervals are Student's t
over tasks, each the mean over its sources and numbers of images; verdicts are those of findings,
corrected for all that is tested in one table. Tasks that are left out share the others, so they are
not independent where the advice hangs on single tasks; the slow tests of
`tests/analysis/advice/test_left_out.py` measure what that does to the intervals.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.advice.left_out import (
    ADVICE,
    ALL,
    BOTH,
    BOUND,
    COIN,
    FREEZE,
    LIKE,
    OTHER_KINDS,
    PRINTED,
    RACES,
    REFERENCE,
    SITUATION,
    TUNE,
    WHOLE,
    outcomes,
)
from analysis.comparisons.units import summarise
from analysis.leaderboard.read import read
from analysis.measurements import beside
from analysis.measurements.tables import evidence as with_measurements
from analysis.statistics.decisions import Decision, Hypothesis, Rules, decide, direction_of
from bench.core.text import counted, listed, p_value
from bench.results.intervals import Estimate

WAYS = (
    *(ADVICE, WHOLE, LIKE, OTHER_KINDS, PRINTED, TUNE, FREEZE, BOTH, ALL, *RACES.values()),
    *(COIN, REFERENCE, BOUND),
)
"""Ways of choosing, in the order of the table."""
TESTED = (TUNE, FREEZE, BOTH, RACES[0.5])
"""What the advice has to beat; of the races the one that costs about as much."""
FAMILIES = ("near-far", "depth", "distance", "strong-source")
"""Families of `grids/evidence/` that have tuned and frozen arms of one method."""
VALIDATIONS = "advice-validations.csv"
"""Beside their leaderboards, written by `scripts/early_validations.py`."""


_CHOICE = ["task", "seed", *SITUATION]
"""Columns that say what is chosen for."""


def against(found: pd.DataFrame, other: str, way: str = ADVICE) -> Estimate | None:
    """Points that one way of choosing gets more than another, over tasks.

    None where one of them does not answer everywhere.

    Args:
        found: from `outcomes`, or some of its rows.
    """
    ways = [found[found["way"] == name].set_index(_CHOICE)["accuracy"] for name in (way, other)]
    every = found[_CHOICE].drop_duplicates()
    if any(len(values) < len(every) for values in ways):
        return None
    rows = (ways[0] - ways[1]).rename("more").reset_index()
    size = [str(situation) for situation in rows[SITUATION].to_numpy().tolist()]
    return summarise(rows.assign(size=size), "more", f"{way} against {other}")


def compared(found: pd.DataFrame, family: str, advice: str = ADVICE) -> pd.DataFrame:
    """A row for each way of choosing, over all numbers of images per class and at each.

    Args:
        found: from `outcomes`.
        family: its name, for the table.
        advice: which of the ways is compared with all others.

    Returns:
        family, advice, images_per_class (NaN: all of them), way, accuracy, regret (points below
        `REFERENCE`, where other tasks have an arm of the situation), without_regret (how many
        choices these leave out), advice_more (points that the advice gets more), low, high, n,
        unit, p, note, over_tune (points that the way gets more than always tuning),
        over_tune_low, over_tune_high, seconds (of training, mean), advised (what was, and how
        often).
    """
    sizes = sorted(float(n) for n in found["n_per_class"].unique())
    rows: list[dict[str, object]] = []
    for size in (None, *(sizes if len(sizes) > 1 else ())):
        some = found if size is None else found[found["n_per_class"] == size]
        mean = dict(iter(some.groupby("way")))
        reference = some[some["way"] == REFERENCE].set_index(_CHOICE)["accuracy"]
        for way in (name for name in WAYS if name in mean):
            e, tuned = against(some, way, advice), against(some, TUNE, way)
            if e is None or tuned is None:
                continue
            said = Counter(mean[way]["advice"].dropna())
            accuracy = mean[way].set_index(_CHOICE)["accuracy"]
            regret = (reference - accuracy).dropna()
            rows.append(
                {"family": family, "advice": advice, "way": way}
                | {"images_per_class": math.nan if size is None else size}
                | {"accuracy": float(accuracy.mean()), "regret": float(regret.mean())}
                | {"without_regret": len(accuracy) - len(regret)}
                | {"advice_more": e.value, "low": e.low, "high": e.high}
                | {"n": e.n, "unit": e.unit, "p": e.p, "note": e.note}
                | {"over_tune": tuned.value, "over_tune_low": tuned.low}
                | {"over_tune_high": tuned.high, "seconds": float(mean[way]["seconds"].mean())}
                | {"advised": ", ".join(f"{name} {n}" for name, n in sorted(said.items()))}
            )
    return pd.DataFrame(rows)


def of_folder(folder: Path, families: Sequence[str] = FAMILIES) -> pd.DataFrame:
    """`compared` of every family in a folder of leaderboards, with verdicts over all of them.

    Returns:
        The columns of `compared`, and `p_holm` and `verdict` (of `VERDICTS`) of what is tested:
        `TESTED` over all numbers of images per class, by the rules of findings.
    """
    path = folder / VALIDATIONS
    early = pd.read_csv(path) if path.is_file() else None
    tables = []
    for family in families:
        board = folder / f"{family}.csv"
        evidence = with_measurements(read(board), beside.load(board))
        found = outcomes(evidence, early)
        known = [advice for advice in (ADVICE, WHOLE) if (found["way"] == advice).any()]
        tables += [compared(found, family, advice) for advice in known]
    table, rules = pd.concat(tables, ignore_index=True), Rules()
    every = table.to_dict("records")
    tests = {
        place: Hypothesis(
            str(place),
            direction_of(row["advice_more"], rules.interest["points"]),
            row["p"] if row["p"] == row["p"] else None,
            None,
            int(row["n"]),
        )
        for place, row in enumerate(every)
        if math.isnan(row["images_per_class"]) and row["way"] in TESTED
    }
    decided = decide(tests.values(), rules)
    words = {
        place: _verdict(every[place]["advice_more"], decided[test.hypothesis], rules)
        for place, test in tests.items()
    }
    adjusted = {place: decided[test.hypothesis].p for place, test in tests.items()}
    return table.assign(
        p_holm=pd.Series(adjusted, dtype=float), verdict=pd.Series(words, dtype=object)
    )


VERDICTS = ("better", "worse", "better by less than a point", "worse by less than a point")
"""What is shown of the advice; else it has the same accuracy or is not shown to differ."""
_SAME, _OPEN = "no different", "not shown to differ"


def _verdict(more: float, decision: Decision, rules: Rules) -> str:
    if abs(more) < 1e-9:
        return _SAME
    if not decision.general:
        return _OPEN
    place = 0 if abs(more) >= rules.interest["points"] else 2
    return VERDICTS[place + (more < 0)]


# --- the section of a page ----------------------------------------------------------------------

_READING = """
## Advice

What `bench recommend` advises on tasks that it was not derived from: each task is left out in turn
with all of its runs. *Better by* is the accuracy of the advice less that of the other way on the
same task, in points, with Student's 95 % interval over tasks, each the mean over its sources and
numbers of images. Regret is counted from the arm that was best on average in the other tasks; the
best by test accuracy is best by luck too, so no way beats it. p is adjusted (Holm) for all that
is tested here, and what is shown is told apart by whether the mean reaches a point, the smallest
effect of the claims above. In brackets stands how often what was advised. Trying both is done by
the validation images that the kept epochs are chosen on too. The races are replayed from these
runs, whose rates fall over the whole training; those of `bench finetune` anneal each rung. Seconds
are those of training, on a machine that did other things too. The tasks of *depth* are ten of those
of *near-far*, so it is no second sample; draws of classes overlap, and an interval speaks of
further draws like these. On simulated leaderboards of ten tasks the intervals held the truth in 147
of 150 where nothing differs, and in 137 of 150 at the edge of a decision, where the advice changes
with the task that is left out (as on *distance* alone). [advice.csv](advice.csv) has each number of
images per class by itself.
"""


def section(table: pd.DataFrame) -> str:
    """The table of `of_folder` as Markdown, below what it shows."""
    whole = table[table["images_per_class"].isna()]
    heads = (
        *("family", "way of choosing", "accuracy", "regret", "the advice is better by", "p (Holm)"),
        *("better than always tuning by", "seconds"),
    )
    lines = [_READING, *_summary(whole), ""]
    lines += [f"| {' | '.join(heads)} |", "| --- | --- | ---: | ---: | --- | ---: | --- | ---: |"]
    for row in whole.to_dict("records"):
        if row["advice"] == ADVICE or row["way"] in (*TESTED, ALL):
            lines.append(f"| {' | '.join(_cells(row))} |")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[Hashable, Any]) -> Iterator[str]:
    way = row["way"]
    depths = " with depths" if row["advice"] == WHOLE else ""
    yield f"{row['family']}{depths}, {counted(int(row['n']), row['unit'])}"
    yield way + (f" ({row['advised']})" if way in (ADVICE, WHOLE, LIKE) else "")
    yield f"{row['accuracy']:.1f}"
    left_out = f" ({row['without_regret']} left out)" if row["without_regret"] else ""
    yield "" if math.isnan(row["regret"]) else f"{row['regret']:+.2f}{left_out}"
    yield "" if way == row["advice"] else _points(row, "advice_more", "low", "high")
    yield p_value(row["p_holm"]) if way in TESTED else ""
    yield "" if way == TUNE else _points(row, "over_tune", "over_tune_low", "over_tune_high")
    yield f"{row['seconds']:.1f}"


def _points(row: Mapping[Hashable, Any], value: str, low: str, high: str) -> str:
    if row[low] is None or row[low] != row[low]:
        return "0, the same accuracy" if abs(row[value]) < 1e-9 else f"{row[value]:+.2f}"
    return f"{row[value]:+.2f} ({row[low]:+.2f} to {row[high]:+.2f})"


def _summary(whole: pd.DataFrame) -> Iterator[str]:
    """A sentence for each way that the advice has to beat."""
    for advice in (ADVICE, WHOLE):
        for way in TESTED:
            rows = whole[(whole["way"] == way) & (whole["advice"] == advice)]
            shown = []
            for verdict in (*VERDICTS, _SAME, _OPEN):
                names = list(rows.loc[rows["verdict"] == verdict, "family"])
                shown += [f"{verdict} on {listed(names, len(names))}"] if names else []
            if shown:
                line = f"* Against *{way}* {advice}, is {'; '.join(shown)}."
                yield textwrap.fill(line, 100, subsequent_indent="  ", break_on_hyphens=False)
