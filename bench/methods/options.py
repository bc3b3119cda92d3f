"""Options of all methods, and of all classifiers on fixed features; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bench.core.errors import GridError
from bench.specs.data import ADDED, Bool, Count, Frozen, NonNegative, Positive
from bench.specs.run import RunSpec


class MethodOptions(Frozen):
    """A method's own options, and what they ask of the run around them.

    Attributes:
        whole_images: the method looks at whole images itself, so it takes no samples of views.
        gone: options of earlier versions, with what to do instead.
    """

    whole_images: ClassVar[bool] = False
    gone: ClassVar[Mapping[str, str]] = {}

    @property
    def uses_kernels(self) -> bool:
        """Whether images are described by the kernels of a trained network."""
        return False

    @property
    def keeps_source_head(self) -> bool:
        """Whether the classifier of the first borrowed selection is the parent's."""
        return False

    def check_spec(self, spec: RunSpec) -> None:
        """Raises a GridError for an option that this run cannot have."""

    def check_sources(self, sizes: Sequence[int]) -> None:
        """Raises a DataError for an option that needs more borrowed images than there are."""

    def identity(self) -> dict[str, Any]:
        """The options as a run's id and record have them: every default but those `ADDED`."""
        return self.model_dump(mode="json", exclude=self.quiet_fields())


class FeatureOptions(MethodOptions):
    """Options of all classifiers on fixed features.

    Attributes:
        layer: `penultimate`, a layer's number, or a module's name.
        stage: what of it, see `bench.training.features.extract`; `end` is what the layer hands on
            after activation, pooling and normalisation (LI Fig. 10). Not read for `penultimate`.
        c: the inverse strength of the penalty; None chooses on validation images.
        max_iter: of the solver.
        memory_mib: features that take more are kept in a file and read in blocks.
        solver: `sklearn`, `streaming`, or `auto` by `memory_mib`.
        normalise: features are divided by their Euclidean length.
        parts: so many random parts of each training image, of 35 % of its area or more and mirrored
            at random, are fitted to beside the whole image. The image and its parts together weigh
            as much as one image without parts, so C means the same.
    """

    layer: str = "penultimate"
    stage: Literal["pre", "post", "end", "output"] = "end"
    c: Positive | None = None
    max_iter: Count = 1000
    memory_mib: Count = 1024
    solver: Literal["auto", "sklearn", "streaming"] = "auto"
    normalise: Bool = True
    parts: Annotated[NonNegative, Field(le=100), ADDED] = 0

    def check_spec(self, spec: RunSpec) -> None:
        """Raises a GridError for a layer that the network does not have."""
        depth = spec.layers.depth
        if self.layer.isdigit() and not 1 <= int(self.layer) <= depth:
            raise GridError(
                f"method.layer is {self.layer}, and {spec.model.name} has layers 1 to {depth}",
                hint="choose one of them, penultimate, or the name of a module",
            )
