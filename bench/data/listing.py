"""The data sets that can be named, and what there is to know of each: `bench data list`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.core.errors import DataError, nearest
from bench.data.folder import FOLDER_EXPECTED, MANIFEST_EXPECTED
from bench.data.formats import tiny_imagenet
from bench.data.formats.contract import Option
from bench.data.formats.registry import FORMATS


@dataclass(frozen=True)
class Listed:
    """A line of the list; `options` by name, `layout` in words."""

    name: str
    title: str
    classes: str
    images: str
    splits: str
    used_for: str
    where: str
    licence: str
    layout: str = "there are no files: it is part of this program"
    options: Mapping[str, Option] | None = None


_OTHERS = (
    Listed(
        name="wordnet-shapes",
        title="drawn shapes of the 1000 ILSVRC2012 classes",
        classes="1000, WordNet ids",
        images="600,000 / 50,000",
        splits="train, test",
        used_for="trying grids out; source and target",
        where="always there",
        licence="none needed",
    ),
    Listed(
        name="digits",
        title="scanned digits of scikit-learn",
        classes="10",
        images="1,797",
        splits="none",
        used_for="trying grids out",
        where="always there",
        licence="CC BY 4.0 (UCI, Alpaydin and Kaynak)",
    ),
    Listed(
        name="tiny-imagenet",
        title="Tiny ImageNet, 64 pixels",
        classes="200, WordNet ids",
        images="100,000 / 10,000",
        splits="train, test (validation)",
        used_for="the papers' grids in miniature, on photographs",
        where="http://cs231n.stanford.edu/tiny-imagenet-200.zip, packed as a tar or unpacked",
        licence="images of ImageNet: non-commercial research and education",
        layout=tiny_imagenet.EXPECTED,
    ),
)
_OWN = (
    Listed(
        name="folder",
        title="your own images, a folder per class",
        classes="yours",
        images="yours",
        splits="none, or train/, val/ and test/",
        used_for="your own images",
        where="yours",
        licence="yours",
        layout=FOLDER_EXPECTED,
    ),
    Listed(
        name="manifest",
        title="your own images, listed in a CSV file",
        classes="yours",
        images="yours",
        splits="a column",
        used_for="your own images",
        where="yours",
        licence="yours",
        layout=MANIFEST_EXPECTED,
    ),
)


def listed() -> tuple[Listed, ...]:
    """All data sets: those that are always there, those of the papers, your own.

    >>> [line.name for line in listed()][:4]
    ['wordnet-shapes', 'digits', 'tiny-imagenet', 'imagenet']
    """
    papers = tuple(
        Listed(
            name=form.name,
            title=form.title,
            classes=form.classes,
            images=form.images,
            splits=form.splits,
            used_for=form.used_for,
            where=form.where,
            licence=form.licence,
            layout=form.expected,
            options=form.all_options(),
        )
        for form in FORMATS.values()
    )
    return (*_OTHERS, *papers, *_OWN)


def details(name: str) -> list[str]:
    """What there is to know of one data set, as lines.

    Raises:
        DataError: for a name that is not known.

    >>> details("cub-200-2011")[0]
    'cub-200-2011: Caltech-UCSD Birds 200, 2011'
    """
    by_name = {line.name: line for line in listed()}
    if name not in by_name:
        raise DataError(
            f"data set {name!r} is not known", hint=f"data sets: {nearest(name, by_name)}"
        )
    one = by_name[name]
    lines = [
        f"{one.name}: {one.title}",
        f"  classes: {one.classes}",
        f"  images: {one.images}",
        f"  splits: {one.splits}",
        f"  used for: {one.used_for}",
        f"  layout: {one.layout}",
        f"  get it: {one.where}",
        f"  licence: {one.licence}",
    ]
    for key, option in (one.options or {}).items():
        shown = ", ".join(map(str, option.choices)) or type(option.default).__name__
        value = option.default
        default = ", ".join(value) if isinstance(value, tuple) else str(value).lower()
        if isinstance(value, str):
            default = value
        lines.append(f"  option {key}: {option.about} ({shown}; default {default})")
    return lines
