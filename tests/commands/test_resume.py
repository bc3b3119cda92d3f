"""What `bench resume` goes on with, by the newest job that is written down for a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.commands._slurm import budget_to_resume
from bench.core.errors import BenchError
from bench.launch.slurm.ledger import Job, SubmissionStore
from bench.launch.slurm.submission import write_down
from bench.planning.workspace import Session, open_session
from bench.race.of_grid import race_state
from bench.race.on_cluster import RACE, key_of_race

GRID = """\
name: rates
defaults:
  target: {dataset: digits, images_per_class: 4, val_per_class: 2, test_per_class: 4}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 1, batch_size: 8}
experiments:
  rates: {axes: {train.lr: [0.01, 0.02]}}
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    tmp_path.chmod(0o700)
    (tmp_path / "rates.yaml").write_text(GRID)
    return open_session(tmp_path / "rates.yaml", results=tmp_path / "results", folder="writable")


def submitted(
    session: Session, role: str, key: str, arguments: Sequence[str] = (), **settings: object
) -> Path:
    """Writes a job down as its submission does; its folder."""
    store = SubmissionStore(session.store.root.resolve() / "slurm")
    store.prepare()
    ledger = store.read()
    command = {"name": "rates", "settings": settings}
    begin = {"kind": "begin", "runs": [], "forgiven": {}, "grid": key, "command": command}
    store.write(ledger, begin)
    job = Job(f"rates-{ledger.next_number}", role, (), key, {}, "code")
    write_down(store, ledger, [job], [{"arguments": list(arguments)}])
    return store.job_folder(job.name)


def own(session: Session) -> str:
    return key_of_race(race_state(session), session.store.root)


def test_a_race_is_gone_on_with_unless_the_whole_grid_was_submitted_later(session: Session) -> None:
    assert budget_to_resume(session) is None
    submitted(session, RACE, own(session), ["grid", "rates.yaml", "--budget", "40m"])
    assert budget_to_resume(session) == "40m"
    submitted(session, RACE, "that of other --set", ["grid", "rates.yaml", "--budget", "9m"])
    assert budget_to_resume(session) == "40m"
    submitted(session, "finetune", "whole")
    assert budget_to_resume(session) is None
    folder = submitted(session, RACE, own(session), ["grid", "rates.yaml", "--budget", "1h"])
    assert budget_to_resume(session) == "1h"
    (folder / "payload.json").unlink()
    with pytest.raises(BenchError) as caught:
        budget_to_resume(session)
    assert "its command is not written down any more" in str(caught.value)
    assert "--slurm --budget TIME" in str(caught.value)


def test_the_section_of_the_grid_stands_where_no_job_is_written_down(
    session: Session, tmp_path: Path
) -> None:
    (tmp_path / "rates.yaml").write_text(GRID + "race: {budget: 25m}\n")
    raced = open_session(tmp_path / "rates.yaml", results=session.store.root)
    assert budget_to_resume(raced) == "25m"
    submitted(session, RACE, own(session), ["grid", "rates.yaml", "--budget", "40m"])
    assert budget_to_resume(raced) == "40m"


def test_other_ways_to_go_on_are_shown(session: Session) -> None:
    arguments = ["finetune", "/birds", "--budget", "30m", "--name", "rates", "--device", "auto"]
    submitted(session, RACE, "of the folder", [*arguments, "--workers", "1"])
    with pytest.raises(BenchError) as caught:
        budget_to_resume(session)
    assert "bench finetune /birds --budget 30m --name rates --slurm goes on" in str(caught.value)


def test_looks_are_gone_on_with_until_the_whole_grid_was_submitted(session: Session) -> None:
    session.leaderboard("-looks").write_text("")
    text = "run look by look, and bench resume would run all of its tasks"
    with pytest.raises(BenchError, match=text):  # no job: its looks are run on one machine
        budget_to_resume(session)
    submitted(session, "finetune", "wave", last_job=False)
    with pytest.raises(BenchError, match=text):
        budget_to_resume(session)
    submitted(session, "finetune", "whole", last_job=True)
    assert budget_to_resume(session) is None
    submitted(session, "finetune", "wave", last_job=False)
    with pytest.raises(BenchError, match=text):
        budget_to_resume(session)


def test_a_race_whose_command_is_gone_is_no_way_to_what_was_before_it(session: Session) -> None:
    """Whose race it was is not known: one of these settings or others, or of a folder."""
    submitted(session, RACE, own(session), ["grid", "rates.yaml", "--budget", "40m"])
    folder = submitted(session, RACE, "another", ["finetune", "/birds", "--budget", "30m"])
    (folder / "payload.json").unlink()
    with pytest.raises(BenchError) as caught:
        budget_to_resume(session)
    assert caught.value.message == (
        f"job {folder.name} of this grid was a race, and its command is not written down any more"
    )
    grid = session.command("grid", "--slurm", "--budget", "TIME")
    assert caught.value.hint == (
        f"{grid} goes on with the race, and with --budget none it submits the whole grid; a race "
        "of bench finetune goes on by the command that submitted it"
    )
    submitted(session, "finetune", "whole")
    assert budget_to_resume(session) is None
