"""Which learning rate, how many layers to copy or freeze, whether to borrow source images.

Each is answered from the user's own runs at a like number of images per class where there are any,
else from the papers: LI §4.1 (learning rates), CHU Fig. 1 (copied layers) and the tables of the
papers on soft and on selective joint fine-tuning. Rates are chosen by validation accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import pandas as pd

from analysis.advice.types import (
    AdviceLine,
    AdviceVerdict,
    Significance,
    Situation,
    Support,
    supports,
)
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import best_rate, comparisons
from analysis.comparisons.ratios import copy_ratios, distance_bands
from analysis.comparisons.units import summarise
from analysis.findings.evaluate import find_claim, on_published
from analysis.findings.parts import setting_names
from analysis.leaderboard import arms
from analysis.leaderboard.read import LOSS, PATTERN, finished, key_of, repetition, varying
from analysis.papers import published
from analysis.papers.chu2016_bands import BANDS, data_band, distance_band, printed_evidence
from bench.results.intervals import Estimate

Treatment = Literal["tune", "freeze"]


def in_band(frame: pd.DataFrame, situation: Situation) -> pd.DataFrame:
    """Rows in the situation's band of images per class; rows of unknown size are left out."""
    known = frame[frame["n_per_class"].notna()]
    band = data_band(situation.images_per_class)
    return _where(known, [data_band(float(n)) == band for n in known["n_per_class"]])


def _where(frame: pd.DataFrame, mask: Sequence[bool]) -> pd.DataFrame:
    """Rows of a mask; an empty list would choose columns instead."""
    return frame[pd.Series(list(mask), index=frame.index, dtype=bool)]


def best_rates(board: pd.DataFrame, treatment: Treatment) -> pd.DataFrame:
    """The learning rate with the best validation accuracy of every condition that tried several.

    A condition is everything but the learning rate, seeds and class draws; see
    `analysis.comparisons.pairing.best_rate`.

    Returns:
        lr (the best), lowest and highest tried, and the columns of one of its runs.
    """
    plain = (board["method"] == "plain") & (board["treatment"] == treatment)
    usable = finished(board, "val_top1_accuracy") & board["lr"].notna()
    rows = board[plain & usable & (board["reinit"] == 1)]
    found: list[pd.Series] = []
    if rows.empty:
        return rows.assign(lowest=[], highest=[])
    condition = [name for name in varying(rows) if name != "lr" and not repetition(name)]
    for _, group in rows.groupby(key_of(rows, condition), sort=True):
        if group["lr"].nunique() < 2:
            continue
        best = best_rate(group)
        rates = [float(rate) for rate in group["lr"]]
        first = group.iloc[0].copy()
        first["lr"], first["lowest"], first["highest"] = best, min(rates), max(rates)
        found.append(first)
    return pd.DataFrame(found, columns=[*rows.columns, "lowest", "highest"])


_LI_RATES = Support("LI §4.1: five targets, CaffeNet", 5)


def learning_rate(
    situation: Situation, evidence: Evidence | None, treatment: Treatment
) -> AdviceLine:
    """The band of learning rates that were best by validation, and whether it was wide enough."""
    topic = f"learning rate, {treatment}"
    found = None if evidence is None else best_rates(evidence.board, treatment)
    if found is None or found.empty:
        nothing = "none of your conditions was run at two rates or more"
        if treatment == "freeze":
            hint = f"{nothing}: try train.lr: [0.003, 0.01, 0.03] on validation images"
            return AdviceLine(topic, "no evidence", hint, (), "no evidence")
        because = f"{nothing}; of five rates for tuning all layers of CaffeNet 0.001 was best"
        return AdviceLine(topic, "around 0.001", because, (_LI_RATES,), "as printed")
    here = in_band(found, situation)
    where = f"at {data_band(situation.images_per_class)} images per class"
    rows, where = (here, where) if len(here) else (found, "at other numbers of images per class")
    low, middle, high = (float(rows["lr"].quantile(q, "nearest")) for q in (0.0, 0.5, 1.0))
    answer = f"{low:g}" if low == high else f"{low:g} to {high:g}, most often near {middle:g}"
    tried = f"{rows['lowest'].min():g} to {rows['highest'].max():g}"
    said = [f"best by validation in {len(rows)} conditions {where}; tried {tried}"]
    said.append(f"batch {_batches(rows)}, {', '.join(sorted(set(map(str, rows['model']))))}")
    for end, word in (("highest", "larger"), ("lowest", "smaller")):
        edge = int((rows["lr"] == rows[end]).sum())
        said += [f"the {end} tried was best in {edge}: try {word} too"] if edge else []
    return AdviceLine(topic, answer, "; ".join(said), supports(rows), "measured")


def _batches(rows: pd.DataFrame) -> str:
    sizes = sorted({int(size) for size in rows["batch_size"].dropna()})
    return ", ".join(map(str, sizes)) or "size unknown"


