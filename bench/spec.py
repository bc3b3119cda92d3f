"""What a run is: frozen, typed, every default written in; and its identity.

A run trains a model on a data set, from an initialisation, by a method. An initialisation may be
another run, so a spec contains its parent's spec. The id of a run is a hash of what it *is*: the
resolved spec, the parent's id and the fingerprint of the images selected; never of where files lie
or of what was left at its default.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from bench.errors import ModelError

__all__ = [
    "SCHEMA",
    "AllClasses",
    "Borrowed",
    "ClassRecipe",
    "DataSpec",
    "FromFile",
    "FromRun",
    "FromTimm",
    "HalfClasses",
    "Init",
    "LayerGroup",
    "LayerPattern",
    "ListedClasses",
    "MethodSpec",
    "ModelSpec",
    "NearFarClasses",
    "RandomClasses",
    "RunSpec",
    "Scratch",
    "Seeds",
    "SourceCategories",
    "TrainSpec",
    "UnderSynset",
    "canonical_json",
    "joint_fingerprint",
    "run_id",
]

SCHEMA = 1
"""Raise it when the meaning of a field changes, so that old records are not taken for new ones."""

Int = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
NonNegative = Annotated[int, Strict(), Field(ge=0)]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1)]
Bool = Annotated[bool, Strict()]


class Frozen(BaseModel):
    """A value: hashable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# --- which classes ---------------------------------------------------------------------------


class _Recipe(Frozen):
    """Common to all recipes: `take` keeps the first classes of the drawn order (nested subsets)."""

    take: Count | None = None


class _DrawnRecipe(_Recipe):
    """`class_draw` is the seed of the random choice of classes; source and target share it."""

    class_draw: NonNegative = 0


class AllClasses(_Recipe):
    """Every class of the data set, sorted."""

    recipe: Literal["all"] = "all"


class ListedClasses(_Recipe):
    """The classes named, in that order."""

    recipe: Literal["listed"] = "listed"
    names: tuple[str, ...] = Field(min_length=1)


class RandomClasses(_DrawnRecipe):
    """`n` random classes."""

    recipe: Literal["random"] = "random"
    n: Count


class UnderSynset(_DrawnRecipe):
    """Classes below a WordNet synset; all of them or `n` random ones.

    `rule` is how "below" is read: along the first hypernym pointer of each synset (LI's 347 under
    instrumentality), along all pointers (358), or along the longest path.
    """

    recipe: Literal["under"] = "under"
    synset: str
    n: Count | None = None
    rule: Literal["first_pointer", "closure", "longest_path"] = "first_pointer"


class NearFarClasses(_DrawnRecipe):
    """LI §4.3: a target below `root`, a source near it and a source far from it (ledger LI-4).

    Sizes are LI's; where the data set is smaller they are given smaller.
    """

    recipe: Literal["near_far"] = "near_far"
    root: str
    side: Literal["target", "near", "far"]
    target_n: Count = 100
    source_n: Count = 500
    rule: Literal["first_pointer", "closure", "longest_path"] = "first_pointer"
    branches: Literal["natural", "artifact_or_food"] = "natural"


class SourceCategories(_DrawnRecipe):
    """LI §4.2: a random target of `target_n` classes, sources of `n` of the remaining ones.

    Sources are nested: the first 80 of the 100 are the source of 80.
    """

    recipe: Literal["categories"] = "categories"
    side: Literal["target", "source"]
    target_n: Count = 100
    n: Count | None = None

    @model_validator(mode="after")
    def _source_needs_n(self) -> SourceCategories:
        if (self.side == "source") != (self.n is not None):
            raise ValueError("`n` is the number of source classes: give it with side: source only")
        return self


class HalfClasses(_DrawnRecipe):
    """CHU's Yosinski split: two random halves of the classes, A (source) and B (target)."""

    recipe: Literal["half"] = "half"
    side: Literal["a", "b"]


ClassRecipe = Annotated[
    AllClasses
    | ListedClasses
    | RandomClasses
    | UnderSynset
    | NearFarClasses
    | SourceCategories
    | HalfClasses,
    Field(discriminator="recipe"),
]


class DataSpec(Frozen):
    """A selection: which classes of a data set, how many images per class, at which size.

    `root` says where the files lie and is no part of the identity. The draw of the images is
    `RunSpec.seeds.draw`. Training sets are nested in `images_per_class`; the test set is the same
    for every draw. `test_from: given` uses the split that the data set comes with, `pool` cuts
    `test_per_class` images out of its training images; `auto` is `given` where there is one.
    """

    dataset: str
    root: str | None = None
    classes: ClassRecipe = AllClasses()
    image_size: Count = 32
    images_per_class: Count | None = None
    val_per_class: NonNegative = 10
    test_per_class: Count | None = None
    test_from: Literal["auto", "given", "pool"] = "auto"
    on_short: Literal["error", "cap", "drop_class"] = "error"
    on_corrupt: Literal["error", "skip"] = "error"

    def identity(self) -> dict[str, Any]:
        """The fields that say what the data are, without where they lie."""
        return self.model_dump(mode="json", exclude={"root"})


