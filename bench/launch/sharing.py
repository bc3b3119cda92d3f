"""Several workers on one GPU: as many as fit, by the memory that runs like theirs have taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.errors import BenchError
from bench.specs.planned import PlannedRun
from bench.specs.run import canonical_json

FREE_SHARE = 0.2
"""Of a GPU's memory, left to what is not measured."""

CONTEXT_MIB = 600.0
"""What CUDA itself takes for each process; torch does not count it. Assumed, not measured."""

_OF_TIME_ALONE = (
    *("lr", "copied_lr_factor", "layer_lr_decay", "bias_lr_mult", "schedule", "warmup_epochs"),
    *("step_epochs", "step_gamma", "step_iterations", "restart_every", "epochs", "evaluate_every"),
    *("weight_decay", "bias_weight_decay", "label_smoothing", "explode_factor", "threshold"),
)
"""Fields of a recipe that change what is computed, or how long, but not in how much memory."""


def parse_workers_per_gpu(text: str) -> int | None:
    """The value of `--workers-per-gpu`; None is `auto`.

    Raises:
        BenchError: it is neither a number nor `auto`.

    >>> parse_workers_per_gpu("3"), parse_workers_per_gpu("auto")
    (3, None)
    """
    if text == "auto":
        return None
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise BenchError(
        f"--workers-per-gpu is {text!r}",
        hint="give a number from 1 on, or auto: as many as measured memory allows",
    )


def fitting(taken_mib: Iterable[float | None], total_mib: float | None) -> int:
    """How many workers fit on a GPU, whichever of the runs each of them has; at least one.

    Args:
        taken_mib: memory of each kind of run; None where it was not seen yet.
        total_mib: memory of the GPU; None where it is not known.

    >>> fitting([1000, 3000], 40_000), fitting([1000, None], 40_000)
    (8, 1)
    """
    taken = list(taken_mib)
    if total_mib is None or not taken or None in taken:
        return 1
    most = max(mib for mib in taken if mib is not None) + CONTEXT_MIB
    return max(1, int((1 - FREE_SHARE) * total_mib / most))


def kind_of(run: PlannedRun) -> str:
    """Of all that a run's memory depends on; equal where two runs take the same."""
    spec, facts, data = run.spec, run.facts, run.spec.data
    parts = {
        "model": spec.model.model_dump(mode="json"),
        "pattern": spec.pattern,
        "init": spec.init.kind,
        "method": spec.method.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json", exclude=set(_OF_TIME_ALONE)),
        "images": [data.image_size, data.kept_size, len(data.views)],
        "counts": [facts.train_images, facts.held_out_images, len(facts.classes)],
        "borrow": [one.identity() for one in spec.borrow],
    }
    return canonical_json(parts)


@dataclass
class SeenMemory:
    """What runs of this command have taken of their GPUs.

    Attributes:
        taken_mib: the most of each kind of run, see `kind_of`.
        total_mib: of the smallest GPU.
    """

    taken_mib: dict[str, float] = field(default_factory=dict)
    total_mib: float | None = None
    _kinds: dict[str, str] = field(default_factory=dict)

    def add(self, run: PlannedRun, event: Mapping[str, Any]) -> None:
        """Counts a run that has ended, if its worker says what it took."""
        if "gpu_taken_mib" not in event:
            return
        kind, total = self._kind(run), float(event["gpu_total_mib"])
        taken = float(event["gpu_taken_mib"])
        self.taken_mib[kind] = max(taken, self.taken_mib.get(kind, 0.0))
        self.total_mib = total if self.total_mib is None else min(total, self.total_mib)

    def workers_per_gpu(self, left: Iterable[PlannedRun]) -> int:
        """How many workers may share a GPU while these runs are left."""
        kinds = {self._kind(run) for run in left}
        return fitting([self.taken_mib.get(kind) for kind in kinds], self.total_mib)

    def _kind(self, run: PlannedRun) -> str:
        """Made once for each run: the pool asks several times a second."""
        if run.id not in self._kinds:
            self._kinds[run.id] = kind_of(run)
        return self._kinds[run.id]
