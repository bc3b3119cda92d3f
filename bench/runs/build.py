"""The parts of one run put together: where things lie, its images, its network and its method."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import methods
from bench.core.errors import BenchError, DataError
from bench.core.paths import Places
from bench.core.seeding import seed_from
from bench.data import catalog
from bench.data.borrow import BorrowedImages, resolve_borrowed, resolve_joint_fingerprint
from bench.data.identities import load_identities, resolve_identities
from bench.data.rows import Joined, Rows
from bench.data.transforms.expand import expand
from bench.data.wordnet.hierarchy import taxonomy
from bench.methods import Ingredients
from bench.methods.features.task import FeatureTask, Fitted, Selected
from bench.models import layers
from bench.models.domains import ParentHead, head_groups, new_head, with_heads
from bench.models.inputs import attached
from bench.results.store import Store
from bench.specs.batches import natural_steps
from bench.specs.run import FromRun, RunSpec
from bench.training.domain import Domain
from bench.training.domain_batches import BATCH_SIZE
from bench.training.job import Method
from bench.training.steps import Forward


@dataclass(frozen=True)
class Context:
    """Where to read and write, and on what to compute.

    Attributes:
        results: the results folder.
        data_root: where data sets lie.
        device: cpu, cuda, or auto for cuda where there is one.
        threads: CPU threads of the process; part of what makes results bit-identical.
        checkpoint_s: seconds between checkpoints of a run.
        share: whether runs of a batch share activations and are fused. Results are the same; tests
            and benchmarks turn it off.
        gpus: processes that train a run together, each on a GPU of its own
            (`bench.runs.distributed`).
        activations_mib: room for activations that runs share; eight times as much on the disk. A
            GPU keeps as much as both, within half of its free memory.
        resident: whether a GPU may hold all images of a run.
        passes: forward passes that each of a step's `train.accumulate` parts is cut into.
        forward_images: of a forward pass without gradients, at most.
        tensorboard: whether runs write event files (`bench.exports.tensorboard`).
        workers_on_gpu: processes that share the GPU, this one included.
    """

    results: str
    data_root: str | None = None
    device: str = "auto"
    threads: int = 1
    checkpoint_s: float = 30.0
    share: bool = True
    activations_mib: int = 1024
    gpus: int = 1
    resident: bool = True
    passes: int = 1
    forward_images: int = BATCH_SIZE
    tensorboard: bool = False
    workers_on_gpu: int = 1

    @property
    def activation_bytes(self) -> tuple[int, int]:
        """Room for shared activations in memory and in files."""
        memory = self.activations_mib << 20
        return memory, 8 * memory

    @property
    def root(self) -> Path | None:
        """The folder of data sets."""
        return Path(self.data_root) if self.data_root else None

    @property
    def cache(self) -> Path:
        """The folder of decoded images."""
        return Store(Path(self.results)).cache

    @property
    def places(self) -> Places:
        """Both, for what reads images."""
        return {"data_root": self.root, "cache_dir": self.cache}

    def resolve_data(self, spec: RunSpec) -> catalog.Resolved:
        """Which images the run selects."""
        return catalog.resolve(spec.data, spec.seeds.draw, **self.places)

    def resolve_borrowed(
        self, spec: RunSpec, target: catalog.Resolved
    ) -> tuple[BorrowedImages, ...]:
        """Which images the run borrows."""
        return resolve_borrowed(spec, target, **self.places)

    def fingerprint(self, spec: RunSpec) -> str:
        """Of the images that the run's id covers."""
        return resolve_joint_fingerprint(spec, **self.places)

    def torch_device(self) -> torch.device:
        """The device, with `auto` decided.

        Raises:
            BenchError: when cuda is asked for and absent.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device == "cuda" and not torch.cuda.is_available():
            named = os.environ.get("CUDA_VISIBLE_DEVICES")
            among = "" if named is None else f", and CUDA_VISIBLE_DEVICES is {named!r}"
            raise BenchError(
                f"cuda was asked for, but torch finds no GPU{among}",
                hint="nvidia-smi -L lists the GPUs, CUDA_VISIBLE_DEVICES chooses among them; or "
                "use --device cpu or auto",
            )
        return torch.device(self.device)


@dataclass(frozen=True, eq=False)
class Data:
    """The images of one run: its own, decoded, and those it borrows."""

    loaded: catalog.Loaded
    resolved: catalog.Resolved
    borrowed: tuple[tuple[catalog.Loaded, BorrowedImages], ...] = ()
    verified: catalog.Loaded | None = None

    @property
    def views(self) -> int:
        """Images of each of the run's own samples."""
        return _views(self.loaded)

    def domain(self, which: str, model: nn.Module) -> Domain:
        """`train`, `val` or `test` as a domain, normalised as the network was made for."""
        index = {"train": self.loaded.train, "val": self.loaded.val, "test": self.loaded.test}[
            which
        ]
        return _domain(which, self.loaded, index, model)

    def joined(self) -> Data:
        """The same with the validation images among the training images, for `train.refit`."""
        loaded, resolved = self.loaded, self.resolved
        rows = np.sort(np.concatenate([loaded.train, loaded.val]))
        return replace(
            self,
            loaded=replace(loaded, train=rows, val=rows[:0]),
            resolved=replace(resolved, train=resolved.train + resolved.val, val=resolved.val[:0]),
        )

    def identities(self, model: nn.Module) -> Domain | None:
        """The images that the run is verified on, if it is; classes are identities."""
        if self.verified is None:
            return None
        return _domain("identities", self.verified, self.verified.test, model)

    def sample(self, model: nn.Module) -> Domain:
        """One image, for what is to be known of all: size and normalisation."""
        return _domain("sample", self.loaded, np.arange(1), model)

    def selected(self) -> Selected:
        """All images of the run, as they lie in the cache."""
        loaded = self.loaded
        rows = {"train": loaded.train, "val": loaded.val, "test": loaded.test}
        return Selected(
            loaded.images, loaded.labels, rows, tuple(self.resolved.images), loaded.classes
        )

    def sources(self, model: nn.Module, pooled: bool = False) -> tuple[Domain, ...]:
        """The borrowed images as domains, in the order of the spec; as one with `pooled`."""
        domains = tuple(
            _domain(f"borrowed {number}", loaded, loaded.train[images.rows], model)
            for number, (loaded, images) in enumerate(self.borrowed, start=1)
        )
        return (pool(domains),) if pooled else domains

    def source_classes(self, pooled: bool = False) -> tuple[tuple[str, ...], ...]:
        """The names of the classes of each of `sources`; a class of two sets is two classes."""
        names = tuple(loaded.classes for loaded, _ in self.borrowed)
        return (tuple(itertools.chain(*names)),) if pooled else names


