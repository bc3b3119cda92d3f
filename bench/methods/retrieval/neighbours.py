"""The source images of selective joint fine-tuning: one of each target image's own neighbours.

Ge, Yu (2017), "Borrowing Treasures from the Wealthy: Deep Transfer Learning through Selective Joint
Fine-tuning", §3.2. Training goes in rounds; before each round but
the first, images that the network gets wrong or is not sure of are given more neighbours.

The paper leaves open, so options with the ledger's defaults: 100 bins and epsilon 2.2204e-16 as in
the released code; kernels before their activation; five rounds, that is four updates of K; all the
neighbours that K can grow to are stored (the released code caps at 5000). The paper wants "at least
200,000 retrieved images", typically 20 to 30 % of the source: without `k0`, K0 is the smallest
whose union has a quarter of the source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from bench.core.errors import DataError, GridError, ModelError
from bench.methods.options import MethodOptions
from bench.methods.streams import Indices, classes_with
from bench.specs.data import ADDED, Bool, Count, NonNegative, Positive
from bench.training.domain import Domain

if TYPE_CHECKING:
    from bench.methods import Ingredients
    from bench.methods.retrieval.filter_banks import Bank
    from bench.methods.retrieval.search import Neighbours
    from bench.specs.run import RunSpec


class SelectionOptions(MethodOptions):
    """How source images are selected.

    Attributes:
        bank: `kernels` of the network that the run starts from, or of the run that the grid's
            `bank:` names; or `gabor` filters (GE Table 1).
        layers: for kernels: numbers or module names, separated by commas.
        stage: for kernels: before (`pre`) or after (`post`) the activation.
        colour: for Gabor: filter red, green and blue instead of the luminance.
        crop: side of the central part of the images that is described, as a fraction.
        bins: of each filter's histogram.
        epsilon: added to the shares before the logarithm; 1e-6 to 1e-2 smooths.
        k0: neighbours of each target image in the first round; None is `min_source`'s choice.
        min_source: K0 is the smallest whose union has so many images; None is a quarter.
        stored: neighbours that K may grow to; None is all that the rounds can ask for.
        rounds: parts of the training, equally long.
        adaptive: K grows between rounds (Eq. 3); else it stays K0.
        delta: entropy in nats from which on a right prediction counts as unsure.
        wrong_factor: growth of K where the prediction is wrong, in units of K0 (sigma_0).
        unsure_factor: growth of K where it is right and unsure, in units of K0 (sigma_1).
        partners: `nearest`; or `random`: in each round as many images of the source as the union
            of all neighbours has, drawn at random without regard to the target's (GE §4.6, third).
        oversample_hard: a target image is shown in proportion to 1 + its growth so far (K / K0
            before any cap), in as many steps as before; GE's released code repeats it so often.
        fuse: test scores are the mean of the softmax outputs of the rounds' networks.
        memory_mib: bound on the memory of the retrieval.
        responses_mib: for Gabor: responses of a source that take no more on disk are kept in the
            cache, so that the next target only bins them anew; the result is the same. All that
            are kept take 10 GiB at the most together with descriptors, or what the environment
            variable BENCH_RESPONSES_GIB has: the longest unused are removed, descriptors once they
            were not used for a day. (Kernels are cheaper to run than to keep, and each network has
            its own.)
    """

    whole_images: ClassVar[bool] = True

    bank: Literal["kernels", "gabor"] = "kernels"
    layers: str = "1,2"
    stage: Literal["pre", "post"] = "pre"
    colour: Bool = False
    crop: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.875
    bins: Annotated[int, Strict(), Field(ge=2)] = 100
    epsilon: Positive = 2.2204e-16
    k0: Count | None = None
    min_source: Count | None = None
    stored: Count | None = None
    rounds: Count = 5
    adaptive: Bool = True
    delta: Annotated[float, Strict(), Field(ge=0)] = 0.1
    wrong_factor: NonNegative = 4
    unsure_factor: NonNegative = 2
    fuse: Bool = False
    memory_mib: Count = 1024
    oversample_hard: Annotated[Bool, ADDED] = False
    responses_mib: Annotated[NonNegative, ADDED] = 4096
    partners: Annotated[Literal["nearest", "random"], ADDED] = "nearest"

    gone: ClassVar[Mapping[str, str]] = {
        "restart": "it gave this method other rates than those it is compared with: leave it out, "
        "or set train.restart_every for every method"
    }

    @model_validator(mode="after")
    def _fit_together(self) -> SelectionOptions:
        if self.k0 is not None and self.min_source is not None:
            raise ValueError(
                "method.k0 and method.min_source both say how many neighbours to begin with: "
                "keep one"
            )
        if self.oversample_hard and not (self.adaptive and self.rounds > 1):
            raise ValueError(
                "oversample_hard shows images by how hard the rounds found them: it needs "
                "adaptive: true and two rounds or more"
            )
        return self

    @property
    def uses_kernels(self) -> bool:
        """Whether the bank is that of a trained network."""
        return self.bank == "kernels"

    def check_spec(self, spec: RunSpec) -> None:
        """Raises a GridError for rounds or a bank that this run cannot have."""
        round_starts(spec.train.epochs, self.rounds)
        if self.fuse and spec.train.refit:
            raise GridError(
                "method.fuse averages the networks of all rounds, but train.refit is true: the "
                "second training ends with the epoch chosen, in whatever round that is",
                hint="leave out one of the two",
            )
        if not self.uses_kernels:
            return
        depth = spec.layers.depth
        for name in self.named_layers:
            if isinstance(name, int) and not 1 <= name <= depth:
                raise GridError(
                    f"method.layers names layer {name}, and {spec.model.name} has layers 1 to "
                    f"{depth}",
                    hint="name convolutions by number or by module",
                )
        if spec.init.kind == "scratch" and spec.bank is None:
            raise GridError(
                f"method {spec.method.name!r} describes images by the network's kernels, and this "
                "run starts from nothing",
                hint="give it a source, set method.bank: gabor, or name a network in bank:",
            )

    def check_sources(self, sizes: Sequence[int]) -> None:
        """Raises a DataError for K0, `min_source` or `stored` above the size of a source."""
        for name in ("k0", "min_source", "stored"):
            value = getattr(self, name)
            if value is not None and value > min(sizes):
                raise DataError(
                    f"method.{name} is {value}, but the source has {min(sizes)} images",
                    hint=f"give at most {min(sizes)}, or borrow more",
                )

    @property
    def named_layers(self) -> tuple[int | str, ...]:
        """`layers`, numbers as such."""
        named = [name.strip() for name in self.layers.split(",") if name.strip()]
        return tuple(int(name) if name.isdigit() else name for name in named)

    @property
    def growth(self) -> int:
        """The most that K can become, in units of K0."""
        step = max(self.wrong_factor, self.unsure_factor)
        return 1 + step * (self.rounds - 1) if self.adaptive else 1


def round_starts(epochs: int, rounds: int) -> tuple[int, ...]:
    """First epoch (from 0) of each round; lengths differ by at most one epoch.

    >>> round_starts(12, 5)
    (0, 3, 5, 8, 10)
    """
    if epochs < rounds:
        raise GridError(
            f"{rounds} rounds do not fit in {epochs} epochs",
            hint="raise train.epochs, or lower method.rounds",
        )
    return tuple(math.ceil(number * epochs / rounds) for number in range(rounds))


def select(
    ingredients: Ingredients, source: Domain, options: SelectionOptions
) -> tuple[Neighbours, int, dict[str, Any]]:
    """The neighbours of all target images in `source`, K0, and notes for the record.

    Raises:
        DataError: K0 or `stored` above the size of the source, or `stored` below K0.
        ModelError: kernels of a network are asked for, and there is no trained one.
    """
    from bench.methods.retrieval.adaptive import auto_k0
    from bench.methods.retrieval.descriptors import describe, edges_of
    from bench.methods.retrieval.search import nearest_sources

    target, cache = ingredients.target, ingredients.cache
    options.check_sources([source.size])
    bank = _bank(ingredients, options)
    folder = cache / "retrieval" if cache else None
    edges, how = edges_of(bank, target, options.bins, memory_mib=options.memory_mib, cache=folder)
    ours = describe(bank, target, edges, cache=folder)
    keep = options.responses_mib if options.bank == "gabor" else 0
    theirs = describe(bank, source, edges, cache=folder, responses_mib=keep)

    nearest = partial(
        nearest_sources,
        ours,
        theirs,
        epsilon=options.epsilon,
        memory_mib=options.memory_mib,
        device=ingredients.device,
        cache=folder,
    )

    k0 = options.k0
    if k0 is None:
        wanted = options.min_source or math.ceil(source.size / 4)
        k = min(source.size, 4 * math.ceil(wanted / target.size))
        while (k0 := auto_k0(nearest(k), wanted)) is None:
            k = min(source.size, 2 * k)
    stored = options.stored or min(source.size, options.growth * k0)
    if stored < k0:
        raise DataError(
            f"stored is {stored}, fewer than the {k0} neighbours of the first round",
            hint="raise method.stored, or lower method.k0 or method.min_source",
        )
    notes = {
        "bank": [f"{group.name}: {group.filters} filters" for group in bank.groups],
        "bin_edges": how,
        "k0": k0,
        "stored_neighbours": stored,
    }
    return nearest(stored), k0, notes


def _bank(ingredients: Ingredients, options: SelectionOptions) -> Bank:
    from bench.methods.retrieval.filter_banks import GaborBank, KernelBank

    size, device = ingredients.target.images.shape[1], ingredients.device
    if options.bank == "gabor":
        return GaborBank(size, crop=options.crop, colour=options.colour, device=device)
    if ingredients.network is None:
        raise ModelError(
            "the kernels of the network are to describe the images, but it starts from nothing",
            hint="give the run a source, or set method.bank: gabor",
        )
    layers = options.named_layers
    return KernelBank(
        ingredients.network, layers, size, stage=options.stage, crop=options.crop, device=device
    )


# --- the images that can be shown ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pool:
    """The source as a method trains on it.

    Attributes:
        domain: all source images (not copied); those that are never shown are labelled 0.
        classes: int64 (C,), the source class that each label stands for.
        shown: bool (images,), those that can be shown.
    """

    domain: Domain
    classes: Indices
    shown: NDArray[np.bool_]


def pool_of(source: Domain, rows: Indices, *, reindex: bool, least: int = 0) -> Pool:
    """The images `rows` of the source, with their classes numbered anew from 0 without a gap.

    Without `reindex` all classes keep their numbers; with it, those with fewer than `least` images
    in `rows` are left out.

    Raises:
        DataError: no class has so many images.
    """
    within = np.zeros(source.size, np.bool_)
    within[rows] = True
    if not reindex:
        return Pool(source, np.arange(source.num_classes, dtype=np.int64), within)
    classes = classes_with(source.labels[rows], least)
    if not len(classes):
        raise DataError(
            f"no class of the {len(rows)} selected images has {least} or more",
            hint="lower method.least_images_per_class, or raise method.k0",
        )
    shown = within & np.isin(source.labels, classes)
    labels = np.where(shown, np.searchsorted(classes, source.labels), 0)
    domain = replace(source, labels=labels, num_classes=len(classes))
    return Pool(domain, classes, shown)
