"""The recipes that race: keys of a grid's cells, each with the name that it is shown by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Arm:
    """A recipe.

    Attributes:
        name: part of an experiment's name.
        words: what it is, on the screen.
        cell: keys of a grid's cell.
        cost: seconds of an epoch, in those of a recipe that trains all layers.
    """

    name: str
    words: str
    cell: Mapping[str, Any]
    cost: float = 1.0

    def epochs(self, budget: int) -> int:
        """Its epochs in the time of so many of a recipe that trains all layers."""
        return round(budget / self.cost)


def usual_trunk() -> Trunk:
    """The weights of the installed package; timm's ResNet-18 where there is none."""
    for name, package in PACKAGES.items():
        if is_installed(name):
            return Trunk(package.model, {"package": name})
    return Trunk("resnet18", "timm")


def floor_arms(trunk: Trunk) -> list[Arm]:
    """Classifiers on features of the trunk as it is: seconds, and a floor for the others.

    Each C is an arm of its own, as each rate is: none is chosen on fewer images than the others.
    """
    frozen = {"pattern": "freeze", "train.refit": True}

    def arm(method: str, words: str, c: float, **options: Any) -> Arm:
        cell = {**frozen, "method": {"name": method, "c": c, **options}}
        return Arm(f"{method}-{c:g}", f"frozen, {words}, C = {c:g}", cell)

    logistic = [arm("probe", "logistic regression", c) for c in (1.0, 0.1, 0.01)]
    return [*logistic, arm("svm", "SVM", 0.01, normalise=False)]


def tuned_arms(trunk: Trunk) -> list[Arm]:
    """Recipes that train the network, the likeliest first: a short race has the first of them."""

    def above(layers: int) -> str:
        """Keeps so many layers as they are: the first ones cost most, and change least."""
        return f"F(1-{layers})T({layers + 1}-{trunk.depth - 1})R({trunk.depth})"

    third, half = max(1, trunk.depth // 3), max(1, trunk.depth // 2)

    def fitted(lr: float, **more: Any) -> dict[str, Any]:
        """The classifier is fitted first; statistics of the copied layers stay (few images)."""
        steps = {"train.optimizer": "adamw", "train.weight_decay": 0.05, "train.lr": lr}
        first = {"train.head": "probe", "train.copied_statistics": "fixed"}
        own = {name.replace("__", "."): value for name, value in more.items()}
        return {"pattern": "tune", **steps, **first, **own}

    random = {"train__head": "random", "train__copied_statistics": "moving"}
    return [
        Arm(
            "upper",
            "classifier first, then the upper two thirds of the layers, rate 0.001",
            fitted(1e-3, pattern=above(third)),
            cost=0.65,
        ),
        Arm("fitted-3e-4", "classifier first, then all layers, rate 0.0003", fitted(3e-4)),
        Arm(
            "half",
            "classifier first, then the upper half of the layers, rate 0.001",
            fitted(1e-3, pattern=above(half)),
            cost=0.5,
        ),
        Arm("fitted-1e-3", "classifier first, then all layers, rate 0.001", fitted(1e-3)),
        Arm(
            "upper-3e-4",
            "classifier first, then the upper two thirds of the layers, rate 0.0003",
            fitted(3e-4, pattern=above(third)),
            cost=0.65,
        ),
        Arm("fitted-1e-4", "classifier first, then all layers, rate 0.0001", fitted(1e-4)),
        Arm(
            "moving",
            "all layers at once, a tenth of the classifier's rate",
            fitted(0.01, train__copied_lr_factor=0.1, **random),
        ),
        Arm(
            "parts",
            "classifier first, then all layers on random parts of images",
            fitted(3e-4, train__augment="scale_flip", train__scale_least_area=0.3),
        ),
        Arm(
            "decay",
            "classifier first, then rates that fall with depth",
            fitted(1e-3, train__layer_lr_decay=0.8),
        ),
        Arm(
            "sgd",
            "all layers at once, SGD",
            {
                "pattern": "tune",
                "train.lr": 0.03,
                "train.copied_lr_factor": 0.3,
                "train.nesterov": True,
            },
        ),
    ]


SCRATCH = Arm(
    "scratch",
    "from random weights",
    {"pattern": "scratch", "weights": "none", "train.lr": 0.03, "train.nesterov": True},
)
