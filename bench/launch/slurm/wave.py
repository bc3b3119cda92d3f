"""A wave: some runs of a grid are submitted, and waited for until none of them is on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from bench.launch.slurm.client import ClusterError
from bench.launch.slurm.reconcile import Reconciler
from bench.launch.slurm.states import Situation
from bench.launch.slurm.submission import Outcome

_LOOK_EVERY_S = 10.0


def run_wave(
    step: Reconciler,
    show: Callable[[Outcome], None],
    *,
    retry_failed: bool = False,
    every_s: float = _LOOK_EVERY_S,
) -> Situation:
    """Submits what is missing and stays until all has ended, in whatever way; how it stands then.

    Until then it does what a last job does: it submits what had to wait for room in the queue, and
    what is to be tried again. May be interrupted: the jobs go on, and the next call waits for them.

    Args:
        step: of the runs that are wanted, without a last job.
        show: is given the submission, and whatever is submitted later or differs from before.
        retry_failed: what was given up is tried again.
        every_s: seconds between looks at the queue.

    Raises:
        ClusterError: the cluster does not answer at the beginning; later it is waited for.
        RefusedError: sbatch refuses; what was submitted before stays.
    """
    outcome = step.submit(begin=True, retry_failed=retry_failed)
    shown: Outcome | None = None
    while True:
        if shown is None or outcome.jobs or _differs(outcome, shown):
            show(outcome)
            shown = outcome
        if not outcome.situation.of("running", "pending", "missing"):
            return outcome.situation
        time.sleep(every_s)
        outcome = _look_again(step)


def _look_again(step: Reconciler) -> Outcome:
    seen = step.view()
    if seen.situation.cluster == "down" or not seen.situation.of("missing"):
        return seen
    try:
        outcome = step.submit(begin=False)
    except ClusterError as error:
        return replace(seen, notes=[*seen.notes, str(error)])
    return replace(outcome, notes=[*seen.notes, *outcome.notes])


def _differs(outcome: Outcome, shown: Outcome) -> bool:
    one, other = outcome.situation, shown.situation
    return one.counts != other.counts or one.cluster != other.cluster or bool(outcome.notes)
