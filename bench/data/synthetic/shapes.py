"""How a WordNet class looks: numbers inherited along its hypernym path.

Every synset owns a few dozen pseudo-random numbers, drawn from the SHA-256 of its name. The look of
a class is the sum of the numbers of all synsets on its path from the root, each with the weight of
its depth (`depth_weight`): classes that part early in WordNet differ much, siblings in finer
details. High synsets also set *gains*, how much each number may move below them. What tells
siblings apart is thus inherited too: the breeds below one synset may differ most in texture, the
vessels below another in outline.

Only sums, products, quotients and square roots are used. IEEE 754 fixes their results, so a class
looks the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Layout = tuple[tuple[str, int], ...]

N_PARTS = 4

LOOK: Layout = (
    ("harmonics", 6),  # outline: cos 2θ to cos 7θ
    ("asymmetry", 3),  # outline: sin θ to sin 3θ
    ("family", 2),  # outline: from a disc towards a box, towards a diamond
    ("elongation", 1),
    ("hole", 1),
    ("primary", 3),  # colours: light, warmth, coldness
    ("secondary", 3),
    ("accent", 3),
    ("frequency", 2),  # of the two gratings of the skin
    ("orientation", 4),  # their directions, as vectors
    ("weave", 3),  # how much of the first grating, of their product, of rings
    ("contrast", 1),
    ("part_place", 2 * N_PARTS),
    ("part_size", N_PARTS),
    ("part_stretch", N_PARTS),
    ("mark", 3),  # a spot on the body: place 2, size
)

_SPREAD = 0.7  # of one synset at the peak, beside the jitter of an image
_PEAK_DEPTH = 5  # entity, physical entity, object, whole: nearly all classes share these
_DECAY = 0.98
_GAIN = 0.4
_GAIN_DECAY = 0.75
_SQRT_6 = 2.449489742783178


def width(layout: Layout) -> int:
    """How many columns a layout has."""
    return sum(count for _, count in layout)


def columns(layout: Layout, name: str) -> slice:
    """Where `name` stands in a table laid out so.

    >>> columns((("pose", 6), ("grain", 1)), "grain")
    slice(6, 7, None)
    """
    names = [other for other, _ in layout]
    at = names.index(name)
    start = width(layout[:at])
    return slice(start, start + layout[at][1])


N_LOOK = width(LOOK)


def unit_floats(raw: npt.NDArray[np.uint64]) -> Float64:
    """64-bit draws as numbers in [0, 1): the top 53 bits, exactly.

    >>> unit_floats(np.array([2**63], dtype=np.uint64)).tolist()
    [0.5]
    """
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def triangular(uniforms: Float64) -> Float64:
    """(..., 2K) uniform numbers to (..., K) with mean 0 and variance 1, within ±sqrt(6).

    A bell without logarithms: the sum of two uniform numbers, which every machine computes alike.
    """
    half = uniforms.shape[-1] // 2
    return (uniforms[..., :half] + uniforms[..., half:] - 1.0) * _SQRT_6


def squash(values: Float64) -> Float64:
    """Any number to (-1, 1), smoothly: x / sqrt(1 + x²).

    >>> squash(np.array([0.0, 1e9])).tolist()
    [0.0, 1.0]
    """
    return values / np.sqrt(1.0 + values * values)


def depth_weight(depth: int) -> float:
    """How much a synset `depth` steps below the root adds to the look of the classes below it.

    It rises over the first steps, which tell few classes apart, and falls from there on.

    >>> depth_weight(0) == 0.0 and depth_weight(5) > depth_weight(10) > depth_weight(15)
    True
    """
    weight = _SPREAD * min(depth, _PEAK_DEPTH) / _PEAK_DEPTH
    for _ in range(depth - _PEAK_DEPTH):
        weight *= _DECAY
    return weight


def _synset_numbers(synset: str, purpose: str) -> Float64:
    """(N_LOOK,) numbers with mean 0 and variance 1 that belong to one synset."""
    digest = hashlib.sha256(f"wordnet-shapes|{purpose}|{synset}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(2 * N_LOOK)
    return triangular(unit_floats(raw))


def class_look(path: Sequence[str]) -> Float64:
    """The look of a class, (N_LOOK,), before an image's jitter and `squash`.

    With z(s) and h(s) the numbers of synset s at depth d, the root at depth 0:

        look = Σ_d depth_weight(d) · (1 + squash(Σ_{e<d} gain_weight(e) · h(s_e))) · z(s_d)

    Args:
        path: synsets from the root down to the class.
    """
    look, gain, gain_weight = np.zeros(N_LOOK), np.zeros(N_LOOK), _GAIN
    for depth, synset in enumerate(path):
        look = look + depth_weight(depth) * (1.0 + squash(gain)) * _synset_numbers(synset, "look")
        gain = gain + gain_weight * _synset_numbers(synset, "gain")
        gain_weight *= _GAIN_DECAY
    return look
