"""The complete example of CONTRIBUTING.md is complete, and works."""

from __future__ import annotations

import ast
import re
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import bench.methods
from bench.core.errors import GridError
from bench.methods import METHODS, Ingredients, MethodEntry, build, check
from bench.specs.run import TrainSpec
from bench.training.domain import Domain

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
METHOD, LINE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def balanced(monkeypatch: pytest.MonkeyPatch) -> str:
    """The example, as if its file and its line were there."""
    module = types.ModuleType("bench.methods.finetuning.balanced")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(METHOD, "balanced.py", "exec"), vars(module))
    entry = eval("{" + LINE + "}", {"MethodEntry": MethodEntry})
    monkeypatch.setattr(bench.methods, "METHODS", METHODS | entry)
    (name,) = entry
    return str(name)


def test_a_method_takes_under_forty_lines_of_code() -> None:
    assert len([line for line in METHOD.splitlines() if line.strip()]) < 40


def test_the_example_shows_classes_equally_often(balanced: str) -> None:
    labels = np.array([0] * 180 + [1] * 20)
    target = Domain("d", np.zeros((200, 2, 2, 3), np.uint8), labels, 2)
    ingredients = Ingredients(target, TrainSpec(batch_size=50))
    shares = []
    for power in (0.0, 1.0):
        method = build(balanced, {"power": power}, ingredients)
        shown: Counter[int] = Counter()
        for epoch in range(20):
            for (part,) in method.steps(epoch, lambda domain: np.zeros((200, 2), np.float32)):
                assert part.indices.dtype == np.int64
                shown.update(labels[part.indices].tolist())
        shares.append(shown[1] / shown.total())
    assert shares == pytest.approx([0.1, 0.5], abs=0.03)
    again = [
        build(balanced, {}, ingredients).steps(3, lambda domain: np.zeros((1, 2))) for _ in "ab"
    ]
    for a, b in zip(*again, strict=True):
        assert np.array_equal(a[0].indices, b[0].indices)


def test_its_options_are_checked_as_any(balanced: str) -> None:
    with pytest.raises(GridError, match="method 'balanced': power is 2"):
        check(balanced, {"power": 2})


ROOT = Path(__file__).parents[1]


def test_the_rooms_are_those_on_disk_in_their_own_words() -> None:
    """Every folder of modules is in the document with the first line of its docstring."""
    for package in ("bench", "analysis"):
        for file in (ROOT / package).rglob("__init__.py"):
            place = file.parent.relative_to(ROOT)
            if place.as_posix() == "bench":
                continue
            sentence = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
            room = (
                place.name if place.parent.as_posix() in ("bench", ".") else f"{place.as_posix()}/"
            )
            lines = [
                line.split(maxsplit=1) for line in TEXT.splitlines() if line.startswith("    ")
            ]
            assert [room, sentence] in lines, (room, sentence)


def test_every_place_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:bench|analysis|tests|scripts|benchmarks)/[\w./-]+)`", TEXT)
    example = "bench/methods/finetuning/balanced.py"
    assert [name for name in named if name != example and not (ROOT / name).exists()] == []
