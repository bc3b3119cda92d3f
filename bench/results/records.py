"""The record: what a finished run leaves, column by column, with units and direction.

A record is one JSON document. Its `row` holds the leaderboard's columns; the deterministic ones
are equal on every repetition on the same kind of machine, the cost columns are not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.core.errors import StoreError
from bench.specs.data import (
    Borrowed,
    DataSpec,
    HalfClasses,
    NearFarClasses,
    SourceCategories,
    UnderSynset,
)
from bench.specs.run import SCHEMA, FromFile, FromRun, FromTimm, RunSpec, canonical_json


@dataclass(frozen=True)
class Column:
    """A leaderboard column. `better` is the good direction, if there is one."""

    name: str
    meaning: str
    kind: Literal["identity", "factor", "metric", "cost"]
    better: Literal["higher", "lower"] | None = None


COLUMNS = (
    Column("experiments", "experiments of the grid that contain the run, joined by ;", "identity"),
    Column("status", "done, diverged, failed, damaged, blocked or missing", "identity"),
    Column("role", "finetune, or source for a run that others start from or average", "identity"),
    Column("source", "what the layers were copied from; none for scratch", "factor"),
    Column("source_kind", "run, timm, file, or scratch where nothing is copied", "factor"),
    Column("source_side", "near, far or another side of the first source's recipe; self", "factor"),
    Column("source_origin", "what the first run of a chain of sources was trained on", "factor"),
    Column("source_links", "runs in the chain above: 0 without a source run", "factor"),
    Column("source_pattern", "pattern of the source run itself", "factor"),
    Column("source_classes", "number of source classes", "factor"),
    Column("dataset", "data set of the training images", "factor"),
    Column("target", "which classes of it", "factor"),
    Column("target_classes", "number of classes trained on", "factor"),
    Column("class_draw", "seed of the choice of classes", "factor"),
    Column("images_per_class", "training images per class asked for; all when empty", "factor"),
    Column("image_size", "image side in pixels", "factor"),
    Column("views", "images of a sample, joined by ;; whole images when empty", "factor"),
    Column("train_where", "restriction of the training images; none when empty", "factor"),
    Column("model", "network", "factor"),
    Column("pattern", "T copied and tuned, F copied and frozen, R random", "factor"),
    Column("method", "how the loss was built", "factor"),
    Column("method_options", "options of the method, name=value joined by ;", "factor"),
    Column("lr", "learning rate of random layers", "factor"),
    Column("copied_lr_factor", "learning-rate factor of copied layers", "factor"),
    Column("weight_decay", "weight decay", "factor"),
    Column("epochs", "epochs of the budget", "factor"),
    Column("batch_size", "images per forward pass", "factor"),
    Column("expand_to", "offline expansion to so many images per class; off when empty", "factor"),
    Column("source_epochs", "epochs of the source's own training", "factor"),
    Column("borrowed", "data trained on beside the target, joined by ;", "factor"),
    Column("borrowed_sets", "number of selections trained on beside the target", "factor"),
    Column("tuned", "which parameters of T layers were trained; all when empty", "factor"),
    Column(
        "layer_lr_decay", "rate of a copied layer over that of the next; 1 when empty", "factor"
    ),
    Column("l2_sp", "strength of the pull to the copied values; off when empty", "factor"),
    Column("verification", "identities that the run is verified on; none when empty", "factor"),
    Column("seed_draw", "seed of the draw of images", "factor"),
    Column("seed_init", "seed of the random layers", "factor"),
    Column("seed_order", "seed of order and augmentation", "factor"),
    Column(
        "top1_accuracy", "fraction of test images whose class is named first", "metric", "higher"
    ),
    Column(
        "mean_class_accuracy", "mean over classes of the recall on the test set", "metric", "higher"
    ),
    Column(
        "mean_average_precision",
        "mean over classes of the average precision of a class's test scores "
        "(softmax; decision values for `svm`)",
        "metric",
        "higher",
    ),
    Column("test_loss", "mean cross-entropy on the test set, nats", "metric", "lower"),
    *(
        Column(
            f"tar_at_far_1e-{digit}",
            f"pairs of one identity accepted where 1e-{digit} of other pairs are, by cosine",
            "metric",
            "higher",
        )
        for digit in (2, 3, 4, 5)
    ),
    Column("genuine_pairs", "pairs of images of one identity that were verified", "metric"),
    Column("impostor_pairs", "pairs of images of two identities that were verified", "metric"),
    Column("val_top1_accuracy", "top-1 on validation images at the epoch kept", "metric", "higher"),
    Column(
        "train_loss",
        "mean loss on the target's training images in the last epoch, nats",
        "metric",
        "lower",
    ),
    Column("best_epoch", "epoch whose weights were kept, from 1", "metric"),
    Column("epochs_run", "epochs that were run", "metric"),
    Column(
        "epochs_to_threshold",
        "first epoch with training accuracy ≥ train.threshold",
        "metric",
        "lower",
    ),
    Column(
        "epochs_to_converge",
        "first epoch with 95 % of the training accuracy of the last epoch",
        "metric",
        "lower",
    ),
    Column("steps", "optimiser steps", "metric"),
    Column("train_images", "training images", "metric"),
    Column("val_images", "validation images", "metric"),
    Column("test_images", "test images", "metric"),
    Column("available_images", "images that the training images were drawn from", "metric"),
    Column("borrowed_classes", "classes of the borrowed images", "metric"),
    Column("borrowed_images", "images to borrow from", "metric"),
    Column("trainable_parameters", "parameters of the network that were trained", "metric"),
    Column(
        "source_class_overlap",
        "target classes among those of the source or of what was borrowed, by name; "
        "empty where names cannot be compared",
        "metric",
        "lower",
    ),
    Column(
        "source_test_overlap",
        "test images that the source was trained on or that were borrowed, by content; of weights "
        "trained on ImageNet by file name",
        "metric",
        "lower",
    ),
    Column("verification_warning", "rates with too few impostor pairs", "identity"),
    Column(
        "not_converged",
        "whose training loss never left chance: `run`, or `source` for what it starts from; "
        "empty where all learned",
        "identity",
    ),
    Column("reason", "why a run has no result", "identity"),
    Column("condition_id", "identity of all settings but seeds and class draws", "identity"),
    Column("recipe_id", "identity of the condition without what names its task", "identity"),
    Column("task_id", "identity of the target: data set, classes and class draw", "identity"),
    Column("run_id", "identity of the run", "identity"),
    Column("parent_id", "identity of the run it starts from", "identity"),
    Column("seconds", "wall-clock time of training and evaluation", "cost", "lower"),
    Column("images_per_s", "training images per second", "cost", "higher"),
    Column(
        "peak_memory_mib", "largest resident memory of the process, or of the GPU", "cost", "lower"
    ),
    Column("device", "processor or GPU", "cost"),
    Column("threads", "CPU threads of the process", "cost"),
    Column("versions", "torch and timm", "cost"),
)

DETERMINISTIC_COLUMNS = tuple(c.name for c in COLUMNS if c.kind != "cost")
COST_COLUMNS = tuple(c.name for c in COLUMNS if c.kind == "cost")
METRIC_COLUMNS = tuple(c.name for c in COLUMNS if c.kind == "metric")
_NUMBERS = tuple(c.name for c in COLUMNS if c.better is not None)


def selection_label(data: DataSpec) -> str:
    """A selection in a word or two.

    >>> selection_label(DataSpec(dataset="digits"))
    'all'
    """
    classes = data.classes
    match classes:
        case NearFarClasses():
            side = "" if classes.side == "target" else f" {classes.side}"
            label = f"{classes.root}{side}"
        case UnderSynset():
            label = classes.synset
        case SourceCategories():
            label = f"categories {classes.n}" if classes.side == "source" else "categories"
        case HalfClasses():
            label = f"half {classes.side}"
        case _:
            label = classes.recipe
    return f"{label} take {classes.take}" if classes.take else label


def same_selection(one: DataSpec, other: DataSpec) -> bool:
    """Whether two selections are of the same images, wherever these lie."""
    return one.classes == other.classes and one.identity() == other.identity()


def source_label(spec: RunSpec) -> str:
    """What a run's layers were copied from, in a word or two; `none` for scratch."""
    match spec.init:
        case FromRun(run=parent):
            same = parent.data.dataset == spec.data.dataset
            if same_selection(parent.data, spec.data):
                return "self" if parent.init.kind == "scratch" else _chain_label(parent)
            classes = parent.data.classes
            label = (
                classes.side
                if isinstance(classes, NearFarClasses)
                else selection_label(parent.data)
            )
            return label if same else f"{parent.data.dataset} {label}"
        case FromTimm(tag=tag):
            return f"timm {tag}" if tag else "timm"
        case FromFile(sha256=digest, package=package):
            return package or f"file {digest[:8]}"
        case _:
            return "none"


