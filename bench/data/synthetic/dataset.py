"""The embedded data set `wordnet-shapes`: pictures of WordNet classes, drawn on the fly.

It is the harness's positive control. What a class looks like is inherited along its hypernym path
(`bench.data.synthetic.shapes`), so classes near in WordNet look alike by construction, and a
correct harness finds that a near source helps more than a far one, and a far one more than none. A
picture is a body with a patterned skin, four parts and a mark; pose, scale, light, clutter,
occlusion, noise and the look itself vary from image to image.

A picture depends on (wnid, index, seed) and nothing else: SHA-256 of these seeds PCG64, whose raw
64-bit stream is used, and the painting takes only sums, products, quotients, square roots, floors
and comparisons of single numbers, which IEEE 754 fixes. So every machine, every numpy and every
composition of a batch gives the same bytes.

At another size the same scene is sampled more or less finely; edges are smoothed over one pixel.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.core.errors import DataError
from bench.data.synthetic.shapes import (
    LOOK,
    N_LOOK,
    Float64,
    Layout,
    class_look,
    columns,
    squash,
    triangular,
    unit_floats,
    width,
)

GENERATOR_VERSION = 2
"""Part of every content key. To be raised when any pixel of any image changes."""

SIZES_PX = range(8, 257)
"""The sizes that `render` draws."""

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]
Colour = Sequence[Float32]

_CHUNK_PIXELS = 16384  # painted at once: some arrays of this size fit a core's cache
_NOISE_CELLS = 64  # the grain is a grid of 64 x 64 cells at every size
_N_NOISE = _NOISE_CELLS * _NOISE_CELLS // 8  # 64-bit draws, eight cells each

# How hard the pictures are. Lengths are in half widths of the canvas.
_JITTER = 0.3  # how far the look of an image strays from its class, beside shapes._SPREAD
_COLOUR_JITTER = 0.8  # most of all in colour, which would tell classes apart by itself
_CHROMA = 0.36
_TURN = 0.64
_SCALE_MIN, _SCALE_RANGE = 0.5, 0.18
_SHIFT = 0.2
_N_DISTRACTORS = 2
_OCCLUDED = 0.4
_CAST = 0.08
_GRAIN = 0.1

_SCENE: Layout = (  # what varies from image to image beside the look: numbers in [0, 1)
    ("backdrop", 8),  # colour 3, wave: direction 2, frequency, phase, strength
    ("distractors", 7 * _N_DISTRACTORS),  # each: place 2, size 2, colour 3
    ("pose", 6),  # turn 2, mirror, scale, place 2
    ("phase", 2),  # of the two gratings of the skin
    ("shade", 2),  # slope of the light over the body
    ("occluder", 8),  # there or not, place 2, size 2, colour 3
    ("grain", 1),
    ("light", 3),  # gain, slope 2
    ("cast", 3),  # red, green, blue
)
_N_UNIFORM = 2 * N_LOOK + width(_SCENE)
_PART_HOMES = ((0.75, 0.75), (-0.75, 0.75), (0.8, -0.6), (-0.8, -0.6))
_HARMONIC_SIZES = (0.26, 0.22, 0.19, 0.16, 0.13, 0.11)
_PALETTE = ("primary", "secondary", "accent")


class _Canvas(NamedTuple):
    """Coordinates of the pixels, (n or 1, size²), and how many pixels a unit of them has."""

    x: Float32
    y: Float32
    px_per_unit: Float32


def content_key(wnid: str, index: int, seed: int = 0) -> str:
    """Stands for the content hash of an image without drawing it: SHA-256, 64 hex digits.

    Equal keys mean equal images at every size. Keys change with `GENERATOR_VERSION`.

    >>> content_key("n02088364", 0) == content_key("n02088364", 1)
    False
    """
    return hashlib.sha256(_name(wnid, index, seed)).hexdigest()


def render(
    wnids: Sequence[str], indices: npt.NDArray[np.integer], size: int, *, seed: int = 0
) -> UInt8:
    """Draws one image for each pair of a class and an index.

    Args:
        wnids: classes, (N,), such as "n02088364"; a class may come many times.
        indices: which image of its class, (N,), from 0 up without limit.
        size: height and width in pixels, 8 to 256.
        seed: another seed gives other images of the same classes.

    Returns:
        RGB images, (N, size, size, 3) uint8.

    Raises:
        DataError: for a size out of range, arguments of different lengths, an index that is
            negative or not whole, or a wnid that the taxonomy does not have.

    >>> render(["n02088364", "n02088364"], np.array([0, 1]), 32).shape
    (2, 32, 32, 3)
    """
    numbers = _checked(wnids, indices, size)
    images = np.empty((len(wnids), size, size, 3), dtype=np.uint8)
    step = max(1, _CHUNK_PIXELS // (size * size))
    for start in range(0, len(wnids), step):
        part = slice(start, start + step)
        names = wnids[part]
        looks = np.stack([_look_of(wnid) for wnid in names])
        images[part] = _paint(looks, _draws(names, numbers[part], seed), size)
    return images


def _checked(wnids: Sequence[str], indices: npt.NDArray[np.integer], size: int) -> list[int]:
    """The indices as Python's integers."""
    if size not in SIZES_PX:
        raise DataError(
            f"wordnet-shapes does not draw images of size {size!r}",
            hint=f"sizes: whole numbers from {SIZES_PX[0]} to {SIZES_PX[-1]} pixels",
        )
    array = np.asarray(indices)
    if array.shape != (len(wnids),):
        raise DataError(
            f"{len(wnids)} classes, but indices of shape {array.shape}",
            hint="give one index for each class in the list",
        )
    if array.size and not (np.issubdtype(array.dtype, np.integer) and array.min() >= 0):
        raise DataError(
            f"image indices of type {array.dtype}, the least {array.min()}",
            hint="image indices are whole numbers from 0 up",
        )
    return [int(index) for index in array]


