"""How long runs will take: from a measured step of each network on this machine, never a guess.

The step is measured in a child (`bench.planning.step_times`), since that needs torch, and
remembered for the machine. Finished runs of the same results folder then correct the forecast.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from bench.core import processor
from bench.core.child_process import ChildDiedError, ask
from bench.core.files import write_atomic
from bench.methods import METHODS
from bench.methods.features.cost import copies_of, fit_s
from bench.planning.decoding import Decoding
from bench.results.states import Reading
from bench.specs.planned import PlannedRun
from bench.specs.run import ModelSpec, canonical_json

_VERSION = 2
"""Raise it when what is measured, or how, changes."""
_RECIPE = ("optimizer", "precision", "channels_last", "augment", "policy", "random_erasing")
"""What of a recipe makes a step cheaper or dearer."""
_NEAR = 1.25
"""How many times as many images a pass may have as the largest that was asked for, and how many
times fewer than the smallest."""
_RUN_S, _WORKER_S = 0.25, 4.0
"""Processor seconds around the training of a run, and those in which a worker imports torch."""

Points = Sequence[Sequence[float]]
"""Numbers of images, and the seconds of a pass over so many."""


@dataclass(frozen=True)
class StepTimes:
    """What was measured of a network at one size, with so many frozen layers.

    Attributes:
        device: name of the processor or GPU.
        setup_s: to make the network.
        train_s: of a training pass.
        cached_s: the same behind kept activations of the frozen layers; None without any.
        forward_s: of a forward pass through all layers.
        emulated: how many times as long as in float32 a step takes, where the device has no
            bfloat16; None where the precision is native.
        asked: images of the smallest and the largest pass that were asked for.
    """

    device: str
    setup_s: float
    train_s: Points
    forward_s: Points
    cached_s: Points | None = None
    emulated: float | None = None
    asked: Sequence[int] = ()

    def holds_for(self, counts: Sequence[int]) -> bool:
        """Whether passes of these numbers of images lie where it was measured, or near it.

        A line through two measured passes does not hold far beyond them: what a pass takes
        whatever its images is most of a small one.
        """
        least, most = min(self.asked, default=0), max(self.asked, default=0)
        return least <= _NEAR * min(counts, default=1) and max(counts, default=1) <= _NEAR * most


class Workload(NamedTuple):
    """The passes of a run's training: what is measured, and how many images each has."""

    network: str
    """Canonical JSON of model, image size, number of frozen layers and recipe."""
    passes: int
    images: float

    @classmethod
    def of(cls, run: PlannedRun, images: float) -> Workload:
        """Of an epoch over `images`, those of borrowed domains included."""
        spec = run.spec
        images *= max(1, len(spec.data.views))
        recipe = tuple((name, getattr(spec.train, name)) for name in _RECIPE)
        if spec.train.tuned in ("norm", "bias"):
            recipe += (("tuned", spec.train.tuned),)
        network = _network(spec.model, spec.data.image_size, spec.layers.frozen_prefix, recipe)
        passes = math.ceil(images / (1 + spec.source_domains) / spec.train.batch_size)
        return cls(network, max(1, passes), images)


