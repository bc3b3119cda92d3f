"""Bytes of an image file to a square of pixels, the same way for every data set.

Upright (by its EXIF flag), RGB, the centre square of the shorter side, resized with antialiasing
(bicubic, support scaled by the factor of reduction). Transparent pixels lie on white; of an
animation the first frame counts. Large JPEGs are decoded at the smallest of libjpeg's scales that
still has twice the pixels asked for. What stands beside the pixels (EXIF, texts) may be damaged.

An image that would become black or white without a word is refused: pixels of 16 bits that hold 12
bits or fewer, alpha that is 0 everywhere. The data set's options say how to read them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from bench.data.dataset import UInt8
from bench.data.files.files import placeholder

DECODE_VERSION = 1
"""Raise it when the same bytes give other pixels: fingerprints and caches depend on it."""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # an error is raised besides
Pillow.MAX_IMAGE_PIXELS = None  # `Reading.max_megapixels` is looked at before anything is decoded

_LARGE_PIXELS = 40_000_000
_ONE_LARGE = threading.RLock()
"""Of large images one is decoded at a time: several threads would need several times the memory."""

DEPTHS = ("check", "per_image", "1", "8", "10", "12", "14", "16", "24", "32")
ALPHAS = ("check", "white", "ignore")
_DEPTH_CURE = (
    "options: {depth: 12} says how many bits are used (8, 10, 12, 14; 16 takes the pixels as they "
    "are), {depth: per_image} takes the fewest that fit each image"
)


class UnreadableError(ValueError):
    """The bytes are not an image that we can show faithfully.

    Attributes:
        reason: why.
        way: options of a data set with which the image is read; empty where there are none.
    """

    def __init__(self, reason: str, way: str = "") -> None:
        super().__init__("; ".join(filter(None, (reason, way))))
        self.reason, self.way = reason, way


@dataclass(frozen=True)
class Reading:
    """How the pixels of a data set are read; its options of these names.

    Attributes:
        depth: bits that pixels of 16 and 32 bits use; `check` refuses those that would be black,
            `per_image` takes the fewest of 8, 10, 12, 14, 16, 24, 32 that hold an image.
        alpha: `check` refuses images that are transparent everywhere, `white` shows them white,
            `ignore` shows colours without their alpha.
        max_megapixels: the largest image that is decoded, in millions of pixels.
    """

    depth: str = "check"
    alpha: str = "check"
    max_megapixels: int = 179

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS or self.alpha not in ALPHAS:
            raise ValueError(f"images cannot be read with {self}")

    @property
    def version(self) -> str:
        """Of the decoder: equal bytes give equal pixels where it is equal."""
        chosen = [("depth", self.depth), ("alpha", self.alpha)]
        changed = [f"{name} {value}" for name, value in chosen if value != "check"]
        return ", ".join([f"decode {DECODE_VERSION}", *changed])


_USUAL = Reading()


def decode(data: bytes, size: int, reading: Reading = _USUAL) -> UInt8:
    """Pixels (size, size, 3), uint8, RGB.

    Raises:
        UnreadableError: broken or truncated files, too large ones, and pixels that have no natural
            place in 8 bits.

    >>> file = io.BytesIO(); Pillow.new("L", (8, 6), 200).save(file, "PNG")
    >>> decode(file.getvalue(), 4).shape, int(decode(file.getvalue(), 4).min())
    ((4, 4, 3), 200)
    """
    picture = _opened(data, reading, (2 * size, 2 * size))
    side = min(picture.size)
    left, top = ((extent - side) / 2 for extent in picture.size)
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Pillow.Resampling.BICUBIC, box=box))


def decode_whole(data: bytes, reading: Reading = _USUAL) -> UInt8:
    """Pixels (height, width, 3) of the whole upright image, not resized.

    Raises:
        UnreadableError: as `decode`.
    """
    return np.asarray(_opened(data, reading, None))


def _opened(data: bytes, reading: Reading, draft: tuple[int, int] | None) -> Pillow.Image:
    """The upright image in RGB."""
    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            pixels = picture.width * picture.height
            if pixels > reading.max_megapixels * 1_000_000:
                raise UnreadableError(
                    f"{picture.width} x {picture.height} pixels are more than "
                    f"{reading.max_megapixels} megapixels",
                    f"options: {{max_megapixels: {pixels // 1_000_000 + 1}}} reads it",
                )
            if draft is not None:
                picture.draft(None, draft)
            raw = _raw_mode(picture)
            large = picture.width * picture.height > _LARGE_PIXELS
            with _ONE_LARGE if large else contextlib.nullcontext():
                picture.load()
                return _rgb(_upright(picture), raw, picture.format or "", reading)
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        bare = _without_remarks(data)
        if bare != data:
            return _opened(bare, reading, draft)
        if isinstance(error, UnidentifiedImageError):  # its text has the address of a buffer
            raise UnreadableError(_no_image(data)) from None
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _without_remarks(data: bytes) -> bytes:
    """A PNG without what stands beside its pixels; other bytes, and torn ends, as they are."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        if end > len(data):
            break
        if data[at + 4 : at + 8] in _PIXEL_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _no_image(data: bytes) -> str:
    if instead := placeholder(data):
        return instead
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"):
        return "a photograph in HEIF, which Pillow does not read: save it as JPEG"
    begins = f"it begins with {data[:12]!r}" if data else "the file is empty"
    return f"no image of a known kind: {begins}"


_TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def _upright(picture: Pillow.Image) -> Pillow.Image:
    """Turned as its EXIF flag says; as it is where EXIF cannot be read."""
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is parsed by code that raises anything; the pixels are sound
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _raw_mode(picture: Pillow.Image) -> str:
    """How pixels lie in the file, such as RGB;16B; empty where Pillow does not say."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _rgb(picture: Pillow.Image, raw: str, kind: str, reading: Reading) -> Pillow.Image:
    deep = picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PPM")
    if deep or picture.mode in ("I", "F"):
        own = 12 if raw.startswith("I;12") else 16 if deep else 32
        return Pillow.fromarray(_eight_bits(np.asarray(picture), own, reading)).convert("RGB")
    if ";16" in raw and reading.depth != "16":  # of colours Pillow reads the upper 8 bits alone
        top = max(high for _, high in _extrema(picture.convert("RGB")))
        if top < 16:
            raise UnreadableError(
                "colours of 16 bits, and no value needs more than 12: it would be black",
                "save it with 8 bits a colour, or take it as it is with options: {depth: 16}",
            )
    if picture.has_transparency_data and reading.alpha != "ignore":
        picture = picture.convert("RGBA")
        if reading.alpha == "check" and picture.getchannel("A").getextrema()[1] == 0:
            raise UnreadableError(
                "alpha is 0 everywhere, so it would be white",
                "options: {alpha: ignore} shows the colours, {alpha: white} takes it as it is",
            )
        white = Pillow.new("RGBA", picture.size, "white")
        return Pillow.alpha_composite(white, picture).convert("RGB")
    return (picture.convert("RGBA") if picture.has_transparency_data else picture).convert("RGB")


def _extrema(picture: Pillow.Image) -> tuple[tuple[int, int], ...]:
    """Least and largest value of each band."""
    return tuple(band.getextrema() for band in picture.split())  # type: ignore[misc]


def _eight_bits(values: NDArray[Any], own: int, reading: Reading) -> UInt8:
    """Pixels of more than 8 bits, as many of them as are used scaled to 8.

    Args:
        values: (height, width) of any type.
        own: bits that the file says it has: 12, 16 or 32.
        reading: what the user says.
    """
    low, top = float(values.min()), float(values.max())
    depth = reading.depth
    if depth == "check":
        if own == 32:
            raise UnreadableError(
                f"pixels of 32 bits, {low:g} to {top:g}, have no natural 8-bit range", _DEPTH_CURE
            )
        if own == 16 and 0 < top < 2**12:
            raise UnreadableError(
                f"pixels of 16 bits, and none is above {top:g}: it would be black", _DEPTH_CURE
            )
    floats = values.dtype.kind == "f"
    fitting = [int(bits) for bits in DEPTHS[2:] if top <= 2 ** int(bits) - 1]
    if depth == "per_image":
        bits = next((bits for bits in fitting if floats or bits > 1), 0)
    else:
        bits = own if depth == "check" else int(depth)
    if not (low >= 0 and bits in fitting):
        raise UnreadableError(f"pixels from {low:g} to {top:g} are not of depth {depth}")
    scaled: UInt8
    if floats or bits < 8:
        scaled = (values * (255 / (2**bits - 1))).round().astype(np.uint8)
    else:
        scaled = (values >> (bits - 8)).astype(np.uint8)
    return scaled
