"""A second run that a run needs: the network whose kernels describe images (GE-1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import GridError
from bench.grid.expand import load_grid
from bench.planning.plan import batches, make_plan
from bench.planning.workspace import open_session
from bench.specs.planned import DataFacts
from bench.specs.run import RunSpec, canonical_json

GRID = """\
defaults:
  target: {dataset: digits, classes: {recipe: random, n: 4}, image_size: 24, images_per_class: 4, val_per_class: 2, test_per_class: 4}
  model: narrow8_32
  source: shapes
  borrow: shapes
  pattern: tune
  bank:
    target: {dataset: wordnet-shapes, classes: {recipe: random, n: 2}, image_size: 24, images_per_class: 4, val_per_class: 2, test_per_class: 2}
    model: narrow8_32
    train: {epochs: 1, batch_size: 8}
  train: {epochs: 2, batch_size: 8}
  pretrain: {epochs: 1, batch_size: 8}
sources:
  shapes: {dataset: wordnet-shapes, classes: {recipe: random, n: 3}, images_per_class: 6, val_per_class: 2, test_per_class: 2}
experiments:
  a:
    axes:
      method:
        - {name: selective, layers: "1", k0: 2, rounds: 2}
        - {name: selective, bank: gabor, k0: 2, rounds: 2}
    include:
      - {method: plain, borrow: none}
      - {source: none, pattern: scratch, method: {name: selective, layers: "1", k0: 2, rounds: 2}}
"""  # noqa: E501


def runs(folder: Path, text: str = GRID) -> list[RunSpec]:
    path = folder / "grid.yaml"
    path.write_text(text)
    return load_grid(path).runs


def facts(spec: RunSpec) -> DataFacts:
    text = canonical_json(spec.data.identity())
    one = DataFacts(text, (text,), text, 10, 10)
    shared = tuple(
        DataFacts(canonical_json(b.data.identity()), ("b",), "b", 1, 1) for b in spec.borrow
    )
    return DataFacts(one.fingerprint, one.classes, one.key_space, 10, 10, borrowed=shared)


def test_only_methods_that_ask_for_kernels_have_a_bank(tmp_path: Path) -> None:
    listed = runs(tmp_path)
    assert [run.bank is not None for run in listed] == [True, False, False, True]
    bank = listed[0].bank
    assert bank is not None
    assert bank is listed[3].bank
    assert (bank.pattern, bank.train.epochs, bank.bank) == ("R(1-8)", 1, None)


def test_the_bank_is_planned_before_what_needs_it_and_blocks_it(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    grid = load_grid(path)
    plan = make_plan(grid, facts)
    order = list(plan.runs)
    kernels = [run for run in plan.runs.values() if run.bank_id]
    assert len(kernels) == 2
    for run in kernels:
        assert order.index(run.bank_id or "") < order.index(run.id)
        assert run.bank_id in run.needs
    bank = plan.runs[kernels[0].bank_id or ""]
    assert bank.role == "source"
    assert bank.needs == ()
    assert set(plan.descendants([bank.id])) == {run.id for run in kernels}
    states = dict.fromkeys(plan.runs, "missing")
    assert plan.to_repeat(states, [bank.id]) == [bank.id]
    for batch in batches(list(plan.runs.values()), cost_s=lambda run: 1.0, limit_s=100.0):
        assert all(run.needs == batch.needs for run in batch.runs)


def test_a_bank_that_is_no_run(tmp_path: Path) -> None:
    lines = GRID.splitlines()
    start = lines.index("  bank:")
    text = "\n".join([*lines[:start], "  bank: alexnet", *lines[start + 4 :]]) + "\n"
    with pytest.raises(GridError, match="bank: expected a run, found 'alexnet'") as caught:
        runs(tmp_path, text)
    assert f"grid.yaml:{start + 1}" in str(caught.value)


SIZED = GRID.replace("image_size: 24", "image_size: 64").replace(
    "    model: narrow8_32", "    model: {name: caffenet, filler: li2019}"
)


def test_a_bank_of_fixed_size_sees_its_own_size(tmp_path: Path) -> None:
    """CaffeNet's fc6 is made for one size; this used to be found when the bank was trained."""
    with pytest.raises(GridError) as caught:
        runs(tmp_path, SIZED)
    assert caught.value.message == (
        "the bank 'caffenet' takes images of 64 pixels, but describes parts of 56: method.crop "
        "0.875 of target images that are kept at 64 (experiment a)"
    )
    assert caught.value.hint == (
        "set target.resize: 73, or method.crop: 1 for more of each image, or "
        "bank.target.image_size: 56"
    )
    assert caught.value.place == f"{tmp_path / 'grid.yaml'}:8"
    ways = (
        SIZED.replace("test_per_class: 4}", "test_per_class: 4, resize: 73}"),
        SIZED.replace("k0: 2", "k0: 2, crop: 1.0"),
        SIZED.replace("n: 2}, image_size: 64", "n: 2}, image_size: 56"),
    )
    for text in ways:
        assert len(runs(tmp_path, text)) == 4