def _name(wnid: str, index: int, seed: int) -> bytes:
    return f"wordnet-shapes|version {GENERATOR_VERSION}|{wnid}|{index}|seed {seed}".encode()


@functools.lru_cache(maxsize=4096)
def _look_of(wnid: str) -> Float64:
    """What the class looks like, (N_LOOK,), read-only."""
    from bench.data.wordnet.hierarchy import taxonomy

    path = taxonomy().first_pointer_path(wnid)
    if path[-1] != wnid:
        raise DataError(f"{wnid!r} is not a wnid", hint=f"write {path[-1]}")
    look = class_look(path)
    look.setflags(write=False)
    return look


def _draws(wnids: Sequence[str], indices: Sequence[int], seed: int) -> UInt64:
    """The random bits of images: those of the uniform numbers, then those of the grain."""
    raw = np.empty((len(wnids), _N_UNIFORM + _N_NOISE), dtype=np.uint64)
    for row, (wnid, index) in enumerate(zip(wnids, indices, strict=True)):
        digest = hashlib.sha256(_name(wnid, index, seed)).digest()
        raw[row] = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(raw.shape[1])
    return raw


# Painting. What an image has one of is float64, (n,); what a pixel has one of is float32,
# (n, size²). An image in work is three of these, red, green and blue, from 0 to 1. The canvas
# reaches from -1 to 1 in x, to the right, and in y, down.


def _paint(looks: Float64, raw: UInt64, size: int) -> UInt8:
    uniforms = unit_floats(raw[:, :_N_UNIFORM])
    look = _strayed(looks, triangular(uniforms[:, : 2 * N_LOOK]))
    scene = {name: uniforms[:, 2 * N_LOOK :][:, columns(_SCENE, name)] for name, _ in _SCENE}
    centres = ((np.arange(size) * 2 + 1) / size - 1).astype(np.float32)
    px_per_unit = np.full((1, 1), size / 2, dtype=np.float32)
    canvas = _Canvas(np.tile(centres, size)[None], np.repeat(centres, size)[None], px_per_unit)
    image = _backdrop(scene["backdrop"], canvas)
    for k in range(_N_DISTRACTORS):
        _distractor(scene["distractors"][:, 7 * k : 7 * k + 7], canvas, image)
    _creature(look, scene, canvas, image)
    _occluder(scene["occluder"], canvas, image)
    return _developed(image, scene, _grain(raw[:, _N_UNIFORM:], size), canvas, size)


