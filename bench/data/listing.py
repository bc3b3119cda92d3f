"""The data sets that can be named, and what there is to know of each: `bench data list`."""

from __future__ import annotations

from bench.core.errors import DataError, nearest
from bench.data.datasets import DATASETS
from bench.data.formats.contract import Format, Listed

_WITHOUT_FILES = {
    "wordnet-shapes": Listed(
        name="wordnet-shapes",
        title="drawn shapes of the 1000 ILSVRC2012 classes",
        classes="1000, WordNet ids",
        images="600,000 / 50,000",
        splits="train, test",
        used_for="trying grids out; source and target",
        where="always there",
        licence="none needed",
    ),
    "digits": Listed(
        name="digits",
        title="scanned digits of scikit-learn",
        classes="10",
        images="1,797",
        splits="none",
        used_for="trying grids out",
        where="always there",
        licence="CC BY 4.0 (UCI, Alpaydin and Kaynak)",
    ),
}


def listed() -> tuple[Listed, ...]:
    """All data sets: those that are always there, those of the papers, your own.

    >>> [line.name for line in listed()][:4]
    ['wordnet-shapes', 'digits', 'tiny-imagenet', 'imagenet']
    """
    return tuple(
        entry if isinstance(entry, Format) else _WITHOUT_FILES[name]
        for name, entry in DATASETS.items()
    )


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
        f"  layout: {one.expected}",
        f"  get it: {one.where}",
        f"  licence: {one.licence}",
    ]
    for key, option in one.all_options().items():
        value = option.default
        shown = ", ".join(map(str, option.choices)) or type(value).__name__
        default = ", ".join(value) if isinstance(value, tuple) else str(value)
        default = default.lower() if isinstance(value, bool) else default or "none"
        lines.append(f"  option {key}: {option.about} ({shown}; default {default})")
    return lines
