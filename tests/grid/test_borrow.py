"""Borrowed data in grids, specs, ids and plans; and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import BenchError, GridError
from bench.grid.expand import load_grid
from bench.planning.forecast import measure
from bench.planning.workspace import Session, open_session
from bench.results.records import describe_run
from bench.specs.data import Borrowed, DataSpec
from bench.specs.run import ModelSpec, RunSpec, TrainSpec, joint_fingerprint, run_id

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
  same: {classes: {side: target}, images_per_class: 20}
"""


def runs(folder: Path, cell: str) -> list[RunSpec]:
    file = folder / "grid.yaml"
    file.write_text(HEAD + f"experiments:\n  a: {cell}\n")

    return load_grid(file).runs


def session(folder: Path, cell: str) -> Session:
    file = folder / "grid.yaml"
    file.write_text(HEAD + f"experiments:\n  a: {cell}\n")
    return open_session(file, results=folder)


# --- grids ------------------------------------------------------------------------------------


def test_parent_means_the_images_that_the_parent_was_trained_on(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "{set: {source: some, source_seed: 3, method: soft, borrow: parent}}")
    (borrowed,) = run.borrow
    assert run.parent is not None
    assert borrowed == Borrowed(data=run.parent.data, draw=3)
    assert run.parent.borrow == ()
    assert run.parent.method.name == "plain"


def test_a_name_and_a_mapping_mean_a_selection_drawn_as_sources_are(tmp_path: Path) -> None:
    named, written, parent = runs(
        tmp_path,
        "{set: {source: some, method: joint}, axes: {borrow: [some,"
        " {classes: {side: source, n: 5}, images_per_class: 20}, parent]}}",
    )
    assert named.borrow == written.borrow == parent.borrow
    assert named.borrow[0].data.val_per_class == 5


def test_lists_names_and_reductions_go_together(tmp_path: Path) -> None:
    two, reduced = runs(
        tmp_path,
        "{set: {source: some, method: joint}, axes: {borrow: [[parent,"
        " {name: other, total_images: 7}], {name: parent, categories: 0.1}]}}",
    )
    (dotted,) = runs(
        tmp_path,
        "{set: {source: some, method: joint, borrow: parent}, axes: {borrow.images: [0.1]}}",
    )
    assert [b.total_images for b in two.borrow] == [None, 7]
    assert two.borrow[1].data.classes.model_dump()["n"] == 3
    assert (reduced.borrow[0].categories, reduced.borrow[0].images) == (0.1, None)
    assert (dotted.borrow[0].categories, dotted.borrow[0].images) == (None, 0.1)


def test_a_pool_is_one_source_domain(tmp_path: Path) -> None:
    """GE Table 5: separate sets are a list, the hybrid source is a pool."""
    pool, apart = runs(
        tmp_path,
        "{set: {source: some, method: joint},"
        " axes: {borrow: [{pool: [some, other]}, [some, other]]}}",
    )
    assert pool.borrow == apart.borrow
    assert (pool.source_domains, apart.source_domains) == (1, 2)
    ids = [run_id(spec, lambda run: "x") for spec in (pool, apart)]
    assert ids[0] != ids[1]
    kept = "{name: soft, source_head: kept}"
    for borrow, method, words in (
        ("{pool: some}", "joint", r"borrow.pool: expected a list"),
        ("{pool: [some]}", "joint", r"a pool is made of two or more"),
        ("{pool: [some, nothing]}", "joint", r"'nothing'"),
        ("{pool: [some, other]}", kept, r"several sets of classes"),
    ):
        with pytest.raises(GridError, match=words):
            runs(
                tmp_path,
                f"{{set: {{source: some, method: {method}}}, axes: {{borrow: [{borrow}]}}}}",
            )


def test_none_borrows_nothing(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "{set: {source: some}, axes: {borrow: [none]}}")
    assert run.borrow == ()


