"""A linear SVM, one class against the rest, on features of a network that stays as it is.

LI §4.3.1 (Table 3, fc7 before and after fine-tuning) and SFT §3.1 (Table 2, "w/o ft"). The papers
do not say which SVM: it is linear with the squared hinge loss, C is chosen on validation images
from 0.01, 0.1, 1 and 10, features are scaled to length 1 (an option).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bench.core.errors import GridError
from bench.methods.options import MethodOptions
from bench.specs.data import Bool, Count, Positive
from bench.specs.run import RunSpec

if TYPE_CHECKING:
    from bench.methods.features.task import FeatureTask, Fitted


class FeatureOptions(MethodOptions):
    """Options of all classifiers on fixed features.

    Attributes:
        layer: `penultimate`, a layer's number, or a module's name.
        stage: what of it, see `bench.training.features.extract`; `end` is what the layer hands on
            after activation, pooling and normalisation (LI Fig. 10). Of no account for
            `penultimate`.
        c: the inverse strength of the penalty; None chooses on validation images.
        max_iter: of the solver.
        memory_mib: features that take more are kept in a file and read in blocks.
        solver: `sklearn`, `streaming`, or `auto` by `memory_mib`.
        normalise: features are divided by their Euclidean length.
    """

    layer: str = "penultimate"
    stage: Literal["pre", "post", "end", "output"] = "end"
    c: Positive | None = None
    max_iter: Count = 1000
    memory_mib: Count = 1024
    solver: Literal["auto", "sklearn", "streaming"] = "auto"
    normalise: Bool = True

    def check_spec(self, spec: RunSpec) -> None:
        """Checks the number of the layer.

        Raises:
            GridError: the network has no such layer.
        """
        depth = spec.layers.depth
        if self.layer.isdigit() and not 1 <= int(self.layer) <= depth:
            raise GridError(
                f"method.layer is {self.layer}, and {spec.model.name} has layers 1 to {depth}",
                hint="choose one of them, penultimate, or the name of a module",
            )


class SvmOptions(FeatureOptions):
    """Options of the SVM."""


class Svm:
    """Fits the SVM; see the module's docstring."""

    def __init__(self, options: SvmOptions) -> None:
        self.options = options

    def fit(self, task: FeatureTask) -> Fitted:
        """The SVM on the features of the option's layer."""
        from bench.methods.features.linear_probe import fit

        return fit(task, "squared_hinge", (0.01, 0.1, 1.0, 10.0), self.options)
