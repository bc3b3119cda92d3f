"""A linear SVM, one class against the rest, on features of a network that stays as it is.

LI §4.3.1 (Table 3, fc7 before and after fine-tuning) and SFT §3.1 (Table 2, "w/o ft"). The papers
do not say which SVM: it is linear with the squared hinge loss, C is chosen on validation images
from 0.01, 0.1, 1 and 10, features are scaled to length 1 (an option).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

if TYPE_CHECKING:
    from bench.methods.features.task import FeatureTask, Fitted


Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


class FeatureOptions(BaseModel):
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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = "penultimate"
    stage: Literal["pre", "post", "end", "output"] = "end"
    c: Positive | None = None
    max_iter: Annotated[int, Strict(), Field(ge=1)] = 1000
    memory_mib: Annotated[int, Strict(), Field(ge=1)] = 1024
    solver: Literal["auto", "sklearn", "streaming"] = "auto"


class SvmOptions(FeatureOptions):
    """Options of the SVM.

    Attributes:
        normalise: features are divided by their Euclidean length.
    """

    normalise: Annotated[bool, Strict()] = True


class Svm:
    """Fits the SVM; see the module's docstring."""

    choices = (0.01, 0.1, 1.0, 10.0)

    def __init__(self, options: SvmOptions) -> None:
        self.options = options

    def fit(self, task: FeatureTask) -> Fitted:
        """Features, classifier and what became of it."""
        from bench.methods.features.linear_probe import Recipe, fit

        o = self.options
        c = self.choices if o.c is None else (o.c,)
        recipe = Recipe(
            "squared_hinge", o.layer, o.stage, o.normalise, c, o.max_iter, o.memory_mib, o.solver
        )
        return fit(task, recipe)
