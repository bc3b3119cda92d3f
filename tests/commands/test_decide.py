"""`bench grid --decide` on real scanned digits: runs of open questions alone, look by look."""

from __future__ import annotations

import contextlib
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.commands._decide import Decider, Here
from bench.commands.app import app
from bench.core.errors import BenchError
from bench.launch.devices import Machine, Placement
from bench.planning.workspace import Session, open_session
from bench.results.states import to_do
from bench.specs.planned import PlannedRun

GRID = """\
name: growing
defaults:
  target:
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 4}
    images_per_class: 10
    val_per_class: 5
    test_per_class: 40
  source: {classes: {side: source, n: 5}, images_per_class: 60}
  model: narrow8_32
  train: {lr: 0.02, epochs: 6, batch_size: 16}
  pretrain: {lr: 0.02, epochs: 6, batch_size: 16}
experiments:
  patterns:
    axes:
      class_draw: [0, 1, 2, 3, 4]
      pattern: [tune, freeze, "T(1-5)R(6-8)"]
"""
FROZEN, COPIED = "categories 5, tuned − frozen", "last layer random − last 3, tuned"


def bench(*arguments: str, cwd: Path) -> str:
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the grid was grown to its end, and what was printed."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "growing.yaml").write_text(GRID)
    text = bench("grid", "growing.yaml", "--decide", FROZEN, "--workers", "1", cwd=folder)
    return folder, text


def test_only_runs_of_the_open_question_are_added(grown: tuple[Path, str]) -> None:
    folder, text = grown
    looks = table(folder / "results/growing-looks.csv")
    assert {row["looks"] for row in looks} == {"3;4;5"}
    assert [int(row["look"]) for row in looks] == list(range(len(looks)))
    runs = table(folder / "results/growing.csv")
    done = [row for row in runs if row["status"] == "done" and row["role"] != "source"]
    tasks = sorted({row["task_id"] for row in runs if row["role"] != "source"})
    last = int(looks[-1]["tasks"])
    for task in tasks:
        own = Counter(row["pattern"] for row in done if row["task_id"] == task)
        place = tasks.index(task)
        both = {"T(1-7)R(8)": 1, "F(1-7)R(8)": 1}
        assert own == (both | {"T(1-5)R(6-8)": 1} if place < 3 else both if place < last else {})
    assert looks[-1]["state"] in ("decided", "stopped")
    assert f"look {looks[-1]['look']} of 3: {last} of 5 tasks" in text
    assert "results/growing-looks.csv" in text


def test_looks_are_named_where_the_leaderboard_is_judged(grown: tuple[Path, str]) -> None:
    folder, _ = grown
    for source in ("growing.yaml", "results/growing.csv", "results"):
        text = " ".join(bench("findings", source, cwd=folder).split())
        assert "Tasks were added in looks fixed beforehand (after 3, 4, 5 of 5 tasks)" in text
        assert "3 tasks, look 1 of 3" in text  # of the claim on what is copied, which was not asked


def test_the_same_command_has_nothing_left_to_do(grown: tuple[Path, str]) -> None:
    folder, _ = grown
    before = (folder / "results/growing-looks.csv").read_text()
    runs = (folder / "results/growing.csv").read_text()
    text = bench("grid", "growing.yaml", "--decide", FROZEN, "--workers", "1", cwd=folder)
    assert "runs on the first" not in text
    assert (folder / "results/growing-looks.csv").read_text() == before
    assert (folder / "results/growing.csv").read_text() == runs


def test_what_is_finished_of_the_next_look_is_not_seen_before_it(
    grown: tuple[Path, str],
) -> None:
    """As after an interruption: runs of the next look's tasks are done, and it was not taken."""
    folder, _ = grown
    path = folder / "results/growing-looks.csv"
    whole, looks = path.read_text(), table(path)
    assert len(looks) >= 3  # it is not decided at the first look
    path.write_text("".join(whole.splitlines(keepends=True)[:3]))
    for where in ((), ("--slurm",)):  # a dry run needs no cluster
        options = ("--decide", FROZEN, *where, "--dry-run")
        text = bench("grid", "growing.yaml", *options, cwd=folder)
        assert "look 1 of 3: 3 of 5 tasks" in text
        assert f"open: {100 * float(looks[1]['chance']):.0f} % chance of a verdict" in text
    text = bench("grid", "growing.yaml", "--decide", FROZEN, "--workers", "1", cwd=folder)
    assert "runs on the first" not in text
    again = path.read_text()
    assert again == whole.replace(",2\n", ",0\n", 1)  # the next look had no runs left


