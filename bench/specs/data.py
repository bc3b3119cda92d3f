"""Selections: which classes of a data set, how many images of each, which of them are borrowed."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from fractions import Fraction as Exact
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bench.specs.problems import shown

Int = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=10**9)]
NonNegative = Annotated[int, Strict(), Field(ge=0)]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1)]
Share = Annotated[float, Strict(), Field(gt=0, lt=1)]
Bool = Annotated[bool, Strict()]
OptionValue = Bool | Int | Annotated[str, Strict()] | tuple[str, ...]


class _Added:
    """The type of `ADDED`."""


ADDED = _Added()
"""Marks a field that came after schema 1: at its default it is no part of a run's id.

The default of such a field is what was done before it existed, and must not be changed.
"""


class Frozen(BaseModel):
    """A value: hashable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def quiet_fields(self) -> set[str]:
        """The fields marked `ADDED` that are at their default."""
        return {name for name, usual in _added(type(self)) if getattr(self, name) == usual}

    def changed_fields(self) -> set[str]:
        """The fields marked `ADDED` that are not at their default."""
        return {name for name, _ in _added(type(self))} - self.quiet_fields()


@functools.cache
def _added(kind: type[Frozen]) -> list[tuple[str, Any]]:
    """The fields marked `ADDED`, each with its default."""
    fields = kind.model_fields.items()
    return [(name, field.default) for name, field in fields if ADDED in field.metadata]


def _where(value: Any) -> Any:
    """A mapping of columns to a value or values, as sorted pairs."""
    if isinstance(value, Mapping):
        value = [(k, [v] if isinstance(v, str) else v) for k, v in sorted(value.items())]
    if not isinstance(value, list | tuple):
        raise ValueError("write columns and their values, such as {expression: [sadness]}")
    return value


Where = Annotated[tuple[tuple[str, tuple[str, ...]], ...], BeforeValidator(_where)]
"""Columns `group_NAME` of a manifest, by NAME, and the values that images must have in them."""


# --- which classes ---------------------------------------------------------------------------


class _Recipe(Frozen):
    """Common to all recipes.

    Attributes:
        take: keeps the first classes of the drawn order, so that subsets are nested; None is all.
    """

    take: Count | None = None


class _DrawnRecipe(_Recipe):
    """Common to recipes that draw.

    Attributes:
        class_draw: seed of the random choice of classes; source and target share it.
    """

    class_draw: NonNegative = 0


class AllClasses(_Recipe):
    """Every class of the data set, sorted."""

    recipe: Literal["all"] = "all"


class ListedClasses(_Recipe):
    """The classes named, in that order.

    Attributes:
        names: of the classes.
    """

    recipe: Literal["listed"] = "listed"
    names: tuple[str, ...] = Field(min_length=1)


class RandomClasses(_DrawnRecipe):
    """`n` random classes.

    Attributes:
        n: number of classes.
    """

    recipe: Literal["random"] = "random"
    n: Count


class UnderSynset(_DrawnRecipe):
    """Classes below a WordNet synset; all of them or `n` random ones.

    Attributes:
        synset: of WordNet, such as dog.n.01.
        n: number of classes; None is all.
        rule: how "below" is read: along the first hypernym pointer of each synset (LI's 347 under
            instrumentality), along all pointers (358), or along the longest path.
    """

    recipe: Literal["under"] = "under"
    synset: str
    n: Count | None = None
    rule: Literal["first_pointer", "closure", "longest_path"] = "first_pointer"


