"""Runs whose weights are a mean of those of others; nothing is trained.

A run by WiSE-FT is between those that its parent began and ended with. A soup averages runs that
differ in what its `over` states; the plan has them, as it has parents.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import StoreError
from bench.core.text import counted
from bench.methods import options_of
from bench.methods.averaging import SoupOptions, WiseOptions, interpolated
from bench.models import layers
from bench.runs.build import Loader, classes_of_parent
from bench.runs.execution import Execution
from bench.runs.parents import trained_state
from bench.runs.probed_head import probe_head
from bench.runs.record import Finished
from bench.runs.soup import mean_of
from bench.specs.run import RunSpec, run_id
from bench.training.domain import Domain
from bench.training.evaluation import Logits, cross_entropy, predict, top1_accuracy
from bench.training.job import Outcome, Row
from bench.training.process import peak_memory_bytes


def averaged(run: Execution) -> Finished:
    """The network and its validation.

    Raises:
        StoreError: weights to average are not there; of WiSE-FT also where the parent's classifier
            has other outputs.
    """
    began, options = time.monotonic(), options_of(run.spec.method)
    if isinstance(options, SoupOptions):
        made = _soup(run, options)
    else:
        assert isinstance(options, WiseOptions)
        made = _between(run, options)
    model = made.model
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    outcome = Outcome(
        status="done",
        history=[made.row],
        best_epoch=0,
        state=state,
        steps=0,
        images_seen=0,
        seconds=time.monotonic() - began,
        peak_memory_bytes=peak_memory_bytes(run.device),
        notes=made.notes,
    )
    return Finished(run.spec, run.data, model, outcome, notes=made.of_method, trainable=0)


@dataclass(frozen=True, eq=False)
class _Average:
    """A network; the one line of its history; notes for the record, and those of the method."""

    model: nn.Module
    row: Row
    notes: tuple[str, ...] = ()
    of_method: Mapping[str, Any] = field(default_factory=dict)


def _between(run: Execution, options: WiseOptions) -> _Average:
    """The mean of the parent as it began and as it ended."""
    parent = run.spec.parent
    assert parent is not None  # WiseOptions.check_spec
    if classes_of_parent(run.spec, run.context) != run.data.loaded.classes:
        raise StoreError(
            "the classes of the target are not those of the run to start from, in their order",
            place=str(run.folder.path),
            hint="leave target out of parent: it takes over the run's own",
        )
    model, start = (run.network(run.parent_state()) for _ in range(2))
    notes = _put_back(start, run, parent)
    model.load_state_dict(interpolated(start.state_dict(), model.state_dict(), options.alpha))
    _in_memory_as_trained(model, run)
    return _Average(model, _row(model, run, _held_out(model, run, [parent])), notes)


def _soup(run: Execution, options: SoupOptions) -> _Average:
    """The mean of the runs that differ in `method.over`, or of some of them."""
    ingredients = run.spec.ingredients
    states = [trained_state(one, run.context) for one in ingredients]
    model = run.network(run.parent_state())
    _in_memory_as_trained(model, run)

    held = _held_out(model, run, ingredients)

    def accuracy_of(state: Mapping[str, Tensor]) -> float:
        model.load_state_dict(state)
        assert held is not None
        return top1_accuracy(_scores(model, run, held), held.labels)

    mean = mean_of(states, options.choose, None if held is None else accuracy_of)
    model.load_state_dict(mean.state)
    ids = [run_id(one, run.context.fingerprint) for one in ingredients]
    runs = [
        {"run": key, "val_top1_accuracy": accuracy, "used": number in mean.used}
        for number, (key, accuracy) in enumerate(zip(ids, mean.alone, strict=True))
    ]
    note = f"the mean of the weights of {len(mean.used)} of {counted(len(ids), 'run')}"
    return _Average(model, _row(model, run, held), (note,), {"averaged": runs})


def _in_memory_as_trained(model: nn.Module, run: Execution) -> None:
    """So that scores of a mean of one network are those of the network to the bit."""
    if run.spec.train.channels_last:
        model.to(memory_format=torch.channels_last)


def _put_back(model: nn.Module, run: Execution, parent: RunSpec) -> tuple[str, ...]:
    """Gives the copied layers of the fine-tuned `model` the weights that they began with."""
    first = replace(run, spec=parent, data=Loader(run.context)(parent))
    layers.apply_pattern(model, parent.layers, first.parent_state())
    if parent.train.head != "probe":
        return ()
    return (f"at alpha 0 {probe_head(first, model)}",)


def _held_out(model: nn.Module, run: Execution, averaged: Sequence[RunSpec]) -> Domain | None:
    """The validation images; None without any that no averaged run learned."""
    data = run.data.domain("val", model)
    return data if data.size and not any(one.train.refit for one in averaged) else None


def _scores(model: nn.Module, run: Execution, data: Domain) -> Logits:
    recipe = run.spec.train
    return predict(
        model.eval(),
        data,
        device=run.device,
        precision=recipe.precision,
        channels_last=recipe.channels_last,
    )


def _row(model: nn.Module, run: Execution, held: Domain | None) -> Row:
    """The one line of the history; empty cells without validation images."""
    loss = accuracy = None
    if held is not None:
        scores = _scores(model, run, held)
        loss, accuracy = cross_entropy(scores, held.labels), top1_accuracy(scores, held.labels)
    row: Row = {"epoch": 0, "lr": None, "train_loss": None, "train_top1_accuracy": None}
    return row | {"val_loss": loss, "val_top1_accuracy": accuracy}
