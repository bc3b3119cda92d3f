"""A classifier that begins as a logistic regression on the copied network's features (LP-FT).

Kumar et al. 2022 (ICLR): a random classifier sends large, senseless gradients into copied layers;
one that is fitted first leaves their features nearer to where they were.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.core.errors import ModelError
from bench.methods.features.linear_probe import FeatureModel, fit
from bench.methods.features.probe import ProbeOptions
from bench.methods.features.task import FeatureTask
from bench.models.domains import classifier_name
from bench.runs.execution import Execution

C = 0.1
"""Inverse of the L2 penalty; fixed, so that it does not depend on there being validation images."""


def probe_head(run: Execution, model: nn.Module) -> str:
    """Fits the classifier of `model`, which is otherwise as it begins; a line for the record.

    Args:
        run: whose training images are fitted to, without augmentation.
        model: after its pattern was applied; it stays in whatever mode it is put next.

    Raises:
        ModelError: the classifier is not one linear map.
    """
    name = classifier_name(model)
    linear = [m for m in model.get_submodule(name).modules() if isinstance(m, nn.Linear)]
    if len(linear) != 1:
        raise ModelError(
            f"the classifier {name} of {run.spec.model.name} is not one linear map, so head: probe "
            "cannot begin it",
            hint="leave train.head out",
        )
    train = run.data.domain("train", model)
    task = FeatureTask(model, train, None, run.device, run.folder.path)
    fitted = fit(task, "logistic", (C,), ProbeOptions(c=C))
    assert isinstance(fitted.model, FeatureModel)
    with torch.no_grad():
        linear[0].weight.copy_(fitted.model.probe.weight)
        linear[0].bias.copy_(fitted.model.probe.bias)
    model.train()
    accuracy = fitted.outcome.history[0]["train_top1_accuracy"]
    return f"the classifier began as a logistic regression, right on {accuracy:.1%} of its images"
