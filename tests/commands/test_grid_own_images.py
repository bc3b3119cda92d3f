"""The command on a user's own folder of images, where something is always wrong with a few."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.commands.app import main
from bench.core.errors import BenchError
from bench.launch import preflight
from bench.planning.workspace import open_session

GRID = """\
defaults:
  target:
    dataset: folder
    root: images
    image_size: 32
    images_per_class: 20
    val_per_class: 3
    test_per_class: 4
    on_short: cap
    on_corrupt: skip
  model: narrow8_32
  pattern: scratch
  train: {lr: 0.02, epochs: 1, batch_size: 16}
experiments:
  sizes:
    about: LI §4.3, naïve
    axes: {target.images_per_class: [5, 20]}
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def bench(*arguments: str, cwd: Path, code: int = 0) -> str:
    """What the command prints, in this process, which need not be started."""
    shown, wrong = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(wrong),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    output = shown.getvalue() + wrong.getvalue()
    assert (end.value.code or 0) == code, output
    return output


def started(*arguments: str, cwd: Path, code: int = 0, **environment: str) -> str:
    """As `bench`, in a process of its own, as a user starts it."""
    result = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | environment,
        check=False,
        timeout=300,
    )
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    assert "Traceback" not in output, output
    return output


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def draw(folder: Path, seed: int) -> None:
    """Three classes; one has too few images, one a corrupt image, one a duplicate."""
    rng = np.random.default_rng(seed)
    for name, count in (("cat", 40), ("dog", 40), ("emu", 18)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "cat" / "bad.png").write_bytes(b"no image")
    shutil.copy(folder / "dog" / "3.png", folder / "dog" / "twice.png")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the grid was run, and what the command said."""
    folder = tmp_path_factory.mktemp("own")
    draw(folder / "images", 0)
    (folder / "grid.yaml").write_text(GRID, encoding="utf-8")
    return folder, started("grid", "grid.yaml", "--workers", "1", cwd=folder)


@pytest.fixture
def copy(ended: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(ended[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_what_could_not_be_had_is_said_at_the_end(ended: tuple[Path, str]) -> None:
    said = ended[1]
    assert "1 class has fewer images than asked for (emu: 11 of 20 train)" in said
    assert said.count("1 corrupt image was skipped (cat/bad.png)") == 2  # once a condition
    assert said.count("1 duplicate image was dropped") == 2
    assert "51 of 60" in said
    assert "all 2 runs are done" in said
    used = {
        row["images_per_class"]: row["train_images"] for row in rows(ended[0] / "results/grid.csv")
    }
    assert used == {"5": "15", "20": "51"}


def test_show_says_it_too_whatever_a_run_is_called_by(ended: tuple[Path, str]) -> None:
    folder = ended[0]
    (path,) = (folder / "results" / "runs").glob("*20pc*")
    for name in (path.name[-32:-20], "20pc", f"{path}/", str(path / "record.json")):
        said = bench("show", name, cwd=folder)
        assert path.name in said
        for words in ("3: cat, dog, emu", "emu: 11 of 20 train", "cat/bad.png", "duplicate images"):
            assert words in said
    elsewhere = bench("show", str(path), "--results", "none", cwd=folder)
    assert "emu: 11 of 20 train" in elsewhere
    assert "no run is named" in bench("show", "", cwd=folder, code=2)
    assert "2 runs match 'folder-all'" in bench("show", "folder-all", cwd=folder, code=2)
    assert "no run matches 'gone/x'" in bench("show", "gone/x", cwd=folder, code=2)


@pytest.mark.parametrize("wrong", ["{torn", '{"schema": 1}', "[]"])
def test_one_damaged_record_does_not_hide_the_others(wrong: str, copy: Path) -> None:
    (path,) = (copy / "results" / "runs").glob("*20pc*")
    (path / "record.json").write_text(wrong)
    status = bench("status", "grid.yaml", cwd=copy)
    assert "1 done, 1 damaged" in status
    assert "record.json" in "".join(status.split())
    said = bench("leaderboard", "grid.yaml", cwd=copy)
    assert str(path.relative_to(copy)) in said
    assert "delete the folder to have the run repeated" in said
    table = {row["images_per_class"]: row for row in rows(copy / "results" / "grid.csv")}
    assert table["5"]["status"] == "done"
    assert table["20"]["status"] == "damaged"
    assert "record.json" in table["20"]["reason"]
    again = bench("grid", "grid.yaml", "--workers", "1", "--retry-failed", cwd=copy, code=1)
    assert "2 runs, 1 done, 1 damaged, 0 to do" in again
    assert "1 run has no result" in again
    assert "record.json" in bench("show", path.name, cwd=copy, code=2)
    if wrong == "{torn":  # the way out works
        shutil.rmtree(path)
        assert "all 2 runs are done" in bench("grid", "grid.yaml", "--workers", "1", cwd=copy)


def test_tables_of_other_runs_have_a_name_of_their_own(copy: Path) -> None:
    plain = copy / "results" / "grid.csv"
    before = plain.read_bytes()
    changed = ("--set", "target.images_per_class=5")
    said = bench("grid", "grid.yaml", *changed, "--workers", "1", cwd=copy)
    name = "results/grid--target.images_per_class=5.csv"
    assert f"leaderboard: {name}" in said
    assert "not results/grid.csv" in said
    assert "all 1 runs" not in said
    assert "1 cell is equal to others" in said
    assert len(rows(copy / name)) == 1
    assert f"rows: {name}" in bench("leaderboard", "grid.yaml", *changed, cwd=copy)
    assert f'"leaderboard": "{copy.resolve() / name}"' in bench(
        "status", "grid.yaml", "--json", *changed, cwd=copy
    )
    assert plain.read_bytes() == before
    plain.unlink()
    same = bench("leaderboard", "grid.yaml", "--set", "target.on_short=cap", cwd=copy)
    assert "rows: results/grid.csv" in same
    assert plain.read_bytes() == before


def test_errors_have_the_line_of_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "images", 0)
    monkeypatch.chdir(tmp_path)

    def error(old: str, new: str, *more: str) -> str:
        Path("wrong.yaml").write_text(GRID.replace(old, new), encoding="utf-8")
        with pytest.raises(BenchError) as caught:
            open_session(Path("wrong.yaml"), results=tmp_path / "results", overrides=more)
        return str(caught.value)

    listed = "experiments:\n  all: {axes: {seed: [0]}}\n  two:\n    set:\n      target.classes: "
    listed += "{recipe: listed,\n        names: [cat,\n          dgo]}\n    axes: {seed: [0]}\n#"
    no_dgo = "data set 'folder' has no class dgo (experiment two)\n  nearest to 'dgo': dog"
    assert error("experiments:", listed).startswith(f"wrong.yaml:20: {no_dgo}")
    by_set = "target.classes={recipe: listed, names: [cat, dgo]}"
    assert error("", "", by_set).startswith(f"--set {by_set}: data set 'folder' has no class dgo")
    assert error("folder", "foldr").startswith("wrong.yaml:3: data set 'foldr' is not known")
    assert error("    test_per_class: 4\n", "") == (
        "wrong.yaml:14: test_per_class is not set, and the data set has no test split of its own "
        "(experiment sizes)\n  set test_per_class: N to cut N images of each class out of the "
        "training images, or name the folder with the test images test/"
    )
    shutil.copytree("images", "more/train")
    shutil.copytree("images", "more/val")
    without = error("    root: images\n", "    root: more\n", "target.test_per_class=null")
    assert without.endswith("or name the folder with the test images test/, or set test_from: val")


def test_a_path_is_no_name_of_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert (
        "error: 'images' is where images lie, not the name of a data set\n"
        "  bench data check folder images; names: bench data list"
    ) in bench("data", "check", "images", cwd=tmp_path, code=2)


def test_results_are_shown_where_the_images_are_gone(copy: Path) -> None:
    views = bench("leaderboard", "grid.yaml", cwd=copy).split("rows:")[0]
    table = copy / "results" / "grid.csv"
    before = table.read_bytes()
    (copy / "images").rename(copy / "elsewhere")
    without = bench("leaderboard", "grid.yaml", cwd=copy)
    words, _, note = without.partition("images not found")
    assert words == views
    assert "51 of 60" in words
    assert note == (
        " data set 'folder' was not found: images does not exist (experiment sizes); "
        "what is shown is the leaderboard that lies at results/grid.csv\n"
    )
    assert table.read_bytes() == before
    status = bench("status", "grid.yaml", cwd=copy)
    assert "2 done" in status
    assert "what is shown is the leaderboard that lies at" in status
    found = json.loads(bench("status", "grid.yaml", "--json", cwd=copy))
    assert found["counts"]["done"] == len(found["runs"]) == 2
    of_table, of_grid = (bench("findings", name, cwd=copy) for name in (str(table), "grid.yaml"))
    assert of_table.replace(str(table), "results/grid.csv").splitlines()[1:] == [
        line for line in of_grid.splitlines()[1:] if not line.startswith("images not found")
    ]
    assert "images not found data set 'folder' was not found" in of_grid
    table.unlink()
    for command in ("leaderboard", "status", "findings"):
        wrong = bench(command, "grid.yaml", cwd=copy, code=2)
        assert "error: grid.yaml:4: data set 'folder' was not found" in wrong
        assert "the ids of the grid's runs are not known" in wrong
        assert "results/grid.csv; bench show RUN works for each run in" in wrong


def test_a_leaderboard_shows_the_states_that_runs_got_since(copy: Path) -> None:
    table = copy / "results" / "grid.csv"
    table.write_text(table.read_text().replace("sizes,done", "sizes,missing"))
    (copy / "images").rename(copy / "elsewhere")
    (path,) = (copy / "results" / "runs").glob("*20pc*")
    shutil.rmtree(path)
    assert "1 missing, 1 done" in bench("status", "grid.yaml", cwd=copy).replace(
        "1 done, 1 missing", "1 missing, 1 done"
    )


def test_two_folders_of_images_have_two_tables(copy: Path) -> None:
    draw(copy / "more" / "images", 1)
    other = ("--set", "target.root=more/images")
    bench("leaderboard", "grid.yaml", *other, cwd=copy)
    names = {path.name for path in (copy / "results").glob("grid--*.csv")}
    assert len(names) == 2
    assert all(name.startswith("grid--target.root=images-") for name in names)
    first = {row["run_id"] for row in rows(copy / "results" / "grid.csv")}
    second = {
        row["run_id"]
        for name in names
        if "aggregated" not in name
        for row in rows(copy / "results" / name)
    }
    assert len(second) == 2
    assert not first & second


def test_a_terminal_without_these_letters(copy: Path) -> None:
    for words in (("grid", "--dry-run"), ("status",), ("leaderboard",)):
        said = started(words[0], "grid.yaml", *words[1:], cwd=copy, **ASCII)
        assert said.isascii()
        assert words[0] == "status" or "LI section 4.3, naive" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("grid", "grid.yaml", "--dry-run", "--results", "file"), "file: this is a file"),
        (("grid", "grid.yaml", "--results", "file/x"), "results cannot be written here"),
        (("grid", "grid.yaml", "--results", "/proc/none/x"), "results cannot be written here"),
        (("leaderboard", "grid.yaml", "--results", "resulst"), "results here: results"),
        (("status", "grid.yaml", "--results", "resulst"), "no such results folder"),
        (("show", "x", "--results", "resulst"), "no such results folder"),
        (("grid", "grid.yaml", "--results", "~nosuchuser/x"), "no home folder '~nosuchuser'"),
        (("grid", "grid.yaml", "--data-root", "~nosuchuser"), "no home folder '~nosuchuser'"),
        (("grid", "~nosuchuser/x.yaml"), "no home folder '~nosuchuser'"),
        (("grid", "grid.yaml", "--set", "target.root=~nosuchuser/x"), "no home folder"),
        (("data", "check", "folder", "~nosuchuser/x"), "no home folder '~nosuchuser'"),
        (("classes", "--dataset", "folder", "--root", "~nosuchuser/x"), "no home folder"),
        (("show", "x", "--results", "~nosuchuser"), "no home folder '~nosuchuser'"),
    ],
)
def test_wrong_places_are_told(arguments: tuple[str, ...], reason: str, copy: Path) -> None:
    (copy / "file").write_text("")
    found = sorted(copy.rglob("*"))
    assert reason in bench(*arguments, cwd=copy, code=2)
    assert sorted(copy.rglob("*")) == found  # nothing was made


def test_a_table_that_cannot_be_written_is_still_shown(copy: Path) -> None:
    (copy / "results" / "grid.csv").unlink()
    (copy / "results" / "grid.csv").mkdir()
    said = bench("leaderboard", "grid.yaml", cwd=copy, code=2)
    assert "51 of 60" in said
    assert "the leaderboard cannot be written" in said


def test_without_the_images_the_time_is_not_known(copy: Path) -> None:
    said = bench("grid", "grid.yaml", "--dry-run", "--set", "target.root=gone", cwd=copy)
    assert "how long it takes is not known without the data" in said
    assert " min" not in said
    assert "workers" not in said


def fail(folder: Path) -> None:
    """Every run of the grid has failed before."""
    from bench.planning.workspace import open_session

    session = open_session(folder / "grid.yaml", results=folder / "new", data_root=folder)
    for run in session.plan.runs.values():
        session.store.folder(run.id, run.spec).add_failure({"reason": "test", "message": "no"})


def test_failed_runs_are_not_said_to_be_to_do(copy: Path) -> None:
    fail(copy)
    where = ("--results", "new", "--data-root", ".")
    said = bench("grid", "grid.yaml", "--dry-run", *where, cwd=copy)
    assert "2 runs, 0 done, 2 failed, 0 to do" in said
    assert "2 runs have failed: add --retry-failed to try again" in said
    again = bench("grid", "grid.yaml", "--dry-run", "--retry-failed", *where, cwd=copy)
    assert "2 runs, 0 done, 2 to do" in again
    assert "--retry-failed" not in again
    ended = bench("grid", "grid.yaml", "--workers", "1", *where, cwd=copy, code=1)
    assert "see: bench status grid.yaml --results new --data-root ." in ended


def test_only_counts_what_was_asked_for(copy: Path) -> None:
    text = GRID + "  more: {axes: {seed: [1, 2, 3]}}\n"
    (copy / "grid.yaml").write_text(text, encoding="utf-8")
    said = bench("grid", "grid.yaml", "--dry-run", "--only", "more", cwd=copy)
    assert "3 runs, 0 done, 3 to do" in said


def test_weights_that_cannot_be_had_are_told_once_before_anything_runs(copy: Path) -> None:
    text = GRID.replace("narrow8_32", "resnet18").replace("scratch", "tune\n  weights: timm")
    (copy / "grid.yaml").write_text(text, encoding="utf-8")
    places = {"HF_HOME": str(copy / "hub"), "TORCH_HOME": str(copy / "hub")}
    command = ("grid", "grid.yaml", "--workers", "1", "--results", "new")
    said = started(*command, cwd=copy, code=2, HF_HUB_OFFLINE="1", **places)
    assert said.count("neither cached nor could they be fetched") == 1
    assert "2 of the 2 runs to do start from them" in said
    assert not list((copy / "new").glob("runs/*"))


def test_a_hub_that_does_not_answer_is_known_at_once() -> None:
    assert not preflight._answers("http://127.0.0.1:9", timeout_s=5)
    assert not preflight._answers("no address")


def test_a_gpu_that_is_not_there_is_told_before_anything_runs(copy: Path) -> None:
    command = ("grid", "grid.yaml", "--device", "cuda", "--results", "new", "--workers", "1")
    said = started(*command, cwd=copy, code=2, CUDA_VISIBLE_DEVICES="")
    assert "torch finds no GPU" in said
    assert "--device cpu or auto" in said
    assert not list((copy / "new").glob("runs/*"))


def test_ctrl_c_does_not_wait_for_workers_that_are_starting(copy: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "grid", "grid.yaml", "--results", "new", "--workers", "2"],
        cwd=copy,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def are_starting() -> list[str]:
        """Children that are workers, and not what measures the forecast's speed."""
        commands = {child: Path(f"/proc/{child}/cmdline") for child in children.read_text().split()}
        with contextlib.suppress(FileNotFoundError):  # one that has ended meanwhile
            return [c for c, path in commands.items() if b"local.worker" in path.read_bytes()]
        return []

    end = time.monotonic() + 120
    while not (workers := are_starting()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "to go on: bench grid grid.yaml --results new" in output
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert not list((copy / "new").glob("runs/*/record.json"))


def test_help_names_every_exit_status(copy: Path) -> None:
    said = " ".join(bench("--help", cwd=copy).split())
    assert "0 all done, 1 some runs failed, 2 the command or the grid is wrong, 130" in said
