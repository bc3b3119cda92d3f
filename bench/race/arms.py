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
        cost: forward and backward passes of an epoch, relative to tuning every layer.
    """

    name: str
    words: str
    cell: Mapping[str, Any]
    cost: float = 1.0


def usual_trunk() -> Trunk:
    """The weights of the installed package; timm's ResNet-18 where there is none."""
    for name, package in PACKAGES.items():
        if is_installed(name):
            return Trunk(package.model, {"package": name})
    return Trunk("resnet18", "timm")


def floor_arms(trunk: Trunk) -> list[Arm]:
    """Classifiers on features of the trunk as it is: seconds, and a floor for the others."""
    frozen = {"pattern": "freeze", "train.refit": True}
    return [
        Arm("probe", "frozen, logistic regression", {**frozen, "method": {"name": "probe"}}),
        Arm("svm", "frozen, SVM", {**frozen, "method": {"name": "svm", "normalise": False}}),
    ]


def tuned_arms(trunk: Trunk) -> list[Arm]:
    """Recipes that train the network, the likeliest first: a short race has the first of them."""
    half = trunk.depth // 2
    partial = f"F(1-{half})T({half + 1}-{trunk.depth - 1})R({trunk.depth})"

    def sgd(lr: float, factor: float, **more: Any) -> dict[str, Any]:
        rates = {"train.lr": lr, "train.copied_lr_factor": factor}
        return {"pattern": "tune", **rates, **{k.replace("__", "."): v for k, v in more.items()}}

    adamw = {"train__optimizer": "adamw", "train__weight_decay": 0.05}
    return [
        Arm("tune-0.03", "all layers, rate 0.03", sgd(0.03, 0.3)),
        Arm("tune-0.1", "all layers, rate 0.1", sgd(0.1, 0.3)),
        Arm("adamw", "all layers, AdamW", sgd(0.003, 0.3, **adamw)),
        Arm("partial", "upper half of the layers", {**sgd(0.03, 0.3), "pattern": partial}, 0.75),
        Arm(
            "parts",
            "all layers, random parts of images",
            sgd(0.03, 0.3, train__augment="scale_flip"),
        ),
        Arm("tune-0.01", "all layers, rate 0.01", sgd(0.01, 1.0)),
        Arm("decay", "rates that fall with depth", sgd(0.1, 0.3, train__layer_lr_decay=0.85)),
        Arm("head-first", "classifier fast, layers slow", sgd(0.1, 0.03)),
    ]


SCRATCH = Arm(
    "scratch",
    "from random weights",
    {"pattern": "scratch", "weights": "none", "train.lr": 0.03},
)
