"""Training methods by name: one explicit table, nothing imported until it is asked for.

Options are validated without torch, so that a grid can be checked before anything runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from bench.core import errors
from bench.core.errors import GridError
from bench.specs.run import RunSpec, TrainSpec

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from bench.methods.features.task import FeatureTask, Fitted
    from bench.training.domain import Domain
    from bench.training.job import Method

__all__ = [
    "METHODS",
    "FeatureMethod",
    "Ingredients",
    "MethodEntry",
    "build",
    "build_features",
    "check",
    "check_run",
    "check_sources",
    "keeps_source_head",
    "resolved",
]


@dataclass(frozen=True)
class MethodEntry:
    """Where a method is written; its module must be importable without torch.

    Attributes:
        module: import path.
        method: class, built from (Ingredients, options).
        options: frozen pydantic class of the method's own options.
        summary: one line for lists.
        kind: `steps` names the images of optimiser steps for the training loop; `features` fits
            a classifier to features of the network as it is; `extraction` keeps the features.
        borrows: the least and the greatest number of selections that a run with this method
            borrows (`RunSpec.borrow`).
    """

    module: str
    method: str
    options: str
    summary: str
    borrows: tuple[int, int] = (0, 0)
    kind: Literal["steps", "features", "extraction"] = "steps"


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


def check(name: str, options: Mapping[str, Any], place: str | None = None) -> BaseModel:
    """The options of the method `name`, validated and complete; imports no torch.

    Raises:
        GridError: no such method, no such option, or a value that it does not take.

    >>> check("plain", {}).model_dump()
    {}
    """
    entry = METHODS.get(name)
    if entry is None:
        raise GridError(
            f"there is no method {name!r}",
            place=place,
            hint=f"methods: {errors.nearest(name, METHODS)}",
        )
    schema: type[BaseModel] = getattr(importlib.import_module(entry.module), entry.options)
    known, gone = list(schema.model_fields), getattr(schema, "GONE", {})
    for key in options:
        if key not in known:
            names = f"its options: {errors.nearest(key, known)}" if known else "it has no options"
            raise GridError(
                f"method {name!r} has no option {key!r}",
                place=place,
                hint=gone.get(key, names),
            )
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several options together
            text = str(first["msg"]).removeprefix("Value error, ")
            raise GridError(f"method {name!r}: {text}", place=place) from None
        option = ".".join(str(part) for part in first["loc"])
        raise GridError(
            f"method {name!r}: {option} is {first['input']!r}",
            place=place,
            hint=first["msg"],
        ) from None


def resolved(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method as a run's identity and record have them; see `check`.

    Every default is written in, but for those of options that a schema names in `ADDED`: they came
    later, and their defaults say what was done before, so ids of older runs stay.

    Raises:
        GridError: as `check`.

    >>> "oversample_hard" in resolved("selective", {})
    False
    """
    checked = check(name, options)
    added: tuple[str, ...] = getattr(checked, "ADDED", ())
    default = {
        key for key in added if getattr(checked, key) == type(checked).model_fields[key].default
    }
    return checked.model_dump(mode="json", exclude=default)