@functools.lru_cache(maxsize=4096)  # asked a dozen times for each run
def _network(model: ModelSpec, size: int, frozen: int, recipe: tuple[tuple[str, Any], ...]) -> str:
    named = {"model": model.model_dump(mode="json"), "image_size": size, "frozen": frozen}
    return canonical_json(named | {"train": dict(recipe)})


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a command's workers have.

    Attributes:
        cards: how many; none is the CPU.
        team: how many train each run that others start from.
        most: workers at the most, where their number grows.
        sharing: workers on each, at the most.
        each: how many train each other run; more than one only in jobs of a cluster.
    """

    cards: int = 0
    team: int = 1
    most: int = 0
    sharing: int = 1
    each: int = 1

    def of(self, run: PlannedRun) -> int:
        """How many train a run together."""
        return self.team if run.role == "source" else self.each


@dataclass
class Forecast:
    """Seconds that runs take on one worker.

    Attributes:
        times: by network, see `Workload`; those that were not measured are left out.
        factors: what finished runs took over what was forecast, by network and by its model.
        decoding: of images that no run has decoded yet; no part of any run's seconds.
        gpus: on which the runs are trained.
        shared_by: workers that a GPU had while those runs were trained, by the same keys.
    """

    times: Mapping[str, StepTimes]
    factors: Mapping[str, float] = field(default_factory=dict)
    decoding: Decoding = field(default_factory=Decoding)
    gpus: Gpus = Gpus()
    shared_by: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, run: PlannedRun) -> float | None:
        """Of the whole run; None where its images are missing or its network was not measured."""
        work, times = self._work(run), self.times.get(_own(run).network)
        if work is None or times is None:
            return None
        return work * self._seen(self.factors, run) + times.setup_s + _RUN_S

    def _seen(self, values: Mapping[str, float], run: PlannedRun) -> float:
        """What finished runs showed of this one's network or of its model; 1 without any."""
        return next((values[key] for key in _keys(run, self.gpus.of(run)) if key in values), 1.0)

    def of_all(self, runs: Sequence[PlannedRun], workers: int, unknown_s: float = 0.0) -> float:
        """Wall-clock seconds of all these: shared out evenly, or their longest chain.

        Workers that share a GPU count as one until a finished run shows what sharing gains.

        Args:
            runs: parents before children.
            workers: that may run at once.
            unknown_s: taken for each run of which nothing is measured.
        """
        ends: dict[str, float] = {}
        total = on_gpus = 0.0
        for run in runs:
            cost = self.seconds(run) or unknown_s
            total += cost
            on_gpus += cost * self.gpus.of(run) / self._seen(self.shared_by, run)
            ends[run.id] = cost + max((ends.get(key, 0.0) for key in run.needs), default=0.0)
        used = max(1, min(max(workers, self.gpus.most), len(runs)))
        busy_s = on_gpus / self.gpus.cards if self.gpus.cards else 0.0
        return _WORKER_S + max(total / used, busy_s, max(ends.values(), default=0.0))

    def emulated(self) -> dict[str, float]:
        """Networks whose precision the device emulates, and how much dearer a step is by that."""
        found: dict[str, float] = {}
        for network, times in self.times.items():
            if times.emulated is not None:
                name = json.loads(network)["model"]["name"]
                found[name] = max(times.emulated, found.get(name, 0.0))
        return found

    def corrected(self, done: Iterable[tuple[PlannedRun, Reading]], threads: int) -> Forecast:
        """The same with what finished runs took on this machine, with as many threads and GPUs.

        Of those that shared a GPU the ones with the number of workers nearest to this one's count.
        """

        def is_alike(run: PlannedRun, row: Mapping[str, Any], times: StepTimes) -> bool:
            team = self.gpus.of(run)
            name = times.device if team == 1 else f"{team} x {times.device}"
            return row.get("device") == name and row.get("threads") == threads

        factors, shared_by = self._factors(done, is_alike)
        return replace(self, factors=factors, shared_by=shared_by)

    def elsewhere(
        self, done: Iterable[tuple[PlannedRun, Reading]], on_gpus: bool, gpus: Gpus | None = None
    ) -> Forecast:
        """The same for a cluster's jobs, with what finished runs took there.

        What was measured here on a device of another kind counts only where a finished run shows
        how much longer, or shorter, the same takes there; other networks are left out. Runs of
        several GPUs speak of runs of as many; of others only where no such run has finished, as if
        GPUs shared a step evenly.

        Args:
            done: finished runs.
            on_gpus: whether the jobs have GPUs.
            gpus: of each job; None is one, or the CPU.
        """
        done, gpus, here = list(done), gpus or Gpus(), processor.name()
        seen, _ = self._factors(done, lambda run, row, times: True)
        teams = {_team_of(reading) for _, reading in done}
        factors = dict(seen)
        for wanted in {gpus.team, gpus.each}:
            near = sorted(teams, key=lambda team: (abs(math.log(team / wanted)), team))
            for model in {_model_of(network) for network in self.times}:
                keys = [_of_team(team, model) for team in near]
                known = [seen[key] for key in keys if key in seen]
                factors |= {_of_team(wanted, model): known[0]} if known else {}
        times = {
            network: times
            for network, times in self.times.items()
            if (times.device != here) == on_gpus
            or _of_team(gpus.each, _model_of(network)) in factors
        }
        return Forecast(times, factors, gpus=gpus)

    def _factors(
        self,
        done: Iterable[tuple[PlannedRun, Reading]],
        counts: Callable[[PlannedRun, Mapping[str, Any], StepTimes], bool],
    ) -> tuple[dict[str, float], dict[str, float]]:
        """By how much finished runs differ from what is forecast, medians of those that count; and
        how many workers shared their GPU."""
        ratios: dict[str, dict[int, list[float]]] = {}
        for run, reading in done:
            record = reading.record or {}
            row, shared_by = record.get("row", {}), record.get("notes", {}).get("workers_on_gpu", 1)
            times, work = self.times.get(_own(run).network), self._work_alone(run)
            if times is not None and work and row.get("seconds") and counts(run, row, times):
                team = _team_of(reading)
                for key in _keys(run, team):
                    alike = ratios.setdefault(key, {}).setdefault(shared_by, [])
                    alike.append(float(row["seconds"]) * team / work)
        nearest = {
            key: min(found, key=lambda workers: abs(workers - self.gpus.sharing))
            for key, found in ratios.items()
        }
        factors = {key: statistics.median(ratios[key][near]) for key, near in nearest.items()}
        return factors, {key: float(near) for key, near in nearest.items()}

    def _work(self, run: PlannedRun) -> float | None:
        """Seconds of training and evaluation, as a record counts them; GPUs share a step evenly."""
        alone = self._work_alone(run)
        return None if alone is None else alone / self.gpus.of(run)

    def _work_alone(self, run: PlannedRun) -> float | None:
        spec, facts, own = run.spec, run.facts, _own(run)
        times = self.times.get(own.network)
        if facts.missing or times is None:
            return None
        views = max(1, len(spec.data.views))

        def forward(images: float) -> float:
            (count, seconds) = times.forward_s[-1]
            return images * views * seconds / count

        kind = METHODS[spec.method.name].kind
        if kind == "weights":
            return forward(facts.held_out_images)
        if kind != "steps":
            more = copies_of(spec) - 1
            parts = more * (facts.train_images + spec.train.refit * facts.validation_images)
            seconds = forward(facts.train_images + parts + facts.held_out_images)
            fitted = 0.0 if kind == "extraction" else fit_s(spec, facts.train_images, _classes(run))
            return seconds + fitted
        validation = facts.validation_images
        evaluations = spec.train.epochs / spec.train.evaluate_every
        cached = times.cached_s if _repeats(run) else None
        epoch_s = _epoch_s(cached or times.train_s, own)
        work = spec.train.epochs * epoch_s + forward(facts.held_out_images)
        if cached is None:
            work += evaluations * forward(validation)
        else:
            times_each = 2 if spec.train.augment == "flip" else 1
            if spec.train.cached_views is not None:
                times_each = min(spec.train.cached_views, spec.train.epochs)
            work += forward(times_each * facts.train_images + validation)
        if spec.train.refit:  # of as many epochs at the most
            share = 1 + validation / max(1, facts.train_images)
            work += spec.train.epochs * epoch_s * share
        return work


