"""Claims of "Effective Domain Knowledge Transfer with Soft Fine-tuning" (2019): SFT-C1 to SFT-C7.

Stanford Dogs lies inside ImageNet, so the paper's gain there (6.3 points) may come from having seen
labelled test images; the published verdicts are read from the tables as printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pandas as pd
from scipy import stats

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.pairing import comparisons
from analysis.comparisons.units import summarise
from analysis.findings.parts import (
    Measure,
    Part,
    claim,
    difference,
    for_each,
    judge,
    missing,
    numbered,
    ordered,
    trend,
)
from analysis.leaderboard import arms
from analysis.leaderboard.read import (
    COPIED,
    LOSS,
    PATTERN,
    SOURCE,
    key_of,
    repetition,
    varies,
    varying,
)
from analysis.papers import published
from analysis.statistics.decisions import hypothesis_name

_PAPER = "soft-ft-2019"
_claim = partial(claim, _PAPER)
_BACKBONES = ("MobileNetV2", "ResNet-50", "InceptionV4")
_FARS = ("1e-2", "1e-3", "1e-4", "1e-5")
_INCEPTION = "ImageNet / 299x299 / InceptionV4"
_EPOCHS = Measure("epochs_to_threshold", -1.0, "epochs")
_SOFT_RUNS = "method: soft and method: plain with the same source, pattern and seeds"


def _map(row: str) -> float:
    return published.value(_PAPER, "Table 2", row, "mAP")


def _tar(arm: str, far: str) -> float:
    return published.value(_PAPER, "Table 5", arm, f"TAR @ FAR={far}")


# --- SFT-C1: soft fine-tuning beats fine-tuning ---


def _c1_published() -> list[Part]:
    rows = {
        f"Stanford 40 {net}": (_map(f"soft fine-tuning / {net}"), _map(f"fine-tuning / {net}"))
        for net in _BACKBONES
    }
    for kind in ("", " (trained on 2 expressions)"):
        for far in _FARS:
            pair_ = _tar(f"soft fine-tuning{kind}", far), _tar(f"fine-tuning{kind}", far)
            rows[f"Oulu CASIA{kind} FAR {far}"] = pair_
    for data in ("Stanford Dogs", "Aircraft"):
        ours = published.value(_PAPER, "Table 6", f"soft fine-tuning (ours) / {_INCEPTION}", data)
        rows[data] = ours, published.value(_PAPER, "Table 6", f"fine-tuning / {_INCEPTION}", data)
    return [ordered("soft > fine-tuning", rows)]


@_claim("SFT-C1", "soft fine-tuning beats fine-tuning on every task and network", _c1_published)
def c1(evidence: Evidence) -> list[Part]:
    b = evidence.board
    return difference(
        evidence, "soft > fine-tuning", arms.soft(b), arms.fine_tuned(b), LOSS, _SOFT_RUNS
    )


# --- SFT-C2: the intermediate stage lies between ---


def _c2_published() -> list[Part]:
    middle, net = _map("intermediate stage / ResNet-50"), "ResNet-50"
    return [
        ordered("intermediate > fine-tuning", {net: (middle, _map(f"fine-tuning / {net}"))}),
        ordered("soft > intermediate", {net: (_map(f"soft fine-tuning / {net}"), middle)}),
    ]


@_claim("SFT-C2", "the intermediate stage (α = 0) beats fine-tuning, soft beats it", _c2_published)
def c2(evidence: Evidence) -> list[Part]:
    b = evidence.board
    plain, middle = arms.fine_tuned(b), arms.soft(b, intermediate=True)
    needed = "method: {name: soft, schedule: zero} beside method: soft and method: plain"
    stage = ("method_options", "method.schedule", "method.ramp_epochs")
    return [
        *difference(evidence, "intermediate > fine-tuning", middle, plain, LOSS, needed),
        *difference(evidence, "soft > intermediate", arms.soft(b), middle, stage, needed),
    ]


# --- SFT-C3: better frozen features, better fine-tuned network ---


def _c3_published() -> list[Part]:
    frozen = [
        published.value(_PAPER, "Table 2", f"pre-training / {n}", "w/o ft") for n in _BACKBONES
    ]
    return [
        trend(
            "frozen features ↔ fine-tuned", frozen, [_map(f"fine-tuning / {n}") for n in _BACKBONES]
        )
    ]


@_claim("SFT-C3", "better frozen features go with a better fine-tuned network", _c3_published)
def c3(evidence: Evidence) -> list[Part]:
    name, b = "frozen features ↔ fine-tuned", evidence.board
    needed = "model: [three or more], pattern: [freeze, tune], with the same target and seeds"
    vary, tuned = (*PATTERN, *COPIED, *LOSS), arms.fine_tuned(b)
    found: list[dict[str, object]] = []
    for frozen in arms.frozen_features(b):
        found = found or _rank_correlations(evidence.pairs(tuned, frozen, vary).frame)
    if not found:
        return [missing(name, "no target with three or more networks, frozen and tuned", needed)]
    table = pd.DataFrame(found)
    e = summarise(table, "rho", name)
    pairs = hypothesis_name(table, "frozen features and fine-tuned")
    said = "positive, where the paper has exactly 1"
    return [judge(name, e, needed, evidence.rules, pairs, said, "Spearman")]


_NETWORK = ("model", "model.*", *PATTERN, *COPIED, "lr", *SOURCE, "image_size", "target.resize")
"""What goes with the network: its depth, rate, weights or source, and the size of its images."""


def _rank_correlations(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Spearman's over three or more networks, for each task, seed and setting."""
    found: list[dict[str, object]] = []
    if frame.empty:
        return found
    held = [n for n in varying(frame) if not varies(n, _NETWORK) and not repetition(n)]
    keys = ["task", *[n for n in held if n in frame.columns], "n_per_class"]
    own = key_of(frame, ["seed_draw", "seed_init", "seed_order"])
    for (_, _), rows in frame.groupby([key_of(frame, keys), own], sort=True):
        means = rows.groupby("model")[["left", "right"]].mean()
        if len(means) >= 3 and means["left"].nunique() > 1 and means["right"].nunique() > 1:
            rho = float(stats.spearmanr(means["left"], means["right"]).statistic)
            first = rows.iloc[0]
            size = key_of(rows, held).iloc[0]
            unit = {"task": first["task"], "seed": own[rows.index[0]], "size": size}
            found.append(unit | {"rho": rho, "diverged": int(rows["diverged"].sum())})
    return found


