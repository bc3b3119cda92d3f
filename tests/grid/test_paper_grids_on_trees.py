"""The papers' grids planned in full on trees of all their data sets, as their authors pack them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import DataError
from bench.data.identities import resolve_identities
from bench.grid.yaml import read_yaml
from bench.planning.workspace import Session, open_session
from tests.data.paper_trees import PARTS, TREES, build

FOLDER = Path(__file__).parents[2] / "grids" / "papers"


def partial(value: Any) -> Any:
    """A part of a grid whose data sets may lack images."""
    if isinstance(value, list):
        return [partial(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: partial(item) for key, item in value.items()}
    if "target.options" in found:
        found["target.options"] |= {"partial": True}
    if "dataset" in found:
        found["options"] = {**found.get("options", {}), "partial": True}
    return found


class Planned:
    """A paper's grid beside its trees."""

    def __init__(self, name: str, folder: Path) -> None:
        self.content = read_yaml(FOLDER / f"{name}.yaml").value
        del self.content["presets"]
        self.folder, self.root = folder, build(name, folder / "data")

    def open(self, *only: str) -> Session:
        path = self.folder / "grid.yaml"
        path.write_text(json.dumps(partial(self.content)))
        results = self.folder / "results"
        return open_session(path, results=results, data_root=self.root, only=only)


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    return Planned("soft-fine-tuning", tmp_path_factory.mktemp("soft"))


def check_all_planned(session: Session) -> None:
    assert session.missing_data == ()
    assert not any(run.facts.missing for run in session.plan.runs.values())
    for experiment in session.grid.experiments:
        planned = [r for r in session.plan.runs.values() if experiment.name in r.experiments]
        assert len(planned) == len(experiment.runs)


def test_all_data_sets_of_a_grid_have_a_tree() -> None:
    for path in FOLDER.glob("*.yaml"):
        named: set[str] = set()

        def note(value: Any, named: set[str] = named) -> None:
            if isinstance(value, dict):
                named.update([value["dataset"]] if "dataset" in value else [])
            for item in value.values() if isinstance(value, dict) else value:
                if isinstance(item, dict | list):
                    note(item)

        content = read_yaml(path).value
        del content["presets"]
        note(content)
        assert named == set(TREES[path.stem])


@pytest.mark.parametrize("name", [name for name in TREES if name != "soft-fine-tuning"])
def test_a_grid_is_planned_in_full(name: str, tmp_path: Path) -> None:
    check_all_planned(Planned(name, tmp_path).open())


def test_sft_is_planned_in_full(soft: Planned) -> None:
    session = soft.open()
    check_all_planned(session)
    places = {"data_root": soft.root, "cache_dir": session.store.cache}
    faces = [r for r in session.plan.runs.values() if "table-5" in r.experiments]
    assert {len(run.facts.classes) for run in faces} == {60}
    for run in faces:  # the persons of the verification are others
        who = resolve_identities(run.spec, **places)  # type: ignore[arg-type]
        assert who.identities == tuple(f"P{n:03d}" for n in range(1, 21))
        assert not set(who.identities) & set(run.facts.classes)
    views = {r.spec.data.views for r in session.plan.runs.values() if "table-4" in r.experiments}
    assert views == {("whole", "box", *PARTS)}


def test_without_parts_sft_names_what_cannot_run_and_the_rest_runs(soft: Planned) -> None:
    """`--only table-2` used to end in "no view 'head'" once Stanford 40 was there."""
    parts = soft.root / "Stanford40" / "parts.csv"
    content = parts.read_text()
    parts.unlink()
    try:
        with pytest.raises(DataError) as caught:
            soft.open()
        assert caught.value.message == (
            f"the file of boxes 'parts.csv' is not in {soft.root / 'Stanford40'} "
            "(experiment table-4)"
        )
        rest = "--only table-2 --only table-3 --only table-5 --only table-6"
        assert (caught.value.hint or "").endswith(f"; {rest} runs the experiments that have theirs")
        session = soft.open("table-2", "table-3", "table-5", "table-6")
        assert not any(run.facts.missing for run in session.wanted)
        assert session.missing_data == ()
        with pytest.raises(DataError, match=r"the file of boxes 'parts.csv' is not in"):
            soft.open("table-4")
    finally:
        parts.write_text(content)


def test_only_what_is_asked_for_must_have_right_data(soft: Planned) -> None:
    target = soft.content["targets"]["action-parts"]
    right = dict(target)
    target.clear()
    target.update({key: value for key, value in right.items() if key != "options"})
    try:
        for only in ((), ("table-4",)):
            with pytest.raises(DataError, match=r"no view 'head' \(experiment table-4\)"):
                soft.open(*only)
        session = soft.open("table-2")
        wanted = {run.id for run in session.wanted}
        others = [run for run in session.plan.runs.values() if run.id not in wanted]
        assert len([run for run in session.wanted if run.experiments]) == 10
        assert not any(run.facts.missing for run in session.wanted)
        assert {run.experiments for run in others if run.facts.missing} == {("table-4",)}
    finally:
        target.update(right)