def _strayed(looks: Float64, strays: Float64) -> dict[str, Float64]:
    """The look of each image by name, from -1 to 1: its class's, and what is its own."""
    table = {}
    for name, _ in LOOK:
        at = columns(LOOK, name)
        jitter = _COLOUR_JITTER if name in _PALETTE else _JITTER
        table[name] = squash(looks[:, at] + jitter * strays[:, at])
    return table


def _backdrop(u: Float64, canvas: _Canvas) -> list[Float32]:
    """A colour with a faint wave over it."""
    colour = _colour(0.2 + 0.6 * u[:, 0], 0.6 * u[:, 1] - 0.3, 0.6 * u[:, 2] - 0.3)
    frequency = 0.3 + 1.5 * u[:, 5]
    to_x, to_y = _direction(u[:, 3] - 0.5, u[:, 4] - 0.5)
    turns = _col(frequency * to_x) * canvas.x + _col(frequency * to_y) * canvas.y + _col(u[:, 6])
    wave = _wave(turns) * _col(0.15 * u[:, 7])
    return [channel + wave for channel in colour]


def _distractor(u: Float64, canvas: _Canvas, image: list[Float32]) -> None:
    """An ellipse anywhere, behind the creature."""
    centre = (2.4 * u[:, 0] - 1.2, 2.4 * u[:, 1] - 1.2)
    cover = _ellipse(centre, (0.1 + 0.3 * u[:, 2], 0.1 + 0.3 * u[:, 3]), canvas)
    _over(image, cover, _colour(0.15 + 0.7 * u[:, 4], 0.8 * u[:, 5] - 0.4, 0.8 * u[:, 6] - 0.4))


def _occluder(u: Float64, canvas: _Canvas, image: list[Float32]) -> None:
    """In some images an ellipse before the creature."""
    centre = (2.0 * u[:, 1] - 1.0, 2.0 * u[:, 2] - 1.0)
    cover = _ellipse(centre, (0.15 + 0.35 * u[:, 3], 0.15 + 0.35 * u[:, 4]), canvas)
    cover *= _col(np.where(u[:, 0] < _OCCLUDED, 1.0, 0.0))
    _over(image, cover, _colour(0.15 + 0.7 * u[:, 5], 0.6 * u[:, 6] - 0.3, 0.6 * u[:, 7] - 0.3))


def _creature(
    look: dict[str, Float64], scene: dict[str, Float64], canvas: _Canvas, image: list[Float32]
) -> None:
    """Parts, the body over them, the mark over that, on a canvas that turns with the body."""
    body_canvas = _posed(scene["pose"], canvas)
    primary, secondary, accent = (
        _colour(0.5 + 0.36 * c[:, 0], _CHROMA * c[:, 1], _CHROMA * c[:, 2])
        for c in (look[name] for name in _PALETTE)
    )
    for k, (home_x, home_y) in enumerate(_PART_HOMES):
        place = look["part_place"][:, 2 * k : 2 * k + 2]
        half = 0.28 + 0.24 * look["part_size"][:, k]
        stretch = 1.0 + 0.55 * look["part_stretch"][:, k]
        centre = (home_x + 0.5 * place[:, 0], home_y + 0.5 * place[:, 1])
        cover = _ellipse(centre, (half * stretch, half / stretch), body_canvas)
        _over(image, cover, accent if k < 2 else secondary)
    radius, cover = _body(look, body_canvas)
    pattern = _pattern(look, scene["phase"], radius, body_canvas)
    slope = 0.5 * scene["shade"] - 0.25
    shade = np.float32(1) + _col(slope[:, 0]) * body_canvas.x + _col(slope[:, 1]) * body_canvas.y
    skin = [(a + pattern * (b - a)) * shade for a, b in zip(primary, secondary, strict=True)]
    _over(image, cover, skin)
    mark = look["mark"]
    half = 0.14 + 0.1 * mark[:, 2]
    _over(image, _ellipse((0.4 * mark[:, 0], 0.4 * mark[:, 1]), (half, half), body_canvas), accent)


