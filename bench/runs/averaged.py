"""A run whose weights are a mean of those that another run began and ended with (WiSE-FT)."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import nn

from bench.core.errors import StoreError
from bench.methods import options_of
from bench.methods.averaging import WiseOptions, interpolated
from bench.models import layers
from bench.runs.build import Loader, classes_of_parent
from bench.runs.execution import Execution
from bench.runs.probed_head import probe_head
from bench.runs.record import Finished
from bench.specs.run import RunSpec
from bench.training.evaluation import cross_entropy, predict, top1_accuracy
from bench.training.job import Outcome, Row
from bench.training.process import peak_memory_bytes


def averaged(run: Execution) -> Finished:
    """The mean of the parent as it began and as it ended; nothing is trained.

    Raises:
        StoreError: the parent's classifier has other outputs, or its weights are not there.
    """
    began, parent, options = time.monotonic(), run.spec.parent, options_of(run.spec.method)
    assert parent is not None  # WiseOptions.check_spec
    assert isinstance(options, WiseOptions)
    if classes_of_parent(run.spec, run.context) != run.data.loaded.classes:
        raise StoreError(
            "the classes of the target are not those of the run to start from, in their order",
            place=str(run.folder.path),
            hint="leave target out of parent: it takes over the run's own",
        )
    model, start = (run.network(run.parent_state()) for _ in range(2))
    notes = _put_back(start, run, parent)
    state = interpolated(start.state_dict(), model.state_dict(), options.alpha)
    model.load_state_dict(state)
    if run.spec.train.channels_last:  # so at alpha 1 scores are the parent's to the bit
        model.to(memory_format=torch.channels_last)
    outcome = Outcome(
        status="done",
        history=[_validated(model, run)],
        best_epoch=0,
        state={name: value.cpu() for name, value in state.items()},
        steps=0,
        images_seen=0,
        seconds=time.monotonic() - began,
        peak_memory_bytes=peak_memory_bytes(run.device),
        notes=notes,
    )
    return Finished(run.spec, run.data, model, outcome)


def _put_back(model: nn.Module, run: Execution, parent: RunSpec) -> tuple[str, ...]:
    """Gives the copied layers of the fine-tuned `model` the weights that they began with."""
    first = replace(run, spec=parent, data=Loader(run.context)(parent))
    layers.apply_pattern(model, parent.layers, first.parent_state())
    if parent.train.head != "probe":
        return ()
    return (f"at alpha 0 {probe_head(first, model)}",)


def _validated(model: nn.Module, run: Execution) -> Row:
    """The one line of the history; empty cells without validation images."""
    data, recipe = run.data.domain("val", model), run.spec.train
    loss = accuracy = None
    if data.size:
        scores = predict(
            model.eval(),
            data,
            device=run.device,
            precision=recipe.precision,
            channels_last=recipe.channels_last,
        )
        loss, accuracy = cross_entropy(scores, data.labels), top1_accuracy(scores, data.labels)
    row: Row = {"epoch": 0, "lr": None, "train_loss": None, "train_top1_accuracy": None}
    return row | {"val_loss": loss, "val_top1_accuracy": accuracy}