# --- SFT-C4: which part of the source is kept ---


def _c4_published() -> list[Part]:
    def row(source: str, target: str = "Stanford 40") -> float:
        return published.value(_PAPER, "Table 3", f"source={source}; target={target}", "mAP")

    everything, some = row("ImageNet"), row("ImageNet (10% categories)")
    return [
        ordered("all source ≥ 10 % of categories", {"": (everything, some)}, strict=False),
        ordered("10 % of categories > 10 % of images", {"": (some, row("ImageNet (10% images)"))}),
        ordered(
            "a small second target does not help",
            {"": (everything, row("ImageNet", "Stanford 40 & Stanford Dogs"))},
            strict=False,
        ),
    ]


@_claim(
    "SFT-C4",
    "all source ≥ 10 % of categories > 10 % of images; a small second target does not help",
    _c4_published,
)
def c4(evidence: Evidence) -> list[Part]:
    b = evidence.board
    vary = ("borrowed", "borrow.*")
    some = arms.soft(b, part="categories")
    images = arms.soft(b, part="images")
    second = arms.soft(b, targets=2)
    needed = "method: soft that borrows all, 0.1 of categories and 0.1 of images"
    compare = partial(difference, evidence)
    name = "a small second target does not help"
    both = "method: soft with and without a second borrowed data set"
    vary_two = (*vary, "borrowed_*", "borrow2.*")
    whole = arms.soft(b)
    return [
        *compare("all source ≥ 10 % of categories", whole, some, vary, needed, margin=1.0),
        *compare("10 % of categories > 10 % of images", some, images, vary, needed),
        *compare(name, whole, second, vary_two, both, margin=1.0),
    ]


# --- SFT-C5, C6: faces, with expressions missing from the training set ---


def _c5_published() -> list[Part]:
    few = "soft fine-tuning (trained on 2 expressions)"
    rows = {f"FAR {far}": (_tar(few, far), _tar("fine-tuning", far)) for far in _FARS}
    return [ordered("soft on 2 expressions > fine-tuning on all", rows)]


_FACES = "verification results of fine-tuning and soft runs on all and on two expressions"


