"""What a grid's last job does: writes the leaderboards, and has the rest tried again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.launch.slurm.ledger import Command
from bench.launch.slurm.reconcile import Reconciler
from bench.launch.slurm.settings import SlurmSettings
from bench.launch.slurm.submission import GridOnCluster
from bench.planning.workspace import Session, open_session
from bench.results import leaderboard


def last_job(
    payload: Mapping[str, Any], folder: Path, job: Callable[[str], Callable[[], None]]
) -> None:
    """Runs in a job, after all others: whatever became of them, the leaderboards are written.

    Args:
        payload: of the job: `command` and `results`.
        folder: of the job; the grid is read from a copy in it.
        job: gives what a further job executes, for its folder.
    """
    command = Command.from_json(payload["command"])
    session = open_command(command, Path(payload["results"]), folder)
    leaderboard.write(session.plan, session.store, session.board, session.records)
    settings = SlurmSettings.model_validate(command.settings)
    try:
        own_job = str(payload["name"])
        step = Reconciler(GridOnCluster(session, command, settings, job, own_job=own_job))
        outcome = step.submit(begin=False)
    except BenchError as error:
        print(f"bench: nothing more was submitted: {error}", file=sys.stderr)
        return
    counts = ", ".join(f"{n} {state}" for state, n in sorted(outcome.situation.counts.items()))
    print(f"bench: {counts}; {outcome.jobs} jobs submitted", file=sys.stderr)
    for note in outcome.notes:
        print(f"bench: {note}", file=sys.stderr)


def open_command(command: Command, results: Path, folder: Path) -> Session:
    """The session that a command opened, from the text that its grid had then."""
    copy = folder / command.file_name
    copy.write_text(command.text, encoding="utf-8")
    return open_session(
        copy,
        results=results,
        data_root=Path(command.data_root) if command.data_root else None,
        only=command.only,
        overrides=command.overrides,
    )
