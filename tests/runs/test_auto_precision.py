"""`precision: auto`: what the device computes natively, in the record, and in what is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.commands._summary import precision_lines
from bench.core import processor
from bench.planning.workspace import Session, open_session
from bench.results.conditions import condition_id
from bench.results.leaderboard import Row, rows, to_csv
from bench.results.resolved import specs_as_run
from bench.training.precision import autocast, native_precision, resolved

GRID = """
defaults:
  target: {dataset: digits, classes: {recipe: categories, side: target, target_n: 4},
           images_per_class: 5, val_per_class: 5, test_per_class: 8}
  model: narrow8_32
  pattern: tune
  train: {epochs: 2, batch_size: 16, precision: PRECISION}
  pretrain: {epochs: 1, batch_size: 16, precision: PRECISION}
sources: {other: {classes: {side: source, n: 5}, images_per_class: 8}}
experiments:
  one: {axes: {seed: [0, 1]}, set: {source: other}}
  two: {set: {source: none, pattern: scratch}}
"""
Run = Callable[[Path, Path], Session]


def _grid(folder: Path, precision: str = "auto") -> Path:
    path = folder / f"{precision}.yaml"
    path.write_text(GRID.replace("PRECISION", precision))
    return path


def _processor(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool) -> None:
    monkeypatch.setattr(processor, "has_bfloat16", lambda: bfloat16)


def _rows(session: Session) -> dict[str, Row]:
    return {row["run_id"]: row for row in rows(session.plan, session.store)}


def test_the_flags_of_the_processor_are_those_that_torch_finds() -> None:
    found = torch.cpu.get_capabilities()
    if found.get("architecture") == "x86_64":
        assert processor.has_bfloat16() == (found["avx512_bf16"] or found["amx_bf16"])


@pytest.mark.parametrize("bfloat16", [True, False])
def test_auto_is_what_the_processor_has(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _processor(monkeypatch, bfloat16=bfloat16)
    cpu = torch.device("cpu")
    native = "bfloat16" if bfloat16 else "float32"
    assert native_precision(cpu) == resolved("auto", cpu) == native
    assert resolved("float32", cpu) == "float32"
    assert resolved("bfloat16", cpu) == "bfloat16"
    with autocast(cpu, "auto"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, native)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_run_of_auto_is_the_run_of_what_auto_is(
    bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_here: Run
) -> None:
    _processor(monkeypatch, bfloat16=bfloat16)
    native = "bfloat16" if bfloat16 else "float32"
    auto = run_here(_grid(tmp_path), tmp_path / "auto")
    plain = run_here(_grid(tmp_path, native), tmp_path / "plain")
    assert not auto.plan.runs.keys() & plain.plan.runs.keys()  # auto is part of the id
    pairs = list(zip(auto.plan.runs.values(), plain.plan.runs.values(), strict=True))
    for one, other in pairs:
        mine, theirs = (
            session.store.folder(run.id, run.spec).record()
            for session, run in ((auto, one), (plain, other))
        )
        assert mine is not None
        assert theirs is not None
        assert mine["files"] == theirs["files"]  # to the bit
        chain = ["train.precision", *(["source.train.precision"] if one.parent_id else [])]
        assert mine["resolved"] == dict.fromkeys(chain, native)
        assert "resolved" not in theirs
    ours, others = _rows(auto), _rows(plain)
    for one, other in pairs:  # the same condition, and a column says what it was
        mine, theirs = ours[one.id], others[other.id]
        assert mine["condition_id"] == theirs["condition_id"] == condition_id(other.spec)
        assert mine["recipe_id"] == theirs["recipe_id"]
        assert mine["train.precision"] == native
    assert precision_lines(auto) == []


def test_runs_that_computed_differently_are_different_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_here: Run
) -> None:
    grid, results = _grid(tmp_path), tmp_path / "results"
    _processor(monkeypatch, bfloat16=True)
    session = run_here(grid, results)
    plan = session.plan
    again, *others = (run for run in plan.runs.values() if run.experiments == ("one",))
    folder = session.store.folder(again.id, again.spec)
    folder.withdraw()
    _processor(monkeypatch, bfloat16=False)
    session = run_here(grid, results)
    found = _rows(session)
    assert found[again.id]["train.precision"] == "float32"
    for run in others:
        assert found[run.id]["train.precision"] == "bfloat16"
        assert found[run.id]["condition_id"] != found[again.id]["condition_id"]
        assert found[run.id]["recipe_id"] != found[again.id]["recipe_id"]
    assert "train.precision" in to_csv(found.values()).splitlines()[0]
    (line,) = precision_lines(session)
    assert "precision: auto was bfloat16 in 3 runs and float32 in 1 run" in line.plain


def test_a_checkpoint_of_another_precision_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.results.store import Store
    from bench.runs.build import Context
    from bench.runs.execute import execute_batch

    session = open_session(_grid(tmp_path), results=tmp_path / "results")
    (run,) = (run for run in session.plan.runs.values() if run.experiments == ("two",))
    context = Context(results=str(tmp_path / "results"), device="cpu")

    def execute(stop: Callable[[], bool]) -> None:
        execute_batch([(run.id, run.spec)], context, report=lambda e: None, should_stop=stop)

    asked: list[None] = []
    _processor(monkeypatch, bfloat16=True)
    execute(lambda: len(asked) > 1 or asked.append(None) is not None)  # false once, then true
    folder = Store(tmp_path / "results").folder(run.id, run.spec)
    assert folder.checkpoint_path.exists()
    _processor(monkeypatch, bfloat16=False)
    execute(lambda: False)
    record = folder.record()
    assert record is not None
    assert any("belongs to run" in note for note in record["notes"]["training"])
    assert record["resolved"] == {"train.precision": "float32"}


def test_runs_without_result_count_as_the_others_where_these_agree(tmp_path: Path) -> None:
    plan = open_session(_grid(tmp_path), results=tmp_path / "results").plan
    first, *others = plan.runs.values()

    def seen(resolved: dict[str, dict[str, str]]) -> set[str]:
        return {spec.train.precision for spec in specs_as_run(plan, resolved).values()}

    assert seen({}) == {"auto"}
    assert seen({first.id: {"train.precision": "bfloat16"}}) == {"bfloat16"}
    both = {
        first.id: {"train.precision": "bfloat16"},
        others[-1].id: {"train.precision": "float32"},
    }
    assert seen(both) == {"auto", "bfloat16", "float32"}
    explicit = open_session(_grid(tmp_path, "float32"), results=tmp_path / "results").plan
    same = specs_as_run(explicit, {})
    assert all(same[run.id] is run.spec for run in explicit.runs.values())
