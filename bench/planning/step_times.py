"""How long a step of a network takes on this machine: measured on made-up images, in a child.

On a CPU with one thread the time is that of the processor, so that what else runs on the machine
does not move it; else it is the time of the clock.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bench.core import processor
from bench.core.child_process import answer_one
from bench.core.errors import BenchError
from bench.models import layers
from bench.models.numbering import numbered_layers
from bench.models.prefix import prefix_suffix
from bench.models.tuning import tune_only
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec
from bench.training import optimizers
from bench.training.domain import Domain, DomainBatch, Step
from bench.training.domain_batches import Feed, FeedOptions, further_noise
from bench.training.evaluation import predict_feed
from bench.training.precision import native_precision, resolved
from bench.training.process import prepare
from bench.training.steps import Stepper, Sums, shown_in

_CLASSES = 10
_FEW, _TRIED = 2, 8
"""Images of the first step, and at least of the largest that is measured."""
_STEP_S, _MEASURED_S = 1.0, 0.1
"""The longest step that is measured, and how long one is repeated."""
_MOST_BEFORE_WAIT = 20
"""Steps that a GPU is handed at the most before it is waited for: a run waits once an epoch, and
hands over steps while others are computed."""
_MOST_S = 30.0
"""Networks that have not been measured by then are left out."""


def measured(asked: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """The times of each network of `asked["networks"]`; None where it cannot be trained here.

    See `bench.planning.forecast.Workload` for what is asked, and `StepTimes` for the answer.
    """
    prepare(asked["threads"])
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if asked["device"] == "auto" else asked["device"])
    clock = _clock(device)
    begun = clock()
    answers: list[dict[str, Any] | None] = []
    for network in asked["networks"]:
        answers.append(None)
        if clock() - begun < _MOST_S:
            # A network that cannot be trained is the run's own failure, with its reason.
            with contextlib.suppress(BenchError, RuntimeError, ValueError, MemoryError):
                answers[-1] = _Trial(network, device).times()
    return answers


class _Trial:
    """A network with its recipe, as a run has it, and made-up images."""

    def __init__(self, asked: Mapping[str, Any], device: torch.device) -> None:
        clock = _clock(device)
        begun = clock()
        self.device, self.size = device, asked["image_size"]
        self.counts, self.frozen = asked["images"], asked["frozen"]
        self.train = TrainSpec(**asked["train"])
        spec = ModelSpec(**asked["model"])
        self.model = layers.create(spec, _CLASSES, seed=0, image_size=self.size)
        depth = len(numbered_layers(self.model))
        self.frozen = min(self.frozen, depth - 1)
        parts = [f"F(1-{self.frozen})" if self.frozen else "", f"R({depth})"]
        if self.frozen < depth - 1:
            parts.insert(1, f"T({self.frozen + 1}-{depth - 1})")
        self.pattern = LayerPattern.parse("".join(parts))
        parameters = dict(self.model.named_parameters())
        for layer in numbered_layers(self.model)[: self.frozen]:
            for name in layer.parameters:
                parameters[name].requires_grad_(False)
        if self.train.tuned in ("norm", "bias"):
            tune_only(self.model, self.pattern, self.train.tuned)
        layers.frozen_fingerprint(self.model, self.pattern)
        self.setup_s = clock() - begun
        self.model.to(device)
        if self.train.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def times(self) -> dict[str, Any]:
        """Seconds by the number of images."""
        set_modes = layers.freeze_modes(self.model, self.pattern, self.train.frozen_dropout)
        halves = prefix_suffix(self.model, self.frozen, self.size) if self.frozen else None
        prefix, behind = halves or (None, self.model)
        self.model.train()
        set_modes()
        feed = self._feed(_TRIED, prefix)
        plain = FeedOptions(self.device, self.train.channels_last, self.train.precision)
        few = self._seconds(self._stepper(feed, behind), _FEW, once=True)
        largest = max(_TRIED, int(_FEW * _STEP_S / few))
        counts = sorted({min(count, largest) for count in self.counts})
        images = self._images(counts[-1])
        feed = Feed(images, plain.augmented(self.train, mixes=False), prefix)
        found: dict[str, Any] = {
            "device": _name(self.device),
            "setup_s": self.setup_s,
            "train_s": self._by_count(feed, behind, counts),
        }
        precision = resolved(self.train.precision, self.device)
        if precision == "bfloat16" and native_precision(self.device) == "float32":
            plainly = self._in_float32(feed, behind, counts[-1])
            found["emulated"] = found["train_s"][-1][1] / plainly
        if prefix is not None:
            kept = Feed(images, plain, prefix)
            kept.cache_prefix()
            self.model.train()
            set_modes()
            found["cached_s"] = self._by_count(kept, behind, counts)
        self.model.eval()
        whole = Feed(images, plain)
        forward = self._repeated(lambda: predict_feed(self.model, whole))
        found["forward_s"] = [[counts[-1], forward]]
        return found

    def _in_float32(self, feed: Feed, behind: Any, count: int) -> float:
        """Seconds of the same step in float32."""
        train = self.train.model_copy(update={"precision": "float32"})
        options = FeedOptions(self.device, train.channels_last).augmented(train, mixes=False)
        other = Feed(feed.domain, options, feed.prefix)
        return self._seconds(self._stepper(other, behind, train), count)

    def _images(self, count: int) -> Domain:
        rng = np.random.default_rng(0)
        shape = (count, self.size, self.size, 3)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        return Domain("made up", pixels, np.arange(count) % _CLASSES, _CLASSES)

    def _feed(self, count: int, prefix: Any) -> Feed:
        options = FeedOptions(self.device, self.train.channels_last, self.train.precision)
        return Feed(self._images(count), options.augmented(self.train, mixes=False), prefix)

    def _stepper(self, feed: Feed, behind: Any, train: TrainSpec | None = None) -> Stepper:
        groups = layers.parameter_groups(self.model, self.pattern, self.train)
        optimizer = optimizers.build(groups, self.train)
        recipe = (train or self.train).model_copy(update={"accumulate": 1})
        return Stepper(lambda inputs, parts: [behind(inputs)], optimizer, [feed], 0, recipe)

    def _by_count(self, feed: Feed, behind: Any, counts: Sequence[int]) -> list[list[float]]:
        stepper = self._stepper(feed, behind)
        return [[count, self._seconds(stepper, count)] for count in counts]

    def _seconds(self, stepper: Stepper, count: int, once: bool = False) -> float:
        step: Step = (DomainBatch(0, np.arange(count)),)
        (shown,) = shown_in([step], 0, 0, self.device, further_noise(self.train))
        sums = Sums.zero(self.device)
        return self._repeated(lambda: stepper.take(step, shown, sums), 1 if once else 3)

    def _repeated(self, work: Callable[[], object], least: int = 3) -> float:
        """The median of its times; the first, which allocates, does not count.

        On a GPU those of several in a row, as many as one by itself leaves time for.
        """
        clock, on_gpu = _clock(self.device), self.device.type == "cuda"
        seconds: list[float] = []
        spent_s, in_a_row = 0.0, 1
        for _ in range(101):
            begun = clock()
            for _ in range(in_a_row):
                work()
            if on_gpu:
                torch.cuda.synchronize(self.device)
            took_s = clock() - begun
            seconds.append(took_s / in_a_row)
            spent_s += took_s if len(seconds) > 1 else 0.0
            if len(seconds) > least and spent_s > _MEASURED_S:
                break
            if on_gpu and len(seconds) == 2:
                in_a_row = min(_MOST_BEFORE_WAIT, max(1, int(_MEASURED_S / max(took_s, 1e-9))))
        return statistics.median(seconds[2:] if in_a_row > 1 else seconds[1:])


def _clock(device: torch.device) -> Callable[[], float]:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.monotonic


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor.name()


if __name__ == "__main__":
    answer_one(measured)
