"""The notebook: calls alone, and it runs on a committed leaderboard."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.report import notebook as charts
from bench.core.errors import DataError

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "analysis" / "ratio_charts.ipynb"


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def test_cells_hold_calls_and_no_logic() -> None:
    for cell in cells():
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"]
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            assert not isinstance(
                node, ast.For | ast.While | ast.If | ast.FunctionDef | ast.Lambda | ast.BinOp
            )


_RUN = """
import json, sys
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

path, folder, committed = sys.argv[1:]
manager = AsyncKernelManager(kernel_name="python3")
# This Python, whatever kernels the machine has installed.
start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager._kernel_spec = KernelSpec(argv=start, display_name="Python 3", language="python")
notebook = nbformat.read(path, as_version=4)
(named,) = [cell for cell in notebook.cells if cell.source.startswith("LEADERBOARD = ")]
named.source = named.source.replace("results", committed)
resources = {"metadata": {"path": folder}}
NotebookClient(notebook, km=manager, timeout=120, resources=resources).execute()
outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
print(json.dumps([dict(o.get("data", {})) for o in outputs]))
"""


def test_it_runs_where_it_lies_and_shows_every_chart(tmp_path: Path, committed: Path) -> None:
    pytest.importorskip("nbclient", reason="needs the test extra")
    home = {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, str(NOTEBOOK), str(NOTEBOOK.parent), str(committed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        cwd=tmp_path,
        env={**os.environ, **home},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    drawn = [d["image/svg+xml"] for d in json.loads(ended.stdout) if "image/svg+xml" in d]
    assert len(drawn) == 4
    assert all("<text" in svg for svg in drawn)


def test_a_chart_that_is_not_there_names_those_that_are(committed: Path) -> None:
    evidence = charts.load(committed / "borrowing.csv")
    with pytest.raises(DataError, match="there are: tune / freeze"):
        charts.ratio_chart(evidence, "tuned: last")
    with pytest.raises(DataError, match="no pair"):
        charts.gains_chart(evidence, "source")


def test_a_folder_of_results_is_one_leaderboard(committed: Path) -> None:
    board = charts.load(committed).board
    assert set(board["grid"]) == {"borrowing", "borrowing-tiny-imagenet", "tiny-imagenet"}