class Borrowed(Frozen):
    """A further selection that a run trains on beside its target (GE, SFT; ledger X-7).

    Only its training images are used. What is left out of them is drawn with the run's own
    `seeds.draw`; the order of the reductions is that of the fields.

    Attributes:
        data: the selection; its image size is the target's.
        draw: seed of the draw of its images, as `seeds.draw` is the target's.
        categories: fraction of its classes whose images are used (SFT-4 c); None is all.
        images: fraction of the images of each class that are used (SFT-4 d); None is all.
        total_images: so many random images in all (GE's random source); None is all.
        exclude_overlap: leave out images that are in the target's validation or test set
            (ledger CROSS-1).

    Whatever is left out, the classes stay as they are; methods with the option `reindex` give
    their classifier only the classes that have images.
    """

    data: DataSpec
    draw: NonNegative = 0
    categories: Fraction | None = None
    images: Fraction | None = None
    total_images: Count | None = None
    exclude_overlap: Bool = False

    def identity(self) -> dict[str, Any]:
        """What says which images these are, without where they lie."""
        return {**self.model_dump(mode="json"), "data": self.data.identity()}


# --- which layers -----------------------------------------------------------------------------


class LayerGroup(Frozen):
    """A run of layers that are treated alike: `kind` is T, F or R; layers count from 1."""

    kind: Literal["T", "F", "R"]
    first: Count
    last: Count


_GROUP = re.compile(r"([TFR])\(\s*(\d+)\s*(?:-\s*(\d+)\s*)?\)")


class LayerPattern(Frozen):
    """CHU's notation: T copied and tuned, F copied and frozen, R random; one treatment a layer.

    >>> pattern = LayerPattern.parse("T(1-7)R(8)")
    >>> pattern.depth, str(pattern), [pattern.kind(layer) for layer in (7, 8)]
    (8, 'T(1-7)R(8)', ['T', 'R'])
    """

    groups: tuple[LayerGroup, ...] = Field(min_length=1)

    @classmethod
    def parse(cls, text: str) -> LayerPattern:
        """Reads `T(1-7)R(8)`; groups must follow each other from layer 1 without gap or overlap.

        Raises:
            ModelError: with the place in the pattern, when the text is not a pattern.
        """
        return _parse_pattern(text)

    @classmethod
    def _read(cls, text: str) -> LayerPattern:
        example = 'write for example "T(1-7)R(8)", "F(1-3)T(4-7)R(8)" or "R(1-8)"'
        groups: list[LayerGroup] = []
        at, expected = 0, 1
        compact = text.strip()
        while at < len(compact):
            match = _GROUP.match(compact, at)
            if match is None:
                raise ModelError(
                    f"layer pattern {text!r}: cannot read {compact[at:]!r}", hint=example
                )
            kind, first = match[1], int(match[2])
            last = int(match[3]) if match[3] else first
            if first != expected or last < first:
                raise ModelError(
                    f"layer pattern {text!r}: group {match[0]!r} should begin at layer {expected}"
                    if first != expected
                    else f"layer pattern {text!r}: group {match[0]!r} ends before it begins",
                    hint=f"every layer is named exactly once, from layer 1 on; {example}",
                )
            if groups and groups[-1].kind == kind:
                first = groups.pop().first
            groups.append(LayerGroup.model_validate({"kind": kind, "first": first, "last": last}))
            at, expected = match.end(), last + 1
        if not groups:
            raise ModelError("the layer pattern is empty", hint=example)
        return cls(groups=tuple(groups))

    @property
    def depth(self) -> int:
        """The number of layers that the pattern covers."""
        return self.groups[-1].last

    @property
    def is_scratch(self) -> bool:
        """Whether nothing is copied."""
        return all(group.kind == "R" for group in self.groups)

    def kind(self, layer: int) -> str:
        """T, F or R for `layer`, counted from 1."""
        return next(g.kind for g in self.groups if g.first <= layer <= g.last)

    def layers(self, kinds: str) -> list[int]:
        """The layers whose treatment is one of `kinds`, ascending."""
        return [n for g in self.groups if g.kind in kinds for n in range(g.first, g.last + 1)]

    @property
    def frozen_prefix(self) -> int:
        """How many layers from the first on are frozen without a break."""
        return self.groups[0].last if self.groups[0].kind == "F" else 0

    def __str__(self) -> str:
        def span(group: LayerGroup) -> str:
            return str(group.first) if group.first == group.last else f"{group.first}-{group.last}"

        return "".join(f"{group.kind}({span(group)})" for group in self.groups)