def test_parts_are_no_smaller_than_the_network_takes(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="takes no images below 16 pixels, but describes parts"):
        runs(tmp_path, GRID.replace("image_size: 24", "image_size: 17"))


def test_the_network_itself_describes_images_of_its_size(tmp_path: Path) -> None:
    own = SIZED.replace("model: narrow8_32", "model: {name: caffenet, filler: li2019}")
    lines = own.splitlines()
    start = lines.index("  bank:")
    text = "\n".join([*lines[:start], *lines[start + 4 :]]) + "\n"
    text = text[: text.index("      - {source: none")]
    with pytest.raises(GridError, match="the network 'caffenet' takes images of 64") as caught:
        runs(tmp_path, text)
    assert caught.value.hint == ("set target.resize: 73, or method.crop: 1 for more of each image")


def test_source_and_target_are_described_at_one_size(tmp_path: Path) -> None:
    text = GRID.replace("images_per_class: 6", "images_per_class: 6, resize: 30")
    with pytest.raises(GridError) as caught:
        runs(tmp_path, text)
    assert caught.value.message == (
        "borrowed images are kept at 30 pixels and the target's at 24: method 'selective' compares "
        "both by the same filters (experiment a)"
    )


def test_a_copied_network_of_fixed_size_has_one_size(tmp_path: Path) -> None:
    text = """\
defaults:
  target: {dataset: digits, image_size: 64, images_per_class: 4, val_per_class: 2, test_per_class: 4}
  model: {name: caffenet, filler: li2019}
  source: {dataset: wordnet-shapes, classes: {recipe: random, n: 3}, image_size: 48, images_per_class: 4, val_per_class: 2, test_per_class: 4}
  train: {epochs: 1, batch_size: 8}
experiments:
  a: {set: {pattern: T(1-5)R(6-8)}}
  b: {set: {pattern: T(1-7)R(8)}}
"""  # noqa: E501
    with pytest.raises(GridError) as caught:
        runs(tmp_path, text)
    assert caught.value.message == (
        "'caffenet' is trained on source images of 48 pixels and copied for images of 64: layer 6 "
        "has weights for each place of its map (experiment b)"
    )
    assert caught.value.place == f"{tmp_path / 'grid.yaml'}:4"
    assert len(runs(tmp_path, text[: text.index("  b:")])) == 1


def test_runs_with_a_bank_of_another_network_end_to_end(tmp_path: Path) -> None:
    from bench.runs.build import Context
    from bench.runs.execute import execute_batch

    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    session = open_session(path, results=tmp_path / "results", data_root=None)
    events: list[dict[str, Any]] = []
    execute_batch(
        [(run.id, run.spec) for run in session.wanted],
        Context(str(tmp_path / "results")),
        report=events.append,
        should_stop=lambda: False,
    )
    ended = [event["status"] for event in events if event["event"] == "ended"]
    failures = [event for event in events if event.get("status") == "failed"]
    assert not failures
    assert ended == ["done"] * len(session.wanted)
