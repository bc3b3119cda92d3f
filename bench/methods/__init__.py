"""Training methods by name: one explicit table, nothing imported until it is asked for.

Options are validated without torch, so that a grid can be checked before anything runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import ValidationError

from bench.core.errors import GridError, nearest
from bench.methods.options import MethodOptions
from bench.specs.problems import shown, way_out, words
from bench.specs.run import MethodSpec, RunSpec, TrainSpec

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from bench.methods.features.task import FeatureTask, Fitted
    from bench.training.domain import Domain
    from bench.training.job import Method


@dataclass(frozen=True)
class MethodEntry:
    """Where a method is written; its module must be importable without torch.

    Attributes:
        module: import path.
        method: class, built from (Ingredients, options), or from options alone; of kind `weights`
            a function of two networks' weights.
        options: class of the method's own options, a `MethodOptions`.
        summary: one line for lists.
        kind: `steps` names the images of optimiser steps for the training loop; `features` fits
            a classifier to features of the network as it is; `extraction` keeps the features;
            `weights` computes a network from those of other runs.
        borrows: the least and the greatest number of selections that a run with this method
            borrows (`RunSpec.borrow`).
    """

    module: str
    method: str
    options: str
    summary: str
    borrows: tuple[int, int] = (0, 0)
    kind: Literal["steps", "features", "extraction", "weights"] = "steps"

    def load(self, name: str) -> Any:
        """The class `name` of the module."""
        return getattr(importlib.import_module(self.module), name)


METHODS: dict[str, MethodEntry] = {
    "plain": MethodEntry(
        "bench.methods.finetuning.plain",
        "Plain",
        "PlainOptions",
        "cross-entropy on the target's own images",
    ),
    "joint": MethodEntry(
        "bench.methods.finetuning.joint",
        "Joint",
        "JointOptions",
        "target and source losses in full, both classifiers random (GE)",
        borrows=(1, 8),
    ),
    "soft": MethodEntry(
        "bench.methods.finetuning.soft",
        "Soft",
        "SoftOptions",
        "the source's loss fades out, its classifier is the parent's (SFT)",
        borrows=(1, 2),
    ),
    "selective": MethodEntry(
        "bench.methods.finetuning.selective",
        "Selective",
        "SelectiveOptions",
        "joint training on source images that each target image chooses (GE)",
        borrows=(1, 8),
    ),
    "soft_selective": MethodEntry(
        "bench.methods.finetuning.selective",
        "SoftSelective",
        "SoftSelectiveOptions",
        "soft fine-tuning on source images that each target image chooses (SFT and GE)",
        borrows=(1, 2),
    ),
    "svm": MethodEntry(
        "bench.methods.features.svm",
        "Svm",
        "SvmOptions",
        "a linear SVM on features of the network as it is (LI, SFT)",
        kind="features",
    ),
    "probe": MethodEntry(
        "bench.methods.features.probe",
        "Probe",
        "ProbeOptions",
        "logistic regression on a layer of the network as it is (LI)",
        kind="features",
    ),
    "extract": MethodEntry(
        "bench.methods.features.extract",
        "Extract",
        "ExtractOptions",
        "features of the network as it is, kept as a file for measurements",
        kind="extraction",
    ),
    "wise": MethodEntry(
        "bench.methods.averaging",
        "interpolated",
        "WiseOptions",
        "the mean of a run's weights as it began and as it ended, without training (WiSE-FT)",
        kind="weights",
    ),
    "soup": MethodEntry(
        "bench.methods.averaging",
        "uniform_soup",
        "SoupOptions",
        "the mean of the weights of runs that differ in what is stated, without training",
        kind="weights",
    ),
}


class FeatureMethod(Protocol):
    """A method of kind `features` or `extraction`."""

    def fit(self, task: FeatureTask) -> Fitted:
        """A classifier on features of the task's network."""


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What a method is made of, beside its options.

    Attributes:
        target: the images to learn.
        train: recipe; a method reads the batch size and the accumulation.
        order_seed: seeds the order of the images.
        steps_per_epoch: fixed number of optimiser steps; None is one pass over the target.
        sources: other domains, for methods that borrow.
        network: as it is when training begins, for methods that look at its features before; None
            when it copies nothing.
        cache: folder for what can be computed again; None keeps nothing.
        device: where to compute.
    """

    target: Domain
    train: TrainSpec
    order_seed: int = 0
    steps_per_epoch: int | None = None
    sources: tuple[Domain, ...] = ()
    network: nn.Module | None = None
    cache: Path | None = None
    device: torch.device | str = "cpu"


def check(name: str, options: Mapping[str, Any]) -> MethodOptions:
    """The options of the method `name`, validated and complete; imports no torch.

    Raises:
        GridError: no such method, no such option, or a value that it does not take.

    >>> check("plain", {}).model_dump()
    {}
    """
    entry = METHODS.get(name)
    if entry is None:
        raise GridError(f"there is no method {name!r}", hint=f"methods: {nearest(name, METHODS)}")
    schema: type[MethodOptions] = entry.load(entry.options)
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        raise _wrong_option(name, schema, error) from None


def _wrong_option(name: str, schema: type[MethodOptions], error: ValidationError) -> GridError:
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    option = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = nearest(option, schema.model_fields)
        names = f"its options: {known}" if known else "it has no options"
        return GridError(
            f"method {name!r} has no option {option!r}", hint=schema.gone.get(option, names)
        )
    if first["type"] == "missing":
        return GridError(f"method {name!r} needs {option}", hint=f"add {option}: …")
    if not option:  # of several options together
        return GridError(f"method {name!r}: {first['msg'].removeprefix('Value error, ')}")
    text = f"method {name!r}: {option} is {shown(first['input'])}: {words(first)}"
    return GridError(text, hint=way_out(first))


def options_of(method: MethodSpec) -> MethodOptions:
    """The options of a run's method, typed and complete; raises as `check`."""
    return check(method.name, dict(method.options))


