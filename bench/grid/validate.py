"""What can be wrong with the parts of a run together, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from bench.grid.errors import CellError
from bench.methods import options_of
from bench.methods.retrieval.neighbours import SelectionOptions
from bench.models.published import FIXED_SIZE, SMALLEST
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


def check_sizes(spec: RunSpec) -> None:
    """Refuses sizes of images that the networks of a run cannot take, or cannot compare."""
    parent, size = spec.parent, spec.data.image_size
    fixed = FIXED_SIZE.get(spec.model.name)
    if parent and fixed and parent.data.image_size != size and spec.layers.kind(fixed) != "R":
        raise CellError(
            ("source", "image_size"),
            f"{spec.model.name!r} is trained on source images of {parent.data.image_size} pixels "
            f"and copied for images of {size}: layer {fixed} has weights for each place of its map",
            f"set image_size of source and target alike, or re-initialise from layer {fixed}, such "
            f"as pattern: T(1-{fixed - 1})R({fixed}-{spec.layers.depth})",
        )
    options = options_of(spec.method)
    if isinstance(options, SelectionOptions):
        _check_described(spec, options)


def _check_described(spec: RunSpec, options: SelectionOptions) -> None:
    """Images that are compared by their filter responses are of one size, that of the network."""
    kept = spec.data.kept_size
    for borrowed in spec.borrow:
        if borrowed.data.kept_size != kept:
            raise CellError(
                ("borrow", "resize"),
                f"borrowed images are kept at {borrowed.data.kept_size} pixels and the target's at "
                f"{kept}: method {spec.method.name!r} compares both by the same filters",
                "give source, borrow and target the same resize and image_size",
            )
    found = described(spec)
    if found is None:
        return
    network, seen = found
    name, size = network.model.name, network.data.image_size
    fixed = name in FIXED_SIZE
    if seen >= SMALLEST.get(name, 1) and not (fixed and seen != size):
        return
    takes = f"images of {size} pixels" if fixed else f"no images below {SMALLEST[name]} pixels"
    wanted = size if fixed else SMALLEST[name]
    resize = next(k for k in range(wanted, wanted * 3000) if round(k * options.crop) >= wanted)
    whose = "bank" if spec.bank else "network"
    raise CellError(
        ("bank", "target", "image_size") if spec.bank else ("target", "image_size"),
        f"the {whose} {name!r} takes {takes}, but describes parts of {seen}: method.crop "
        f"{options.crop:g} of target images that are kept at {kept}",
        f"set target.resize: {resize}"
        + (f", or method.crop: {wanted / kept:g} for more of each image" * (wanted <= kept))
        + (f", or bank.target.image_size: {seen}" * (fixed and spec.bank is not None)),
    )


def described(spec: RunSpec) -> tuple[RunSpec, int] | None:
    """The run whose network's filters describe images, and the side of the part that it is shown.

    None where no network describes images.
    """
    options, network = options_of(spec.method), spec.bank or spec
    if not isinstance(options, SelectionOptions) or not options.uses_kernels:
        return None
    if network is spec and spec.init.kind == "scratch":
        return None
    return network, round(spec.data.kept_size * options.crop)
