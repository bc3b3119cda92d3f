"""What a run is: frozen, typed, every default written in; and its identity.

A run trains a model on a data set, from an initialisation, by a method. An initialisation may be
another run, so a spec contains its parent's spec. The id of a run is a hash of what it *is*: the
resolved spec, the parent's id and the fingerprint of the images selected; never of where files lie
or of what was left at its default.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from bench.core.errors import ModelError
from bench.specs.data import (
    ADDED,
    Bool,
    Borrowed,
    Count,
    DataSpec,
    Fraction,
    Frozen,
    NonNegative,
    Positive,
)
from bench.specs.evaluation import EvaluateSpec
from bench.specs.pattern import LayerPattern

BatchNormMode = Literal["joint", "separate", "frozen"]
"""One pass over all domains; a pass for each; one with the statistics as they are."""

Augment = Literal[
    "none",
    "flip",
    "crop",
    "crop_flip",
    "crop_color",
    "crop_flip_color",
    "scale",
    "scale_flip",
    "scale_color",
    "scale_flip_color",
]
"""What is done to each training image; see `bench.data.transforms.augment`."""

Policy = Literal["none", "randaugment", "trivialaugment"]
"""Random operations on each training image; see `bench.data.transforms.policies`."""

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is what the device computes natively, see `bench.training.precision`."""

Optimizer = Literal[
    "sgd",
    "adamw",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamp",
    "adan",
    "adopt",
    "cadamw",
    "clion",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "madgrad",
    "mars",
    "nadam",
    "nadamw",
    "novograd",
    "radam",
    "radamw",
    "rmsprop",
    "rmsproptf",
    "sgdp",
    "sgdw",
]
"""torch's SGD and AdamW, and others by the names of timm's factory."""

SCHEMA = 1
"""Raise it when the meaning of a field changes, so that old records are not taken for new ones."""

# --- the network, how it starts, how it is trained ------------------------------------------------


class ModelSpec(Frozen):
    """A network, and how its random layers are filled.

    Attributes:
        name: of the network, timm's or one of ours (narrow8_32, narrow8_64, caffenet).
        filler: `default` is the network's own initialisation, `li2019` the Gaussian of LI §3.
        drop_rate: dropout before the classifier; None is the network's own.
    """

    name: str
    filler: Literal["default", "li2019"] = "default"
    drop_rate: Annotated[float, Strict(), Field(ge=0, lt=1)] | None = None


_Share = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
_PositiveShare = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
Colour = tuple[_Share, _Share, _Share]
PositiveColour = tuple[_PositiveShare, _PositiveShare, _PositiveShare]


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
    """Layers are copied from a `.safetensors` or `.pth` file; its hash is the identity.

    `mean` and `std`, as fractions of 255, are those of the images that the weights were trained on;
    None takes those of the network. `package` names the installed package that the file is in, see
    `bench.models.published`.
    """

    kind: Literal["file"] = "file"
    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    package: str | None = None
    mean: Colour | None = None
    std: PositiveColour | None = None


Init = Annotated[Scratch | FromRun | FromTimm | FromFile, Field(discriminator="kind")]


class MethodSpec(Frozen):
    """How the loss is built: a name of `bench.methods.METHODS` and that method's own options."""

    name: str = "plain"
    options: tuple[tuple[str, str | bool | int | float | None], ...] = ()

    @property
    def over(self) -> dict[str, list[Any]]:
        """The settings that a soup varies, each with its values; empty for other methods."""
        text = dict(self.options).get("over")
        return json.loads(text) if isinstance(text, str) else {}