def test_a_budget_that_is_too_short_says_how_long_the_look_takes(
    grown: tuple[Path, str],
) -> None:
    """A question asked later catches up with the tasks it lacks."""
    folder, _ = grown
    before = (folder / "results/growing.csv").read_text()
    more = ("--decide", COPIED, "--budget", "1s", "--workers", "1")
    text = bench("grid", "growing.yaml", *more, cwd=folder)
    if "open:" in text:
        assert f"no time for {COPIED}: its next look takes" in text
    assert (folder / "results/growing.csv").read_text() == before


def test_a_longer_grid_has_looks_of_its_own(grown: tuple[Path, str]) -> None:
    folder, _ = grown
    (folder / "longer.yaml").write_text(GRID.replace("3, 4]", "3, 4, 5, 6]"))
    with pytest.raises(BenchError) as caught:
        bench("grid", "longer.yaml", "--decide", FROZEN, cwd=folder)
    text = str(caught.value)
    assert "growing-looks.csv has looks after 3, 4, 5 tasks, and the grid has 7 tasks" in text
    assert "another --results" in text


def test_runs_beyond_the_first_look_are_refused(grown: tuple[Path, str]) -> None:
    folder, _ = grown
    path = folder / "results/growing-looks.csv"
    kept = path.read_text()
    path.unlink()
    try:
        if int(table_of(kept)[-1]["tasks"]) > 3:
            with pytest.raises(BenchError, match="made without looks"):
                bench("grid", "growing.yaml", "--decide", FROZEN, cwd=folder)
    finally:
        path.write_text(kept)