def _own(run: PlannedRun) -> Workload:
    spec = run.spec
    images = max(run.facts.train_images, (spec.train.expand_to or 0) * _classes(run))
    return Workload.of(run, images * (1 + spec.source_domains))


@functools.lru_cache(maxsize=4096)
def _model_of(network: str) -> str:
    """What a network has in common with those of other recipes and numbers of frozen layers."""
    own = json.loads(network)
    return f"{own['model']['name']} at {own['image_size']} {own['train']['precision']}"


def _keys(run: PlannedRun, gpus: int) -> tuple[str, str]:
    """What finished runs are kept by: the network with its recipe, and its model."""
    network = _own(run).network
    return _of_team(gpus, network), _of_team(gpus, _model_of(network))


def _of_team(gpus: int, text: str) -> str:
    return text if gpus == 1 else f"{gpus} x {text}"


def _team_of(reading: Reading) -> int:
    """How many GPUs have trained a finished run together, as its record names its device."""
    row = (reading.record or {}).get("row", {})
    several = re.match(r"(\d+) x ", str(row.get("device")))
    return int(several[1]) if several else 1


def _classes(run: PlannedRun) -> int:
    return len(run.facts.classes)


def _repeats(run: PlannedRun) -> bool:
    """Whether frozen layers see the same images in each epoch, so that they are computed once."""
    train = run.spec.train
    return train.cached_views is not None or (
        train.augment in ("none", "flip")
        and run.spec.method.name == "plain"
        and not (train.policy != "none" or train.random_erasing or train.mixup or train.cutmix)
    )


