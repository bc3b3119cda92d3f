"""How a race spends its time: successive halving (Jamieson and Talwalkar 2016).

The arms train for a few epochs; the better half of them for twice as many, and so on until two are
left. Each rung costs about the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_EPOCHS = 32
LEAST_EPOCHS = 2
FLOOR_SHARE = 0.75
"""Of the time: features of the labelled images, at most, where smaller images can do."""

PARTS_SHARE, PARTS_ALONE_SHARE = 0.2, 0.55
"""Of the time: features of the labelled images and of random parts of them, at most; the second
where there is no time for a race."""

RACE_SHARE = 0.6
"""Of the time: the race. The rest is for the winner's repeats on all labels, and for the ends."""


@dataclass(frozen=True)
class Rung:
    """So many arms, each trained anew for so many epochs."""

    arms: int
    epochs: int


def rungs(arms: int, epochs: float) -> tuple[Rung, ...]:
    """The rungs of a race that has time for so many epochs of single arms.

    As many arms as can have `LEAST_EPOCHS` in the first rung; then as many epochs as fit, up to
    `MOST_EPOCHS` in the last.

    Args:
        arms: how many there are.
        epochs: how many epochs of one arm the time is for, all together.

    >>> rungs(8, 60)
    (Rung(arms=8, epochs=2), Rung(arms=4, epochs=4), Rung(arms=2, epochs=8))
    >>> rungs(8, 20)
    (Rung(arms=4, epochs=2), Rung(arms=2, epochs=4))
    >>> rungs(8, 3)
    ()
    """
    while arms >= 2:
        sizes = _halvings(arms)
        first = min(
            MOST_EPOCHS // 2 ** (len(sizes) - 1),
            math.floor(epochs / sum(n * 2**i for i, n in enumerate(sizes))),
        )
        if first >= LEAST_EPOCHS:
            return tuple(Rung(n, first * 2**i) for i, n in enumerate(sizes))
        arms = arms // 2 if arms >= 4 else arms - 1
    return ()


def alone(epochs: float) -> tuple[Rung, ...]:
    """One arm, where there is no time for a race; nothing where there is none for it.

    >>> alone(5.9), alone(1.9)
    ((Rung(arms=1, epochs=5),), ())
    """
    return (Rung(1, min(MOST_EPOCHS, math.floor(epochs))),) if epochs >= LEAST_EPOCHS else ()


def _halvings(arms: int) -> list[int]:
    sizes = [arms]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


def cost(of: tuple[Rung, ...]) -> int:
    """Epochs of single arms that the rungs have in all."""
    return sum(rung.arms * rung.epochs for rung in of)