class TrainSpec(Frozen):
    """Optimiser, schedule, budget, augmentation and model selection.

    Attributes:
        optimizer: `sgd` and `adamw` are torch's, the others those of timm's factory.
        momentum: of optimisers that have one.
        nesterov: Nesterov's momentum, for sgd.
        weight_decay: decay of all weights, as the optimiser applies it.
        lr: learning rate of random layers, per step of `batch_size * accumulate` images.
        copied_lr_factor: learning-rate factor of copied and tuned layers (CHU: 0.2, LI: 1).
        bias_lr_mult: learning-rate factor of biases; Caffe's convention is 2.
        bias_weight_decay: whether biases decay; Caffe's convention is false.
        schedule: how the learning rate falls: not at all, by steps, or as half a cosine to zero.
        step_epochs: epochs after which `schedule: step` multiplies the learning rate.
        step_gamma: what it multiplies by.
        step_iterations: the same in optimiser steps, in place of `step_epochs`; None is off.
        restart_every: the schedule begins anew after every so many epochs, without a second
            warm-up, whatever the method; None is never.
        warmup_epochs: linear warm-up, may be a fraction of an epoch.
        epochs: passes over the training images.
        batch_size: images of a batch.
        label_smoothing: share of a label that is spread over all classes.
        precision: of activations and gradients; weights are float32. `auto` is bfloat16 where the
            device computes it natively, else float32; a run's id has `auto`, its record and
            condition what that was.
        channels_last: memory layout of images and weights; changes speed alone.
        evaluate_every: epochs from one validation to the next.
        accumulate: batches whose gradients are summed before a step (`iter_size`).
        augment: what is done to each training image; crops pad first, and `scale` shows parts of 8
            to 100 % of its area, 3:4 to 4:3.
        crop_pad: that crops add on each side of an image first.
        expand_to: offline expansion to so many images per class (LI §4.6); None is off.
        equal_steps: with `expand_to`, keep the number of steps of the set as it was.
        select: which epoch's weights are kept; only validation data decide.
        explode_factor: a loss above this multiple of the first ends the run as diverged.
        threshold: training accuracy for the `epochs_to_threshold` column.
        frozen_dropout: dropout inside frozen layers stays active, as in Caffe.
        tuned: which parameters of T layers are trained: all, those of normalisations, or biases;
            the others stay as they were copied. Running statistics move in any case. `lora` trains
            products of two small matrices beside the weights; see `bench.models.tuning`.
        lora_rank: inner side of these matrices.
        lora_alpha: their product is multiplied by `lora_alpha / lora_rank`; None is the rank.
        copied_statistics: `fixed` leaves BatchNorm's running statistics in copied and tuned layers
            as they were copied, and normalises by them in training too; its weights are trained.
            For few images, or networks whose statistics move slowly.
        head: `probe` begins the classifier with a logistic regression on the features that the
            copied network gives (Kumar et al. 2022, LP-FT); `random` with its own random weights.
        unfreeze_every: T layers join the training one by one, the last first, after every so many
            epochs (Howard, Ruder 2018); random layers train from the start, and without any the
            last T layer does. Until then a layer's parameters and running statistics stay as they
            are. None trains all from the start.
        layer_lr_decay: copied layer n of N has `layer_lr_decay ** (N - n)` times its learning rate.
        l2_sp: alpha of L2-SP (Li, Grandvalet, Davoine 2018): copied parameters w are drawn to where
            they started by `alpha / 2 * |w - w0|²` in place of their weight decay; random layers
            keep theirs. None is off.
        scale_least_area: where `augment` scales, its parts have at least this share of the image's
            area.
        scale_most_aspect: and sides of at most this ratio either way.
        scale_antialias: and are filtered when they are made smaller.
        policy: RandAugment (Cubuk et al. 2020) or TrivialAugment Wide (Müller, Hutter 2021), as in
            torchvision, after crops, mirroring and colours.
        policy_ops: RandAugment's operations in a row.
        policy_magnitude: strength of each of RandAugment's operations, of 30.
        random_erasing: probability that a rectangle of an image becomes its mean colour (Zhong et
            al. 2020; timm's areas and ratios).
        mixup: alpha of the Beta distribution from which a step draws the share of two images and
            their labels in the target's batch (Zhang et al. 2018); 0 is off.
        cutmix: the same for a rectangle of one image in the other (Yun et al. 2019); with both a
            step does one of them, at even chances.
        clip_norm: most that the gradient of all parameters together may be long in a step; None is
            off.
        drop_path: chance that a sample skips the network's last residual block in training, less
            before it in equal steps (Huang et al. 2016; timm's `drop_path_rate`); 0 is off.
        ema: the weights that are validated and kept are an average: after step n its share in
            itself is `ema`, at first at most 1 - n ** (-2/3), so that short trainings forget their
            start (timm's ModelEmaV3, buffers too). None keeps the weights themselves.
        class_weights: `balanced` multiplies an image's loss by images / (classes * images of its
            class), of the target as it is trained on.
        sampling: `balanced` shows each class of the target equally often, and each image of a
            class; an epoch has as many images as before.
        refit: once the epoch is chosen, train again on training and validation images together:
            from the same initial weights, with the same seeds and the same schedule, planned for
            all `epochs` and ended after as many as were chosen. The second network is the result.
            For a classifier on fixed features the same is done with the chosen C.
        deterministic: on a GPU, compute only by algorithms that give the same bits each time; that
            is slower, and a network with a layer that has none fails. A CPU has no others.
        cached_views: augmented views of each training image, drawn once from `seeds.order`; the
            epochs show one after the other, counted round. Frozen first layers then compute each
            view once, and runs that differ in rates share it, where its activations have room and
            equal those of a batch to 1e-5. None augments anew in each epoch.
        batch_norm_parts: BatchNorm that is trained normalises each of so many even parts of a batch
            by itself, and the first part moves its running statistics: what data-parallel training
            without SyncBatchNorm does on as many GPUs, which then exchange no statistics. One GPU
            computes the same. Each part needs two images, in an epoch's smallest batch too. 1
            normalises the whole batch, on any number of GPUs.
        prefix_tolerance: what frozen first layers give is computed once per image where it differs
            from what a training batch gives by at most this share of the largest value; 0 is equal
            to the last bit. On a GPU the size of a batch may decide last bits. One unit of them is
            1e-7 in float32, 1e-3 in TF32, 8e-3 in bfloat16. It is tried on the smallest batch, and
            the record has the difference.
    """

    optimizer: Optimizer = "sgd"
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
    precision: Precision = "float32"
    channels_last: Bool = True
    augment: Augment = "crop_flip"
    crop_pad: NonNegative = 4
    expand_to: Count | None = None
    equal_steps: Bool = False
    select: Literal["best_val", "last"] = "best_val"
    evaluate_every: Count = 1
    explode_factor: Positive = 20.0
    threshold: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.7
    frozen_dropout: Bool = True
    tuned: Annotated[Literal["all", "norm", "bias", "lora"], ADDED] = "all"
    layer_lr_decay: Annotated[float, Strict(), Field(gt=0, le=1), ADDED] = 1.0
    l2_sp: Annotated[Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] | None, ADDED] = (
        None
    )
    refit: Annotated[Bool, ADDED] = False
    step_iterations: Annotated[Count | None, ADDED] = None
    restart_every: Annotated[Count | None, ADDED] = None
    scale_least_area: Annotated[Fraction, ADDED] = 0.08
    scale_most_aspect: Annotated[float, Strict(), Field(ge=1, allow_inf_nan=False), ADDED] = 4 / 3
    scale_antialias: Annotated[Bool, ADDED] = False
    policy: Annotated[Policy, ADDED] = "none"
    policy_ops: Annotated[Count, ADDED] = 2
    policy_magnitude: Annotated[int, Strict(), Field(ge=0, le=30), ADDED] = 9
    random_erasing: Annotated[_Share, ADDED] = 0.0
    mixup: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), ADDED] = 0.0
    cutmix: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), ADDED] = 0.0
    clip_norm: Annotated[Positive | None, ADDED] = None
    drop_path: Annotated[float, Strict(), Field(ge=0, lt=1), ADDED] = 0.0
    ema: Annotated[Annotated[float, Strict(), Field(ge=0, lt=1)] | None, ADDED] = None
    class_weights: Annotated[Literal["none", "balanced"], ADDED] = "none"
    sampling: Annotated[Literal["natural", "balanced"], ADDED] = "natural"
    unfreeze_every: Annotated[Count | None, ADDED] = None
    copied_statistics: Annotated[Literal["moving", "fixed"], ADDED] = "moving"
    head: Annotated[Literal["random", "probe"], ADDED] = "random"
    lora_rank: Annotated[Count, ADDED] = 4
    lora_alpha: Annotated[Positive | None, ADDED] = None
    deterministic: Annotated[Bool, ADDED] = False
    cached_views: Annotated[Count | None, ADDED] = None
    batch_norm_parts: Annotated[Count, ADDED] = 1
    prefix_tolerance: Annotated[_Share, ADDED] = 0.0

    @model_validator(mode="after")
    def _parts_of_an_option_have_it(self) -> TrainSpec:
        for prefix, owner, has, way in (
            ("scale_", "augment", "scale" in self.augment, "augment: scale_flip"),
            ("policy_", "policy", self.policy == "randaugment", "policy: randaugment"),
            ("lora_", "tuned", self.tuned == "lora", "tuned: lora"),
        ):
            for name in sorted(self.changed_fields()):
                if name.startswith(prefix) and not has:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, but {owner} is {getattr(self, owner)}: "
                        f"set {way}, or leave {name} out"
                    )
        for name in ("l2_sp", "unfreeze_every") if self.tuned == "lora" else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but tuned is lora: copied weights do not "
                    "move, and none of them can be drawn back or join later; leave one of the two "
                    "out"
                )
        return self

    @model_validator(mode="after")
    def _parts_of_a_batch_have_images(self) -> TrainSpec:
        if self.batch_norm_parts > 1 and self.batch_size < 2 * self.batch_norm_parts:
            raise ValueError(
                f"batch_norm_parts is {self.batch_norm_parts}, but batch_size is "
                f"{self.batch_size}: each part needs two images or more, so set a larger "
                "batch_size, or fewer parts"
            )
        return self

    @model_validator(mode="after")
    def _schedule_is_one(self) -> TrainSpec:
        if self.step_iterations is not None and self.schedule != "step":
            raise ValueError(
                f"step_iterations is {self.step_iterations}, but schedule is {self.schedule}: "
                "set schedule: step, or leave step_iterations out"
            )
        if self.restart_every is not None and self.warmup_epochs > self.restart_every:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}, but restart_every is "
                f"{self.restart_every}: the schedule would begin anew before the learning rate is "
                "reached; shorten the warm-up, or restart later"
            )
        return self

    @model_validator(mode="after")
    def _views_are_of_an_augmentation(self) -> TrainSpec:
        shown = f"cached_views is {self.cached_views}"
        if self.cached_views is not None and (self.mixup or self.cutmix):
            raise ValueError(
                f"{shown}, but mixup or cutmix mixes images anew in each step, so no view comes "
                "back; leave one of the two out"
            )
        changing = self.augment not in ("none", "flip")
        changing |= self.policy != "none" or self.random_erasing > 0
        if self.cached_views is not None and not changing:
            raise ValueError(
                f"{shown}, but augment is {self.augment}, which needs no views: leave cached_views "
                "out, or set augment: crop_flip"
            )
        return self

    @model_validator(mode="after")
    def _refit_what_was_chosen(self) -> TrainSpec:
        if self.refit and self.select == "last":
            raise ValueError(
                "refit is true, but select is last: no epoch is chosen on validation images, so "
                "set select: best_val, or leave refit out"
            )
        return self

    @property
    def lora_scale(self) -> float:
        """What the products of `tuned: lora` are multiplied by."""
        return 1.0 if self.lora_alpha is None else self.lora_alpha / self.lora_rank

    def identity(self) -> dict[str, Any]:
        """All fields but those marked `ADDED` that are at their default."""
        return self.model_dump(mode="json", exclude=self.quiet_fields())


Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]


