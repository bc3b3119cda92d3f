"""The data sets by name: some are always there, others are files that are found and opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.core.errors import DataError
from bench.data.dataset import Dataset
from bench.data.formats.contract import Format, Value
from bench.data.formats.folder import FOLDER
from bench.data.formats.manifest import MANIFEST
from bench.data.formats.registry import FORMATS
from bench.data.formats.tiny_imagenet import TINY_IMAGENET
from bench.data.formats.wordnet_shapes import WordnetShapes
from bench.data.synthetic.digits import Digits

DATASETS: Mapping[str, Callable[[], Dataset] | Format] = {
    "wordnet-shapes": WordnetShapes,
    "digits": Digits,
    "tiny-imagenet": TINY_IMAGENET,
    **FORMATS,
    "folder": FOLDER,
    "manifest": MANIFEST,
}
"""Every data set by its name: one that is always there, or a format of files."""


def check_options(name: str, options: tuple[tuple[str, Value], ...]) -> None:
    """Looks at the options of a data set before its files are looked for.

    Raises:
        DataError: for options that it does not have, or values that they cannot have.
    """
    entry = DATASETS.get(name)
    if isinstance(entry, Format):
        entry.chosen(options)
    elif options:
        raise DataError(
            f"data set {name!r} has no options, but {options[0][0]!r} is given",
            hint="remove options:",
        )
