"""Claims of "Multifaceted Analysis of Fine-Tuning in Deep Model for Visual Recognition" (2019) on
how training goes: LI-C12 (faster convergence, §4.2) and LI-C13 (a rate that diverges, §4.1).

"Dramatically converges faster" has no number, and Fig. 5 is only drawn. A run has converged here
in the first epoch with 95 % of the training accuracy that it ends with, so that a network is not
called faster for ending higher.
"""

from __future__ import annotations

from functools import partial

from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import own_rates
from analysis.findings.parts import (
    UNDECIDED,
    Measure,
    Part,
    claim,
    difference,
    drawn,
    missing,
    without_numbers,
)
from analysis.leaderboard import arms
from analysis.leaderboard.read import COPIED, NOT_CONVERGED, PATTERN, SOURCE
from analysis.statistics.decisions import Hypothesis, direction_of, hypothesis_name

_claim = partial(claim, "li-2019")
_EPOCHS = Measure("epochs_to_converge", -1.0, "epochs")
_FASTER = "fine-tuning converges in fewer epochs than training from scratch"
_RATE = 0.001
"""The rate of all fine-tuning after §4.1."""
_TOO_HIGH = 0.02
_AWAY = f"fine-tuning at rate {_TOO_HIGH:g} does not converge"


@_claim(
    "LI-C12", "fine-tuning converges faster than training from scratch", drawn("Fig. 5", _FASTER)
)
def c12(evidence: Evidence) -> list[Part]:
    b = evidence.board
    needed = "source: [near, none] (pattern: scratch for none) with three or more seeds"
    if "epochs_to_converge" not in b.columns or b["epochs_to_converge"].isna().all():
        lacking = "the leaderboard has no epochs_to_converge"
        return [missing(_FASTER, lacking, f"{needed}, run by this version")]
    tuned, scratch = arms.fine_tuned(b) & (b["source_side"] != "self"), arms.scratch(b)
    at_rate = tuned & ((b["lr"] - _RATE).abs() < 1e-12)
    if at_rate.any() and evidence.lr_rule(tuned | scratch) == "same":
        tuned = at_rate  # of several rates without validation, the one that the paper keeps
    rule = evidence.lr_rule(tuned | scratch)
    vary = (*SOURCE, *PATTERN, *COPIED, *own_rates(b, tuned, scratch, rule))
    return difference(evidence, _FASTER, tuned, scratch, vary, needed, _EPOCHS)


@_claim(
    "LI-C13",
    "fine-tuning at a rate of 0.02 does not converge",
    without_numbers("the text says so; no curve is drawn", _AWAY),
)
def c13(evidence: Evidence) -> list[Part]:
    b = evidence.board
    at_rate = arms.fine_tuned(b) & ((b["lr"] - _TOO_HIGH).abs() < 1e-12)
    runs = b[at_rate & b["status"].isin(["done", "diverged", NOT_CONVERGED])]
    if "not_converged" in runs.columns:
        runs = runs[runs["not_converged"] != "source"]
    needed = f"train.lr: [{_TOO_HIGH:g}] for fine-tuning with more seeds or class draws"
    if runs.empty:
        return [missing(_AWAY, f"no run at rate {_TOO_HIGH:g}", needed)]
    unit = "task" if runs["task"].nunique() > 1 else "seed"
    by_unit = (runs["status"] != "done").groupby(runs[unit]).all()
    away, n = int(by_unit.sum()), len(by_unit)
    test = stats.binomtest(away, n)
    ends, share = test.proportion_ci(0.95), 100 * away / n
    rules, p = evidence.rules, float(test.pvalue)
    enough = n >= (rules.least_tasks if unit == "task" else rules.least_seeds)
    decides = p if enough else None
    hypothesis = Hypothesis(
        hypothesis_name(runs, _AWAY),
        direction_of(share - 50, 0.0),
        decides if unit == "task" else None,
        decides if unit == "seed" else None,
        n if unit == "task" else 1,
    )
    part = Part(
        _AWAY,
        UNDECIDED,
        effect=share,
        low=100 * float(ends.low),
        high=100 * float(ends.high),
        n=n,
        unit=f"% of {unit}s",
        counted=unit,
        p=p,
        detail=f"{away} of {n} {unit}s without a run that converged",
        needed=needed,
        test=hypothesis,
    )
    return [part]


CLAIMS = (c12, c13)
