"""How should I fine-tune this target? Advice, each line with the experiments that support it.

CHU's Table 3 ("Best Practices for Fine-tuning Visual Classifiers to New Domains") advises to
freeze, to tune or to try both by cosine distance and images per class. Here it is given as printed,
with how many of the paper's splits stand behind each cell, and derived again from the user's own
runs; where those decide, they go before the paper. What nothing supports is called "no evidence".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd

from analysis.advice.labels import more_labels
from analysis.advice.training import (
    Treatment,
    borrowing,
    copy_depth,
    frozen_layers,
    learning_rate,
)
from analysis.advice.tune_or_freeze import (
    all_cells,
    decide_for,
    tune_freeze_pairs,
)
from analysis.advice.types import AdviceLine, Significance, Situation
from analysis.comparisons.evidence import Evidence
from analysis.papers.chu2016_bands import (
    BANDS,
    data_band,
    distance_band,
    printed_advice,
    printed_evidence,
)
from analysis.statistics.decisions import Hypothesis, Rules


def advise(
    situation: Situation, evidence: Evidence | None = None, others: Sequence[Hypothesis] = ()
) -> list[AdviceLine]:
    """Lines of advice in a fixed order, one or more for each topic.

    Args:
        situation: what was measured of the target.
        evidence: the user's own runs (`analysis.leaderboard.folder.read_folder`); None: the papers
            alone. Runs of the situation's network are taken where there are any, else all.
        others: what else the same page tests; advice is corrected for all of it.

    >>> lines = advise(Situation(images_per_class=10, classes=5, cosine=0.1))
    >>> [(line.topic, line.answer, line.verdict, line.n) for line in lines][:2]
    [('overlap', 'not looked for', 'no evidence', 0), ('freeze or tune', 'freeze', 'as printed', 6)]
    """
    own, remark = _of_model(situation, evidence)
    significance = Significance(Rules() if own is None else own.rules, others)
    _lines(situation, own, remark, significance)
    significance.settle()
    return _lines(situation, own, remark, significance)


def _lines(
    situation: Situation, own: Evidence | None, remark: str, significance: Significance
) -> list[AdviceLine]:
    decision = decide_for(situation, own, significance)
    treatments: tuple[Treatment, ...] = ("tune", "freeze")
    if decision.advice != "try both":
        treatments = (decision.advice,)
    because = "; ".join(text for text in (_bands(situation), decision.because, remark) if text)
    lines = [
        _overlap(situation),
        AdviceLine(
            "freeze or tune", decision.advice, because, decision.supporting, decision.verdict
        ),
        *(learning_rate(situation, own, treatment) for treatment in treatments),
        copy_depth(situation, own, treatments, significance),
        frozen_layers(situation, own, treatments, significance),
        borrowing(situation, own, significance),
        *more_labels(situation, own, significance),
    ]
    return [line for line in lines if line is not None]


def _of_model(situation: Situation, evidence: Evidence | None) -> tuple[Evidence | None, str]:
    """The evidence on the situation's network, or all of it and a remark that it is another's."""
    if evidence is None or situation.model is None:
        return evidence, ""
    same = evidence.board["model"] == situation.model
    if same.all():
        return evidence, ""
    if same.any():
        return replace(evidence, board=evidence.board[same]), ""
    others = ", ".join(sorted(set(map(str, evidence.board["model"]))))
    return evidence, f"your runs are of other networks ({others}), none of {situation.model}"


def _bands(situation: Situation) -> str:
    n = situation.images_per_class
    said = f"{n:.4g} images per class ({data_band(n)})"
    fewest, most = situation.fewest, situation.most
    if fewest is not None and most is not None and most > 2 * fewest:
        said += f", {fewest} to {most} in a class: judge by mean class accuracy"
    if situation.cosine is None:
        return f"{said}; distance not measured"
    text = f"{said}; cosine distance {situation.cosine:.3f} ({distance_band(situation.cosine)})"
    ends = [situation.cosine_low, situation.cosine_high]
    bands = {distance_band(max(0.0, end)) for end in ends if end is not None}
    if len(bands | {distance_band(situation.cosine)}) > 1:
        text += f", whose interval {ends[0]:.3f} to {ends[1]:.3f} reaches into another band"
    return text


def _overlap(situation: Situation) -> AdviceLine:
    found, held_out = situation.overlap, situation.overlap_test
    if found is None:
        said = "the source's images are not at hand"
        return AdviceLine("overlap", "not looked for", said, (), "no evidence")
    if not found:
        said = "by content hash and by perceptual hash, mirrored images included"
        return AdviceLine("overlap", "none found", said, (), "measured")
    said = f"{found} images of the target are in the source too, {held_out} of them held out"
    answer = "only training images are shared: test accuracy is not affected"
    if held_out:
        answer = "test accuracy would be too high: leave these images out, or take another source"
        said += "; exclude_overlap: true leaves the same files out, not other copies of a picture"
    return AdviceLine("overlap", answer, said, (), "measured")


def printed() -> pd.DataFrame:
    """CHU's Table 3: distance and images_per_class (bands), advice, splits of the paper behind it.

    >>> printed().query("distance == 'medium' and images_per_class == 'large'").values.tolist()
    [['medium', 'large', 'tune', 0]]
    """
    counts = printed_evidence()
    rows = [(d, n, printed_advice(d, n), counts[d, n]) for d in BANDS for n in BANDS]
    return pd.DataFrame(rows, columns=["distance", "images_per_class", "advice", "splits"])


def derived(evidence: Evidence, others: Sequence[Hypothesis] = ()) -> pd.DataFrame:
    """The same table from the user's runs, its cells tested as one family.

    Returns:
        Rows for all nine cells, and for a data band whose distance is `unknown` where there are
        runs, each source a row of its own: distance, images_per_class, source, advice (None
        without a pair), ratio (geometric mean of tune / freeze), low, high, n, unit, pairs,
        experiments, scope, printed, splits, note.
    """
    in_print = {(r.distance, r.images_per_class): r for r in printed().itertuples()}
    rows = []
    significance = Significance(evidence.rules, others)
    all_cells(tune_freeze_pairs(evidence), significance)
    significance.settle()
    for one in all_cells(tune_freeze_pairs(evidence), significance):
        row = asdict(one) | {"experiments": one.experiments, "images_per_class": one.data}
        row.pop("data")
        known = in_print.get((one.distance, one.data))
        row["printed"] = None if known is None else known.advice
        row["splits"] = 0 if known is None else known.splits
        rows.append(row)
    first = ["distance", "images_per_class"]
    table = pd.DataFrame(rows)
    return table[first + [name for name in table.columns if name not in first]]
