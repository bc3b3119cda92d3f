"""`measure:` in grids: the extractions it adds to a plan, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import GridError
from bench.grid.extractions import extraction_pattern
from bench.methods import METHODS, check
from bench.planning.forecast import measure
from bench.planning.plan import batches
from bench.planning.workspace import Session, open_session
from bench.results.leaderboard import rows
from bench.specs.measures import KINDS
from bench.specs.pattern import LayerPattern
from bench.specs.run import FromRun, Scratch

ROOT = Path(__file__).parents[2]
HEAD = """\
defaults:
  target:
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 4}
    images_per_class: 5
    val_per_class: 5
    test_per_class: 5
  model: narrow8_32
  pattern: tune
sources:
  some: {classes: {side: source, n: 5}, images_per_class: 20}
  other: {classes: {side: source, n: 3}, images_per_class: 20}
experiments:
  a:
    axes: {source: [some, other], seed: [0, 1]}
    include: [{source: none, pattern: scratch}, {source: self, pattern: T(1-8)}]
  b:
    set: {source: some}
    zip: [{target.images_per_class: [2, 5]}]
    axes: {pattern: [tune, freeze]}
"""


def session(folder: Path, measure: str, *only: str) -> Session:
    file = folder / "grid.yaml"
    file.write_text(HEAD + (f"measure: {measure}\n" if measure else ""))
    return open_session(file, results=folder, only=only)


def ids(found: Session, role: str) -> list[str]:
    return [key for key, run in found.plan.runs.items() if run.role == role]


# --- what is added ----------------------------------------------------------------------------


def test_measuring_adds_extractions_and_changes_nothing_else(tmp_path: Path) -> None:
    plain = session(tmp_path, "")
    found = session(tmp_path, "{distances: , filters: {where: {seed_order: 0}}, transferability: }")
    added = ids(found, "extract")
    assert [key for key in found.plan.runs if key not in added] == list(plain.plan.runs)
    assert found.plan.cells == plain.plan.cells
    assert found.plan.repeated == plain.plan.repeated
    table, before = (rows(one.plan, one.store) for one in (found, plain))
    assert table == before
    assert plain.plan.measures == ()
    assert [measure.name for measure, _ in found.plan.measures] == list(KINDS)


def test_a_distance_is_of_both_sides_under_the_sources_network(tmp_path: Path) -> None:
    plan = session(tmp_path, "{distances: {images: 30, split: trainval}}").plan
    ((measure, keys),) = plan.measures
    assert [(p.task.source, p.role) for p in measure.parts] == [
        ("categories 5", "source"),
        ("categories 5", "target"),
        ("categories 3", "source"),
        ("categories 3", "target"),
    ]
    for part, key in zip(measure.parts, keys, strict=True):
        run = plan.runs[key]
        parent = part.run.parent
        assert parent is not None
        assert run.spec == part.run
        assert str(run.spec.layers) == "F(1-8)"
        assert dict(run.spec.method.options)["images"] == 30
        own = (
            parent.data if part.role == "source" else plan.runs[ids_of_finetunes(plan)[0]].spec.data
        )
        assert run.spec.data == own
        assert list(plan.runs).index(run.parent_id or "") < list(plan.runs).index(key)


def ids_of_finetunes(plan: object) -> list[str]:
    runs = plan.runs  # type: ignore[attr-defined]
    return [key for key, run in runs.items() if run.role == "finetune"]


def test_the_largest_target_stands_for_all_its_sizes(tmp_path: Path) -> None:
    plan = session(tmp_path, "{transferability: {experiments: b}}").plan
    ((measure, _),) = plan.measures
    (part,) = measure.parts
    assert (part.images_per_class, part.experiments) == (5, ("b",))


def test_equal_features_are_one_run_across_measurements(tmp_path: Path) -> None:
    both = session(tmp_path, "{distances: {images: 50}, transferability: {images: 50}}").plan
    (_, first), (_, second) = both.measures
    assert set(second) < set(first)
    assert len(ids_by_role(both)) == 4


def ids_by_role(plan: object) -> list[str]:
    runs = plan.runs  # type: ignore[attr-defined]
    return [key for key, run in runs.items() if run.role == "extract"]


def test_filters_are_of_the_sources_the_fine_tuned_and_the_scratch_network(tmp_path: Path) -> None:
    found = session(tmp_path, "{filters: {layers: [1, 5], experiments: a, choose_on: val}}")
    ((measure, keys),) = found.plan.measures
    judged = [p for p in measure.parts if p.role == "judged"]
    assert {(p.network, p.seed) for p in judged} == {
        ("categories 5", ""),
        ("categories 3", ""),
        *((f"FT-categories {n}", f"{s} {s} {s}") for n in (5, 3) for s in (0, 1)),
        *(("self", f"{s} {s} {s}") for s in (0, 1)),
    }
    options = [dict(found.plan.runs[key].spec.method.options) for key in keys]
    assert {o["split"] for o in options} == {"test", "val"}
    assert {(o["pool"], o["layers"]) for o in options} == {("max", "1,5")}
    for part, key in zip(measure.parts, keys, strict=True):
        trained = found.plan.runs[found.plan.runs[key].parent_id or ""]
        assert trained.spec == part.of
        assert trained.role == ("source" if part.seed == "" else "finetune")


def test_other_networks_can_see_both_sides(tmp_path: Path) -> None:
    plan = session(tmp_path, "{distances: {network: {timm: resnet18}, layer: 3}}").plan
    specs = [part.run for part in plan.measures[0][0].parts]
    assert {(s.model.name, s.init.kind, s.pattern) for s in specs} == {
        ("resnet18", "timm", "F(1-9)R(10)")
    }
    assert {p.network for p in plan.measures[0][0].parts} == {"timm resnet18"}
    plan = session(tmp_path, "{distances: {network: scratch}}").plan
    assert {part.run.pattern for part in plan.measures[0][0].parts} == {"R(1-8)"}


@given(st.integers(2, 300))
def test_an_extraction_copies_all_layers_of_a_run(depth: int) -> None:
    run = FromRun.model_construct(kind="run", run=None)
    assert LayerPattern.parse(extraction_pattern(run, depth)).frozen_prefix == depth
    assert LayerPattern.parse(extraction_pattern(Scratch(), depth)).is_scratch


# --- planned, chosen and grouped like runs ----------------------------------------------------


def test_only_takes_the_extractions_of_the_experiments_asked_for(tmp_path: Path) -> None:
    measure = (
        "{transferability: {images: 9}, filters: {experiments: b, where: {pattern: T(1-7)R(8)}}}"
    )
    wanted = {run.id for run in session(tmp_path, measure, "b").wanted}
    plan = session(tmp_path, measure).plan
    for kind, keys in plan.measures:
        for part, key in zip(kind.parts, keys, strict=True):
            assert (key in wanted) == ("b" in part.experiments)
    for key in wanted:
        assert plan.runs[key].parent_id in {None, *wanted}


def test_extractions_share_the_batch_of_their_networks_children(tmp_path: Path) -> None:
    plan = session(tmp_path, "{transferability: }").plan
    made = batches(list(plan.runs.values()), cost_s=lambda run: 1.0, limit_s=1000.0)
    for batch in made:
        if any(run.role == "extract" for run in batch.runs):
            assert any(run.role == "finetune" for run in batch.runs)
    extraction = plan.runs[ids_by_role(plan)[0]]
    tuned = plan.runs[ids_of_finetunes(plan)[0]]
    forecast = measure([extraction, tuned], device="cpu")
    cost = [forecast.seconds(run) for run in (extraction, tuned)]
    assert cost[0] is not None
    assert cost[1] is not None
    assert cost[0] < cost[1]


def test_an_extraction_below_a_failed_run_is_blocked(tmp_path: Path) -> None:
    found = session(tmp_path, "{transferability: }")
    source = found.plan.runs[ids(found, "source")[0]]
    folder = found.store.folder(source.id, source.spec)
    folder.path.mkdir(parents=True)
    folder.add_failure({"reason": "test", "message": "no luck"})
    states = found.states()
    below = [key for key in ids(found, "extract") if found.plan.runs[key].parent_id == source.id]
    assert below
    assert {states[key] for key in below} == {"blocked"}
    assert all(row["role"] != "extract" for row in rows(found.plan, found.store))


@pytest.mark.parametrize("name", ["quickstart", "factors"])
def test_shipped_grids_measure_what_their_runs_need(name: str, tmp_path: Path) -> None:
    found = open_session(ROOT / f"grids/{name}.yaml", results=tmp_path)
    assert {measure.name for measure, _ in found.plan.measures} == set(KINDS)
    networks = {p.network for m, _ in found.plan.measures if m.name == "filters" for p in m.parts}
    assert networks == {"near", "far", "FT-near", "FT-far", "self"}


def test_committed_leaderboards_name_no_extraction(committed: Path) -> None:
    for path in sorted(committed.rglob("*.csv")):
        with path.open() as file:
            assert not [row for row in csv.DictReader(file) if row.get("role") == "extract"]


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "line", "message"),
    [
        ("[distances]", 0, "measure: expected a mapping"),
        ("{distance: }", 0, r"nothing is called 'distance'[\s\S]*distances"),
        ("\n  distances: 3", 1, "measure.distances: expected a mapping, found 3"),
        ("\n  distances:\n    layers: 7", 2, r"unknown key 'layers'[\s\S]*known: layer"),
        (
            "\n  distances:\n    images: none",
            2,
            "measure.distances.images is 'none': expected a whole number",
        ),
        ("\n  distances:\n    split: trian", 2, "measure.distances.split is 'trian'"),
        ("\n  filters:\n    experiments: [a, c]", 2, r"no experiment 'c'[\s\S]*a, b"),
        ("\n  filters:\n    where: {rl: 1}", 2, r"no column 'rl'[\s\S]*columns: .*lr"),
        ("\n  filters:\n    where: {lr: 3.0}", 2, r"no run has lr 3.0[\s\S]*there are: 0.01"),
        ("\n  filters: {layers: [9]}", 1, "layer 9 is asked for, and narrow8_32 has layers 1 to"),
        (
            "\n  filters: {experiments: b, where: {pattern: F(1-7)R(8)}}",
            1,
            "no run fine-tunes all its copied layers",
        ),
        (
            "\n  distances: {where: {source: [none, self]}}",
            1,
            "no run starts from a source whose images are known",
        ),
        ("\n  distances: {network: {timm: resnet81}}", 1, "no network 'resnet81'"),
    ],
)
def test_what_cannot_be_measured_is_an_error_with_its_line(
    tmp_path: Path, measure: str, line: int, message: str
) -> None:
    with pytest.raises(GridError, match=message) as caught:
        session(tmp_path, measure)
    place = f"{tmp_path}/grid.yaml:{line + 1 + HEAD.count(chr(10))}: "
    assert str(caught.value).startswith(place)


def test_two_networks_of_one_name_and_seed_are_told_apart_by_where(tmp_path: Path) -> None:
    text = HEAD.replace("axes: {source", "axes: {train.lr: [0.01, 0.1], source")
    file = tmp_path / "grid.yaml"
    file.write_text(text + "measure: {filters: {experiments: a}}\n")
    with pytest.raises(GridError, match=r"with one seed; they differ in lr[\s\S]*where: \{lr"):
        open_session(file, results=tmp_path)
    file.write_text(text + "measure: {filters: {experiments: a, where: {lr: 0.1}}}\n")
    assert open_session(file, results=tmp_path).plan.measures


@given(st.text(max_size=12), st.one_of(st.none(), st.integers(), st.text(max_size=5)))
def test_any_section_is_read_or_refused_with_a_line(key: str, value: object) -> None:
    import tempfile

    import yaml

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.yaml"
        given_text = yaml.safe_dump({"measure": {"distances": {key: value}}}, allow_unicode=True)
        file.write_text(HEAD + given_text, encoding="utf-8")
        places = []
        try:
            open_session(file, results=Path(folder))
        except GridError as error:
            places.append(error.place)
        assert all(place is not None and place.startswith(f"{file}:") for place in places)


def test_options_of_extractions_are_complete_and_known_to_the_method() -> None:
    options = check("extract", {"layers": "1,5"}).model_dump()
    assert options["split"] == "train"
    assert {name for name, entry in METHODS.items() if entry.kind == "extraction"} == {"extract"}
