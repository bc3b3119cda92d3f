"""How a WordNet class looks: latent numbers inherited along its hypernym path.

Every synset owns a few dozen pseudo-random numbers, read from the SHA-256 of its name. A class is
the sum of the numbers of all synsets on its path, each weighted by `DECAY ** depth`, so classes
that part late in WordNet differ little. High synsets also set *gains*: by how much the synsets
below them may move each number. What tells siblings apart is thus inherited too (the breeds below
one synset may differ in texture, the vessels below another in outline), and this is what makes
pre-training on near classes worth more than on far ones.

Only sums, products, quotients and square roots are used: IEEE 754 fixes their results, so a class
looks the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["LATENTS", "N_LATENTS", "Float64", "class_latents", "columns", "squash"]

Float64 = npt.NDArray[np.float64]

DECAY = 0.93
"""Weight of a synset relative to its hypernym."""
PEAK = 5
SCALE = 0.5
"""Overall spread of the classes, before squashing."""
GAIN = 1.0
"""How much the branches of WordNet differ in what varies below them."""
GAIN_DECAY = 0.75
"""Weight of a synset's gains relative to its hypernym's."""

LATENTS: tuple[tuple[str, int], ...] = (
    ("harmonics", 6),  # outline: cos 2θ … cos 7θ
    ("asymmetry", 3),  # outline: sin 1θ, sin 2θ, sin 3θ
    ("norm", 2),  # outline family: towards a box, towards a diamond
    ("elongation", 1),
    ("hole", 1),
    ("primary", 3),  # colours: light, red-green, blue-yellow
    ("secondary", 3),
    ("accent", 3),
    ("frequency", 2),  # two gratings of the skin
    ("orientation", 4),  # their directions as vectors
    ("weave", 3),  # how the gratings mix: first, product, rings
    ("sharpness", 1),
    ("part_place", 8),  # four parts, in body coordinates
    ("part_size", 4),
    ("part_stretch", 4),
    ("mark", 3),  # a spot on the body: place and size
)
N_LATENTS = sum(count for _, count in LATENTS)


def columns(name: str) -> slice:
    """Where the latents called `name` stand among the `N_LATENTS` columns.

    >>> columns("asymmetry")
    slice(6, 9, None)
    """
    start = 0
    for other, count in LATENTS:
        if other == name:
            return slice(start, start + count)
        start += count
    raise KeyError(name)


def squash(values: Float64) -> Float64:
    """Any number to (-1, 1), smoothly and by operations that IEEE 754 fixes: x / sqrt(1 + x²).

    >>> float(squash(np.array(0.0)))
    0.0
    """
    return values / np.sqrt(1.0 + values * values)


def _synset_numbers(synset: str, purpose: str) -> Float64:
    """`N_LATENTS` numbers with mean 0 and variance 1 that belong to one synset."""
    digest = hashlib.sha256(f"wordnet-shapes|{purpose}|{synset}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(2 * N_LATENTS)
    pairs = unit_floats(raw).reshape(2, N_LATENTS)
    return (pairs[0] + pairs[1] - 1.0) * 2.449489742783178  # triangular; sqrt(6) makes variance 1


def unit_floats(raw: npt.NDArray[np.uint64]) -> Float64:
    """64-bit draws to [0, 1): the top 53 bits, exactly."""
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def class_latents(wnids: Sequence[str], path_of: Callable[[str], Sequence[str]]) -> Float64:
    """Latents of classes, (C, N_LATENTS); `path_of` gives a wnid's path from the root down."""
    table = np.empty((len(wnids), N_LATENTS))
    for row, wnid in enumerate(wnids):
        value = np.zeros(N_LATENTS)
        gain = np.zeros(N_LATENTS)
        gain_weight = GAIN
        for depth, synset in enumerate(path_of(wnid)):
            weight = SCALE * min(depth, PEAK) / PEAK * DECAY ** max(depth - PEAK, 0)
            value = value + weight * (1.0 + squash(gain)) * _synset_numbers(synset, "look")
            gain = gain + gain_weight * _synset_numbers(synset, "gain")
            gain_weight *= GAIN_DECAY
        table[row] = value
    return table
