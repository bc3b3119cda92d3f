"""What a run is evaluated on beside its own test images: identities that it was not trained on."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from bench.specs.data import Count, Frozen, NonNegative, Where


def _names(value: object) -> object:
    return (
        tuple(str(name) for name in value)
        if isinstance(value, list | tuple) and all(isinstance(name, str | int) for name in value)
        else value
    )


class VerificationSpec(Frozen):
    """Are two images of one identity? (SFT-6)

    Identities are classes: the target's are trained on, others of the same data set tested on, by
    the cosine of penultimate features over all pairs of their images.

    Attributes:
        identities: to test on: which classes, or how many at random; None is all that neither the
            target nor a source has.
        identity_draw: seed of that choice.
        images_per_identity: the first in an order by hash; None is all.
        where: restricts the test images to values of the manifest's columns `group_NAME`.
    """

    identities: (
        Count | Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=2)] | None
    ) = None
    identity_draw: NonNegative = 0
    images_per_identity: Count | None = None
    where: Where = ()

    def label(self) -> str:
        """In a few words, for a column."""
        who = self.identities
        parts = [
            "all others" if who is None else f"{who if isinstance(who, int) else len(who)} others",
            f"draw {self.identity_draw}" if isinstance(who, int) else "",
            f"{self.images_per_identity} images each" if self.images_per_identity else "",
            *(f"{name}={','.join(values)}" for name, values in self.where),
        ]
        return ", ".join(part for part in parts if part)


class EvaluateSpec(Frozen):
    """Evaluations besides those of every run.

    Attributes:
        verification: are two images of one identity? `{}` takes all its defaults.
    """

    verification: VerificationSpec