@functools.lru_cache(maxsize=4096)
def _canonical_text(text: str) -> str:
    return str(LayerPattern.parse(text))


@functools.lru_cache(maxsize=4096)
def _parse_pattern(text: str) -> LayerPattern:
    """A grid has few patterns and many runs."""
    return LayerPattern._read(text)


# --- the network, how it starts, how it is trained ------------------------------------------------


class ModelSpec(Frozen):
    """A network by its timm name (ours are registered there too) and how random layers are filled.

    `filler: default` is the network's own initialisation, `li2019` the Gaussian of LI §3.
    `drop_rate: None` is the network's own dropout.
    """

    name: str
    filler: Literal["default", "li2019"] = "default"
    drop_rate: Annotated[float, Strict(), Field(ge=0, lt=1)] | None = None


class Scratch(Frozen):
    """Nothing is copied."""

    kind: Literal["scratch"] = "scratch"


class FromRun(Frozen):
    """Layers are copied from the network that another run trained."""

    kind: Literal["run"] = "run"
    run: RunSpec


class FromTimm(Frozen):
    """Layers are copied from timm's pretrained weights; `tag` None is timm's default tag."""

    kind: Literal["timm"] = "timm"
    tag: str | None = None


class FromFile(Frozen):
    """Layers are copied from a `.safetensors` or `.pth` file; its hash is the identity."""

    kind: Literal["file"] = "file"
    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Init = Annotated[Scratch | FromRun | FromTimm | FromFile, Field(discriminator="kind")]


class MethodSpec(Frozen):
    """How the loss is built: a name of `bench.methods.METHODS` and that method's own options."""

    name: str = "plain"
    options: tuple[tuple[str, str | bool | int | float | None], ...] = ()