def test_a_chains_parent_inherits_neither_method_nor_borrowed_data(tmp_path: Path) -> None:
    """LP-FT, then soft: the probe below it is plain."""
    (run,) = runs(
        tmp_path,
        "{set: {parent: {source: some, pattern: freeze}, pattern: T(1-8), borrow: some,"
        " method: {name: soft, source_head: random}}}",
    )
    assert run.parent is not None
    assert (run.parent.method.name, run.parent.borrow) == ("plain", ())
    assert run.parent.pattern == "F(1-7)R(8)"
    assert run.parent.parent is not None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{set: {source: some, method: soft}}", "trains on borrowed images too"),
        ("{set: {source: some, method: joint}}", "trains on borrowed images too"),
        ("{set: {source: some, borrow: parent}}", "method 'plain' borrows no images, and 1 is"),
        (
            "{set: {source: none, pattern: scratch, method: soft, borrow: some}}",
            "keeps the parent's classifier, and this run starts from nothing",
        ),
        (
            "{set: {source: some, method: soft, borrow: [some, other, some]}}",
            "borrows at most 2 selections, and 3 are given",
        ),
        (
            "{set: {source: none, pattern: scratch, method: joint, borrow: parent}}",
            "starts from no parent run",
        ),
        ("{set: {source: some, method: joint, borrow: smoe}}", "'smoe' is not defined"),
        (
            "{set: {source: some, method: joint, borrow: {name: some, categories: 1.5}}}",
            r"borrow\.categories is 1\.5: must be at most 1",
        ),
        (
            "{set: {source: some, method: joint, borrow: {name: parent, take: 3}}}",
            "take cannot be changed in the parent's own data",
        ),
        (
            "{set: {source: some, method: joint, borrow: {name: some, image_size: 64}}}",
            "borrowed images of 64 pixels beside a target of 32",
        ),
        ("{set: {source: some, method: joint, borrow: 3}}", "expected parent, a name"),
        (
            "{set: {source: some, method: {name: soft, ramp_epochs: 0}, borrow: parent}}",
            "ramp_epochs is 0",
        ),
        (
            "{set: {source: none, pattern: scratch, train.l2_sp: 0.1}}",
            r"train\.l2_sp is about copied and tuned layers",
        ),
        (
            "{set: {source: some, pattern: freeze, train.tuned: norm}}",
            r"train\.tuned is about copied and tuned layers",
        ),
    ],
)
def test_what_cannot_be_is_an_error_with_its_line(tmp_path: Path, cell: str, message: str) -> None:
    with pytest.raises(GridError, match=message) as caught:
        runs(tmp_path, cell)
    assert "grid.yaml:" in str(caught.value)


# --- plans ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{method: {name: selective, k0: 31}, borrow: parent}", "k0 is 31, but the source has 30"),
        ("{method: {name: selective, stored: 31}, borrow: parent}", "stored is 31"),
        ("{method: {name: selective, layers: '1,9'}, borrow: parent}", "layers 1 to 8"),
        ("{method: {name: selective, rounds: 11}, borrow: parent}", "11 rounds do not fit in 10"),
        ("{method: {name: soft, ramp_epochs: 0}, borrow: parent}", "ramp_epochs is 0"),
        ("{method: {name: soft_selective, k0: 3, min_source: 4}, borrow: parent}", "keep one"),
        ("{method: {name: probe, layer: '9'}, pattern: freeze}", "layer is 9"),
        ("{method: soft}", "there are none to borrow"),
    ],
)
def test_a_method_that_cannot_work_is_an_error_with_a_line_before_anything_runs(
    tmp_path: Path, cell: str, message: str
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"""
defaults:
  target:
    dataset: digits
    classes: {{recipe: categories, side: target, target_n: 4}}
    images_per_class: 4
    val_per_class: 2
    test_per_class: 3
  model: narrow8_32
  source: near
  pattern: tune
  train: {{epochs: 10}}
sources:
  near: {{classes: {{side: source, n: 5}}, images_per_class: 6}}
experiments:
  a: {{set: {cell}}}
"""
    )
    with pytest.raises(BenchError, match=rf"grid.yaml:\d+(.|\n)*{message}"):
        open_session(grid, results=tmp_path)


def test_borrowed_images_are_counted_and_forecast(tmp_path: Path) -> None:
    plan = session(
        tmp_path,
        "{set: {source: some}, axes: {seed: [0]}, include: ["
        "{method: joint, borrow: {name: parent, images: 0.5}}]}",
    ).plan
    plain, joint = [run for run in plan.runs.values() if run.experiments]
    assert [facts.train_images for facts in joint.facts.borrowed] == [50]
    assert joint.parent_id == plain.parent_id
    forecast = measure([plain, joint], device="cpu")
    alone, beside = forecast.seconds(plain), forecast.seconds(joint)
    assert alone is not None
    assert beside is not None
    assert beside > alone


