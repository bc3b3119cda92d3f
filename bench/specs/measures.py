"""What a grid can ask to be measured: the options, and the extractions that a measurement needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bench.specs.data import Count, Frozen, NonNegative
from bench.specs.run import RunSpec

Split = Literal["train", "val", "test", "trainval", "all"]


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


_Scalar = str | bool | int | float | None
_Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
_Layers = Annotated[
    tuple[Annotated[str, BeforeValidator(str)], ...],
    BeforeValidator(_one_or_many),
    Field(min_length=1),
]


class _Asked(Frozen):
    """Which runs of the grid a measurement is about.

    Attributes:
        experiments: names of those that count; all when empty.
        where: column of the leaderboard to a value, or a list of values, that a run must have.
    """

    experiments: _Names = ()
    where: Mapping[str, _Scalar | tuple[_Scalar, ...]] = Field(default_factory=dict)


class OtherNetwork(Frozen):
    """timm's pretrained weights.

    Attributes:
        timm: name of the network.
        tag: of the weights; None is timm's default.
    """

    timm: str
    tag: str | None = None


class DistancesAsked(_Asked):
    """Every distance between each target and each source that its runs start from (CHU-2).

    Attributes:
        layer: of the network, a number, a module's name or `penultimate` (CHU: fc7 after ReLU).
        stage: of a numbered or named layer, see `bench.training.features.extract`.
        pool: of its maps; `flatten` keeps all places.
        split: the images of both sides.
        images: at most so many of each side, all classes alike.
        network: the one trained on the source, a random one of its kind, or timm's.
        resamples: bootstrap resamples of an interval.
        permutations: of a test whether the two sides differ.
        cnn_epochs: passes of the networks that are trained to tell the two sides apart.
        seed: of subsets, resamples, permutations and these networks.
    """

    layer: Annotated[str, BeforeValidator(str)] = "penultimate"
    stage: Literal["pre", "post", "end", "output"] = "end"
    pool: Literal["flatten", "max", "mean"] = "flatten"
    split: Split = "train"
    images: Count = 1000
    network: Literal["source", "scratch"] | OtherNetwork = "source"
    resamples: Count = 200
    permutations: Count = 200
    cnn_epochs: Count = 8
    seed: NonNegative = 0


class FiltersAsked(_Asked):
    """Average precision of filters as detectors of the target's classes (LI-7).

    The networks are those trained on the sources, the same after fine-tuning all copied layers
    (FT-near), and the one trained on the target alone (self).

    Attributes:
        layers: numbers or names; each filter's score is its largest response.
        stage: of the layers; `end` is after activation and pooling (LI: conv5, 256 x 6 x 6).
        split: the images on which filters are judged (LI: test).
        choose_on: the images on which the best filters of a class are chosen; None is `split`,
            as in the paper, which is optimistic.
        top: how many filters of each class count.
        images: at most so many images, all classes alike.
    """

    layers: _Layers = ("5",)
    stage: Literal["pre", "post", "end", "output"] = "end"
    split: Split = "test"
    choose_on: Split | None = None
    top: Count = 5
    images: Count = 5000


class TransferabilityAsked(_Asked):
    """Scores that guess which source is best without training on the target.

    Attributes:
        layer: the one whose features are scored.
        images: at most so many of the target's training images, all classes alike.
        k: neighbours of the k-NN score.
    """

    layer: Annotated[str, BeforeValidator(str)] = "penultimate"
    images: Count = 1000
    k: Count = 5


Asked = DistancesAsked | FiltersAsked | TransferabilityAsked
KINDS: Mapping[str, type[Asked]] = {
    "distances": DistancesAsked,
    "filters": FiltersAsked,
    "transferability": TransferabilityAsked,
}


@dataclass(frozen=True)
class Task:
    """A target and what its runs start from, in the words of the leaderboard's columns.

    Attributes:
        task_id: of `bench.results.conditions`; it tells apart what has one name, such as two
            folders of photographs.
    """

    dataset: str
    target: str
    class_draw: int | None
    source: str
    model: str
    task_id: str


@dataclass(frozen=True)
class Part:
    """One extraction of a measurement.

    Attributes:
        task: which target, and which source.
        role: `source` or `target` images of a distance; `judged` or `chosen` images of filters;
            `target` images of transferability.
        network: what the network is called (near, FT-near, self, timm resnet18).
        run: the extraction.
        of: the run whose network it is; None for weights that no run made.
        seed: of that run, for networks that are repeated; "" for a source's.
        images_per_class: of the target, as the leaderboard has it.
        experiments: that the runs stand in.
    """

    task: Task
    role: Literal["source", "target", "judged", "chosen"]
    network: str
    run: RunSpec
    of: RunSpec | None
    seed: str
    images_per_class: int | None
    experiments: tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """A measurement that a grid asks for: its kind, options, extractions and line."""

    name: str
    asked: Asked
    parts: tuple[Part, ...]
    place: str