def _posed(u: Float64, canvas: _Canvas) -> _Canvas:
    """The canvas in the body's own coordinates: shifted, turned, mirrored or not, and scaled."""
    scale = _SCALE_MIN + _SCALE_RANGE * u[:, 3]
    to_x, to_y = _direction(np.ones(len(u)), _TURN * (u[:, 0] + u[:, 1] - 1.0))
    mirror = np.where(u[:, 2] < 0.5, -1.0, 1.0)
    x = canvas.x - _col(_SHIFT * (2.0 * u[:, 4] - 1.0))
    y = canvas.y - _col(_SHIFT * (2.0 * u[:, 5] - 1.0))
    return _Canvas(
        _col(mirror * to_x / scale) * x + _col(mirror * to_y / scale) * y,
        _col(to_x / scale) * y - _col(to_y / scale) * x,
        canvas.px_per_unit * _col(scale),
    )


def _body(look: dict[str, Float64], canvas: _Canvas) -> tuple[Float32, Float32]:
    """A pixel's distance from the middle, by the norm of the body's family, and the coverage.

    The outline is a Fourier series of the direction; cos kθ and sin kθ come from the addition
    theorems, as no machine's cosine is used.
    """
    elongation = 1.0 + 0.35 * look["elongation"][:, 0]
    x, y = canvas.x * _col(1.0 / elongation), canvas.y * _col(elongation)
    length = np.sqrt(x * x + y * y + np.float32(1e-6))
    box = np.maximum(look["family"][:, 0], 0.0)
    diamond = np.maximum(look["family"][:, 1], 0.0) * (1.0 - box)
    wide, high = np.abs(x), np.abs(y)
    radius = (
        _col(1.0 - box - diamond) * length
        + _col(1.1 * box) * np.maximum(wide, high)
        + _col(0.8 * diamond) * (wide + high)
    )
    cos_1, sin_1 = x / length, y / length
    outline = np.float32(0.78) + _col(0.14 * look["asymmetry"][:, 0]) * sin_1
    cos_k, sin_k = cos_1, sin_1
    for k, harmonic_size in enumerate(_HARMONIC_SIZES, start=2):
        cos_k, sin_k = cos_k * cos_1 - sin_k * sin_1, sin_k * cos_1 + cos_k * sin_1
        outline += _col(harmonic_size * look["harmonics"][:, k - 2]) * cos_k
        if k <= 3:
            outline += _col(0.16 * look["asymmetry"][:, k - 1]) * sin_k
    outline = np.maximum(outline, np.float32(0.3))
    hole = np.maximum(0.7 * look["hole"][:, 0] - 0.3, 0.0)
    inside = _coverage(radius - outline, canvas)
    in_hole = _coverage(radius - outline * _col(hole), canvas) * _col(np.minimum(50.0 * hole, 1.0))
    return radius, inside * (np.float32(1) - in_hole)


def _pattern(look: dict[str, Float64], phase: Float64, radius: Float32, canvas: _Canvas) -> Float32:
    """How much of the secondary colour the skin has, 0 to 1: two gratings and rings, woven."""
    frequency = 1.15 + 0.85 * look["frequency"]
    waves = []
    for k in range(2):
        to_x, to_y = _direction(*look["orientation"][:, 2 * k : 2 * k + 2].T)
        along = _col(frequency[:, k] * to_x) * canvas.x + _col(frequency[:, k] * to_y) * canvas.y
        waves.append(_wave(along + _col(phase[:, k])))
    rings = _wave(_col(frequency[:, 1]) * radius)
    weave = 0.5 + 0.5 * look["weave"]
    woven = _col(weave[:, 0]) * waves[0] + _col(weave[:, 1]) * (waves[0] * waves[1])
    woven += _col(weave[:, 2]) * rings
    contrast = _col(0.8 + 0.6 * look["contrast"][:, 0])
    return _within_0_1(np.float32(0.5) + woven * contrast)