def check_run(spec: RunSpec, place: str | None = None) -> None:
    """Whether the method of a run suits what the run borrows and starts from; imports no torch.

    Raises:
        GridError: too few or too many borrowed selections, or a source classifier to be kept
            where there is no parent.
    """
    name, given = spec.method.name, spec.source_domains
    entry = METHODS.get(name)
    if entry is None:
        check(name, {}, place)
        return
    least, most = entry.borrows
    if given < least:
        raise GridError(
            f"method {name!r} trains on borrowed images too, and there are none to borrow",
            place=place,
            hint="add borrow: parent (what the parent was trained on), a name of sources: or a "
            "mapping",
        )
    if given > most:
        borrowing = errors.nearest(name, [key for key, e in METHODS.items() if e.borrows[1]])
        raise GridError(
            f"method {name!r} borrows "
            + (f"at most {most} selections" if most else "no images")
            + f", and {given} {'is' if given == 1 else 'are'} given",
            place=place,
            hint=f"leave out borrow, or choose a method that borrows: {borrowing or 'none yet'}",
        )
    _check_views(spec, place)
    checked = check(name, dict(spec.method.options), place)
    if hasattr(checked, "check_spec"):
        checked.check_spec(spec)
    layer, depth = str(getattr(checked, "layer", "")), spec.layers.depth
    if layer.isdigit() and not 1 <= int(layer) <= depth:
        raise GridError(
            f"method.layer is {layer}, and {spec.model.name} has layers 1 to {depth}",
            place=place,
            hint="choose one of them, penultimate, or the name of a module",
        )
    if entry.kind != "steps" and spec.layers.layers("T"):
        raise GridError(
            f"method {name!r} trains no layer, but pattern {spec.pattern} says that some are tuned",
            place=place,
            hint="write F for the copied layers: freeze, or for example F(1-7)R(8)",
        )
    if entry.kind == "extraction" and spec.train.refit:
        raise GridError(
            f"train.refit is true, but method {name!r} trains nothing",
            place=place,
            hint="leave out refit for these runs",
        )
    kernels = dict(spec.method.options).get("bank") == "kernels"
    if kernels and spec.init.kind == "scratch" and spec.bank is None:
        raise GridError(
            f"method {name!r} describes images by the network's kernels, and this run starts from "
            "nothing",
            place=place,
            hint="give it a source, set method.bank: gabor, or name a network in bank:",
        )
    if keeps_source_head(spec) and spec.borrow_pooled:
        raise GridError(
            f"method {name!r} keeps the parent's classifier, but a pool is of several sets of "
            "classes",
            place=place,
            hint="set method.source_head: random, or borrow one selection",
        )
    if keeps_source_head(spec) and spec.init.kind == "scratch":
        raise GridError(
            f"method {name!r} keeps the parent's classifier, and this run starts from nothing",
            place=place,
            hint="give it a source, or set method.source_head: random",
        )


def check_sources(spec: RunSpec, sizes: Sequence[int]) -> None:
    """Whether a run's method can do with what it borrows; imports no torch.

    Args:
        spec: the run.
        sizes: images of each source domain.

    Raises:
        DataError: the method asks for more than there is.
    """
    checked = check(spec.method.name, dict(spec.method.options))
    if sizes and hasattr(checked, "check_sources"):
        checked.check_sources(sizes)


def _check_views(spec: RunSpec, place: str | None) -> None:
    """Samples of several images are for methods that look at samples, not at images."""
    name, views = spec.method.name, spec.data.views
    for borrowed in spec.borrow:
        if borrowed.data.views:
            raise GridError(
                f"borrowed samples of {len(borrowed.data.views)} views",
                place=place,
                hint="borrow whole images: name a selection without views",
            )
    if not views:
        return
    shown = f"but a sample of the target has the views {', '.join(views)}"
    if METHODS[name].kind == "extraction" or "bank" in dict(spec.method.options):
        raise GridError(
            f"method {name!r} looks at whole images, {shown}",
            place=place,
            hint="leave out target.views, or choose plain, joint, soft, svm or probe",
        )
    if METHODS[name].kind == "features" and spec.layers.kind(spec.layers.depth) != "R":
        raise GridError(
            f"pattern {spec.pattern} copies a classifier of whole images, {shown}",
            place=place,
            hint=f"method {name!r} needs no classifier: write R for the last layer",
        )
    if spec.train.expand_to is not None:
        raise GridError(
            f"train.expand_to makes copies of whole images, {shown}",
            place=place,
            hint="leave out one of the two",
        )


def keeps_source_head(spec: RunSpec) -> bool:
    """Whether the classifier of the first borrowed selection is the parent's (SFT Fig. 3)."""
    return bool(spec.borrow) and dict(spec.method.options).get("source_head") == "kept"


def build_features(name: str, options: Mapping[str, Any]) -> FeatureMethod:
    """The method `name` of kind `features` or `extraction`.

    Raises:
        GridError: as `check`.
    """
    checked = check(name, options)
    entry = METHODS[name]
    method: FeatureMethod = getattr(importlib.import_module(entry.module), entry.method)(checked)
    return method


def build(name: str, options: Mapping[str, Any], ingredients: Ingredients) -> Method:
    """The method `name`, ready for the training loop.

    Raises:
        GridError: as `check`.
    """
    checked = check(name, options)
    entry = METHODS[name]
    method: Method = getattr(importlib.import_module(entry.module), entry.method)(
        ingredients, checked
    )
    return method
