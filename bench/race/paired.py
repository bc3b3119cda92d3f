"""Whether a recipe is shown to beat a simpler one, image by image of the same validation images.

Recipes that answer the same images mostly agree, and where they agree nothing is learned of their
difference: its standard error comes from the images that only one of them has right. Shares that
are compared as if each had images of its own look less sure than they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

Right = Mapping[str, bool]
"""Whether an image is named rightly, by its key; of one draw of validation images."""

_ONE_SIDED = 1 - NormalDist().cdf(1.0)
"""How often one standard error is exceeded by chance: 16 %."""


def gains(right: Sequence[Right], other: Sequence[Right]) -> list[int] | None:
    """Of each image: right answers more than another recipe has, over all draws that it is in.

    Args:
        right, other: of each draw; None is returned where they are not of the same images.

    >>> gains([{"a": True, "b": True}, {"b": True}], [{"a": True, "b": False}, {"b": False}])
    [0, 2]
    >>> gains([{"a": True}], [{"b": True}]) is None
    True
    """
    if [one.keys() for one in right] != [two.keys() for two in other]:
        return None
    found: dict[str, int] = {}
    for one, two in zip(right, other, strict=True):
        for image in one:
            found[image] = found.get(image, 0) + int(one[image]) - int(two[image])
    return list(found.values())


def as_if_independent(accuracy: float, other: float, images: int) -> list[int]:
    """The gains that two shares of so many images would have, did they owe nothing to each other.

    For answers that were not kept: more images tell the two apart than in truth, so that less is
    shown.

    >>> sorted(as_if_independent(0.9, 0.8, 100)) == [-1] * 8 + [1] * 18
    True
    """
    only, only_other = accuracy * (1 - other), other * (1 - accuracy)
    return [1] * round(images * only) + [-1] * round(images * only_other)


def is_better(of_images: Iterable[int], best_of: int = 1) -> bool:
    """Whether right answers more than a simpler recipe's are above one standard error of them.

    The rule of one standard error (Breiman et al. 1984) on paired answers: with b images that only
    the first has right and c that only the other has, b - c is compared with sqrt(b + c + 1), half
    an image being added to each (Agresti and Min 2005). Where the first is the best of several it
    has to be above so many errors that the best of as many equal ones is no more often, by chance,
    than one of one is (Bonferroni).

    Args:
        of_images: see `gains`.
        best_of: recipes that the first is the best of.

    >>> is_better([1, 1]), is_better([1]), is_better([1, 1, 1, -1]), is_better([1, 1], best_of=4)
    (True, False, False, False)
    """
    counts = [count for count in of_images if count]
    errors = NormalDist().inv_cdf(1 - _ONE_SIDED / max(1, best_of))
    return sum(counts) > errors * math.sqrt(sum(count * count for count in counts) + 1)
