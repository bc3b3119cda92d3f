"""How the race went, kind by kind: the best of each, on validation images, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.text import counted
from bench.race.arms import FAMILIES
from bench.race.race import Standing

_NOT_BEGUN = "not begun: there was time for fewer recipes"


@dataclass(frozen=True)
class FamilyBest:
    """The recipe of a kind that came furthest, and of equals the best.

    Attributes:
        words: the recipe, its epochs and, where those of the race differ, its image size; or the
            kind of which none was begun.
        accuracy: top-1 on validation images, a fraction; None where nothing was measured.
        end: why it ended: chosen, behind the winner, dropped after a rung, given up, not begun.
    """

    words: str
    accuracy: float | None
    end: str

    def __str__(self) -> str:
        shown = "–" if self.accuracy is None else f"{100 * self.accuracy:.1f} %"
        return f"{shown:>7}  {self.words}: {self.end}"


def best_of_families(course: Sequence[Standing]) -> list[FamilyBest]:
    """A line for each kind of recipe, the chosen one first, then by validation accuracy.

    Accuracies after unlike numbers of epochs stand side by side, so the epochs are named.

    Args:
        course: of a `Result`.
    """
    found, sizes = [], {standing.stage.size for standing in course}
    for family in FAMILIES:
        members = [standing for standing in course if standing.arm.family == family]
        if not members:
            found.append(FamilyBest(family, None, _NOT_BEGUN))
            continue
        best = min(members, key=_furthest)
        epochs = best.arm.epochs(best.stage.epochs)
        parts = [best.arm.words, *([counted(epochs, "epoch")] if epochs else [])]
        parts += [f"{best.stage.size} pixels"] if len(sizes) > 1 else []
        equal = sum(one.accuracy == best.accuracy for one in members if one is not best)
        same = f" ({counted(equal, 'other')} of its kind as good)" if equal and epochs == 0 else ""
        found.append(FamilyBest(", ".join(parts), best.accuracy, best.end + same))
    return sorted(found, key=lambda one: (not one.end.startswith("chosen"), -(one.accuracy or 0.0)))


def _furthest(standing: Standing) -> tuple[bool, bool, int, tuple[float, float]]:
    unmeasured = standing.accuracy is None
    return standing.end != "chosen", unmeasured, -standing.stage.epochs, standing.order
