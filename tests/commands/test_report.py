"""`bench report`: from a leaderboard or a grid to a page whose path it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError

ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", *arguments])
    if isinstance(result.exception, BenchError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_leaderboard_becomes_a_page(tmp_path: Path, committed: Path) -> None:
    out, table = tmp_path / "page", tmp_path / "mine.csv"
    lines = (committed / "borrowing.csv").read_text().splitlines(keepends=True)
    table.write_text("".join([lines[0], *(ln for ln in lines if ",plain," in ln or ",svm," in ln)]))
    code, said = call(str(table), "--out", str(out), "--no-png")
    assert code == 0
    assert str(out / "index.html") in said
    assert (out / "methods.svg").is_file()
    assert not list(out.glob("*.png"))


def test_results_give_the_place(tmp_path: Path, committed: Path) -> None:
    table = tmp_path / "mine.csv"
    lines = (committed / "borrowing.csv").read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:12]))
    code, _ = call(str(table), "--results", str(tmp_path / "r"))
    assert code == 0
    folder = tmp_path / "r" / "reports" / "mine"
    assert (folder / "index.html").is_file()
    assert (folder / "findings.png").is_file()


def test_wrong_input_is_said_and_nothing_is_written(tmp_path: Path, committed: Path) -> None:
    code, said = call(str(tmp_path / "none.csv"), "--out", str(tmp_path / "o"))
    assert code == 2
    assert "no such leaderboard" in said
    code, said = call(str(committed))
    assert code == 2
    assert "is a folder" in said
    empty = tmp_path / "empty.csv"
    empty.write_text((committed / "borrowing.csv").read_text().splitlines()[0] + "\n")
    code, said = call(str(empty), "--out", str(tmp_path / "o"))
    assert code == 2
    assert "empty" in said
    code, said = call(str(committed / "borrowing.csv"), "--set", "lr=1")
    assert code == 2
    assert "belongs to a grid" in said
    assert not (tmp_path / "o").exists()


def test_a_grid_without_runs_says_how_to_get_them(tmp_path: Path) -> None:
    grid = str(ROOT / "grids" / "quickstart.yaml")
    code, said = call(grid, "--results", str(tmp_path))
    assert code == 2
    assert "bench grid" in said


def test_help_is_light() -> None:
    script = (
        "import sys, bench.commands.report\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


def test_figures_of_an_earlier_report_go_and_other_files_stay(
    tmp_path: Path, committed: Path
) -> None:
    lines = (committed / "borrowing.csv").read_text().splitlines(keepends=True)
    table, out = tmp_path / "mine.csv", tmp_path / "page"
    table.write_text("".join(lines[:12]))
    assert call(str(table), "--out", str(out), "--no-png")[0] == 0
    (out / "mine.txt").write_text("a note")
    (out / "mine.svg").write_text("a drawing")
    page = out / "index.html"
    page.write_text(page.read_text() + '<figure id="figure-old.one">')
    for name in ("old.one.svg", "old.one.png", "findings.png"):
        (out / name).write_text("of an earlier report")
    assert call(str(table), "--out", str(out), "--no-png")[0] == 0
    left = {path.name for path in out.iterdir()}
    assert {"index.html", "findings.svg", "mine.txt", "mine.svg"} <= left
    assert not {"old.one.svg", "old.one.png", "findings.png"} & left


def test_variants_of_a_grid_have_pages_of_their_own(tmp_path: Path) -> None:
    grid = tmp_path / "own.yaml"
    grid.write_text(
        "defaults:\n"
        "  target: {dataset: digits, images_per_class: 10, val_per_class: 5, test_per_class: 10}\n"
        "  model: narrow8_32\n"
        "  pattern: scratch\n"
        "  train: {lr: 0.03, epochs: 15}\n"
        "experiments: {a: {axes: {train.batch_size: [4, 8]}}}\n"
    )
    for value in ("seed=1", "seed=2"):
        given = [str(grid), "--set", value, "--results", str(tmp_path / "r")]
        run = CliRunner().invoke(app, ["grid", *given, "--workers", "1"])
        assert run.exit_code == 0, run.output
        code, text = call(*given, "--no-png")
        assert code == 0, text
    pages = sorted((tmp_path / "r" / "reports").glob("*/index.html"))
    assert [page.parent.name for page in pages] == ["own--seed=1", "own--seed=2"]
    assert all(f"How to fine-tune: {page.parent.name}" in page.read_text() for page in pages)
