"""The embedded data set `wordnet-shapes`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.data.shapes import (
    N_LATENTS,
    Float64,
    class_latents,
    columns,
    squash,
    unit_floats,
)

__all__ = ["GENERATOR_VERSION", "content_key", "render"]

GENERATOR_VERSION = 1

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

NOISE_CELLS = 64
N_DISTRACTORS = 3
N_PARTS = 4
JITTER = 0.45
NOISE = 0.12
TURN = 0.16
OCCLUDED = 0.6
CAST = 0.12
CHUNK_PIXELS = 16384

# uniforms per image: two per latent (their sum is the jitter), then the scene's
N_SCENE = 64
N_RAW = 2 * N_LATENTS + N_SCENE + NOISE_CELLS * NOISE_CELLS // 8


def content_key(wnid: str, index: int, seed: int = 0) -> str:
    return hashlib.sha256(_name(wnid, index, seed).encode()).hexdigest()


def _name(wnid: str, index: int, seed: int) -> str:
    return f"wordnet-shapes|version {GENERATOR_VERSION}|{wnid}|{index}|seed {seed}"


def _draws(wnids: Sequence[str], indices: Sequence[int], seed: int) -> npt.NDArray[np.uint64]:
    raw = np.empty((len(wnids), N_RAW), dtype=np.uint64)
    for row, (wnid, index) in enumerate(zip(wnids, indices, strict=True)):
        digest = hashlib.sha256(_name(wnid, index, seed).encode()).digest()
        raw[row] = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(N_RAW)
    return raw


@functools.lru_cache(maxsize=2048)
def _latents_of(wnid: str) -> Float64:
    from bench.data.wordnet import taxonomy

    row: Float64 = class_latents([wnid], taxonomy().first_pointer_path)[0]
    row.setflags(write=False)
    return row


def render(
    wnids: Sequence[str], indices: npt.NDArray[np.integer], size: int, *, seed: int = 0
) -> UInt8:
    images = np.empty((len(wnids), size, size, 3), dtype=np.uint8)
    step = max(1, CHUNK_PIXELS // (size * size))
    for start in range(0, len(wnids), step):
        part = slice(start, start + step)
        names = wnids[part]
        raw = _draws(names, [int(i) for i in indices[part]], seed)
        means = np.stack([_latents_of(w) for w in names])
        images[part] = _paint(means, raw, size)
    return images


def _wave(turns: Float32) -> Float32:
    """Sine-like wave of period 1, by parabolas."""
    t = turns - np.floor(turns) - np.float32(0.5)
    return t * (np.abs(t) * np.float32(16) - np.float32(8))


def _unit(x: Float64, y: Float64) -> tuple[Float64, Float64]:
    length = np.sqrt(x * x + y * y + 1e-12)
    return x / length, y / length


def _col(values: Float64) -> Float32:
    return values.astype(np.float32)[:, None]


def _colour(light: Float64, warm: Float64, cold: Float64) -> list[Float64]:
    return [
        light + 0.5 * warm - 0.12 * cold,
        light - 0.3 * warm - 0.12 * cold,
        light + 0.1 * warm + 0.6 * cold,
    ]


def _over(image: list[Float32], alpha: Float32, colour: Sequence[Float32]) -> None:
    for channel in range(3):
        image[channel] += alpha * (colour[channel] - image[channel])


def _edge(distance: Float32, sharp: np.float32) -> Float32:
    """Coverage: 1 where distance is negative, 0 where positive, linear over a pixel."""
    return np.clip(np.float32(0.5) - distance * sharp, np.float32(0), np.float32(1))


def _paint(means: Float64, raw: npt.NDArray[np.uint64], size: int) -> UInt8:
    n = len(means)
    u = unit_floats(raw[:, : 2 * N_LATENTS + N_SCENE])
    jitter = (u[:, :N_LATENTS] + u[:, N_LATENTS : 2 * N_LATENTS] - 1.0) * 2.449489742783178
    z = squash(means + JITTER * jitter)
    s = u[:, 2 * N_LATENTS :]
    centre = (np.arange(size, dtype=np.float64) * 2 + 1) / size - 1
    gx = np.broadcast_to(centre[None, :], (size, size)).reshape(1, -1).astype(np.float32)
    gy = np.broadcast_to(centre[:, None], (size, size)).reshape(1, -1).astype(np.float32)
    sharp = np.float32(size / 2)
    image = _background(s, gx, gy, sharp)
    _body(z, s, gx, gy, sharp, image)
    _occluder(s, gx, gy, sharp, image)
    return _finish(s, raw[:, 2 * N_LATENTS + N_SCENE :], gx, gy, image, size)


def _ellipse(cx, cy, rx, ry, gx, gy, sharp):
    """Coverage of axis-aligned ellipses; arguments (n,)."""
    dx = (gx - _col(cx)) * _col(1 / rx)
    dy = (gy - _col(cy)) * _col(1 / ry)
    r = np.sqrt(dx * dx + dy * dy)
    return _edge((r - np.float32(1)) * _col(np.minimum(rx, ry)), sharp)


def _background(s, gx, gy, sharp):
    c = [
        _col(v) for v in _colour(0.2 + 0.6 * s[:, 0], 0.6 * (s[:, 1] - 0.5), 0.6 * (s[:, 2] - 0.5))
    ]
    fx, fy = _unit(s[:, 3] - 0.5, s[:, 4] - 0.5)
    f = 0.3 + 1.5 * s[:, 5]
    w = _wave(_col(f * fx) * gx + _col(f * fy) * gy + _col(s[:, 6])) * _col(0.15 * s[:, 7])
    image = [np.ascontiguousarray(v + w) for v in c]
    for k in range(N_DISTRACTORS):
        o = 8 + 8 * k
        rx, ry = 0.12 + 0.4 * s[:, o + 2], 0.12 + 0.4 * s[:, o + 3]
        a = _ellipse(2.4 * s[:, o] - 1.2, 2.4 * s[:, o + 1] - 1.2, rx, ry, gx, gy, sharp)
        c = [
            _col(v)
            for v in _colour(
                0.15 + 0.7 * s[:, o + 4], 0.8 * (s[:, o + 5] - 0.5), 0.8 * (s[:, o + 6] - 0.5)
            )
        ]
        _over(image, a, c)
    return image


def _body(z, s, gx, gy, sharp, image):
    o = 32
    # pose: turn by a vector near "upright", mirrored half of the time
    tx = (s[:, o] + s[:, o + 1] - 1.0) * 4 * TURN
    ca, sa = _unit(np.ones_like(tx), tx)
    flip = np.where(s[:, o + 2] < 0.5, -1.0, 1.0)
    scale = 0.42 + 0.22 * s[:, o + 3]
    px, py = 0.6 * (s[:, o + 4] - 0.5), 0.6 * (s[:, o + 5] - 0.5)
    dx, dy = gx - _col(px), gy - _col(py)
    x = _col(flip * ca / scale) * dx + _col(flip * sa / scale) * dy
    y = _col(-sa / scale) * dx + _col(ca / scale) * dy
    unit = sharp * _col(scale)

    palette = {}
    for name in ("primary", "secondary", "accent"):
        v = z[:, columns(name)]
        palette[name] = [
            _col(q) for q in _colour(0.5 + 0.36 * v[:, 0], 0.42 * v[:, 1], 0.42 * v[:, 2])
        ]

    # parts lie behind the body
    place, psize, stretch = (
        z[:, columns("part_place")],
        z[:, columns("part_size")],
        z[:, columns("part_stretch")],
    )
    for k in range(N_PARTS):
        base = ((0.75, 0.75), (-0.75, 0.75), (0.8, -0.6), (-0.8, -0.6))[k]
        cx, cy = base[0] + 0.5 * place[:, 2 * k], base[1] + 0.5 * place[:, 2 * k + 1]
        size = 0.28 + 0.24 * psize[:, k]
        st = 1 + 0.55 * stretch[:, k]
        a = _ellipse(cx, cy, size * st, size / st, x, y, unit)
        _over(image, a, palette["accent" if k < 2 else "secondary"])

    # outline
    e = 1 + 0.35 * z[:, columns("elongation")][:, 0]
    bx, by = x * _col(1 / e), y * _col(e)
    round_ = np.sqrt(bx * bx + by * by + np.float32(1e-6))
    norm = z[:, columns("norm")]
    to_box, to_diamond = (
        np.maximum(norm[:, 0], 0),
        np.maximum(norm[:, 1], 0) * (1 - np.maximum(norm[:, 0], 0)),
    )
    ax, ay = np.abs(bx), np.abs(by)
    r = (
        _col(1 - to_box - to_diamond) * round_
        + _col(to_box * 1.1) * np.maximum(ax, ay)
        + _col(to_diamond * 0.8) * (ax + ay)
    )
    inv = np.float32(1) / round_
    c1, s1 = bx * inv, by * inv
    h = z[:, columns("harmonics")]
    g = z[:, columns("asymmetry")]
    R = np.float32(0.78) + _col(0.14 * g[:, 0]) * s1
    ck, sk = c1, s1
    for k in range(2, 8):
        ck, sk = ck * c1 - sk * s1, sk * c1 + ck * s1
        R += _col(h[:, k - 2] * (0.26, 0.22, 0.19, 0.16, 0.13, 0.11)[k - 2]) * ck
        if k in (2, 3):
            R += _col(0.16 * g[:, k - 1]) * sk
    R = np.maximum(R, np.float32(0.3))
    dist = r - R
    alpha = _edge(dist, unit)
    hole = np.maximum(z[:, columns("hole")][:, 0] - 0.25, 0) * 0.8
    alpha *= 1 - _edge(r - R * _col(hole), unit) * _col(np.where(hole > 0.02, 1.0, 0.0))

    # skin
    fr = 1.15 + 0.85 * z[:, columns("frequency")]
    q = z[:, columns("orientation")]
    o1 = _unit(q[:, 0], q[:, 1])
    o2 = _unit(q[:, 2], q[:, 3])
    w1 = _wave(_col(fr[:, 0] * o1[0]) * x + _col(fr[:, 0] * o1[1]) * y + _col(s[:, o + 6]))
    w2 = _wave(_col(fr[:, 1] * o2[0]) * x + _col(fr[:, 1] * o2[1]) * y + _col(s[:, o + 7]))
    w3 = _wave(_col(fr[:, 1]) * r)
    m = z[:, columns("weave")] * 0.5 + 0.5
    t = _col(m[:, 0]) * w1 + _col(m[:, 1]) * (w1 * w2) + _col(m[:, 2]) * w3
    k = z[:, columns("sharpness")][:, 0]
    t = np.clip(
        t * _col(1.6 + 1.2 * k) * np.float32(0.5) + np.float32(0.5), np.float32(0), np.float32(1)
    )
    shade = (
        np.float32(1) + _col(0.5 * (s[:, o + 8] - 0.5)) * x + _col(0.5 * (s[:, o + 9] - 0.5)) * y
    )
    skin = [
        (a + t * (b - a)) * shade
        for a, b in zip(palette["primary"], palette["secondary"], strict=True)
    ]
    _over(image, alpha, skin)
    mk = z[:, columns("mark")]
    ms = 0.14 + 0.1 * mk[:, 2]
    _over(image, _ellipse(0.4 * mk[:, 0], 0.4 * mk[:, 1], ms, ms, x, y, unit), palette["accent"])


def _occluder(s, gx, gy, sharp, image):
    o = 48
    there = _col(np.where(s[:, o] < OCCLUDED, 1.0, 0.0))
    rx, ry = 0.15 + 0.35 * s[:, o + 1], 0.15 + 0.35 * s[:, o + 2]
    a = there * _ellipse(2 * s[:, o + 3] - 1, 2 * s[:, o + 4] - 1, rx, ry, gx, gy, sharp)
    c = [
        _col(v)
        for v in _colour(
            0.15 + 0.7 * s[:, o + 5], 0.6 * (s[:, o + 6] - 0.5), 0.6 * (s[:, o + 7] - 0.5)
        )
    ]
    _over(image, a, c)


def _finish(s, noise_raw, gx, gy, image, size):
    n = len(s)
    cells = noise_raw.astype("<u8", copy=False).view(np.uint8).reshape(n, NOISE_CELLS, NOISE_CELLS)
    at = (np.arange(size) * 2 + 1) * NOISE_CELLS // (2 * size)
    grain = cells[:, at[:, None], at[None, :]].reshape(n, -1).astype(np.float32)
    o = 56
    grain = (grain - np.float32(127.5)) * _col(NOISE * (0.5 + s[:, o]) / 127.5)
    gain = 0.7 + 0.6 * s[:, o + 1]
    light = _col(gain) * (
        np.float32(1) + _col(0.6 * (s[:, o + 2] - 0.5)) * gx + _col(0.6 * (s[:, o + 3] - 0.5)) * gy
    )
    out = np.empty((n, size * size, 3), dtype=np.uint8)
    for ch in range(3):
        v = image[ch] * light * _col(1 + CAST * 2 * (s[:, o + 4 + ch] - 0.5)) + grain
        out[:, :, ch] = np.clip(
            v * np.float32(255) + np.float32(0.5), np.float32(0), np.float32(255)
        ).astype(np.uint8)
    return out.reshape(n, size, size, 3)