class Seeds(Frozen):
    """The three things a seed names.

    Attributes:
        draw: of the draw of images.
        init: of the initial weights.
        order: of the order of images and of all noise in training.
    """

    draw: Seed = 0
    init: Seed = 0
    order: Seed = 0


class RunSpec(Frozen):
    """One training, complete. See the module's docstring for what its id covers.

    `bank` is the run whose network's kernels describe images, for methods that select source images
    by them (GE-1); None is the network that the run starts from.

    `borrow_pooled` makes one source domain of all borrowed selections: one classifier over the
    classes of all, one loss, and neighbours from all (GE Table 5, the hybrid source); else each is
    a domain with a classifier and a loss of its own.
    """

    data: DataSpec
    model: ModelSpec
    pattern: str
    init: Init = Scratch()
    method: MethodSpec = MethodSpec()
    train: TrainSpec = TrainSpec()
    seeds: Seeds = Seeds()
    allow_overlap: Bool = False
    borrow: tuple[Borrowed, ...] = ()
    evaluate: EvaluateSpec | None = None
    bank: RunSpec | None = None
    borrow_pooled: Bool = False

    @field_validator("pattern")
    @classmethod
    def _canonical_pattern(cls, text: str) -> str:
        try:
            return str(LayerPattern.parse(text))
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
            key = "source" if self.init.kind == "run" else "weights"
            raise ValueError(
                f"pattern {self.pattern} copies nothing, so it has no use for {key}: "
                f"set {key}: none, or copy a layer with T or F"
            )
        return self

    @model_validator(mode="after")
    def _options_of_copied_layers_have_some(self) -> RunSpec:
        changed = self.train.changed_fields()
        about = ("tuned", "layer_lr_decay", "l2_sp", "unfreeze_every", "copied_statistics")
        used = [name for name in about if name in changed]
        if used and not LayerPattern.parse(self.pattern).layers("T"):
            raise ValueError(
                f"train.{used[0]} is about copied and tuned layers, and pattern {self.pattern} has "
                "none: leave it out, or give a layer T"
            )
        return self

    @model_validator(mode="after")
    def _cached_views_are_behind_frozen_layers(self) -> RunSpec:
        views, first = self.train.cached_views, LayerPattern.parse(self.pattern).frozen_prefix
        if views is not None and (not first or self.method.name not in ("plain", "soup")):
            why = f"pattern {self.pattern} freezes no first layers"
            if first:
                why = f"method {self.method.name} does not train on them alone"
            raise ValueError(
                f"train.cached_views is {views}, but {why}: leave it out, or write pattern: freeze "
                "and method: plain"
            )
        return self

    @model_validator(mode="after")
    def _a_probed_head_has_features(self) -> RunSpec:
        pattern = LayerPattern.parse(self.pattern)
        if self.train.head == "probe" and (
            pattern.is_scratch or pattern.kind(pattern.depth) != "R" or self.borrow
        ):
            raise ValueError(
                f"train.head is probe, but pattern {self.pattern} "
                + ("borrows images" if self.borrow else "has no copied features below a new one")
                + ": leave head out, or tune copied layers below a random classifier"
            )
        return self

    @model_validator(mode="after")
    def _parts_of_a_batch_are_of_one_domain(self) -> RunSpec:
        if self.train.batch_norm_parts > 1 and self.borrow:
            raise ValueError(
                f"train.batch_norm_parts is {self.train.batch_norm_parts}, but the run borrows "
                "images: a batch then holds those of several domains, whose statistics "
                "method.batch_norm is about; leave batch_norm_parts out, or set borrow: none"
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

    @model_validator(mode="after")
    def _a_pool_has_several(self) -> RunSpec:
        if self.borrow_pooled and len(self.borrow) < 2:
            raise ValueError(
                f"borrow.pool has {len(self.borrow)} selection: a pool is made of two or more, so "
                "name another one, or leave out pool"
            )
        return self

    @property
    def source_domains(self) -> int:
        """How many domains stand beside the target in training."""
        return 1 if self.borrow_pooled else len(self.borrow)

    @property
    def layers(self) -> LayerPattern:
        """The pattern, parsed."""
        return LayerPattern.parse(self.pattern)

    @property
    def parent(self) -> RunSpec | None:
        """The run whose weights this one copies, if it copies a run's."""
        return self.init.run if isinstance(self.init, FromRun) else None

    @property
    def ingredients(self) -> tuple[RunSpec, ...]:
        """The runs that a soup averages: itself by plain training, with each combination of the
        values of its `over`. Empty for other methods."""
        over = self.method.over
        if not over:
            return ()
        plain = self.model_copy(update={"method": MethodSpec()})
        every = itertools.product(*over.values())
        return tuple(plain.with_settings(dict(zip(over, values, strict=True))) for values in every)

    def with_settings(self, values: Mapping[str, Any]) -> RunSpec:
        """The run with some of its `train.…` and `seeds.…` set.

        Raises:
            ValidationError: a value that the setting, or the run, does not take.
        """
        parts = dict(self)
        for name, kind in (("train", TrainSpec), ("seeds", Seeds)):
            given = {key.partition(".")[2]: v for key, v in values.items() if key.startswith(name)}
            if given:
                parts[name] = kind.model_validate(parts[name].model_dump() | given)
        return RunSpec(**parts)

    @property
    def needs(self) -> tuple[RunSpec, ...]:
        """The runs whose networks this one reads: its parent, its bank, a soup's ingredients."""
        found = (self.parent, self.bank, *self.ingredients)
        return tuple(run for run in found if run is not None)

    def ancestors(self) -> Iterator[RunSpec]:
        """Parent, parent's parent and so on."""
        run = self.parent
        while run is not None:
            yield run
            run = run.parent


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine.

    >>> canonical_json({"b": 1.0, "a": None})
    '{"a":null,"b":1.0}'
    """
    return _CANONICAL.encode(value)


def joint_fingerprint(own: str, borrowed: Sequence[str]) -> str:
    """One fingerprint of a run's own images and of what it borrows; `own` if it borrows nothing.

    >>> joint_fingerprint("abc", ())
    'abc'
    """
    if not borrowed:
        return own
    return hashlib.sha256(canonical_json([own, *borrowed]).encode()).hexdigest()


Fingerprint = Callable[[RunSpec], str]


def run_id(spec: RunSpec, fingerprint: Fingerprint) -> str:
    """The identity of a run: 32 hexadecimal digits (128 bits) of SHA-256.

    `fingerprint` gives that of the images that a run selects, borrowed ones included; see
    `bench.data.catalog.fingerprint` and `joint_fingerprint`.
    """
    parent_id, bank_id = (
        None if needed is None else run_id(needed, fingerprint)
        for needed in (spec.parent, spec.bank)
    )
    identity = identity_of(spec, parent_id, bank_id, fingerprint(spec))
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32]


def identity_of(
    spec: RunSpec, parent_id: str | None, bank_id: str | None, images: str
) -> Mapping[str, Any]:
    """What the id of a run is the hash of; `images` is their fingerprint."""
    without = spec.init.kind == "file"  # mean and std came later: they count where they are given
    own = spec.init.model_dump(mode="json", exclude={"path", "package"}, exclude_none=without)
    init = {"kind": "run", "run": parent_id} if parent_id else own
    return {
        "schema": SCHEMA,
        "images": images,
        "data": spec.data.identity(),
        "model": spec.model.model_dump(mode="json"),
        "pattern": spec.pattern,
        "init": init,
        "method": spec.method.model_dump(mode="json"),
        "train": spec.train.identity(),
        "seeds": spec.seeds.model_dump(mode="json"),
        "allow_overlap": spec.allow_overlap,
        **({"evaluate": spec.evaluate.model_dump(mode="json")} if spec.evaluate else {}),
        **({"bank": bank_id} if bank_id else {}),
        **({"borrow": [borrowed.identity() for borrowed in spec.borrow]} if spec.borrow else {}),
        **({"borrow_pooled": True} if spec.borrow_pooled else {}),
    }


FromRun.model_rebuild()