class TrainSpec(Frozen):
    """Optimiser, schedule, budget, augmentation and model selection.

    Attributes:
        lr: learning rate of random layers, per step of `batch_size * accumulate` images.
        copied_lr_factor: learning-rate factor of copied and tuned layers (CHU: 0.2, LI: 1).
        bias_lr_mult, bias_weight_decay: Caffe's convention is 2 and false (ledger X-1).
        step_epochs, step_gamma: `schedule: step` multiplies by gamma every so many epochs.
        warmup_epochs: linear warm-up, may be a fraction of an epoch.
        accumulate: batches whose gradients are summed before a step (`iter_size`).
        augment: what is done to each training image; crops pad by `crop_pad` pixels first.
        expand_to: offline expansion to so many images per class (LI §4.6); None is off.
        equal_steps: with `expand_to`, keep the number of steps of the set as it was.
        select: which epoch's weights are kept; only validation data decide.
        explode_factor: a loss above this multiple of the first ends the run as diverged.
        threshold: training accuracy for the `epochs_to_threshold` column.
        frozen_dropout: dropout inside frozen layers stays active, as in Caffe (ledger X-1).
        tuned: which parameters of T layers are trained: all, those of normalisations, or biases;
            the others stay as they were copied. Running statistics move in any case.
        layer_lr_decay: copied layer n of N has `layer_lr_decay ** (N - n)` times its learning rate.
        l2_sp: alpha of L2-SP (Li, Grandvalet, Davoine 2018): copied parameters w are drawn to where
            they started by `alpha / 2 * |w - w0|²` in place of their weight decay; random layers
            keep theirs. None is off.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    copied_lr_factor: Positive = 1.0
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.9
    nesterov: Bool = False
    weight_decay: Annotated[float, Strict(), Field(ge=0)] = 5e-4
    bias_lr_mult: Positive = 1.0
    bias_weight_decay: Bool = True
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    step_epochs: Count = 20
    step_gamma: Positive = 0.1
    warmup_epochs: Annotated[float, Strict(), Field(ge=0)] = 0.0
    epochs: Count = 10
    batch_size: Count = 64
    accumulate: Count = 1
    label_smoothing: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: Bool = True
    augment: Literal["none", "flip", "crop_flip", "crop_flip_color"] = "crop_flip"
    crop_pad: NonNegative = 4
    expand_to: Count | None = None
    equal_steps: Bool = False
    select: Literal["best_val", "last"] = "best_val"
    evaluate_every: Count = 1
    explode_factor: Positive = 20.0
    threshold: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.7
    frozen_dropout: Bool = True
    tuned: Literal["all", "norm", "bias"] = "all"
    layer_lr_decay: Annotated[float, Strict(), Field(gt=0, le=1)] = 1.0
    l2_sp: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] | None = None

    def identity(self) -> dict[str, Any]:
        """All fields; those added since schema 1 only where they are used, so that ids stay."""
        defaults = {name: TrainSpec.model_fields[name].default for name in _ADDED_TO_TRAIN}
        fields = self.model_dump(mode="json")
        return {
            name: value
            for name, value in fields.items()
            if name not in defaults or value != defaults[name]
        }


_ADDED_TO_TRAIN = ("tuned", "layer_lr_decay", "l2_sp")
"""Their defaults say what was done before they existed, and must not be changed."""


class Seeds(Frozen):
    """The three things a seed names: the draw of images, the initial weights, order and noise."""

    draw: NonNegative = 0
    init: NonNegative = 0
    order: NonNegative = 0


class RunSpec(Frozen):
    """One training, complete. See the module's docstring for what its id covers."""

    data: DataSpec
    model: ModelSpec
    pattern: str
    init: Init = Scratch()
    method: MethodSpec = MethodSpec()
    train: TrainSpec = TrainSpec()
    seeds: Seeds = Seeds()
    allow_overlap: Bool = False
    borrow: tuple[Borrowed, ...] = ()

    @field_validator("pattern")
    @classmethod
    def _canonical_pattern(cls, text: str) -> str:
        try:
            return _canonical_text(text)
        except ModelError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _pattern_fits_init(self) -> RunSpec:
        scratch = LayerPattern.parse(self.pattern).is_scratch
        if self.init.kind == "scratch" and not scratch:
            raise ValueError(
                f"pattern {self.pattern} copies layers, but there is nothing to copy from: "
                "give a source, or use R for every layer"
            )
        if self.init.kind != "scratch" and scratch:
            raise ValueError(
                f"pattern {self.pattern} copies nothing, so its source would be trained in vain: "
                "set source: none, or copy a layer with T or F"
            )
        return self

    @model_validator(mode="after")
    def _borrowed_images_have_the_size(self) -> RunSpec:
        for borrowed in self.borrow:
            if borrowed.data.image_size != self.data.image_size:
                raise ValueError(
                    f"borrowed images of {borrowed.data.image_size} pixels beside a target of "
                    f"{self.data.image_size}: one network sees both, so they must be of one size"
                )
        return self

    @property
    def layers(self) -> LayerPattern:
        """The pattern, parsed."""
        return LayerPattern.parse(self.pattern)

    @property
    def parent(self) -> RunSpec | None:
        """The run whose weights this one copies, if it copies a run's."""
        return self.init.run if isinstance(self.init, FromRun) else None

    def ancestors(self) -> Iterator[RunSpec]:
        """Parent, parent's parent and so on."""
        run = self.parent
        while run is not None:
            yield run
            run = run.parent


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine.

    >>> canonical_json({"b": 1.0, "a": None})
    '{"a":null,"b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def joint_fingerprint(own: str, borrowed: Sequence[str]) -> str:
    """One fingerprint of a run's own images and of what it borrows; `own` if it borrows nothing.

    >>> joint_fingerprint("abc", ())
    'abc'
    """
    if not borrowed:
        return own
    return hashlib.sha256(canonical_json([own, *borrowed]).encode()).hexdigest()


Fingerprint = Callable[[RunSpec], str]


def run_id(spec: RunSpec, fingerprint: Fingerprint, memo: dict[int, str] | None = None) -> str:
    """The identity of a run: 32 hexadecimal digits (128 bits) of SHA-256.

    Args:
        spec: the run.
        fingerprint: gives the fingerprint of the images that a run selects, borrowed ones
            included; see `bench.data.catalog.fingerprint` and `joint_fingerprint`.
        memo: ids of parents already known, by `id()` of the spec object; a grid shares parents.
    """
    parent = spec.parent
    parent_id = None
    if parent is not None:
        known = memo.get(id(parent)) if memo is not None else None
        parent_id = known or run_id(parent, fingerprint, memo)
        if memo is not None:
            memo[id(parent)] = parent_id
    return hashlib.sha256(
        canonical_json(_identity(spec, parent_id, fingerprint)).encode()
    ).hexdigest()[:32]


def _identity(spec: RunSpec, parent_id: str | None, fingerprint: Fingerprint) -> Mapping[str, Any]:
    init = (
        {"kind": "run", "run": parent_id} if parent_id else spec.init.model_dump(exclude={"path"})
    )
    return {
        "schema": SCHEMA,
        "images": fingerprint(spec),
        "data": spec.data.identity(),
        "model": spec.model.model_dump(mode="json"),
        "pattern": spec.pattern,
        "init": init,
        "method": spec.method.model_dump(mode="json"),
        "train": spec.train.identity(),
        "seeds": spec.seeds.model_dump(mode="json"),
        "allow_overlap": spec.allow_overlap,
        **({"borrow": [borrowed.identity() for borrowed in spec.borrow]} if spec.borrow else {}),
    }


FromRun.model_rebuild()
