"""The one step of launching: submit what is neither published nor in the hands of a live job.

It may be killed anywhere and repeated anywhere. Everything that a job is to do is written down
before sbatch is called, under a name that is used once; what then became of the submission is found
by that name. `bench grid --slurm`, `resume`, `status` and `cancel` are views of this step, and the
last job of a grid repeats it on the cluster until nothing is left to do.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.core.errors import StoreError
from bench.core.files import write_atomic
from bench.launch.slurm.client import ClusterError, QueuedJob
from bench.launch.slurm.decode_job import DECODE, progress
from bench.launch.slurm.events import CANCEL
from bench.launch.slurm.ledger import Ending, Job, Ledger, settle_entry
from bench.launch.slurm.outcomes import JobClassifier
from bench.launch.slurm.permissions import check_private, code_digest
from bench.launch.slurm.states import GIVEN_UP, Situation, look
from bench.launch.slurm.submission import GridOnCluster, Outcome, Submission
from bench.results import leaderboard
from bench.results.states import damaged_files


class Reconciler:
    """The step, for one opened grid.

    Args:
        grid: with what submitting its runs needs.
    """

    def __init__(self, grid: GridOnCluster) -> None:
        self.grid, self.session, self.settings = grid, grid.session, grid.settings
        self.plan, self.store = grid.session.plan, grid.session.store
        self.command, self.queue, self.submissions = grid.command, grid.queue, grid.submissions

    # --- the views ---

    def view(self) -> Outcome:
        """Settles what has ended; submits nothing. Works without a cluster, with fewer details."""
        if not self.submissions.exists:
            return Outcome(self._look(Ledger(), {}))
        ledger = self.submissions.read()
        try:
            jobs = self.queue.jobs() if ledger.open else {}
        except ClusterError as error:
            found = replace(self._look(ledger, {}), cluster="down", trouble=str(error))
            for view in found.of("pending"):
                view.reason = "was submitted; the cluster does not answer"
            return Outcome(found)
        notes: list[str] = []
        try:
            with self.submissions.lock(wait_s=5.0):
                ledger = self.submissions.read()
                notes = self._settle(ledger, jobs)
                self._give_up(self._look(ledger, jobs))
        except (OSError, StoreError) as error:
            notes.append(f"how jobs ended could not be written down: {error}")
        race, decoding = self._race(ledger, jobs), self._decoding(ledger, jobs)
        found = replace(self._look(ledger, jobs), cluster="ok", race=race, decoding=decoding)
        return Outcome(found, notes=notes)

    def submit(self, *, begin: bool, retry_failed: bool = False) -> Outcome:
        """The whole step.

        Args:
            begin: a user asks for it, so what was cancelled or could not start is wanted again.
            retry_failed: what was given up is tried `max_attempts` times more.

        Raises:
            ClusterError: the cluster does not answer; nothing was submitted.
            RefusedError: sbatch refuses; what was submitted before stays.
            StoreError: the folder is not safe, or another command was quicker.
        """
        self.submissions.prepare()
        with self.submissions.lock():
            ledger = self.submissions.read()
            jobs = self.queue.jobs()
            notes = self._settle(ledger, jobs)
            if begin:
                self.submissions.shorten(ledger)
                self._replace_old_code(ledger, jobs)
                self._begin(ledger, jobs, retry_failed)
            found = self._look(ledger, jobs)
            self._give_up(found)
            outcome = Submission(self.grid, ledger, jobs, found).run()
            outcome.notes[:0] = notes
            outcome.situation = replace(self._look(ledger, _with_new(jobs, ledger)), cluster="ok")
            if not outcome.situation.in_queue and not outcome.deferred:
                leaderboard.write(self.plan, self.store, self.session.board, self.session.records)
            return outcome

    def cancel(self, only: Sequence[str] = (), wait_s: float = 60.0) -> Outcome:
        """Takes runs off the cluster and waits until their jobs have ended.

        A job that also holds runs of others goes on with those.

        Args:
            only: experiments; empty is the whole grid. Sources that others need stay.
            wait_s: SLURM asks the jobs to end, and after its KillWait ends them.
        """
        if not self.submissions.exists:
            return self.view()
        check_private(self.submissions.root)
        with self.submissions.lock():
            ledger = self.submissions.read()
            jobs = self.queue.jobs()
            notes = self._settle(ledger, jobs)
            unwanted = self._unwanted(self._look(ledger, jobs), only)
            unwanted -= {
                run
                for job in ledger.open
                if not self._of_this_grid(job, ledger)
                for run in job.runs
            }
            if any(self._races(job, ledger) for job in ledger.open):  # it begins what it needs
                unwanted &= {run for job in ledger.open for run in job.runs}
            self.submissions.write(ledger, {"kind": "cancel", "runs": sorted(unwanted)})
            ended = self._mark_jobs(ledger, unwanted, everything=not only)
            self.queue.cancel(jobs[name].id for name in ended if name in jobs)
            deadline = time.monotonic() + wait_s
            while time.monotonic() < deadline:
                jobs = self.queue.jobs()
                if not any(name in jobs and jobs[name].alive for name in ended):
                    break
                time.sleep(0.5)
            notes += self._settle(ledger, jobs)
            leaderboard.write(self.plan, self.store, self.session.board, self.session.records)
            notes.append(f"{len(unwanted)} runs cancelled, {len(ended)} jobs ended")
            return Outcome(replace(self._look(ledger, jobs), cluster="ok"), notes=notes)

    # --- parts ---

    def _look(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> Situation:
        """The runs that were asked for; the plan has those of the whole file."""
        most = self.settings.max_attempts
        found = look(self.session.records, self.submissions, ledger, jobs, most)
        return replace(found, runs={run.id: found.runs[run.id] for run in self.session.wanted})

    def _unwanted(self, found: Situation, only: Sequence[str]) -> set[str]:
        """The unfinished runs to cancel; sources go when nothing that is left needs them."""
        left = {view.run.id for view in found.of("running", "pending", "missing", "blocked")}
        if not only:
            return left
        kept = {
            run.id
            for run in self.plan.runs.values()
            if {*run.experiments, *run.measures} - set(only)
        }
        for run in reversed(list(self.plan.runs.values())):  # children come after their parents
            if run.id in kept:
                kept.update(run.needs)
        return left - kept

    def _usable(self, ledger: Ledger) -> set[str]:
        """Ids of finished runs; of those in open jobs only where their files are there too."""
        published = self.store.published()
        damaged = damaged_files(self.session.records.read())
        return published - {run for job in ledger.open for run in job.runs if run in damaged}

    def _mark_jobs(self, ledger: Ledger, unwanted: set[str], *, everything: bool) -> list[str]:
        """Leaves word in the jobs' folders; the names of those that have nothing else to do."""
        published = self.store.published()
        whole: list[str] = []
        for job in ledger.open:
            mine = [run for run in job.runs if run in unwanted]
            others = [run for run in job.runs if run not in published and run not in unwanted]
            beside = job.role in ("leaderboard", DECODE) and self._of_this_grid(job, ledger)
            whole_grid = (beside or self._races(job, ledger)) and everything
            if whole_grid or (mine and not others):
                whole.append(job.name)
                self._mark(job, "all")
            elif mine:
                self._mark(job, mine)
        return whole

    def _of_this_grid(self, job: Job, ledger: Ledger) -> bool:
        return ledger.commands.get(job.grid, {}).get("name") == self.plan.name

    def _races(self, job: Job, ledger: Ledger) -> bool:
        return job.role == "race" and self._of_this_grid(job, ledger)

    def _race(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> str:
        """The job in the queue that races this grid, and its log, in words."""
        for job in ledger.open:
            if self._races(job, ledger):
                how = _how(job, jobs)
                with contextlib.suppress(OSError, ValueError):
                    how += f"; log: {self._payload(job)['log']}"
                return f"the race: {how}"
        return ""

    def _decoding(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> list[str]:
        """The jobs in the queue that decode this grid's images, and how far they are, in words."""
        lines = []
        for job in ledger.open:
            if job.role == DECODE and self._of_this_grid(job, ledger):
                how = _how(job, jobs)
                with contextlib.suppress(OSError, ValueError, KeyError):  # of an earlier version
                    how += f"; {progress(self._payload(job))}"
                lines.append(f"the decoding of images: {how}")
        return lines

    def _payload(self, job: Job) -> Any:
        return json.loads((self.submissions.job_folder(job.name) / "payload.json").read_text())

    def _mark(self, job: Job, runs: str | Sequence[str]) -> None:
        path = self.submissions.job_folder(job.name) / CANCEL
        if path.parent.is_dir():
            write_atomic(path, json.dumps(runs))

    def _settle(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> list[str]:
        """Writes down which jobs have ended and who is to blame; cancels those that never start."""
        asked: list[Mapping[str, QueuedJob] | None] = []

        def accounting() -> Mapping[str, QueuedJob] | None:
            if not asked:
                asked.append(self.queue.accounting())
            return asked[0]

        classifier = JobClassifier(
            self.submissions, jobs, accounting, self._usable(ledger), self.settings.grace_s
        )
        endings = [
            ending
            for job in ledger.open
            if job.name != self.grid.own_job and (ending := classifier.classify(job)) is not None
        ]
        stuck = [e.job for e in endings if e.job in jobs and jobs[e.job].alive]
        if stuck:
            self.queue.cancel(jobs[name].id for name in stuck)
        if endings:
            self.submissions.write(ledger, settle_entry(endings))
            self.submissions.tidy(ledger, [ending.job for ending in endings])
        return [_sentence(e) for e in endings if e.state in ("CANNOT_START", "CODE_CHANGED")]

    def _replace_old_code(self, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> None:
        """Jobs that still wait and carry other code would refuse to run: they are taken back."""
        code = code_digest()
        old = [
            job.name
            for job in ledger.open
            if job.code != code and job.name in jobs and jobs[job.name].state == "PENDING"
        ]
        if old:
            for name in old:
                self._mark(ledger.jobs[name], "all")
            self.queue.cancel(jobs[name].id for name in old)
            entry = [Ending(name, "CODE_CHANGED", "submitted with other code") for name in old]
            self.submissions.write(ledger, settle_entry(entry))

    def _begin(self, ledger: Ledger, jobs: Mapping[str, QueuedJob], retry_failed: bool) -> None:
        """Writes the user's wish down, if it changes anything."""
        found = self._look(ledger, jobs)
        again = [v.run.id for v in found.runs.values() if v.state in ("failed", "cancelled")]
        not_counted = {}
        if retry_failed:
            not_counted = {
                v.run.id: ledger.not_counted.get(v.run.id, 0) + v.attempts
                for v in found.of("failed")
            }
        if again or self.command.key not in ledger.commands:
            entry = {"kind": "begin", "runs": again, "forgiven": not_counted}
            self.submissions.write(
                ledger, entry | {"grid": self.command.key, "command": self.command.to_json()}
            )

    def _give_up(self, found: Situation) -> None:
        """A run that is not tried again keeps the reason beside it, where leaderboards find it."""
        for view in found.of("failed"):
            folder = self.store.folder(view.run.id, view.run.spec)
            failures = folder.failures()
            reason, _, message = view.reason.partition(": ")
            if not failures or f"{failures[-1].get('message')}" != message:
                unkept = folder.add_failure(
                    {
                        "run_id": view.run.id,
                        "reason": reason,
                        "message": message,
                        GIVEN_UP: True,
                        "attempts": view.attempts,
                    }
                )
                if unkept:
                    raise StoreError(
                        f"run {view.run.id} is not tried again; {unkept}",
                        hint="free some space there, and give the command again",
                    )


def _how(job: Job, jobs: Mapping[str, QueuedJob]) -> str:
    queued = jobs.get(job.name)
    return f"job {job.name} is not in the queue yet" if queued is None else queued.words


def _with_new(jobs: Mapping[str, QueuedJob], ledger: Ledger) -> dict[str, QueuedJob]:
    """The queue as it must be after a submission, without asking again."""
    unseen = {j.name: QueuedJob("", j.name, "PENDING", "just submitted") for j in ledger.open}
    return {**unseen, **jobs}


def _sentence(ending: Ending) -> str:
    if ending.state == "CANNOT_START":
        return f"job {ending.job} could never start and was cancelled: {ending.reason}"
    return f"job {ending.job} did not run: {ending.reason}"
