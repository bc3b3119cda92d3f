"""Logistic regression on a layer of a network that stays as it is: what does the layer tell apart?

LI §4.3.2 (Fig. 10): a linear layer and softmax on the activations of each layer of
near, far, fine-tuned and scratch models. The paper does not say how it is fitted: L-BFGS, the L2
penalty chosen on validation images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Strict

from bench.methods.features.svm import FeatureOptions

if TYPE_CHECKING:
    from bench.methods.features.task import FeatureTask, Fitted


class ProbeOptions(FeatureOptions):
    """Options of the probe.

    Attributes:
        normalise: features are divided by their Euclidean length.
    """

    normalise: Annotated[bool, Strict()] = False


class Probe:
    """Fits the probe; see the module's docstring."""

    choices = (0.001, 0.01, 0.1, 1.0, 10.0)

    def __init__(self, options: ProbeOptions) -> None:
        self.options = options

    def fit(self, task: FeatureTask) -> Fitted:
        """Features, classifier and what became of it."""
        from bench.methods.features.linear_probe import Recipe, fit

        o = self.options
        c = self.choices if o.c is None else (o.c,)
        recipe = Recipe(
            "logistic", o.layer, o.stage, o.normalise, c, o.max_iter, o.memory_mib, o.solver
        )
        return fit(task, recipe)
