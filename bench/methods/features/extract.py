"""Extraction: features of images at named layers of a network that is not trained, kept as a file.

Distances between source and target (CHU §3.1), the average precision of filters (LI
§4.3.1, LI-7), scores of transferability and the clustering of concepts never trained (SFT Fig. 1)
are computed from these. An extraction is a run, so it is planned, shared, launched and resumed like
a training; instead of weights it leaves `features.npz`:

    layer.<name>   (N, …) float32, one array for each layer of the option
    labels         (N,) int64, places in `classes`
    classes        (C,) names
    images         (N,) keys of the images; sha256 (N,) of their content
    split          (N,) train, val or test
    pixels         (N, P, P, 3) uint8, where the option gives a size

Images are not augmented and the network is in evaluation mode. Rows are written to memory maps
block by block and taken up there again after an interruption, so memory does not grow with N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.methods.features.extract_options import ExtractOptions

if TYPE_CHECKING:
    from bench.methods.features.task import FeatureTask, Fitted


class Extract:
    """Writes the features of a task's images; see the module's docstring."""

    def __init__(self, options: ExtractOptions) -> None:
        self.options = options

    def fit(self, task: FeatureTask) -> Fitted:
        """The features as a file of the run; an interrupted one is taken up next time."""
        from bench.methods.features.extraction import extract_to_file

        return extract_to_file(task, self.options)
