"""The data sets by name: some are always there, others are files that are found and opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.core.errors import DataError
from bench.data import folder
from bench.data.dataset import Dataset
from bench.data.formats import tiny_imagenet
from bench.data.formats.contract import Value
from bench.data.formats.registry import FORMATS
from bench.data.formats.wordnet_shapes import WordnetShapes
from bench.data.opened import open_format
from bench.data.synthetic.digits import Digits


@dataclass(frozen=True)
class Format:
    """How a data set of files is found and opened.

    Attributes:
        open: makes the data set of a root, the cache folder and, if it has any, the options.
        fits: whether it could lie at a path.
        expected: what should be there, in words.
        guesses: where below a folder of data sets it usually lies.
        options: whether there are choices that `DataSpec.options` can make.
    """

    open: Callable[..., Dataset]
    fits: Callable[[Path], bool]
    expected: str
    guesses: tuple[str, ...] = ()
    options: bool = False


_TINY = "tiny-imagenet-200"

DATASETS: Mapping[str, Callable[[], Dataset] | Format] = {
    "wordnet-shapes": WordnetShapes,
    "digits": Digits,
    "tiny-imagenet": Format(
        tiny_imagenet.open_tiny_imagenet,
        tiny_imagenet.fits,
        tiny_imagenet.EXPECTED,
        (
            _TINY,
            "tiny-imagenet",
            *(f"{_TINY}{end}" for end in (".tar", ".tar.gz", ".tgz")),
            *(f"tiny-imagenet{end}" for end in (".tar", ".tar.gz", ".tgz")),
        ),
    ),
    **{
        name: Format(
            partial(open_format, form), form.fits, form.expected_from, form.guesses, options=True
        )
        for name, form in FORMATS.items()
    },
    "folder": Format(folder.open_folder, folder.fits_folder, folder.FOLDER_EXPECTED),
    "manifest": Format(folder.open_manifest, folder.fits_manifest, folder.MANIFEST_EXPECTED),
}
"""Every data set by its name: one that is always there, or a format of files."""


def check_options(name: str, options: tuple[tuple[str, Value], ...]) -> None:
    """Looks at the options of a data set before its files are looked for.

    Raises:
        DataError: for options that it does not have, or values that they cannot have.
    """
    if name in FORMATS:
        FORMATS[name].chosen(options)
    elif options:
        raise DataError(
            f"data set {name!r} has no options, but {options[0][0]!r} is given",
            hint="remove options:",
        )