def _tar_gap(
    evidence: Evidence,
    name: str,
    gap: Mapping[tuple[str, str], float],
    far: float,
) -> list[Part]:
    """A weighted sum of rates of true acceptance in points, by task and seed.

    Args:
        gap: weights by arm and expressions; every one of them must be there in a repetition.

    Settings that differ in anything else are parts of their own, the most repeated first.
    """
    table = evidence.verification
    if table is None or table.empty:
        return [missing(name, "no verification results", _FACES)]
    table = table.assign(**{n: "" for n in ("task", "setting") if n not in table.columns})
    rows = table[table["far"] == far]
    keys = ["setting", "task", "seed"]
    columns = [
        rows[(rows["arm"] == arm) & (rows["expressions"] == said)].groupby(keys)["tar"].mean()
        for arm, said in gap
    ]
    complete = pd.concat(columns, axis=1).dropna()
    weighted = 100 * (complete.to_numpy() @ list(gap.values()))
    found = pd.DataFrame({"v": weighted}, index=complete.index).reset_index()
    if found.empty:
        return [missing(name, "no verification results for it", _FACES)]
    groups = list(comparisons(found, "setting"))

    def make(named: str, group: pd.DataFrame) -> Part:
        pairs = hypothesis_name(group, f"{name} {group['setting'].iloc[0]}")
        return judge(named, summarise(group, "v", name), _FACES, evidence.rules, pairs)

    return for_each(name, groups, numbered(groups), make)


@_claim("SFT-C5", "soft on 2 expressions beats fine-tuning on all, at every FAR", _c5_published)
def c5(evidence: Evidence) -> list[Part]:
    name = "soft on 2 expressions > fine-tuning on all"
    table = evidence.verification
    if table is None or table.empty:
        return [missing(name, "no verification results", _FACES)]
    gap = {("soft", "two"): 1.0, ("fine-tuning", "all"): -1.0}
    rates = sorted(set(table["far"]), reverse=True)
    return [
        part for far in rates for part in _tar_gap(evidence, f"{name} at FAR {far:g}", gap, far)
    ]


def _loss_published(arm: str, far: str) -> float:
    return _tar(arm, far) - _tar(f"{arm} (trained on 2 expressions)", far)


def _c6_published() -> list[Part]:
    tuned = [_loss_published("fine-tuning", far) for far in _FARS]
    soft = [_loss_published("soft fine-tuning", far) for far in _FARS]
    return [
        ordered("fine-tuning loses more at loose FAR", {"FAR 1e-2": (tuned[0], soft[0])}),
        ordered("soft loses more at strict FAR", {"FAR 1e-5": (soft[-1], tuned[-1])}),
    ]


@_claim(
    "SFT-C6",
    "without most expressions fine-tuning loses more at loose FAR, soft at strict FAR",
    _c6_published,
)
def c6(evidence: Evidence) -> list[Part]:
    names = ("fine-tuning loses more at loose FAR", "soft loses more at strict FAR")
    table = evidence.verification
    if table is None or table["far"].nunique() < 2:
        return [missing(name, "no verification results at two FARs", _FACES) for name in names]

    def losses(more: str, less: str) -> dict[tuple[str, str], float]:
        first = {(more, "all"): 1.0, (more, "two"): -1.0}
        return first | {(less, "all"): -1.0, (less, "two"): 1.0}

    loose, strict = float(table["far"].max()), float(table["far"].min())
    return [
        *_tar_gap(evidence, names[0], losses("fine-tuning", "soft"), loose),
        *_tar_gap(evidence, names[1], losses("soft", "fine-tuning"), strict),
    ]


# --- SFT-C7: faster convergence ---


def _c7_published() -> list[Part]:
    lead = published.value(
        _PAPER,
        "text Sec. 4.4 / Fig. 5",
        "training accuracy",
        "lead of soft over fine-tuning at accuracy >= 70%",
    )
    name = "soft is 5 epochs ahead or more"
    part = ordered(name, {"from 70 %": (lead, 5.0)}, strict=False, unit="epochs")
    detail = f"the text says at least {lead:g}; the curves are only drawn"
    return [replace(part, effect=lead, counted="statement", detail=detail)]


@_claim(
    "SFT-C7",
    "soft fine-tuning converges faster: 5 epochs ahead or more from 70 % on",
    _c7_published,
)
def c7(evidence: Evidence) -> list[Part]:
    b, name = evidence.board, "soft reaches the threshold in fewer epochs"
    if "epochs_to_threshold" not in b.columns:
        return [missing(name, "the leaderboard has no epochs_to_threshold", _SOFT_RUNS)]
    needed = f"{_SOFT_RUNS}, long enough for both to reach train.threshold"
    return difference(evidence, name, arms.soft(b), arms.fine_tuned(b), LOSS, needed, _EPOCHS)


CLAIMS = (c1, c2, c3, c4, c5, c6, c7)