def _grain(raw: UInt64, size: int) -> Float32:
    """Noise from -1 to 1, (n, size²), read off the grid of cells at the pixels' centres."""
    cells = raw.astype("<u8", copy=False).view(np.uint8)
    cells = cells.reshape(len(raw), _NOISE_CELLS, _NOISE_CELLS)
    at = (np.arange(size) * 2 + 1) * _NOISE_CELLS // (2 * size)
    picked = cells[:, at[:, None], at[None, :]].reshape(len(raw), size * size)
    return picked.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _developed(
    image: list[Float32], scene: dict[str, Float64], grain: Float32, canvas: _Canvas, size: int
) -> UInt8:
    """Light, cast and grain, then bytes, (n, size, size, 3)."""
    gain, slope = 0.7 + 0.6 * scene["light"][:, 0], 0.6 * scene["light"][:, 1:] - 0.3
    light = np.float32(1) + _col(slope[:, 0]) * canvas.x + _col(slope[:, 1]) * canvas.y
    noise = grain * _col(_GRAIN * (0.5 + scene["grain"][:, 0]))
    cast = 1.0 + _CAST * (2.0 * scene["cast"] - 1.0)
    pixels = np.empty((*grain.shape, 3), dtype=np.uint8)
    for channel, values in enumerate(image):
        seen = values * light * _col(gain * cast[:, channel]) + noise
        grey = _within_0_1(seen) * np.float32(255) + np.float32(0.5)
        pixels[:, :, channel] = grey.astype(np.uint8)
    return pixels.reshape(-1, size, size, 3)


def _col(values: Float64) -> Float32:
    """One number per image, to be combined with pixels: (n, 1)."""
    return values.astype(np.float32)[:, None]


def _direction(x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """The vector at length one."""
    length = np.sqrt(x * x + y * y + 1e-12)
    return x / length, y / length


def _colour(light: Float64, warm: Float64, cold: Float64) -> Colour:
    """Red, green and blue, each (n, 1)."""
    base = light - 0.12 * cold
    return _col(base + 0.5 * warm), _col(base - 0.3 * warm), _col(light + 0.1 * warm + 0.6 * cold)


def _wave(turns: Float32) -> Float32:
    """A sine of period 1 made of parabolas, from -1 to 1."""
    t: Float32 = turns - np.floor(turns) - np.float32(0.5)
    return t * (np.abs(t) * np.float32(16) - np.float32(8))


def _coverage(distance: Float32, canvas: _Canvas) -> Float32:
    """How much of a pixel lies inside: 1 at negative distances, 0 at positive, linear between."""
    return _within_0_1(np.float32(0.5) - distance * canvas.px_per_unit)


def _within_0_1(values: Float32) -> Float32:
    return np.minimum(np.maximum(values, np.float32(0)), np.float32(1))


def _ellipse(
    centre: tuple[Float64, Float64], half_axes: tuple[Float64, Float64], canvas: _Canvas
) -> Float32:
    """Coverage of one upright ellipse per image."""
    x = (canvas.x - _col(centre[0])) * _col(1.0 / half_axes[0])
    y = (canvas.y - _col(centre[1])) * _col(1.0 / half_axes[1])
    outside = np.sqrt(x * x + y * y) - np.float32(1)
    return _coverage(outside * _col(np.minimum(*half_axes)), canvas)


def _over(image: list[Float32], cover: Float32, colour: Colour) -> None:
    """Lays a colour over the image, in place, where `cover` is not 0."""
    for channel, paint in zip(image, colour, strict=True):
        channel += cover * (paint - channel)