def test_borrowed_classes_must_not_be_the_targets(tmp_path: Path) -> None:
    cell = "{set: {source: some, method: joint, borrow: same%s}}"
    with pytest.raises(BenchError, match="borrowed categories and the target share 4 classes"):
        session(tmp_path, cell % "")
    assert session(tmp_path, cell % ", allow_overlap: true").plan.runs


def test_a_kept_classifier_must_have_the_borrowed_classes(tmp_path: Path) -> None:
    cell = "{set: {source: other, method: %s, borrow: some}}"
    with pytest.raises(BenchError, match=r"lacks 2 of 5[\s\S]*source_head: random"):
        session(tmp_path, cell % "soft")
    assert session(tmp_path, cell % "{name: soft, source_head: random}").plan.runs
    assert session(tmp_path, cell % "joint").plan.runs


def test_more_images_than_there_are_stop_the_plan(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"total_images is 1000, and 100[\s\S]*at most 100"):
        session(
            tmp_path,
            "{set: {source: some, method: joint, borrow: {name: some, total_images: 1000}}}",
        )


# --- identity ---------------------------------------------------------------------------------

DIGITS = DataSpec(dataset="digits", images_per_class=5)
PLAIN = RunSpec(data=DIGITS, model=ModelSpec(name="narrow8_32"), pattern="R(1-8)")


def identity(spec: RunSpec) -> str:
    return run_id(spec, lambda run: "images")


def test_runs_from_before_borrowing_keep_their_ids() -> None:
    """The id of this run when there was neither `borrow` nor the options of copied layers."""
    assert identity(PLAIN) == "dcb5de696c03f9ab677c7b74a4eed201"


def test_what_is_borrowed_is_part_of_the_identity() -> None:
    borrowed = Borrowed(data=DataSpec(dataset="digits", images_per_class=9))
    variants = [
        (),
        (borrowed,),
        (borrowed, borrowed),
        *(
            (borrowed.model_copy(update=change),)
            for change in (
                {"draw": 1},
                {"categories": 0.5},
                {"images": 0.5},
                {"total_images": 5},
                {"exclude_overlap": True},
                {"data": DIGITS},
            )
        ),
    ]
    ids = [identity(PLAIN.model_copy(update={"borrow": variant})) for variant in variants]
    assert len(set(ids)) == len(ids)
    moved = borrowed.model_copy(
        update={"data": borrowed.data.model_copy(update={"root": "/elsewhere"})}
    )
    assert identity(PLAIN.model_copy(update={"borrow": (moved,)})) == ids[1]


def test_options_of_copied_layers_are_part_of_the_identity_where_used() -> None:
    tuned = PLAIN.model_copy(update={"pattern": "T(1-7)R(8)"})
    ids = {
        identity(tuned.model_copy(update={"train": TrainSpec(**change)}))  # type: ignore[arg-type]
        for change in (
            {},
            {"tuned": "norm"},
            {"tuned": "bias"},
            {"layer_lr_decay": 0.7},
            {"l2_sp": 0.1},
            {"l2_sp": 0.0},
        )
    }
    assert len(ids) == 6
    assert TrainSpec().identity() == TrainSpec(tuned="all", layer_lr_decay=1.0).identity()


def test_fingerprints_are_joined_in_order() -> None:
    assert joint_fingerprint("a", []) == "a"
    assert joint_fingerprint("a", ["b", "c"]) != joint_fingerprint("a", ["c", "b"])


# --- labels -----------------------------------------------------------------------------------


def test_rows_tell_chains_and_borrowed_data_apart(tmp_path: Path) -> None:
    """SF-FT, LP-FT and soft must not be one condition in an aggregated leaderboard."""
    cells = [
        "{set: {source: self, pattern: T(1-8)}}",
        "{set: {parent: {source: some, pattern: freeze}, pattern: T(1-8)}}",
        "{set: {source: some, method: soft, borrow: {name: parent, categories: 0.1}}}",
        "{set: {source: some, method: joint, borrow: {name: other, total_images: 5}}}",
        "{set: {source: some, train.layer_lr_decay: 0.5}}",
    ]
    rows = [describe_run(runs(tmp_path, cell)[0]) for cell in cells]
    assert [row["source"] for row in rows] == [
        "self",
        "categories 5 > self F(1-7)R(8)",
        "categories 5",
        "categories 5",
        "categories 5",
    ]
    assert [row["borrowed"] for row in rows] == [
        None,
        None,
        "parent, 0.1 of classes",
        "categories 3, 5 random images",
        None,
    ]
    assert [row["layer_lr_decay"] for row in rows] == [None, None, None, None, 0.5]
