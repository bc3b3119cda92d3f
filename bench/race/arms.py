"""The recipes that race: keys of a grid's cells, each with the name that it is shown by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.text import counted
from bench.models.depths import depth_of
from bench.models.published import PACKAGES, is_installed


@dataclass(frozen=True)
class Trunk:
    """Weights to start from.

    Attributes:
        model: the network.
        weights: the key `weights:` of a grid.
        size: side of the images that they were trained on.
        crop: the share of an image's side that is shown.
    """

    model: str
    weights: Any
    size: int = 224
    crop: float = 0.875

    @property
    def depth(self) -> int:
        """Layers of the network."""
        return depth_of(self.model)


FEATURES, HEAD_FIRST, AT_ONCE, UPPER = FAMILIES = (
    "a classifier on features of the frozen network",
    "the classifier first, then all layers",
    "all layers at once",
    "the classifier first, then the upper layers",
)
"""Kinds of recipes."""


@dataclass(frozen=True)
class Arm:
    """A recipe.

    Attributes:
        name: part of an experiment's name.
        words: what it is, on the screen.
        family: its kind, of `FAMILIES`; empty where it is only compared with.
        cell: keys of a grid's cell.
        cost: seconds of an epoch, in those of a recipe that trains all layers.
    """

    name: str
    words: str
    family: str
    cell: Mapping[str, Any]
    cost: float = 1.0

    def epochs(self, budget: int) -> int:
        """Its epochs in the time of so many of a recipe that trains all layers."""
        return round(budget / self.cost)

    @property
    def parts(self) -> int:
        """Random parts of each image that a classifier is fitted to beside the whole."""
        return int(dict(self.cell.get("method", {})).get("parts", 0))


def usual_trunk() -> Trunk:
    """The weights of the installed package; timm's ResNet-18 where there is none."""
    for name, package in PACKAGES.items():
        if is_installed(name):
            return Trunk(package.model, {"package": name})
    return Trunk("resnet18", "timm")


PARTS = (0, 1, 2, 4)
"""Numbers of random parts of an image that classifiers may be fitted to beside the whole.

On 20 images of each of six classes 4, 2 and 1 gain 1.2, 0.8 and 0.6 points; on 50 and 100 images 4
gain 0.6 and 0.7, of which the intervals hold 0, as those of 340 and of two other classes do
(`benchmarks/FINETUNE.md`).
"""
PARTS_UNTIL = 150
"""Images per class, on average, from which on there are none."""


def floor_arms(trunk: Trunk, parts: int = 0) -> list[Arm]:
    """Classifiers on features of the trunk as it is: seconds, and a floor for the others.

    Each C is an arm of its own, as each rate is: none is chosen on fewer images than the others.
    Values are those that differ little: a C of 0.01 was chosen by chance from few validation images
    and lost one point and a half on 20 images of each of six classes.

    Args:
        trunk: what gives the features.
        parts: of `PARTS`. One arm has none all the same: images whose parts or mirror images are of
            another class would mislead the others.
    """
    frozen = {"pattern": "freeze", "train.refit": True}

    def arm(method: str, words: str, c: float, parts: int = parts, **options: Any) -> Arm:
        more = {"parts": parts} if parts else {}
        cell = {**frozen, "method": {"name": method, "c": c, **options, **more}}
        beside = f", with {counted(parts, 'random part')} of each image" if parts else ""
        words = f"frozen, {words}, C = {c:g}{beside}"
        name = f"{method}-{c:g}-parts{parts}" if parts else f"{method}-{c:g}"
        return Arm(name, words, FEATURES, cell)

    logistic = [arm("probe", "logistic regression", c) for c in (3.0, 1.0, 0.1)]
    found = [*logistic, arm("svm", "SVM", 0.01, normalise=False)]
    return [*found, arm("probe", "logistic regression", 1.0, parts=0)] if parts else found


def tuned_arms(trunk: Trunk) -> list[Arm]:
    """Recipes that train the network, the likeliest first: a short race has the first of them."""
    third, half = max(1, trunk.depth // 3), max(1, trunk.depth // 2)
    upper = {"pattern": _above(third, trunk.depth)}
    parts = {"train.augment": "scale_flip", "train.scale_least_area": 0.3}
    moving = {
        "train.copied_lr_factor": 0.1,
        "train.head": "random",
        "train.copied_statistics": "moving",
    }
    sgd = {
        "pattern": "tune",
        "train.lr": 0.03,
        "train.copied_lr_factor": 0.3,
        "train.nesterov": True,
    }
    return [
        _fitted("upper", "the upper two thirds of the layers", 1e-3, upper, cost=0.65),
        _fitted("fitted-3e-4", "all layers", 3e-4),
        _fitted(
            "half",
            "the upper half of the layers",
            1e-3,
            {"pattern": _above(half, trunk.depth)},
            cost=0.5,
        ),
        _fitted("fitted-1e-3", "all layers", 1e-3),
        _fitted("upper-3e-4", "the upper two thirds of the layers", 3e-4, upper, cost=0.65),
        _fitted("fitted-1e-4", "all layers", 1e-4),
        Arm(
            "moving",
            "all layers at once, a tenth of the classifier's rate",
            AT_ONCE,
            {**_fitted("", "", 0.01).cell, **moving},
        ),
        _fitted("parts", "all layers on random parts of images", 3e-4, parts),
        _fitted("decay", "rates that fall with depth", 1e-3, {"train.layer_lr_decay": 0.8}),
        Arm("sgd", "all layers at once, SGD", AT_ONCE, sgd),
    ]


def _above(layers: int, depth: int) -> str:
    """Keeps so many layers as they are: the first ones cost most, and change least."""
    return f"F(1-{layers})T({layers + 1}-{depth - 1})R({depth})"


def _fitted(
    name: str, rest: str, lr: float, more: Mapping[str, Any] | None = None, cost: float = 1.0
) -> Arm:
    """The classifier is fitted first; statistics of the copied layers stay (few images)."""
    steps = {"train.optimizer": "adamw", "train.weight_decay": 0.05, "train.lr": lr}
    first = {"train.head": "probe", "train.copied_statistics": "fixed"}
    words = f"classifier first, then {rest}, rate {lr:.5g}"
    cell = {"pattern": "tune", **steps, **first, **(more or {})}
    return Arm(name, words, HEAD_FIRST if cell["pattern"] == "tune" else UPPER, cell, cost)


SCRATCH = Arm(
    "scratch",
    "from random weights",
    "",
    {"pattern": "scratch", "weights": "none", "train.lr": 0.03, "train.nesterov": True},
)