def table_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_a_dry_run_shows_the_looks_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "growing.yaml").write_text(GRID)
    text = bench("grid", "growing.yaml", "--decide", FROZEN, "--dry-run", cwd=tmp_path)
    assert "looks after 3, 4, 5 of 5 tasks, fixed before the first run" in text
    assert "the next look has 9 runs" in text
    assert not (tmp_path / "results/growing-looks.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--decide", "near - nothing"), "there is no claim or comparison 'near - nothing'"),
        (("--budget", "1h"), "a race compares the recipes of one target, and there are 5"),
        (("--budget", "1h", "--slurm"), "a race compares the recipes of one target"),
        (("--decide", "near - nothing", "--slurm"), "there is no claim or comparison 'near - no"),
        (("--decide", "LI-C4", "--budget", "long"), "--budget is 'long'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "growing.yaml").write_text(GRID)
    with pytest.raises(BenchError) as caught:
        bench("grid", "growing.yaml", *options, cwd=tmp_path)
    assert message in str(caught.value)


def test_three_tasks_are_too_few_for_looks(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(GRID.replace("[0, 1, 2, 3, 4]", "[0, 1, 2]"))
    with pytest.raises(BenchError) as caught:
        bench("grid", "few.yaml", "--decide", FROZEN, cwd=tmp_path)
    assert "and this grid has 3 tasks" in str(caught.value)
    assert "class_draw: [0, 1, …]" in str(caught.value)


NEAR = GRID.replace("name: growing", "name: near").replace(
    'pattern: [tune, freeze, "T(1-5)R(6-8)"]', "pattern: [tune, freeze]"
)
DISTANCES = "measure: {distances: {images: 40, resamples: 20, permutations: 20, cnn_epochs: 1}}\n"


def test_a_claim_on_distances_has_those_of_the_tasks_of_each_look(tmp_path: Path) -> None:
    (tmp_path / "near.yaml").write_text(NEAR)
    with pytest.raises(BenchError, match="it rests on distances, and the grid measures none"):
        bench("grid", "near.yaml", "--decide", "CHU-C3", cwd=tmp_path)
    assert not (tmp_path / "results/near-looks.csv").exists()
    (tmp_path / "near.yaml").write_text(NEAR + DISTANCES)
    text = bench("grid", "near.yaml", "--decide", "CHU-C3", "--workers", "1", cwd=tmp_path)
    last = table(tmp_path / "results/near-looks.csv")[-1]
    size = int(last["looks"].split(";")[int(last["look"]) - 1])
    assert f"look {last['look']} of 3: {size} of 5 tasks" in text
    measured = table(tmp_path / "results/near-distances.csv")
    runs = table(tmp_path / "results/near.csv")
    tasks = sorted({row["task_id"] for row in runs if row["role"] != "source"})
    assert {row["task_id"] for row in measured} == set(tasks[:size])
    assert "no distance known" not in text
    assert "CHU-C3" in bench("findings", "near.yaml", cwd=tmp_path)
    kept = (tmp_path / "results/near-distances.csv").read_bytes()
    (tmp_path / "results/near-distances.csv").unlink()
    ask = ("grid", "near.yaml", "--decide", "CHU-C3")
    assert f"look {last['look']} of 3" in bench(*ask, "--dry-run", cwd=tmp_path)
    assert not (tmp_path / "results/near-distances.csv").exists()
    bench(*ask, "--workers", "1", cwd=tmp_path)
    assert (tmp_path / "results/near-distances.csv").read_bytes() == kept
    if size == len(tasks):  # as where the next look was interrupted: its features are there
        path = tmp_path / "results/near-looks.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
        size = judge_one_look(tmp_path)
        assert size < len(tasks)
        assert (tmp_path / "results/near-distances.csv").read_bytes() == kept


def judge_one_look(folder: Path) -> int:
    """Judges the last look that is written down, as a look does; the number of its tasks."""
    session = open_session(folder / "near.yaml", results=folder / "results")
    console, machine = Console(quiet=True), Machine("cpu", 1)
    launcher = Here(console, machine, Placement(1), retry_failed=False)
    decider = Decider(session, ["CHU-C3"], None, launcher, console)
    decider._judge(save=True)
    return decider.looks.sizes[decider.look - 1]


class Failing:
    """Runs nothing: what each launch would have run, and whose sources fail."""

    retry_failed = True
    stopped = ""

    def __init__(self) -> None:
        self.launched: list[set[str]] = []

    def seconds(self, session: Session, todo: Sequence[PlannedRun]) -> float:
        return float(len(todo))

    def run(self, session: Session) -> list[tuple[str, str]]:
        todo = to_do(session.states(), self.retry_failed)
        self.launched.append({run.id for run in session.wanted if run.id in todo})
        for run in session.wanted:
            if run.role == "source" and run.id in todo:
                session.store.folder(run.id, run.spec).add_failure({"message": "it fails"})
        return []


def test_a_source_that_fails_again_is_tried_once_in_a_command(tmp_path: Path) -> None:
    """`--retry-failed` is about failures of earlier commands, not of this one's last look."""
    shared = "source: {classes: {recipe: listed, names: ['8', '9']}}\n  allow_overlap: true"
    own = "source: {classes: {side: source, n: 5}, images_per_class: 60}"
    (tmp_path / "growing.yaml").write_text(GRID.replace(own, shared))
    session = open_session(tmp_path / "growing.yaml", results=tmp_path / "results")
    sources = {run.id for run in session.plan.runs.values() if run.role == "source"}
    (source,) = (session.plan.runs[key] for key in sources)
    session.store.folder(source.id, source.spec).add_failure({"message": "as it failed before"})
    launcher, question = Failing(), "listed, tuned − frozen"
    decider = Decider(session, [question], None, launcher, Console(quiet=True))
    decider._launch(decider._first().runs)
    assert sources < launcher.launched[0]
    decider.look = 2
    assert not decider._first().runs  # every run of the next look starts from it
