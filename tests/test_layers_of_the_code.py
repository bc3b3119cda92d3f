"""The design's rules about imports: layers, and commands that start at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "timm", "pandas", "nltk"}


def modules(package: str) -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def test_rooms_import_only_those_below_and_there_are_no_circles() -> None:
    """The contracts stand in pyproject.toml, without an exception."""
    command = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text()


MOST_MODULES = 16
FULL = {"bench.data.formats": 99, "bench.commands": 23, "bench.models": 17}
"""Rooms with a module for each published layout, however many, and one for each command."""


@pytest.mark.parametrize("package", ["bench", "analysis"])
def test_rooms_are_not_crowded(package: str) -> None:
    for folder in [ROOT / package, *(p for p in (ROOT / package).rglob("*") if p.is_dir())]:
        name = ".".join(folder.relative_to(ROOT).parts)
        inside = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        most = FULL.get(name, MOST_MODULES)
        assert len(inside) <= most, f"{name} has {len(inside)} modules: make a room in it"


def loaded(*arguments: str, code: int = 0) -> set[str]:
    script = (
        "import sys, bench.commands.app\n"
        "sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: bench.commands.app.main()\n"
        "except SystemExit as end: status = end.code or 0\n"
        "else: status = 0\n"
        "print('LOADED', *(name for name in sys.modules if '.' not in name))\n"
        "sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return set(result.stdout.split("LOADED")[1].split())


def test_help_is_light() -> None:
    assert not loaded("--help") & (HEAVY | {"numpy", "pydantic"})


def test_dry_run_is_light(tmp_path: Path) -> None:
    arguments = ("grid", "grids/quickstart.yaml", "--dry-run", "--results", str(tmp_path))
    assert not loaded(*arguments) & HEAVY


def test_grid_errors_are_light(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text((ROOT / "grids/quickstart.yaml").read_text().replace("tune", "tuna", 1))
    assert not loaded("grid", str(bad), "--results", str(tmp_path), code=2) & HEAVY


def functions(package: str) -> dict[str, tuple[int, int]]:
    """Lines and parameters of every function by its dotted name."""
    found = {}
    for name, path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                arguments = node.args
                count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
                key = f"{name}.{node.name}"
                old = found.get(key, (0, 0))
                found[key] = max(old[0], lines), max(old[1], count)
    return found


@pytest.mark.parametrize("package", ["bench", "analysis"])
def test_functions_fit_a_screen(package: str) -> None:
    """A module is as long as its topic; a function has at most 60 lines and 8 parameters."""
    known = functions(package)
    long = {name for name, (lines, _) in known.items() if lines > 60}
    assert long == set()
    wide = {name for name, (_, count) in known.items() if count > 8}
    assert wide == set()
