"""Classes of images, by a model folder: decoded and normalised as the run did it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.data.files.decode import UnreadableError, decode
from bench.data.files.files import begins_like_image, is_image
from bench.data.files.jpeg import through_jpeg
from bench.exports.model_folder import Model
from bench.training.domain import Domain
from bench.training.evaluation import predict, softmax

_PIXELS = 16 * 256 * 256
"""Of the images that are decoded and classified together: EfficientNet-Lite0 then takes 1 GB."""
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file.

    Attributes:
        file: its path, as it was given or found.
        error: why it has no prediction; empty where it has one.
        top: classes with their probabilities, the likeliest first.
    """

    file: str
    error: str = ""
    top: tuple[tuple[str, float], ...] = ()

    def row(self) -> dict[str, object]:
        """The line of a table."""
        shown = {"class": None, "probability": None} | dict(
            zip(("class", "probability"), self.top[0] if self.top else (), strict=False)
        )
        best = "; ".join(f"{name} {share:.4f}" for name, share in self.top)
        return {"file": self.file, **shown, "top_3": best, "error": self.error or None}


def image_files(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """The images among files and below folders, in order, and how many files were passed over.

    A file that is named itself is always taken; below a folder what its name or its first bytes
    call an image. Hidden files and links to folders are passed over.

    Raises:
        DataError: nothing is there.
    """
    found: list[Path] = []
    passed = 0
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise DataError(
                f"{path} is not there", hint="give image files, or a folder with images"
            )
        for one in sorted(path.rglob("*")):
            if one.is_dir() or any(p.startswith(".") for p in one.relative_to(path).parts):
                continue
            if _looks_like_image(one):
                found.append(one)
            else:
                passed += 1
    if not found:
        raise DataError(
            f"no image lies below {', '.join(map(str, paths))}",
            hint="give image files, or a folder with images",
        )
    return found, passed


def _looks_like_image(path: Path) -> bool:
    if is_image(path.name):
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return begins_like_image(file.read(64))
    except OSError:
        return False


def predictions(
    model: Model, files: Sequence[Path], on_block: Callable[[int], object] = lambda n: None
) -> Iterator[Prediction]:
    """What the model says of each file, in order; a file that cannot be read says why.

    Args:
        model: of `bench.exports.model_folder.read_model`.
        files: of `image_files`.
        on_block: is told how many files are done.
    """
    many = max(1, _PIXELS // model.kept_size**2)
    for start in range(0, len(files), many):
        block = files[start : start + many]
        pixels = [_pixels(path, model) for path in block]
        readable = [one for one in pixels if not isinstance(one, str)]
        shares = iter(list(softmax(scores(model, np.stack(readable)))) if readable else [])
        for path, one in zip(block, pixels, strict=True):
            if isinstance(one, str):
                yield Prediction(str(path), error=one)
                continue
            own = next(shares)
            best = np.argsort(-own, kind="stable")[:3]
            yield Prediction(str(path), top=tuple((model.classes[i], float(own[i])) for i in best))
        on_block(start + len(block))


def scores(model: Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, C) of decoded images (N, kept_size, kept_size, 3)."""
    crop = model.size if model.kept_size > model.size else None
    labels = np.zeros(len(pixels), np.int64)
    many = len(model.classes)
    return predict(
        model.network,
        Domain("images", pixels, labels, many, model.mean, model.std, crop=crop),
    )


def _pixels(path: Path, model: Model) -> NDArray[np.uint8] | str:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return "no regular file"
        if info.st_size > _MOST_BYTES:
            return f"{info.st_size:,} bytes are too many for an image"
        pixels = decode(path.read_bytes(), model.kept_size, model.reading)
        return through_jpeg(pixels) if model.stored_as == "jpeg" else pixels
    except UnreadableError as error:
        if not error.way:
            return error.reason
        most = model.reading.max_megapixels
        return (
            f"{error.reason}; save it with 8 bits a colour, opaque, in at most {most} megapixels "
            "(the model reads images as its run read them)"
        )
    except OSError as error:
        return error.strerror or "it cannot be read"
