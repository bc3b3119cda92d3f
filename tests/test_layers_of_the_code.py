"""The design's rules about imports: layers, and commands that start at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = [
    {
        "bench",
        "bench.core.errors",
        "bench.core.paths",
        "bench.specs.data",
        "bench.specs.pattern",
        "bench.specs.recipes",
        "bench.specs.evaluation",
        "bench.specs.run",
        "bench.specs.identity",
        "bench.results.records",
        "bench.results.conditions",
        "bench.results.intervals",
        "bench.grid.yaml",
    },
    {
        "bench.grid.expand",
        "bench.grid.borrow",
        "bench.grid.names",
        "bench.grid.overrides",
        "bench.grid.validate",
        "bench.grid.pattern",
        "bench.grid.weights",
        "bench.grid.extractions",
        "bench.grid.cells",
        "bench.grid.seed_repeats",
        "bench.grid.errors",
        "bench.grid.presets",
        "bench.grid.cell",
        "bench.grid.measures",
        "bench.specs.measures",
        "bench.planning.plan",
        "bench.results.store",
    },
    {"bench.data", "bench.models", "bench.training", "bench.methods"},
    {
        "bench.runs.build",
        "bench.runs.execute",
        "bench.results.failures",
        "bench.runs.record",
        "bench.runs.parents",
        "bench.runs.provenance",
        "bench.runs.distributed_worker",
        "bench.runs.distributed",
        "bench.runs.refit",
        "bench.runs.fused_heads",
        "bench.runs.evaluation",
    },
    {
        "bench.launch",
        "bench.results.leaderboard",
        "bench.results.aggregate",
        "bench.results.predictions",
        "bench.commands._summary",
        "bench.commands.record_details",
        "bench.planning.workspace",
        "bench.planning.table_names",
        "bench.commands._tables",
        "bench.commands.classes",
        "bench.commands.retrieve",
    },
    {
        "bench.commands.app",
        "bench.commands.data",
        "bench.commands.distance",
        "bench.commands.findings",
        "bench.commands.paper_tables",
        "bench.commands.report",
        "bench.commands.show",
        "bench.commands.class_images",
        "bench.commands.recommend",
        "bench.commands._recommend_target",
        "bench.commands.slurm",
        "bench.commands._options",
        "bench.__main__",
    },
]
HEAVY = {"torch", "torchvision", "timm", "pandas", "nltk"}


def level(module: str) -> int:
    for number, names in enumerate(LEVELS):
        if module in names or any(
            module.startswith(f"{name}.") for name in names if name != "bench"
        ):
            return number
    raise AssertionError(f"{module} has no place in LEVELS")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(package: str) -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


@pytest.mark.parametrize(("name", "path"), modules("bench"), ids=lambda value: str(value)[-30:])
def test_imports_come_only_from_above(name: str, path: Path) -> None:
    existing = {module for module, _ in modules("bench")}
    wrong = [
        found
        for found in imports(path) & existing
        if found != "bench" and level(found) > level(name)
    ]
    assert not wrong
    if level(name) < len(LEVELS) - 1:
        assert not any(found.split(".")[0] == "analysis" for found in imports(path))


@pytest.mark.parametrize(("name", "path"), modules("analysis"), ids=lambda value: str(value)[-30:])
def test_analysis_knows_specs_and_data_but_no_launching(name: str, path: Path) -> None:
    existing = {module for module, _ in modules("bench")}
    read = {"bench.results.aggregate", "bench.results.leaderboard", "bench.results.predictions"}
    assert not {found for found in (imports(path) & existing) - read if level(found) > 2}


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


LONG = {
    "bench.commands.app.grid",
    "bench.data.splits.split_pools",
    "bench.commands.findings.findings",
    "bench.launch.slurm.states.look",
    "bench.methods.check_run",
    "bench.methods.features.solvers.fit_streaming",
    "bench.planning.plan.make_plan",
    "bench.commands.recommend.recommend",
}
"""Functions of more than a screen; the list only shrinks."""
WIDE = {
    "analysis.findings.parts.difference",
    "analysis.findings.parts.slope",
    "analysis.figures.charts.curves",
    "bench.commands.classes.class_lines",
    "bench.commands.app.classes",
    "bench.commands.app.grid",
    "bench.commands.app.retrieve",
    "bench.data.files.opened._entry",
    "bench.data.splits.split_pools",
    "bench.commands.data.data_check",
    "bench.commands.distance.distance",
    "bench.commands.distance.measure_selections",
    "bench.runs.execute.__init__",
    "bench.commands.findings.findings",
    "bench.launch.local.pool.__init__",
    "bench.methods.features.solvers.fit_streaming",
    "bench.commands.class_images.class_images",
    "bench.commands.recommend.recommend",
    "bench.commands.report.report",
    "bench.commands.slurm.resume",
    "bench.training.features.extract",
}
"""Functions of more than eight parameters; the list only shrinks."""


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
    assert long - LONG == set()
    assert {name for name in LONG if name.startswith(package)} <= long
    wide = {name for name, (_, count) in known.items() if count > 8}
    assert wide - WIDE == set()
    assert {name for name in WIDE if name.startswith(package)} <= wide