def resolved(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method as a run's identity and record have them; raises as `check`.

    Every default is written in but those of options that are `ADDED` (`bench.specs.data`).

    >>> "oversample_hard" in resolved("selective", {})
    False
    """
    return check(name, options).identity()


def defaults_of(name: str) -> dict[str, Any]:
    """A method's options at their defaults, without those that must be given; none of a method that
    this version does not have.

    >>> defaults_of("soup"), defaults_of("no such")
    ({'choose': 'uniform'}, {})
    """
    entry = METHODS.get(name)
    fields = entry.load(entry.options).model_fields if entry else {}
    return {key: field.default for key, field in fields.items() if not field.is_required()}


def check_run(spec: RunSpec) -> None:
    """Whether the method of a run suits what the run borrows and starts from; imports no torch.

    Raises:
        GridError: too few or too many borrowed selections, or an option that this run cannot have.
    """
    name, options = spec.method.name, options_of(spec.method)
    _check_borrowing(name, spec.source_domains)
    _check_views(spec, options)
    options.check_spec(spec)
    kind = METHODS[name].kind
    if kind != "steps" and spec.layers.layers("T") and not spec.method.over:
        raise GridError(
            f"method {name!r} trains no layer, but pattern {spec.pattern} says that some are tuned",
            hint="write F for the copied layers: freeze, or for example F(1-7)R(8)",
        )
    parent = spec.parent
    if name == "wise" and parent is not None and METHODS[parent.method.name].kind != "steps":
        raise GridError(
            f"method {name!r} averages networks, and method {parent.method.name!r} of its parent "
            "trains none",
            hint="give parent a method with steps: "
            + ", ".join(key for key, entry in METHODS.items() if entry.kind == "steps"),
        )
    if kind == "extraction" and spec.train.refit:
        raise GridError(
            f"train.refit is true, but method {name!r} trains nothing",
            hint="leave out refit for these runs",
        )


def _check_borrowing(name: str, given: int) -> None:
    least, most = METHODS[name].borrows
    if given < least:
        raise GridError(
            f"method {name!r} trains on borrowed images too, and there are none to borrow",
            hint="add borrow: parent (what the parent was trained on), a name of sources: or a "
            "mapping",
        )
    if given > most:
        borrowing = nearest(name, [key for key, entry in METHODS.items() if entry.borrows[1]])
        raise GridError(
            f"method {name!r} borrows "
            + (f"at most {most} selections" if most else "no images")
            + f", and {given} {'is' if given == 1 else 'are'} given",
            hint=f"leave out borrow, or choose a method that borrows: {borrowing or 'none yet'}",
        )


def _check_views(spec: RunSpec, options: MethodOptions) -> None:
    """Samples of several images are for methods that look at samples, not at images."""
    name, views = spec.method.name, spec.data.views
    for borrowed in spec.borrow:
        if borrowed.data.views:
            raise GridError(
                f"borrowed samples of {len(borrowed.data.views)} views",
                hint="borrow whole images: name a selection without views",
            )
    if not views:
        return
    shown = f"but a sample of the target has the views {', '.join(views)}"
    if options.whole_images:
        raise GridError(
            f"method {name!r} looks at whole images, {shown}",
            hint="leave out target.views, or choose plain, joint, soft, svm or probe",
        )
    if METHODS[name].kind == "features" and spec.layers.kind(spec.layers.depth) != "R":
        raise GridError(
            f"pattern {spec.pattern} copies a classifier of whole images, {shown}",
            hint=f"method {name!r} needs no classifier: write R for the last layer",
        )
    if spec.train.expand_to is not None:
        raise GridError(
            f"train.expand_to makes copies of whole images, {shown}",
            hint="leave out one of the two",
        )


def build_features(name: str, options: Mapping[str, Any]) -> FeatureMethod:
    """The method `name` of kind `features` or `extraction`; raises as `check`."""
    entry = METHODS[name]
    method: FeatureMethod = entry.load(entry.method)(check(name, options))
    return method


def build(name: str, options: Mapping[str, Any], ingredients: Ingredients) -> Method:
    """The method `name`, ready for the training loop; raises as `check`."""
    entry = METHODS[name]
    method: Method = entry.load(entry.method)(ingredients, check(name, options))
    return method
