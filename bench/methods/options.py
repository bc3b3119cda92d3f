"""What the options of all methods have in common; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from bench.specs.data import Frozen
from bench.specs.run import RunSpec


class MethodOptions(Frozen):
    """A method's own options, and what they ask of the run around them.

    Attributes:
        whole_images: the method looks at whole images itself, so it takes no samples of views.
    """

    whole_images: ClassVar[bool] = False

    @property
    def uses_kernels(self) -> bool:
        """Whether images are described by the kernels of a trained network."""
        return False

    @property
    def keeps_source_head(self) -> bool:
        """Whether the classifier of the first borrowed selection is the parent's."""
        return False

    def check_spec(self, spec: RunSpec) -> None:
        """Checks the options against the rest of the run, before anything is computed.

        Raises:
            GridError: an option that this run cannot have.
        """

    def check_sources(self, sizes: Sequence[int]) -> None:
        """Checks the options against the number of images of each borrowed selection.

        Raises:
            DataError: an option asks for more images than there are.
        """

    def identity(self) -> dict[str, Any]:
        """The options as a run's id and record have them: every default but those `ADDED`."""
        return self.model_dump(mode="json", exclude=self.quiet_fields())