def copy_depth(
    situation: Situation,
    evidence: Evidence | None,
    treatments: Sequence[Treatment],
    significance: Significance,
) -> AdviceLine:
    """Copy all but the last layer, or re-initialise more (CHU Fig. 1)."""
    topic = "copy depth"
    found = [] if evidence is None else _depths(situation, evidence, treatments)
    unit = "% (log ratio x 100)"
    signs = [significance.direction(e, rows, "ratio 1", unit) for _, e, rows in found]
    worse = [one for one, sign in zip(found, signs, strict=True) if sign < 0]
    better = [one for one, sign in zip(found, signs, strict=True) if sign > 0]
    if worse and evidence is not None:
        name, e, rows = min(worse, key=lambda one: one[1].value)
        answer, said = f"re-initialise the {name}", f"{name}: ratio {_ratio(e)}"
        pattern = str(evidence.board.loc[rows["right_place"].iloc[0], "pattern"])
        only = pattern if len(treatments) == 1 else None
        return AdviceLine(topic, answer, said, supports(rows), "measured", only)
    if better:
        behind = supports(pd.concat([rows for _, _, rows in better]))
        said = "; ".join(f"over the {name} random: {_ratio(e)}" for name, e, _ in better)
        return AdviceLine(topic, "copy all but the last layer", said, behind, "measured")
    return _printed_depth(situation, found)


Found = tuple[str, Estimate, pd.DataFrame]


def _depths(
    situation: Situation, evidence: Evidence, treatments: Sequence[Treatment]
) -> list[Found]:
    b = evidence.board
    found: list[Found] = []
    for reinit in sorted({int(n) for n in b.loc[b["method"] == "plain", "reinit"] if n > 1}):
        for treatment in treatments:
            measure = partial(_depth, situation, evidence, reinit, treatment)
            found += evidence.once(("copy depth", situation, reinit, treatment), measure)
    return found


def _depth(
    situation: Situation, evidence: Evidence, reinit: int, treatment: Treatment
) -> list[Found]:
    b = evidence.board
    rule = evidence.lr_rule(b["reinit"].isin([1, reinit]) & (b["treatment"] == treatment))
    rows = in_band(copy_ratios(evidence, treatment, reinit, rule).frame, situation)
    if situation.cosine is not None and rows["distance"].notna().any():
        band = distance_band(situation.cosine)
        rows = _where(rows, [one == band for one in distance_bands(rows)])
    found: list[Found] = []
    for name, group in _named(evidence, rows, f"last {reinit} layers, {treatment}"):
        effect = group.assign(effect=100 * group["log_ratio"])
        found.append((name, summarise(effect, "effect", name, "ratio", 100.0), group))
    return found


def _ratio(e: Estimate) -> str:
    low, high = (None if v is None else math.exp(v / 100) for v in (e.low, e.high))
    ends = "no interval" if low is None else f"{low:.2f} to {high:.2f}"
    return f"{math.exp(e.value / 100):.2f} ({ends}; {e.n} {e.unit}{'' if e.n == 1 else 's'})"


def _printed_depth(situation: Situation, found: Sequence[Found]) -> AdviceLine:
    band = data_band(situation.images_per_class)
    counts = printed_evidence()
    distance = None if situation.cosine is None else distance_band(situation.cosine)
    splits = sum(counts[d, band] for d in BANDS if distance in (None, d))
    behind = (Support("CHU Fig. 1, splits in these bands", splits),) if splits else ()
    open_ = "; ".join(f"{name}: {_ratio(e)}" for name, e, _ in found)
    own = f"your runs leave it open ({open_})" if open_ else "no run of yours re-initialises more"
    if band == "large" and distance in (None, "large"):
        answer = "copy all but the last layer; try re-initialising the last three as well"
        said = "CHU's rule has its exception at large distance with 100 images per class or more"
    else:
        answer, said = "copy all but the last layer", "CHU's rule (only drawn)"
    rows = pd.concat([rows for _, _, rows in found]) if found else None
    support = behind if rows is None else (*supports(rows), *behind)
    verdict: AdviceVerdict = "undecided" if found else "as printed" if splits else "no evidence"
    return AdviceLine("copy depth", answer, f"{said}; {own}", support, verdict)


def frozen_layers(
    situation: Situation,
    evidence: Evidence | None,
    treatments: Sequence[Treatment],
    significance: Significance,
) -> AdviceLine | None:
    """Freezing the first layers alone against tuning all (LI §4.5); None without such runs."""
    if evidence is None:
        return None
    found = evidence.once(("frozen layers", situation), partial(_frozen, situation, evidence))
    if not found:
        return None
    behind = supports(pd.concat([rows for _, _, rows in found]))
    said = "; ".join(f"{name}: {_points(e)}" for name, e, _ in found)
    topic, because = "frozen layers", f"over tuning all: {said}"
    signs = [_sign(significance, e, rows) for _, e, rows in found]
    good = [one for one, sign in zip(found, signs, strict=True) if sign > 0]
    if good:
        best, _, rows = max(good, key=lambda one: one[1].value)
        answer = f"freeze the {best} layers"
        pattern = str(rows["pattern"].iloc[0]) if list(treatments) == ["tune"] else None
        return AdviceLine(topic, answer, because, behind, "measured", pattern)
    if all(sign < 0 for sign in signs):
        return AdviceLine(
            topic, "tune all: freezing first layers is worse", because, behind, "measured"
        )
    return AdviceLine(topic, "no depth is shown to be better", because, behind, "undecided")


