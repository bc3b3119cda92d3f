"""A linear SVM, one class against the rest, on features of a network that stays as it is.

LI §4.3 (Table 3, fc7 before and after fine-tuning) and SFT §3.1 (Table 2, "w/o ft"). The papers
do not say which SVM: it is linear with the squared hinge loss, C is chosen on validation images
from 0.01, 0.1, 1 and 10, features are scaled to length 1 (an option).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.methods.options import FeatureOptions

if TYPE_CHECKING:
    from bench.methods.features.task import FeatureTask, Fitted


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