def _chain_label(parent: RunSpec) -> str:
    """A chain on the target itself: where it began, and what its last link did."""
    method = f" {parent.method.name}" if parent.method.name != "plain" else ""
    return f"{source_label(parent)} > self {parent.pattern}{method}"


def borrowed_label(spec: RunSpec, borrowed: Borrowed) -> str:
    """What a run borrows, in a word or two: `parent` for what its parent was trained on."""
    parent = spec.parent
    if (
        parent is not None
        and borrowed.draw == parent.seeds.draw
        and borrowed.data.model_copy(update={"image_size": parent.data.image_size}).identity()
        == parent.data.identity()
    ):
        label = "parent"
    else:
        label = selection_label(borrowed.data)
        if borrowed.data.dataset != spec.data.dataset:
            label = f"{borrowed.data.dataset} {label}"
    parts = [
        label,
        f"{borrowed.categories:g} of classes" if borrowed.categories is not None else "",
        f"{borrowed.images:g} of images" if borrowed.images is not None else "",
        f"{borrowed.total_images} random images" if borrowed.total_images is not None else "",
        "without overlap" if borrowed.exclude_overlap else "",
    ]
    return ", ".join(part for part in parts if part)


def describe_run(spec: RunSpec) -> dict[str, Any]:
    """The factor columns of a run, from its spec alone."""
    train, parent = spec.train, spec.parent
    return {
        "source": source_label(spec),
        **_describe_source(spec),
        "dataset": spec.data.dataset,
        "target": selection_label(spec.data),
        "class_draw": getattr(spec.data.classes, "class_draw", None),
        "images_per_class": spec.data.images_per_class,
        "image_size": spec.data.image_size,
        "views": ";".join(spec.data.views) or None,
        "train_where": ";".join(f"{k}={','.join(v)}" for k, v in spec.data.train_where) or None,
        "model": spec.model.name,
        "pattern": spec.pattern,
        "method": spec.method.name,
        "method_options": ";".join(f"{k}={v}" for k, v in spec.method.options),
        "lr": train.lr,
        "copied_lr_factor": train.copied_lr_factor,
        "weight_decay": train.weight_decay,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "expand_to": train.expand_to,
        "source_epochs": parent.train.epochs if parent else None,
        "borrowed": ";".join(borrowed_label(spec, b) for b in spec.borrow) or None,
        "borrowed_sets": len(spec.borrow),
        "tuned": None if train.tuned == "all" else train.tuned,
        "layer_lr_decay": None if train.layer_lr_decay == 1 else train.layer_lr_decay,
        "l2_sp": train.l2_sp,
        "verification": spec.evaluate.verification.label() if spec.evaluate else None,
        "seed_draw": spec.seeds.draw,
        "seed_init": spec.seeds.init,
        "seed_order": spec.seeds.order,
    }