def _frozen(situation: Situation, evidence: Evidence) -> list[Found]:
    b = evidence.board
    tuned, some = arms.fine_tuned(b), arms.layers_frozen(b) & (b["treatment"] == "partly")
    found: list[Found] = []
    for depth in sorted({int(n) for n in b.loc[some, "frozen"]}):
        frame = evidence.pairs(some & (b["frozen"] == depth), tuned, PATTERN).frame
        found += _gains(evidence, in_band(frame, situation), f"first {depth}")
    return found


def _named(evidence: Evidence, rows: pd.DataFrame, name: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The comparisons among pairs, each with its source and what else sets it apart."""
    groups = list(comparisons(rows)) if len(rows) else []
    settings = setting_names(evidence.board, groups) if groups else []
    for group, setting in zip(groups, settings, strict=True):
        where = setting or f"from {group['source'].iloc[0]}"
        yield f"{name}, {where}", group


def _gains(evidence: Evidence, rows: pd.DataFrame, name: str) -> list[Found]:
    """An estimate in points for each comparison: sources and recipes are not averaged."""
    found: list[Found] = []
    for named, group in _named(evidence, rows, name):
        points = group.assign(points=100 * group["difference"])
        found.append((named, summarise(points, "points", name, "difference", 100.0), group))
    return found


def _sign(significance: Significance, e: Estimate, rows: pd.DataFrame) -> int:
    return significance.direction(e, rows, "top1_accuracy 0", "points")


def _points(e: Estimate) -> str:
    ends = "no interval" if e.low is None else f"{e.low:+.1f} to {e.high:+.1f}"
    return f"{e.value:+.1f} points ({ends}; n {e.n})"


def borrowing(
    situation: Situation, evidence: Evidence | None, significance: Significance
) -> AdviceLine:
    """Whether training on source images along with the target's helps (SFT, GE)."""
    found: list[Found] = []
    if evidence is not None:
        found = evidence.once(("borrowing", situation), partial(_borrowed, situation, evidence))
    notes = _cautions(situation)
    if not found:
        return _printed_borrowing(notes)
    signs = [_sign(significance, e, rows) for _, e, rows in found]
    sure = [(n, e) for (n, e, _), sign in zip(found, signs, strict=True) if sign > 0]
    behind = supports(pd.concat([rows for _, _, rows in found]))
    said = "; ".join(f"{name} {_points(e)}" for name, e, _ in found)
    because = "; ".join([f"over plain fine-tuning: {said}", *notes])
    if sure:
        best = max(sure, key=lambda one: one[1].value)[0]
        return AdviceLine("borrowing", f"yes, with {best}", because, behind, "measured")
    if all(sign < 0 for sign in signs):
        return AdviceLine("borrowing", "no: it lowers accuracy", because, behind, "measured")
    answer = "not shown to help: plain fine-tuning first"
    return AdviceLine("borrowing", answer, because, behind, "undecided")


def _borrowed(situation: Situation, evidence: Evidence) -> list[Found]:
    b = evidence.board
    plain = arms.fine_tuned(b)
    found: list[Found] = []
    for name, arm in (
        ("soft", arms.soft(b)),
        ("joint", arms.joint(b)),
        ("selective", arms.selective(b)),
    ):
        frame = evidence.pairs(arm, plain, LOSS).frame
        found += _gains(evidence, in_band(frame, situation), name)
    return found


def _cautions(situation: Situation) -> list[str]:
    said = []
    if situation.overlap_test:
        said.append(
            f"the source has {situation.overlap_test} of the held-out images: "
            "set exclude_overlap: true"
        )
    if situation.source_images is False:
        said.append("the source's images are not at hand")
    return said


def _printed_borrowing(notes: Sequence[str]) -> AdviceLine:
    """SFT's gains on Stanford 40 and GE's on all data sets, as printed."""
    paper, nets = "soft-ft-2019", ("MobileNetV2", "ResNet-50", "InceptionV4")
    gains = [
        published.value(paper, "Table 2", f"soft fine-tuning / {net}", "mAP")
        - published.value(paper, "Table 2", f"fine-tuning / {net}", "mAP")
        for net in nets
    ]
    (selective,) = on_published([find_claim("GE-C3")])
    because = [
        "no run of yours borrows at this number of images",
        f"soft fine-tuning gained {min(gains):.1f} to {max(gains):.1f} points of mAP on three "
        f"networks (SFT), selective joint fine-tuning {selective.main.effect:.1f} on average (GE; "
        "Stanford Dogs lies inside its source)",
    ]
    behind = (Support("SFT Table 2", len(gains)), Support("GE Tables 2 to 5", selective.main.n))
    answer = "worth a try: method: soft"
    return AdviceLine("borrowing", answer, "; ".join([*because, *notes]), behind, "as printed")