def _domain(
    name: str, loaded: catalog.Loaded, index: np.ndarray[Any, np.dtype[np.int64]], model: nn.Module
) -> Domain:
    inputs = attached(model)
    return Domain(
        name,
        Rows(loaded.images, index, loaded.content),
        loaded.labels[index],
        len(loaded.classes),
        views=_views(loaded),
        crop=loaded.crop,
        mean=inputs.mean,
        std=inputs.std,
    )


def pool(domains: Sequence[Domain]) -> Domain:
    """One domain of several, each class with a number of its own (GE Table 5, the hybrid source).

    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> two, three = np.array([0, 1]), np.array([2, 0])
    >>> both = pool([Domain("a", images, two, 2), Domain("b", images, three, 3)])
    >>> both.labels.tolist(), both.num_classes
    ([0, 1, 4, 2], 5)
    """
    ends = np.cumsum([domain.num_classes for domain in domains])
    labels = [d.labels + end - d.num_classes for d, end in zip(domains, ends, strict=True)]
    images = Joined([domain.images for domain in domains])
    return replace(
        domains[0],
        name="borrowed",
        images=Rows(images, np.arange(len(images))),
        labels=np.concatenate(labels),
        num_classes=int(ends[-1]),
    )


def _views(loaded: catalog.Loaded) -> int:
    """Images of a sample: they stand one above the other."""
    return int(loaded.images.shape[1] // loaded.images.shape[2])


class Loader:
    """Loads the data of runs, keeping the last few selections: runs of a batch share theirs."""

    _MOST = 4

    def __init__(self, context: Context) -> None:
        self.context = context
        self._kept: dict[tuple[str, int], tuple[catalog.Loaded, catalog.Resolved]] = {}

    def __call__(self, spec: RunSpec) -> Data:
        """The images of a run."""
        loaded, resolved = self._load(spec)
        found = self.context.resolve_borrowed(spec, resolved)
        borrowed = tuple(
            (self._load(_as_own(spec, number))[0], images) for number, images in enumerate(found)
        )
        verified = None
        if spec.evaluate is not None:
            who = resolve_identities(spec, **self.context.places)
            verified = load_identities(who, spec, **self.context.places)
        return Data(loaded, resolved, borrowed, verified)

    def _load(self, spec: RunSpec) -> tuple[catalog.Loaded, catalog.Resolved]:
        key = (spec.data.model_dump_json(), spec.seeds.draw)
        if key not in self._kept:
            while len(self._kept) >= self._MOST:
                self._kept.pop(next(iter(self._kept)))
            resolved = self.context.resolve_data(spec)
            loaded = catalog.load(resolved, spec.data, **self.context.places)
            self._kept[key] = (loaded, resolved)
        return self._kept[key]


def _as_own(spec: RunSpec, number: int) -> RunSpec:
    """The spec with a borrowed selection in the target's place."""
    borrowed = spec.borrow[number]
    seeds = spec.seeds.model_copy(update={"draw": borrowed.draw})
    return spec.model_copy(update={"data": borrowed.data, "seeds": seeds})


def build_method(
    spec: RunSpec, data: Data, model: nn.Module, context: Context, bank: nn.Module | None = None
) -> Method:
    """The method of a run over its images, expanded offline where the recipe asks for it (LI §4.6).

    `bank` is the network whose kernels describe images, if it is not the run's own.
    """
    recipe = spec.train
    domain = data.domain("train", model)
    steps = None
    if recipe.expand_to is not None:
        natural = natural_steps(domain.size, recipe.batch_size, recipe.accumulate)
        steps = natural if recipe.equal_steps else None
        images, labels = expand(
            domain.images, domain.labels, to=recipe.expand_to, seed=spec.seeds.order
        )
        domain = replace(domain, images=images, labels=labels)
    ingredients = Ingredients(
        domain,
        recipe,
        spec.seeds.order,
        steps,
        data.sources(model, spec.borrow_pooled),
        network=bank or (None if spec.init.kind == "scratch" else model),
        cache=context.cache,
        device=context.torch_device(),
    )
    return methods.build(spec.method.name, dict(spec.method.options), ingredients)


def fit_features(
    spec: RunSpec,
    data: Data,
    model: nn.Module,
    context: Context,
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """A classifier on features of the network, or the features: all kinds but `steps`.

    Args:
        spec: the run.
        data: its images.
        model: its network; the pattern has been applied.
        context: where to compute.
        folder: for features that do not fit in memory, while it lasts.
        should_stop: see `FeatureTask`.
    """
    device = context.torch_device()
    if methods.METHODS[spec.method.name].kind == "extraction":
        task = FeatureTask(
            model, data.sample(model), None, device, folder, data.selected(), should_stop
        )
    else:
        validation = data.domain("val", model)
        held = validation if validation.size else None
        every = data.joined().domain("train", model) if spec.train.refit else None
        train, cache = data.domain("train", model), context.cache / "features"
        task = FeatureTask(model, train, held, device, folder, refit=every, cache=cache)
    return methods.build_features(spec.method.name, dict(spec.method.options)).fit(task)


@dataclass(frozen=True, eq=False)
class Network:
    """What is trained: the run's own network, or that with further classifiers around it."""

    module: nn.Module
    groups: list[dict[str, Any]]
    forward: Forward | None


def assemble_network(
    spec: RunSpec,
    model: nn.Module,
    method: Method,
    data: Data,
    parent_state: Callable[[], Mapping[str, Tensor] | None],
    parent_classes: Callable[[], tuple[str, ...] | None],
) -> Network:
    """The network with a classifier for each domain of the method.

    Args:
        spec: the run.
        model: its network; the pattern has been applied.
        method: has the domains, and how their classifiers begin.
        data: the run's images.
        parent_state: the parent's weights.
        parent_classes: what the outputs of the parent's classifier stand for.

    Raises:
        BenchError: a classifier to be kept is not there, or does not know a borrowed class.
    """
    groups = layers.parameter_groups(model, spec.layers, spec.train)
    if len(method.domains) == 1 and data.views == 1:
        return Network(model, groups, None)
    heads: list[tuple[nn.Module, bool]] = []
    for number in range(1, len(method.domains)):
        head = method.heads[number]
        classes = data.source_classes(spec.borrow_pooled)[number - 1]
        parent = None
        if head.kept:
            names = [classes[int(c)] for c in head.classes]
            state = parent_state()
            assert state is not None  # RunSpec: a run that copies nothing keeps nothing
            known = parent_classes()
            parent = ParentHead(state, _rows(names, known), len(known or ()))
        made = new_head(
            spec.model,
            len(head.classes),
            seed=seed_from(f"head|{spec.seeds.init}|{number}"),
            image_size=spec.data.image_size,
            parent=parent,
        )
        heads.append((made.to(next(model.parameters()).device), head.kept))
    module = with_heads(
        model,
        [made for made, _ in heads],
        batch_norm=method.batch_norm,
        image_size=spec.data.image_size,
        views=[domain.views for domain in method.domains],
    )
    return Network(module, groups + head_groups(heads, spec.train), module)


def _rows(names: list[str], known: tuple[str, ...] | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The output of the parent's classifier for each class."""
    if known is None:
        raise DataError(
            "the classes of the weights to start from are not known, so their classifier "
            "cannot be kept",
            hint="set method.source_head: random, or start from a run",
        )
    place = {name: number for number, name in enumerate(known)}
    missing = [name for name in names if name not in place]
    if missing:
        raise DataError(
            f"the parent's classifier does not know {len(missing)} of {len(names)} borrowed "
            f"classes: {', '.join(missing[:5])}",
            hint="borrow: parent, or set method.source_head: random",
        )
    return np.array([place[name] for name in names], dtype=np.int64)


def classes_of_parent(spec: RunSpec, context: Context) -> tuple[str, ...] | None:
    """What the outputs of the parent's classifier stand for; None where that is not recorded.

    timm's weights for 1000 classes are those of ILSVRC2012 in the order of their wnids.
    """
    if isinstance(spec.init, FromRun):
        return context.resolve_data(spec.init.run).classes
    if spec.init.kind == "timm":
        return tuple(sorted(taxonomy().classes))
    return None
