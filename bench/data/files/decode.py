"""Bytes of an image file to a square of pixels, the same way for every data set.

Upright (by its EXIF flag), RGB, the centre square of the shorter side, resized with antialiasing
(bicubic, support scaled by the factor of reduction). Transparent pixels lie on white; of an
animation the first frame counts. Large JPEGs are decoded at the smallest of libjpeg's scales that
still has twice the pixels asked for.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from bench.data.dataset import UInt8

DECODE_VERSION = 1
"""Raise it when the same bytes give other pixels: fingerprints and caches depend on it."""


class UnreadableError(ValueError):
    """The bytes are not an image that we can show faithfully; the text says why."""


def decode(data: bytes, size: int) -> UInt8:
    """Pixels (size, size, 3), uint8, RGB.

    Raises:
        UnreadableError: broken or truncated files, and pixel types that do not fit 8 bits.

    >>> file = io.BytesIO(); Pillow.new("L", (8, 6), 200).save(file, "PNG")
    >>> decode(file.getvalue(), 4).shape, int(decode(file.getvalue(), 4).min())
    ((4, 4, 3), 200)
    """
    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            picture.draft(None, (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(picture)
            return _square(_rgb(upright), size)
    except UnreadableError:
        raise
    except UnidentifiedImageError:  # its text has the address of a buffer
        raise UnreadableError(_no_image(data)) from None
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def decode_whole(data: bytes) -> UInt8:
    """Pixels (height, width, 3) of the whole upright image, not resized.

    Raises:
        UnreadableError: as `decode`.
    """
    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            return np.asarray(_rgb(ImageOps.exif_transpose(picture)))
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(_no_image(data)) from None
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _no_image(data: bytes) -> str:
    begins = f"it begins with {data[:12]!r}" if data else "the file is empty"
    return f"no image of a known kind: {begins}"


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I;16"):
        # convert() would cut everything above 255 off
        eight_bits = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
        return Pillow.fromarray(eight_bits).convert("RGB")
    if picture.mode in ("I", "F"):
        raise UnreadableError(
            f"pixels of type {picture.mode!r} (32 bits) have no natural 8-bit range"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")
        return Pillow.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Pillow.Image, size: int) -> UInt8:
    side = min(picture.size)
    left, top = ((extent - side) / 2 for extent in picture.size)
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Pillow.Resampling.BICUBIC, box=box))
