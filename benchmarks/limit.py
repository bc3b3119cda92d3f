"""A grid against its arithmetic: `python -m benchmarks.limit GRID [--only E] [--set …]`.

The limit is forward, backward and the optimiser's step of as many images as the grid trains on, in
batches that lie in memory, and the forward passes of its evaluations, each network's step measured
here in the grid's own precision. The grid is trained in this process by the function that workers
call, its data decoded before. Both are seconds of the processor with one thread, so that what else
runs on the machine moves them little. The goal is a share of 0.8.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from bench.models import layers
from bench.models.numbering import numbered_layers
from bench.planning.plan import batches
from bench.planning.workspace import Session, open_session
from bench.runs.build import Context, Loader
from bench.runs.execute import execute_batch
from bench.specs.planned import PlannedRun
from bench.specs.run import ModelSpec
from bench.training.precision import autocast
from bench.training.process import prepare

_CPU = torch.device("cpu")


@cache
def step_s(model: str, size: int, frozen: int, count: int, precision: str) -> tuple[float, float]:
    """Seconds of a training step and of a forward pass of `count` images in memory."""
    net = layers.create(ModelSpec(name=model), 10, seed=0, image_size=size)
    net.to(memory_format=torch.channels_last)
    parameters = dict(net.named_parameters())
    for layer in numbered_layers(net)[:frozen]:
        for name in layer.parameters:
            parameters[name].requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 10

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(_CPU, precision):
            scores = net(images)
        cross_entropy(scores.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def forward() -> None:
        with torch.no_grad(), autocast(_CPU, precision):
            net(images)

    trained_s = _median(net.train() and train)
    return trained_s, _median(net.eval() and forward)


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(12):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds[2:])


def limit_s(run: PlannedRun) -> float:
    """The arithmetic of one plain training; nothing is kept of frozen layers where images vary."""
    spec, train = run.spec, run.spec.train
    images = run.facts.train_images
    passes = math.ceil(images / train.batch_size)
    step, _ = step_s(
        spec.model.name,
        spec.data.image_size,
        spec.layers.frozen_prefix,
        round(images / passes),
        train.precision,
    )
    _, forward = step_s(spec.model.name, spec.data.image_size, 0, 64, train.precision)
    validation = spec.data.val_per_class * len(run.facts.classes)
    held = validation * train.epochs / train.evaluate_every
    held += run.facts.held_out_images - validation
    return train.epochs * passes * step + held * forward / 64


def grid_s(session: Session, runs: list[PlannedRun]) -> float:
    """Trains the runs; seconds of the processor, records and evaluations included."""
    context = Context(
        str(session.store.root.resolve()),
        str(session.data_root.resolve()) if session.data_root else None,
        device="cpu",
    )
    load = Loader(context)
    for run in runs:  # decoded by somebody before
        load(run.spec)
    begun = time.process_time()
    for batch in batches(runs, cost_s=lambda run: 1.0, limit_s=math.inf):
        execute_batch(
            [(run.id, run.spec) for run in batch.runs],
            context,
            report=lambda event: None,
            should_stop=lambda: False,
        )
    return time.process_time() - begun


def main() -> None:
    """Prints the seconds of both and their share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    prepare(1)
    with tempfile.TemporaryDirectory() as fresh:
        session = open_session(
            given.grid,
            results=given.results or Path(fresh),
            data_root=given.data_root,
            only=given.only,
            overrides=given.overrides,
        )
        states = session.states()
        runs = [r for r in session.wanted if r.role != "extract" and states[r.id] == "missing"]
        if any(run.spec.method.name != "plain" or run.spec.train.expand_to for run in runs):
            raise SystemExit("only plain training without expansion has this limit")
        limit = sum(map(limit_s, runs))
        took = grid_s(session, runs)
    print(
        f"{len(runs)} runs: {took:.1f} s of the processor, {limit:.1f} s of them arithmetic: "
        f"{limit / took:.2f}"
    )


if __name__ == "__main__":
    main()
