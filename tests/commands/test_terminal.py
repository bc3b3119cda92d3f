"""What reaches the terminal of names and texts that come from outside, and how commands end."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

from bench.commands._options import Shown, console, doing, marked, say

ROOT = Path(__file__).parents[2]
HOSTILE = "[/x] [red]a[/] \x1b[2J\x07 :smile: \u202eb\x7f"
VISIBLE = r"[/x] [red]a[/] \x1b[2J\x07 :smile: \u202eb\x7f"
GRID = """\
about: "{about}"
defaults:
  target:
    {{dataset: digits, image_size: 16, images_per_class: 5, val_per_class: 3, test_per_class: 5}}
  model: narrow8_32
  pattern: scratch
experiments:
  "{name}":
    about: "{about}"
    axes: {{seed: [0]}}
"""


def bench(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **({"capture_output": True, "text": True, "timeout": 60} | options),
    )


def test_text_from_outside_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE, box=None)
    table.add_row(HOSTILE)
    out = console()
    out.print(table)
    out.print(HOSTILE, highlight=False)
    out.print(marked(HOSTILE, "red", HOSTILE))
    say(HOSTILE)
    print(HOSTILE, file=Shown(sys.stdout))
    found = capsys.readouterr().out
    assert [line.strip() for line in found.splitlines()] == [
        VISIBLE, VISIBLE, VISIBLE, VISIBLE * 2, VISIBLE, VISIBLE
    ]  # fmt: skip


def test_commands_print_in_these_ways_alone() -> None:
    """Standard error is a `Shown`; a CSV may go to another program as it is."""
    for path in sorted((ROOT / "bench" / "commands").glob("*.py")):
        text = path.read_text()
        assert not re.search(r"rich\.markup|markup=True|\[/\]|Console\(\)", text), path
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.echo":
                options = {word.arg for word in call.keywords}
                assert options & {"err", "nl"} or path.name in ("_options.py", "app.py"), path


def test_names_of_experiments_are_no_markup(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID.format(name="[x] [red]y[b]", about=r"[/] \e[2J"))
    done = bench(tmp_path, "grid", "g.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\[x\] \[red\]y\[b\]  \[/\] \\x1b\[2J ", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout


def test_arguments_are_shown_without_control_characters(tmp_path: Path) -> None:
    for arguments in (("--\x1b[31m",), ("grid", "\x1b[31m.yaml"), ("grid", "a", "\x1b[31m")):
        done = bench(tmp_path, *arguments)
        assert done.returncode == 2
        assert r"\x1b[31m" in done.stderr
        assert "\x1b" not in done.stderr


def test_a_closed_output_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID.format(name="a", about="x"))
    command = f"{sys.executable} -m bench grid g.yaml --dry-run"
    for shell in (f"{command} | true", f"{command} >&-", f"{command} >&- 2>&-"):
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), shell
    shell = f"{sys.executable} -m bench grid nothing.yaml >&- 2>&-"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=environment).returncode == 2


def test_a_full_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID.format(name="a", about="x"))
    with Path("/dev/full").open("w") as full:
        done = bench(
            tmp_path, "grid", "g.yaml", "--dry-run",
            capture_output=False, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 2
    assert "No space left on device\n  free some space" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--results", "--data-root"])
def test_an_empty_path_is_no_path(option: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID.format(name="a", about="x"))
    done = bench(tmp_path, "grid", "g.yaml", "--dry-run", option, "")
    assert done.returncode == 2
    assert done.stderr == "error: the path is empty\n  write . for the present folder\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.yaml"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_is_named_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", _Terminal())
    with doing("reading \x1b[2Jrecords", silent_s=0.01):
        time.sleep(0.5)
    with doing("counting", silent_s=30):
        pass
    assert sys.stderr.getvalue() == "reading \\x1b[2Jrecords …\n"  # type: ignore[attr-defined]
    monkeypatch.setattr("sys.stderr", io.StringIO())  # a file, where it would only disturb
    with doing("reading", silent_s=0.01):
        time.sleep(0.1)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
