"""What can be wrong with the parts of a run together, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from bench.grid.errors import CellError
from bench.specs.data import AllClasses, DataSpec, ListedClasses, validation_images
from bench.specs.run import RunSpec


def check_training(spec: RunSpec) -> None:
    """Refuses options of the training that contradict each other or the data."""
    train, data = spec.train, spec.data
    if train.select == "best_val" and data.val_from == "extra" and data.val_per_class == 0:
        raise CellError(
            ("target", "val_per_class"),
            "target.val_per_class is 0, but train.select is best_val: the epoch to keep is chosen "
            "on validation images",
            "set val_per_class to at least 1, or train.select: last",
        )
    if train.warmup_epochs > train.epochs:
        raise CellError(
            ("train", "warmup_epochs"),
            f"train.warmup_epochs is {train.warmup_epochs:g}, more than train.epochs: "
            f"{train.epochs}",
            f"set warmup_epochs to less than {train.epochs}, or more epochs",
        )
    count = _trained_per_class(spec)
    if train.expand_to is not None and count is not None and train.expand_to < count:
        asked = f"target.images_per_class: {data.images_per_class}"
        if count != data.images_per_class:
            asked = f"the {count} images per class that are trained on"
        raise CellError(
            ("train", "expand_to"),
            f"train.expand_to is {train.expand_to}, less than {asked}",
            f"set expand_to to at least {count}, or leave it out",
        )
    if train.augment.startswith("crop") and train.crop_pad >= data.image_size:
        raise CellError(
            ("train", "crop_pad"),
            f"train.crop_pad is {train.crop_pad} pixels around images of {data.image_size}",
            f"set crop_pad to less than {data.image_size}; an eighth of the side is usual",
        )


def _trained_per_class(spec: RunSpec) -> int | None:
    """The most images of a class that the run trains on at once; None where all are taken."""
    data, refit = spec.data, spec.train.refit
    count = data.images_per_class
    if count is None:
        return None
    if data.val_from == "extra":
        return count + data.val_per_class * refit
    return count - validation_images(count, data.val_share) * (not refit)


def check_draws(spec: RunSpec) -> None:
    """Refuses a `class_draw` where no classes are drawn: nothing would depend on it."""
    recipes = [data.classes for data in _selections(spec)]
    if all(isinstance(recipe, AllClasses | ListedClasses) for recipe in recipes):
        names = " and ".join(sorted({recipe.recipe for recipe in recipes}))
        raise CellError(
            ("class_draw",),
            f"class_draw is set, but the recipe {names} draws no classes",
            "leave class_draw out, or draw classes: {recipe: random, n: …}; the draw of images is "
            "seeds: {draw: …}",
        )


def _selections(spec: RunSpec) -> Iterator[DataSpec]:
    for run in (spec, *spec.ancestors()):
        yield run.data
        yield from (borrowed.data for borrowed in run.borrow)
