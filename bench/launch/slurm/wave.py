"""A wave: some runs of a grid are submitted, and waited for until none of them is on its way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from bench.launch.slurm.client import ClusterError, Queue
from bench.launch.slurm.reconcile import Reconciler
from bench.launch.slurm.states import Situation
from bench.launch.slurm.submission import Outcome

_LOOK_EVERY_S = 10.0
_ASK_AGAIN_S = 300.0


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
        show: is given the submission, and whatever is submitted later or differs from before; a
            note that is the same as the one before is not given again.
        retry_failed: what was given up is tried again.
        every_s: seconds between looks at the queue.

    Raises:
        ClusterError: the cluster does not answer at the beginning; later it is waited for.
        RefusedError: sbatch refuses; what was submitted before stays.
    """
    outcome = step.submit(begin=True, retry_failed=retry_failed)
    room = _Room(step.queue)
    shown: Outcome | None = None
    noted: list[str] = []
    while True:
        room.learn(outcome)
        if outcome.notes == noted:
            outcome = replace(outcome, notes=[])
        noted = outcome.notes or noted
        if shown is None or outcome.jobs or _differs(outcome, shown):
            show(outcome)
            shown = outcome
        if not outcome.situation.of("running", "pending", "missing"):
            return outcome.situation
        time.sleep(every_s)
        outcome = _look_again(step, room)


class _Room:
    """Whether a queue that was full may have room again.

    A cluster whose limit is not known is asked by a submission alone, which leaves a folder and an
    entry of the ledger. So it is asked again when a job of the user has ended, or some minutes
    later, as others may share the limit.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.full_with: frozenset[str] | None = None
        self.full_at = 0.0

    def learn(self, outcome: Outcome) -> None:
        """Takes in whether a submission has found the queue full."""
        if outcome.queue_full:
            with contextlib.suppress(ClusterError):
                self.full_with = self._alive()
                self.full_at = time.monotonic()

    def may_be(self) -> bool:
        """Whether a submission is worth a try.

        Raises:
            ClusterError: the cluster does not answer.
        """
        if self.full_with is None or time.monotonic() - self.full_at >= _ASK_AGAIN_S:
            return True
        return not self.full_with <= self._alive()

    def _alive(self) -> frozenset[str]:
        return frozenset(name for name, job in self.queue.jobs().items() if job.alive)


def _look_again(step: Reconciler, room: _Room) -> Outcome:
    seen = step.view()
    if seen.situation.cluster == "down" or not seen.situation.of("missing"):
        return seen
    try:
        if not room.may_be():
            return seen
        room.full_with = None
        outcome = step.submit(begin=False)
    except ClusterError as error:
        return replace(seen, notes=[*seen.notes, str(error)])
    return replace(outcome, notes=[*seen.notes, *outcome.notes])


def _differs(outcome: Outcome, shown: Outcome) -> bool:
    one, other = outcome.situation, shown.situation
    return one.counts != other.counts or one.cluster != other.cluster or bool(outcome.notes)
