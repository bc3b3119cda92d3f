"""Logistic regression on a layer of a network that stays as it is.

LI §4.3.2 (Fig. 10): a linear layer and softmax on the activations of each layer of
near, far, fine-tuned and scratch models. The paper does not say how it is fitted: L-BFGS, the L2
penalty chosen on validation images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.methods.options import FeatureOptions
from bench.specs.data import Bool

if TYPE_CHECKING:
    from bench.methods.features.task import FeatureTask, Fitted


class ProbeOptions(FeatureOptions):
    """Options of the probe; its features keep their length."""

    normalise: Bool = False


class Probe:
    """Fits the probe; see the module's docstring."""

    def __init__(self, options: ProbeOptions) -> None:
        self.options = options

    def fit(self, task: FeatureTask) -> Fitted:
        """The probe on the option's layer."""
        from bench.methods.features.linear_probe import fit

        return fit(task, "logistic", (0.001, 0.01, 0.1, 1.0, 10.0), self.options)