class NearFarClasses(_DrawnRecipe):
    """LI §4.3: a target below `root`, a source near it and a source far from it.

    Sizes are LI's; where the data set is smaller they are given smaller.

    Attributes:
        root: synset of WordNet that the target and the near source are below.
        side: which of the three this selection is.
        target_n: number of the target's classes.
        source_n: number of each source's classes.
        rule: how a class is below the synset, as in `under`.
        branches: how all classes are divided in two, of which the far source has the other part:
            natural things against the rest, or artifacts and food against the rest.
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

    Attributes:
        side: which of the two this selection is.
        target_n: number of the target's classes.
        n: number of the source's classes.
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
    """CHU's Yosinski split: two random halves of the classes, A (source) and B (target).

    Attributes:
        side: which half.
    """

    recipe: Literal["half"] = "half"
    side: Literal["a", "b"]


class LargeClasses(_Recipe):
    """Classes with at least `images` images, all splits together, sorted.

    For protocols that leave out classes with too few (CHU: 8 of 9 corals, 34 of 103 plankton), so
    that every number of images per class has the same classes.

    Attributes:
        images: the least number of images of a class.
    """

    recipe: Literal["at_least"] = "at_least"
    images: Count


ClassRecipe = Annotated[
    AllClasses
    | ListedClasses
    | RandomClasses
    | UnderSynset
    | NearFarClasses
    | SourceCategories
    | HalfClasses
    | LargeClasses,
    Field(discriminator="recipe"),
]


def validation_images(budget: int, share: float) -> int:
    """How many of a class's `budget` images are for validation, with `val_from: budget`.

    The nearest whole number to `share * budget`, halves upwards; at least one, and at least one is
    left to train on. It grows by 0 or 1 from one budget to the next, so budgets can be nested.

    >>> [validation_images(n, 0.2) for n in (2, 5, 7, 8, 20)]
    [1, 1, 1, 2, 4]
    """
    nearest = math.floor(Exact(repr(share)) * budget + Exact(1, 2))
    return max(0, min(budget - 1, max(1, nearest)))


class DataSpec(Frozen):
    """A selection: which classes of a data set, how many images per class, at which size.

    The draw of the images is `RunSpec.seeds.draw`. Training sets are nested in `images_per_class`;
    the test set is the same for every draw. With `val_from: budget`, validation images are labels
    that count, see `validation_images`; budgets, and the training and validation sets in them, are
    nested in `images_per_class`, and a data set's own validation images belong to the budget like
    the others.

    Attributes:
        dataset: name of the data set (`bench data list`), or `folder` for own images.
        root: where its files lie, relative to the grid file; else the grid's own `root:`,
            `--data-root` or BENCH_DATA. No part of a run's identity.
        classes: which classes, a recipe (see below).
        image_size: side of the images that the network is shown.
        images_per_class: training images of each class; None is all.
        val_per_class: validation images of each class, beside the training images.
        test_per_class: test images of each class, or a share of each class; None is all that a
            given split has; a pool needs a number.
        test_from: `given` uses the split that the data set comes with, `pool` cuts test images out
            of its training images, `val` makes its validation images the test set; `auto` is
            `given` where there is one.
        on_short: what a class with too few images does: stop with an error, give what it has, or
            leave the selection.
        on_corrupt: what an image that cannot be decoded does: stop with an error, or be left out.
        options: of the data set itself (`bench data list NAME`).
        views: what a sample shows, such as whole and box (`bench.data.transforms.views`).
        train_where: training and validation images must have these values in the manifest's
            columns `group_NAME`.
        resize: side at which images are kept, of which the network is shown a part of `image_size`:
            the central one, or a random one where `train.augment` crops; None is `image_size`.
        val_from: `extra` draws validation images beside the training images, `budget` out of
            `images_per_class`.
        val_share: with `val_from: budget`, the share of a class's images that is for validation.
        tested: whether the run reads its test images; false keeps them away from a run that is only
            chosen from, and its columns of test metrics empty.
        stored_as: how decoded images are kept: `raw` as pixels, `jpeg` as JPEG of quality 95
            (Pillow's), which takes about a tenth of the room, is decoded each time an image is
            shown, and changes pixels a little.
    """

    dataset: str
    root: str | None = None
    classes: ClassRecipe = AllClasses()
    image_size: Count = 32
    images_per_class: Count | None = None
    val_per_class: NonNegative = 10
    test_per_class: Count | Share | None = None
    test_from: Literal["auto", "given", "pool", "val"] = "auto"
    on_short: Literal["error", "cap", "drop_class"] = "error"
    on_corrupt: Literal["error", "skip"] = "error"
    options: Annotated[tuple[tuple[str, OptionValue], ...], ADDED] = ()
    views: Annotated[tuple[str, ...], ADDED] = ()
    train_where: Annotated[Where, ADDED] = ()
    resize: Annotated[Count | None, ADDED] = None
    val_from: Annotated[Literal["extra", "budget"], ADDED] = "extra"
    val_share: Annotated[float, Strict(), Field(gt=0, lt=1), ADDED] = 0.2
    tested: Annotated[Bool, ADDED] = True
    stored_as: Annotated[Literal["raw", "jpeg"], ADDED] = "raw"

    @model_validator(mode="before")
    @classmethod
    def _no_validation_beside_a_budget(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("val_from") != "budget":
            return values
        if values.get("val_per_class"):
            raise ValueError(
                f"val_per_class is {values['val_per_class']}, but val_from is budget: validation "
                "images are then a share of images_per_class, so leave val_per_class out and give "
                "val_share, or set val_from: extra"
            )
        return {**values, "val_per_class": 0}

    @model_validator(mode="after")
    def _fits_together(self) -> DataSpec:
        if self.val_from == "budget" and self.images_per_class == 1:
            raise ValueError(
                "images_per_class is 1, but val_from is budget: one image cannot both train and "
                "validate, so set images_per_class to at least 2, or val_from: extra"
            )
        usual = type(self).model_fields["val_share"].default
        if self.val_from == "extra" and self.val_share != usual:
            raise ValueError(
                f"val_share is {self.val_share:g}, but val_from is extra: it is the share of a "
                "budget, so set val_from: budget, or leave val_share out and give val_per_class"
            )
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"resize is {self.resize}, smaller than the part of image_size {self.image_size} "
                "that is shown: make it larger, or leave it out"
            )
        return self

    @property
    def kept_size(self) -> int:
        """Side of the decoded images in pixels."""
        return self.resize or self.image_size

    @field_validator("val_per_class", "images_per_class", mode="before")
    @classmethod
    def _no_share(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float) and 0 < value < 1:
            way = (
                f"val_from: budget and val_share: {value:g} hold back a share of each class"
                if info.field_name == "val_per_class"
                else "leave it out to take all images"
            )
            raise ValueError(f"expected a number of images of each class, not a share; {way}")
        return value

    @field_validator("views")
    @classmethod
    def _views_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a view is named twice")
        return () if value == ("whole",) else value

    @field_validator("options", mode="before")
    @classmethod
    def _sorted_pairs(cls, value: Any) -> Any:
        pairs = list(value.items()) if isinstance(value, Mapping) else value
        if not isinstance(pairs, list | tuple):
            raise ValueError("options are a mapping, such as {partial: true}")
        found = [tuple(pair) if isinstance(pair, list | tuple) else (pair,) for pair in pairs]
        if any(len(pair) != 2 for pair in found):
            raise ValueError("options are a mapping, such as {partial: true}")
        for name, one in found:
            parts = one if isinstance(one, list | tuple) else [one]
            if not (isinstance(one, bool | int) or all(isinstance(part, str) for part in parts)):
                raise ValueError(
                    f"option {name} is {shown(one)}: expected true, false, a whole number or text; "
                    "bench data list NAME shows what a data set takes"
                )
        return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in found))

    def identity(self) -> dict[str, Any]:
        """The fields that say what the data are, without where they lie."""
        left_out = {"root", *self.quiet_fields()}
        if self.val_from == "budget":  # then its share counts, whatever it is
            left_out.discard("val_share")
        return self.model_dump(mode="json", exclude=left_out)


class Borrowed(Frozen):
    """A further selection that a run trains on beside its target (GE, SFT).

    Only its training images are used. What is left out of them is drawn with the run's own
    `seeds.draw`; the order of the reductions is that of the fields.

    Attributes:
        data: the selection; its image size is the target's.
        draw: seed of the draw of its images, as `seeds.draw` is the target's; in a grid it is
            `source_seed` where it is left out.
        categories: fraction of its classes whose images are used (SFT-4 c); None is all.
        images: fraction of the images of each class that are used (SFT-4 d); None is all.
        total_images: so many random images in all (GE's random source); None is all.
        exclude_overlap: leave out images that are in the target's validation or test set.

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