def _describe_source(spec: RunSpec) -> dict[str, Any]:
    """The source as values: where its chain begins, which side of a recipe that is, how long."""
    first, links = spec, 0
    while first.parent is not None:
        links += 1
        if first.parent.init.kind == "scratch":
            break
        first = first.parent
    own = first.parent is not None and same_selection(first.parent.data, first.data)
    classes = first.parent.data.classes if first.parent is not None else None
    return {
        "source_kind": spec.init.kind,
        "source_side": "self" if own else getattr(classes, "side", None),
        "source_origin": source_label(first),
        "source_links": links,
        "source_pattern": spec.parent.pattern if spec.parent is not None else None,
    }


def slug(spec: RunSpec) -> str:
    """A readable folder-name part: `[a-z0-9.-]`, at most 60 characters.

    >>> from bench.specs.run import ModelSpec
    >>> data, model = DataSpec(dataset="digits"), ModelSpec(name="narrow8_32")
    >>> slug(RunSpec(data=data, model=model, pattern="R(1-8)"))
    'digits-all-r1-8-lr0.01-s0'
    """
    source = source_label(spec)
    n = spec.data.images_per_class
    parts = [
        spec.data.dataset,
        selection_label(spec.data),
        f"{n}pc" if n else "",
        f"from-{source}" if source != "none" else "",
        spec.method.name if spec.method.name != "plain" else "",
        spec.pattern.replace("(", "").replace(")", ""),
        f"lr{spec.train.lr:g}",
        f"s{spec.seeds.order}",
    ]
    text = "-".join(part for part in parts if part).lower()
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-")[:60].rstrip("-.")


def sign(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with schema number and the SHA-256 of everything else in it."""
    body = {**record, "schema": SCHEMA}
    body.pop("digest", None)
    return {**body, "digest": hashlib.sha256(canonical_json(body).encode()).hexdigest()}


STATUSES = ("done", "diverged")
"""The statuses that a record may hold."""


def verify(record: Any, run_id: str, place: str) -> None:
    """Checks that a record is whole, of this schema and of this run.

    Raises:
        StoreError: naming which of the three it is not.
    """
    hint = "delete the folder to have the run repeated"
    if not isinstance(record, Mapping):
        raise StoreError("the record is no JSON object", place=place, hint=hint)
    if record.get("schema") != SCHEMA:
        raise StoreError(
            f"schema {record.get('schema')!r} is not {SCHEMA}, that of this version",
            place=place,
            hint=hint,
        )
    if record.get("run_id") != run_id:
        raise StoreError(
            f"this is the record of run {record.get('run_id')!r}", place=place, hint=hint
        )
    if sign(record)["digest"] != record.get("digest"):
        raise StoreError("the record was changed after it was written", place=place, hint=hint)
    row = record.get("row")
    row = row if isinstance(row, Mapping) else {}
    parts = ((("files", "sizes", "notes", "resolved"), dict), (("classes", "borrowed"), list))
    if row.get("status") not in STATUSES or not all(
        isinstance(record.get(name, kind()), kind) for names, kind in parts for name in names
    ):
        raise StoreError(
            "the record lacks its row with a status, or a part of it is of another kind",
            place=place,
            hint=hint,
        )
    for name in _NUMBERS:
        value = row.get(name)
        if value is not None and not isinstance(value, int | float):
            raise StoreError(
                f"{name} of the record is {value!r}, not a number", place=place, hint=hint
            )
