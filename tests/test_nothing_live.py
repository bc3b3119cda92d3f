"""No test looks into the folders that somebody works in: results, caches, the home folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HELPERS = {ROOT / "tests" / "conftest.py", Path(__file__)}
"""The fixture `committed` has copies of the leaderboards; tests use it and `tmp_path`."""

LIVE = re.compile(
    r"""(\b(ROOT|root)|parents\[\d\])\)? / f?"(results|cache)\b(?!(/|" / ")README\.md)"""
    r"""|\bPath\(f?"(\./)?(results|cache)\b"""
    r"""|\bPath\.home\(\)"""
)


def used(line: str) -> bool:
    return LIVE.search(line) is not None


@pytest.mark.parametrize(
    "line",
    [
        'board = read(ROOT / "results" / "borrowing.csv")',
        'RESULTS = Path(__file__).parents[1] / "results"',
        'paths = (Path(__file__).parents[1] / "results/papers").glob("*.csv")',
        '>>> resolve(digits, 0, data_root=None, cache_dir=Path("cache"))',
        'open_session(grid, results=Path("results"))',
        'Path.home() / ".cache"',
    ],
)
def test_it_is_seen(line: str) -> None:
    assert used(line)


@pytest.mark.parametrize(
    "line",
    [
        'session = open_session(grid, results=tmp_path / "results")',
        'glossary = (Path(__file__).parents[1] / "results" / "README.md").read_text()',
        'assert "results/GRID.csv" in text',
    ],
)
def test_other_folders_and_words_are_left_alone(line: str) -> None:
    assert not used(line)


def test_no_test_and_no_example_looks_there() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path not in HELPERS]
    examples = [path for room in ("bench", "analysis") for path in (ROOT / room).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (*tests, *examples)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (path in tests or line.lstrip().startswith((">>>", "..."))) and used(line)
    ]
    assert not found, "use the fixture committed or tmp_path:\n" + "\n".join(found)
