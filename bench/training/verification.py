"""Are two images of one identity? TAR at FAR, and splits that keep identities apart (SFT §4.3).

SFT trains on identities as classes, drops the classifiers, and compares penultimate features by
cosine over all pairs of test images: the true-acceptance rate at the threshold
where the false-acceptance rate just stays within 1e-2 to 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError

FARS = (1e-2, 1e-3, 1e-4, 1e-5)
FEWEST_ACCEPTED = 10
_BLOCK_ROWS = 512

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Verification:
    """What a verification gives.

    Attributes:
        tar: true-acceptance rate by false-acceptance rate.
        threshold: a pair is accepted when its score is above this, by false-acceptance rate.
        genuine_pairs, impostor_pairs: how many there were.
        warnings: rates for which there are too few impostors to be trusted.
    """

    tar: dict[float, float]
    threshold: dict[float, float]
    genuine_pairs: int
    impostor_pairs: int
    warnings: tuple[str, ...]


def tar_at_far(genuine: Scores, impostor: Scores, fars: Sequence[float] = FARS) -> Verification:
    """True-acceptance rates at given false-acceptance rates.

    The threshold is the lowest at which the share of impostor pairs accepted is at most the rate;
    impostors with equal scores are accepted together or not at all.

    Args:
        genuine: scores of pairs of one identity, higher is more alike.
        impostor: scores of pairs of two.
        fars: rates in (0, 1).

    Raises:
        DataError: no genuine pair, no impostor pair, or a rate outside (0, 1).

    >>> tar_at_far(np.array([0.9, 0.4]), np.array([0.5, 0.1]), [0.5]).tar
    {0.5: 1.0}
    """
    most = max((int(far * len(impostor)) + 2 for far in fars), default=0)
    highest = np.sort(impostor)[::-1][:most]
    return _tar(np.asarray(genuine), highest, len(impostor), fars)


def _tar(genuine: Scores, highest: Scores, impostors: int, fars: Sequence[float]) -> Verification:
    """As `tar_at_far`, from the highest impostor scores in falling order."""
    for kind, count in (("genuine", len(genuine)), ("impostor", impostors)):
        if not count:
            raise DataError(
                f"there is no {kind} pair to verify with",
                hint="the images need at least two identities, and two images of one of them",
            )
    tar, threshold, warnings = {}, {}, []
    for far in fars:
        if not 0 < far < 1:
            raise DataError(f"the false-acceptance rate is {far}", hint="give one between 0 and 1")
        accepted = int(far * impostors)
        while (accepted + 1) / impostors <= far:  # as a division rounds, not as a product does
            accepted += 1
        while accepted / impostors > far:
            accepted -= 1
        limit = float(highest[accepted]) if accepted < impostors else -np.inf
        tar[far], threshold[far] = float((genuine > limit).mean()), limit
        if impostors * far < FEWEST_ACCEPTED:
            warnings.append(
                f"FAR {far:g}: {impostors} impostor pairs accept {impostors * far:.1f} at most; "
                f"{FEWEST_ACCEPTED} are needed for a rate to be trusted"
            )
    return Verification(tar, threshold, len(genuine), impostors, tuple(warnings))


def verify(
    features: NDArray[np.float32], identities: NDArray[np.integer], fars: Sequence[float] = FARS
) -> Verification:
    """Verification by the cosine of features over all unordered pairs of images.

    Args:
        features: (N, D), for example what the classifier is given.
        identities: (N,).
        fars: false-acceptance rates.

    Only the impostor scores that can be thresholds are kept, so memory is of the order of the
    largest rate times N^2.

    Raises:
        DataError: as `tar_at_far`, or a feature of length 0 or not finite.
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    if not np.isfinite(length).all() or not (length > 0).all():
        raise DataError(
            "some images have features of length 0 or not finite, which have no cosine",
            hint="take a layer before an activation that is 0 everywhere",
        )
    unit = (features / length).astype(np.float32)
    count = len(unit)
    genuine: list[Scores] = []
    highest = np.empty(0, np.float32)
    same = int(sum(n * (n - 1) // 2 for n in np.unique(identities, return_counts=True)[1]))
    impostors = count * (count - 1) // 2 - same
    most = max((int(far * impostors) + 2 for far in fars), default=0)
    for start in range(0, count, _BLOCK_ROWS):
        block = unit[start : start + _BLOCK_ROWS] @ unit[start:].T
        rows = np.arange(len(block))[:, None]
        later = np.arange(block.shape[1])[None] > rows
        alike = identities[start : start + _BLOCK_ROWS, None] == identities[None, start:]
        genuine.append(block[later & alike])
        highest = np.concatenate([highest, block[later & ~alike]])
        if len(highest) > most:
            highest = np.partition(highest, len(highest) - most)[-most:]
    ordered = np.sort(highest)[::-1]
    return _tar(np.concatenate([*genuine, np.empty(0)]), ordered, impostors, fars)