def _epoch_s(points: Points, epoch: Workload) -> float:
    """Seconds of an epoch: a line through the measured numbers of images."""
    count = epoch.images / epoch.passes
    (first, first_s), (last, last_s) = points[0], points[-1]
    slope = last_s / last if first == last else max(0.0, (last_s - first_s) / (last - first))
    least = min(first_s, last_s) * 0.2
    return epoch.passes * max(least, last_s + (count - last) * slope)


# --- measuring -----------------------------------------------------------------------------------


def measure(runs: Iterable[PlannedRun], *, threads: int = 1, device: str = "auto") -> Forecast:
    """A forecast for these runs: each of their networks is measured, unless it was before.

    Args:
        runs: those whose images are missing are left out.
        threads: CPU threads of a worker.
        device: `auto`, `cpu` or `cuda`.
    """
    counts: dict[str, list[int]] = {}
    trained: dict[str, list[int]] = {}
    for run in runs:
        if not run.facts.missing:
            own = _own(run)
            count = max(1, round(own.images / own.passes))
            counts.setdefault(own.network, []).append(count)
            if METHODS[run.spec.method.name].kind == "steps":  # others have forward passes alone
                trained.setdefault(own.network, []).append(count)
    known = _read()
    keys = {network: _key(network, threads, device) for network in counts}
    asked: dict[str, list[int]] = {}
    for network, key in keys.items():
        before = StepTimes(**known[key]) if key in known else None
        if before is None or not before.holds_for(trained.get(network, before.asked)):
            every = [*counts[network], *(before.asked if before else ())]
            asked[network] = sorted({min(every), max(every)})
    for network, answer in zip(asked, _ask(asked, threads, device), strict=True):
        if answer is not None:
            known[keys[network]] = {**answer, "asked": asked[network]}
    if asked:
        _write({keys[network]: known[keys[network]] for network in asked if keys[network] in known})
    times = {n: StepTimes(**known[key]) for n, key in keys.items() if key in known}
    return Forecast(times)


def _ask(
    images: Mapping[str, Sequence[int]], threads: int, device: str
) -> Sequence[Mapping[str, Any] | None]:
    """Measures each network at its numbers of images, in a child."""
    if not images:
        return []
    asked = [json.loads(network) | {"images": counts} for network, counts in images.items()]
    request = {"threads": threads, "device": device, "networks": asked}
    try:
        answers: list[Mapping[str, Any] | None] = ask("bench.planning.step_times", request)
    except ChildDiedError:  # such as out of memory; the runs will show it
        return [None] * len(images)
    return answers


def _key(network: str, threads: int, device: str) -> str:
    """Names a measurement: the machine, the release of torch, the network."""
    gpus = [os.environ.get("CUDA_VISIBLE_DEVICES", ""), *([] if device == "cpu" else _gpus())]
    machine = [platform.node(), processor.name(), gpus, device, threads]
    versions = [_VERSION, metadata.version("torch"), metadata.version("timm")]
    text = canonical_json([machine, versions, network])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_DRIVER = Path("/proc/driver/nvidia")
_DEVICES = Path("/dev")


def _gpus() -> list[str]:
    """The GPUs of this machine and their driver, as the system lists them: torch is not asked.

    A GPU that is put in, or a driver that begins to work, gives another list.
    """
    found: list[str] = []
    with contextlib.suppress(OSError):
        found += (_DRIVER / "version").read_text().splitlines()[:1]
    for described in sorted(_DRIVER.glob("gpus/*/information")):
        with contextlib.suppress(OSError):
            found += [line for line in described.read_text().splitlines() if "Model" in line]
    nodes = (*_DEVICES.glob("nvidia[0-9]*"), *_DEVICES.glob("kfd"))
    return [*found, *sorted(node.name for node in nodes)]


def _path() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "finetuning-factors" / "speeds.json"


_measured_here: dict[str, Any] = {}
"""What this process has measured, for homes that cannot be written."""


def _read() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
        found = json.loads(_path().read_text(encoding="utf-8"))
        return {key: one for key, one in found.items() if StepTimes(**one)} | _measured_here
    return dict(_measured_here)


def _write(new: Mapping[str, Any]) -> None:
    """Adds to the file; a home that cannot be written means measuring again the next time."""
    _measured_here.update(new)
    with contextlib.suppress(OSError, RuntimeError):
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(_read(), indent=1) + "\n")
