"""Which runs go into which job, with which resources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.launch.slurm.ledger import Ledger
from bench.launch.slurm.settings import Kind, Resources, SlurmSettings
from bench.launch.slurm.states import RunView
from bench.planning.forecast import Forecast, Gpus, measure
from bench.planning.plan import batches
from bench.results.states import Reading
from bench.results.store import Store
from bench.specs.planned import PlannedRun

_KINDS: tuple[Kind, ...] = ("source", "finetune")
_UNKNOWN_COST_S = 120.0
_MOST_FACTOR = 8.0


@dataclass(frozen=True)
class Pack:
    """Runs of one job, its resources, and the run that must be published before."""

    runs: tuple[PlannedRun, ...]
    kind: Kind
    resources: Resources

    @property
    def needs(self) -> tuple[str, ...]:
        """All runs of a pack start from the same runs."""
        return self.runs[0].needs


def pack(
    views: Sequence[RunView],
    settings: SlurmSettings,
    done: Sequence[tuple[PlannedRun, Reading]],
    ledger: Ledger,
    store: Store,
) -> list[Pack]:
    """Packs, sources first; a run with which a job has died gets a job of its own.

    Args:
        views: what is to be submitted.
        done: finished runs, whose seconds correct the forecast.
        ledger, store: for the reasons of earlier attempts: more memory or time where that was it.
    """
    packs: list[Pack] = []
    for kind in _KINDS:
        mine = [view for view in views if (view.run.role == "source") == (kind == "source")]
        resources = settings.resources(kind)
        together: list[PlannedRun] = []
        alone: list[Pack] = []
        for view in mine:
            memory, time = _factors(view.run, ledger, store) if view.attempts > 0 else (1.0, 1.0)
            if memory * time > 1 or _killed_a_job(view.run, ledger):
                alone.append(Pack((view.run,), kind, resources.scaled(memory, time)))
            else:
                together.append(view.run)
        packs += [Pack(runs, kind, resources) for runs in _cut(together, settings, resources, done)]
        packs += alone
    return packs


def seconds_of_jobs(
    runs: Sequence[PlannedRun],
    settings: SlurmSettings,
    done: Sequence[tuple[PlannedRun, Reading]],
) -> float:
    """Seconds of runs on the cluster, should all jobs that are allowed at once start at once.

    Args:
        runs: parents before children.
        done: finished runs, whose seconds correct the forecast.
    """
    forecast = _forecast(runs, settings, settings.resources("finetune"), done)
    if settings.runs_per_job:
        jobs = len(runs) / settings.runs_per_job
    else:
        jobs = sum(forecast.seconds(r) or _UNKNOWN_COST_S for r in runs) / settings.job_min / 60
    at_once = min(max(1, math.ceil(jobs)), settings.max_jobs or len(runs))
    return forecast.of_all(runs, at_once, _UNKNOWN_COST_S)


def _cut(
    runs: Sequence[PlannedRun],
    settings: SlurmSettings,
    resources: Resources,
    done: Sequence[tuple[PlannedRun, Reading]],
) -> list[tuple[PlannedRun, ...]]:
    if count := settings.runs_per_job:
        pieces = batches(runs, cost_s=lambda run: 1.0, limit_s=float(count))
    else:
        forecast = _forecast(runs, settings, resources, done)
        cost = {run.id: forecast.seconds(run) or _UNKNOWN_COST_S for run in runs}
        limit_s = settings.job_min * 60
        pieces = batches(runs, cost_s=lambda run: cost[run.id], limit_s=limit_s)
    return [piece.runs for piece in pieces]


def _forecast(
    runs: Sequence[PlannedRun],
    settings: SlurmSettings,
    resources: Resources,
    done: Sequence[tuple[PlannedRun, Reading]],
) -> Forecast:
    """How long runs take in the jobs: measured on this host, and corrected by finished runs.

    What this host measures says nothing of a GPU that it lacks until a run has finished there.
    """
    on_gpus = settings.device == "cuda" or (settings.device != "cpu" and resources.gpus_asked)
    models = {run.spec.model.name for run in runs}
    done = [(run, reading) for run, reading in done if run.spec.model.name in models]
    if not runs or (on_gpus and not done):
        return Forecast({})
    both = [*runs, *(run for run, _ in done)]
    device = "auto" if on_gpus else "cpu"
    found = measure(both, threads=settings.threads, device=device)
    team, each = (settings.resources(kind).gpus or 1 for kind in _KINDS)
    return found.elsewhere(done, bool(on_gpus), Gpus(team=team, each=each))


def _killed_a_job(run: PlannedRun, ledger: Ledger) -> bool:
    """Whether a job died while it trained the run; its siblings are spared the next time."""
    return any(not failed.final for failed in ledger.failed_attempts.get(run.id, ()))


def _factors(run: PlannedRun, ledger: Ledger, store: Store) -> tuple[float, float]:
    """How much more memory and time, doubled for each attempt that ended for want of it."""
    reasons = [failed.reason for failed in ledger.failed_attempts.get(run.id, ())]
    reasons += [str(f.get("reason")) for f in store.folder(run.id, run.spec).failures()]
    memory = 2.0 ** reasons.count("out of memory")
    time = 2.0 ** reasons.count("time limit")
    return min(memory, _MOST_FACTOR), min(time, _MOST_FACTOR)
