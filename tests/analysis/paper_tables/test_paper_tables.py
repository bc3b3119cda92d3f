"""The papers' tables beside runs: complete, each cell at its own runs, and honest about data."""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from scipy import special
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.read import ADDED, prepare
from analysis.paper_tables.basis import OTHER_DATA, OTHER_NETWORK, SAME, basis_of
from analysis.paper_tables.cells import Arm, Difference, PaperTable, rows_of
from analysis.paper_tables.compare import GRIDS, WITHOUT_RUNS, Line, lines, paper_grid, table
from analysis.paper_tables.scores import COUNTS, fact_of, score_of
from analysis.paper_tables.text import TITLE, paper_tables
from analysis.papers.published import cells, look_up
from analysis.report.build import build, page
from bench.commands.app import app
from bench.core.errors import BenchError, DataError
from bench.grid.expand import load_grid
from bench.results.records import COLUMNS, describe_run

ROOT = Path(__file__).parents[3]
NAMES = tuple(GRIDS)
TABLES = [(name, one) for name, grid in GRIDS.items() for one in grid.tables]


@cache
def board(name: str, *overrides: str) -> pd.DataFrame:
    """A leaderboard of a paper's grid as if all its runs were done, each with a score by chance."""
    grid = load_grid(ROOT / "grids" / "papers" / f"{name}.yaml", overrides=overrides)
    inside: dict[Any, list[str]] = {}
    for experiment in grid.experiments:
        for run in experiment.runs:
            inside.setdefault(run, []).append(experiment.name)
    for run in list(inside):
        for parent in run.ancestors():
            inside.setdefault(parent, [])
    rng = np.random.default_rng(7)
    rows = []
    for number, (run, names) in enumerate(inside.items()):
        row = dict.fromkeys((c.name for c in COLUMNS), None) | describe_run(run)
        row |= {
            "experiments": ";".join(names),
            "role": "finetune" if names else "source",
            "status": "done",
            "run_id": str(number),
            "train_images": 2040 if "val_in_train" in str(run.data) else 1020,
            "val_images": 100,
            "test_images": 500,
            "target_classes": run.data.classes.take or 100,
            "borrowed_classes": 20 if run.borrow else None,
            "borrowed_images": 300 if run.borrow else None,
        }
        shares = (c.name for c in COLUMNS if c.better == "higher" and c.name != "images_per_s")
        row |= {name: float(rng.uniform(0.2, 0.9)) for name in shares}
        rows.append(row)
    return prepare(pd.DataFrame(rows))


@cache
def full(name: str) -> list[Line]:
    return lines(name, Evidence(board(name), class_precisions=precisions, outputs=outputs))


LABELS = np.repeat(np.arange(3), (5, 9, 16))


def outputs(run_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Made-up scores of 30 test images of three classes."""
    rng = np.random.default_rng(int(run_id))
    return rng.normal(size=(30, 3)).astype(np.float32) + 1.5 * np.eye(3)[LABELS], LABELS


def precisions(run_id: str) -> dict[str, float]:
    """Made up from the run's id."""
    names = ("smoking", "taking_photos", "texting_message")
    return {name: (int(run_id) + 3) / (100 + place) for place, name in enumerate(names)}


def arms(one: PaperTable) -> list[tuple[str, str, Arm]]:
    found = []
    for cell in one.cells:
        if cell.class_name:
            continue  # its runs have a score over all classes too
        if isinstance(cell.of, Arm):
            found.append((cell.row, cell.column, cell.of))
        elif isinstance(cell.of, Difference):
            found += [(cell.row, cell.column, a) for a in (cell.of.first, cell.of.second)]
    return found


def of(found: list[Line], table_name: str, row: str, column: str) -> Line:
    (line,) = [x for x in found if (x.table, x.row, x.column) == (table_name, row, column)]
    return line


# --- the register is whole ---


@pytest.mark.parametrize(("name", "one"), TABLES, ids=lambda x: getattr(x, "name", x))
def test_every_cell_is_one_in_print(name: str, one: PaperTable) -> None:
    keys = [(cell.row, cell.column) for cell in one.cells]
    assert len(set(keys)) == len(keys)
    paper = GRIDS[name].paper
    for cell in one.cells:
        look_up(paper, one.name, cell.row, cell.column)
        if cell.spread:
            look_up(paper, one.name, cell.row, cell.spread)
    for row in one.elsewhere:
        assert any(c.row == row for c in cells() if (c.paper, c.table) == (paper, one.name))


def test_every_number_in_print_is_measured_quoted_or_explained() -> None:
    tables = {(GRIDS[name].paper, one.name): one for name, one in TABLES}
    assert not set(tables) & WITHOUT_RUNS
    for cell in cells():
        one = tables.get((cell.paper, cell.table))
        if one is None:
            assert (cell.paper, cell.table) in WITHOUT_RUNS, cell
    for name in NAMES:
        for line in full(name):
            assert line.status != "elsewhere" or line.note, line


@pytest.mark.parametrize(("name", "one"), TABLES, ids=lambda x: getattr(x, "name", x))
def test_every_cell_of_the_papers_own_trainings_has_one_condition(
    name: str, one: PaperTable
) -> None:
    """At full size, without any data; published weights are no training of the grid."""
    for row, column, which in arms(one):
        rows = rows_of(board(name), which)
        if column == "ImageNet val. Top-1 acc.":
            assert rows.empty
            continue
        assert len(rows), (one.name, row, column)
        if one.name != "Table 1" or name == "selective-joint":  # others are of a data set
            said = "the test images' error is bounded"
            assert score_of([rows], "top1_accuracy").note in ("", said), (one.name, row, column)


def test_no_two_rows_of_a_table_are_the_same_runs() -> None:
    for name, one in TABLES:
        if one.name == "Table 1" and name != "selective-joint":
            continue
        seen: dict[tuple[str, ...], str] = {}
        for cell in one.cells:
            if isinstance(cell.of, Arm):
                key = (cell.metric, *rows_of(board(name), cell.of)["run_id"])
                if len(key) > 1:
                    assert seen.setdefault(key, cell.row) == cell.row


BESIDE = {
    "selective-joint": {("table-2", "plain"), ("table-3", "plain")},
    "soft-fine-tuning": {("table-4", "plain")},
}
"""Controls that the papers have not: plain fine-tuning with as many images in a pass as joint
training, and on nine views. They are lines without a published number."""


@pytest.mark.parametrize("name", NAMES)
def test_no_run_of_a_full_grid_is_left_without_a_cell(name: str) -> None:
    grid = GRIDS[name]
    runs = board(name)[board(name)["role"] == "finetune"]
    shown = set().union(*(rows_of(runs, a).index for one in grid.tables for *_, a in arms(one)))
    for figure in grid.figures:
        shown |= set(rows_of(runs, Arm(figure.experiment, ())).index)
    beside = runs.loc[sorted(set(runs.index) - shown)]
    assert set(zip(beside["experiments"], beside["method"], strict=True)) == BESIDE.get(name, set())
    printed = [line for line in full(name) if line.published is not None]
    assert not [line for line in printed if line.status == "not measured"]


@pytest.mark.parametrize("name", NAMES)
def test_a_rehearsal_has_runs_for_most_cells_and_says_whose_data_they_are(name: str) -> None:
    found = lines(name, Evidence(board(name, "preset=miniature")))
    measured = [line for line in found if line.status == "measured"]
    trained = [
        line
        for line in found
        if line.status in ("measured", "not run") and "not measured" not in line.note
    ]
    assert len(measured) > 0.6 * len(trained)
    assert {line.basis for line in measured} == {OTHER_DATA}
    others = [line for line in found if line.status == "no published number"]
    assert all(line.basis == OTHER_DATA for line in others)
    controls = {experiment.replace("table-", "Table ") for experiment, _ in BESIDE.get(name, ())}
    drawn = {figure.name for figure in GRIDS[name].figures}
    assert {line.table for line in others} <= drawn | controls


@pytest.mark.parametrize("name", NAMES)
def test_runs_at_full_size_are_on_the_papers_data(name: str) -> None:
    found = full(name)
    bases = {line.basis for line in found if line.status == "measured" and line.basis}
    assert OTHER_DATA not in bases
    assert OTHER_NETWORK not in bases


def test_either_network_of_ge_is_the_papers_and_the_note_says_why() -> None:
    """GE §4.1 names identity mappings, and starts from weights of the network without them."""
    standard = next(one for one in GRIDS["selective-joint"].tables if one.name == "Table 2")
    assert standard.standard["model"] == ("resnet152", "resnetv2_152")
    models = {str(m) for m in board("selective-joint")["model"]}
    assert "resnet152" in models
    assert "resnetv2_152" in {*board("selective-joint", "preset=pre-activation")["model"]}
    assert "starts from the weights released with [12]" in standard.note


# --- what stands in a cell ---


def test_a_cell_is_the_mean_of_its_runs_in_percent() -> None:
    name, column = "selective-joint", "mean Acc 30/class"
    everything = board(name)
    runs = everything[
        everything["experiments"].str.contains("table-4")
        & (everything["method"] == "selective")
        & (everything["images_per_class"] == 30)
    ]
    values = [100 * v for v in runs["mean_class_accuracy"]]
    assert len(values) == 5
    line = of(full(name), "Table 4", "Selective joint fine-tuning", column)
    assert (line.published, line.published_spread, line.n) == (83.8, 0.5, 5)
    assert line.measured == pytest.approx(statistics.mean(values))
    assert line.spread == pytest.approx(statistics.stdev(values))
    assert line.low < line.measured < line.high


def test_gains_of_single_classes_are_of_nine_views_and_need_the_records() -> None:
    """SFT §4.2: soft against the same network fine-tuned plainly."""
    rows = board("soft-fine-tuning")
    rows = rows[rows["experiments"] == "table-4"].set_index("method")
    assert set(rows.index) == {"soft", "plain"}
    ids = (rows.loc[method, "run_id"] for method in ("soft", "plain"))
    soft, plain = (precisions(str(key)) for key in ids)
    found = full("soft-fine-tuning")
    for row, name, printed in (
        ("smoking", "smoking", 5.0),
        ("taking photos", "taking_photos", 4.3),
        ("texting message", "texting_message", 2.2),
    ):
        line = of(found, "text Sec. 4.2", row, "gain")
        assert (line.published, line.status, line.n) == (printed, "measured", 1)
        assert line.measured == pytest.approx(100 * (soft[name] - plain[name]))
    alone = of(
        lines("soft-fine-tuning", Evidence(board("soft-fine-tuning"))),
        *("text Sec. 4.2", "smoking", "gain"),
    )
    assert (alone.status, alone.note) == (
        "not measured",
        "a leaderboard has no column for single classes: give the grid",
    )


def test_the_average_of_two_networks_is_of_their_softmax_outputs() -> None:
    """GE Table 5: "average the output of (ii) and (iii)"."""
    rows = board("selective-joint")
    rows = rows[(rows["experiments"] == "table-5") & (rows["method"] == "selective")]
    places = rows["borrowed"].isin(["places-205 all", "imagenet all;places-205 all"])
    scores = [outputs(str(key))[0] for key in rows.loc[places, "run_id"]]
    assert len(scores) == 2
    mean = np.mean([special.softmax(one, axis=1) for one in scores], axis=0)
    row = ("Table 5", "Average the output of (ii) and (iii)", "mean Acc")
    line = of(full("selective-joint"), *row)
    assert (line.published, line.status, line.n, line.low) == (86.9, "measured", 1, None)
    expected = 100 * balanced_accuracy_score(LABELS, mean.argmax(1))
    assert line.measured == pytest.approx(expected)
    found = lines("selective-joint", Evidence(board("selective-joint")))
    assert of(found, *row).note == "a leaderboard has no outputs of single images: give the grid"
    gone = Evidence(board("selective-joint"), outputs=lambda key: None)
    assert of(lines("selective-joint", gone), *row).note == (
        "the predictions of one of the two are gone"
    )
    other = Evidence(
        board("selective-joint"), outputs=lambda key: (outputs(key)[0], LABELS + int(key))
    )
    assert of(lines("selective-joint", other), *row).status == "not measured"


def test_a_gain_is_the_difference_of_two_cells() -> None:
    found = full("soft-fine-tuning")
    for network in ("MobileNetV2", "ResNet-50", "InceptionV4"):
        soft = of(found, "Table 2", f"soft fine-tuning / {network}", "mAP")
        plain = of(found, "Table 2", f"fine-tuning / {network}", "mAP")
        gain = of(found, "Table 2", f"soft fine-tuning / {network}", "gain")
        assert gain.measured == pytest.approx(soft.measured - plain.measured)
        assert gain.published == pytest.approx(soft.published - plain.published)


def test_the_row_with_validation_images_is_the_one_with_more_of_them() -> None:
    everything = board("selective-joint")
    found = full("selective-joint")
    row = everything[everything["train_images"] == 2040].iloc[0]
    line = of(found, "Table 3", "Selective joint FT with val set", "mean Acc")
    assert line.measured == pytest.approx(100 * row["mean_class_accuracy"])


def test_unfinished_runs_are_not_run_and_partly_finished_ones_are_counted() -> None:
    everything = board("selective-joint").copy()
    everything["status"] = everything["status"].astype(object)
    four = everything["experiments"].str.contains("table-4")
    everything.loc[four & (everything["images_per_class"] == 15), "status"] = "failed"
    some = everything.index[four & (everything["images_per_class"] == 60)][:2]
    everything.loc[some, "status"] = ["failed", "diverged"]
    found = lines("selective-joint", Evidence(everything))
    gone = of(found, "Table 4", "Selective joint fine-tuning", "mean Acc 15/class")
    assert (gone.status, gone.measured) == ("not run", None)
    assert "5 failed" in gone.note
    less = of(found, "Table 4", "Selective joint fine-tuning", "mean Acc 60/class")
    assert less.n == 4
    said = less.note.split("; ")
    assert {"1 diverged, at chance", "1 run without a result"} <= set(said)


def test_conditions_that_differ_are_never_averaged_in_a_cell() -> None:
    everything = board("selective-joint")
    four = everything["experiments"].str.contains("table-4") & (
        everything["images_per_class"] == 60
    )
    again = everything[four].assign(weight_decay=0.1)
    again["run_id"] = "again " + again["run_id"].astype(str)
    again["experiments"] = "table-4"
    both = prepare(
        pd.concat([everything.drop(columns=list(ADDED)), again.drop(columns=list(ADDED))])
    )
    line = of(
        lines("selective-joint", Evidence(both)),
        "Table 4",
        "Selective joint fine-tuning",
        "mean Acc 60/class",
    )
    assert (line.status, line.measured) == ("several conditions", None)
    assert "2 conditions, which differ in weight_decay" in line.note


def test_a_run_that_diverged_verifies_as_chance_does() -> None:
    rows = board("soft-fine-tuning").drop(columns=list(ADDED)).copy()
    rows["tar_at_far_1e-2"] = 0.8
    rows["status"] = rows["status"].astype(object)
    rows.loc[rows.index[0], "status"] = "diverged"
    rows.loc[rows.index[0], ["tar_at_far_1e-2", "mean_average_precision"]] = None
    found = prepare(rows).iloc[0]
    assert found["tar_at_far_1e-2"] == 0.01
    assert found["mean_average_precision"] == 1 / found["target_classes"]
    rows[["tar_at_far_1e-2", "mean_average_precision"]] = None  # no run has them
    found = prepare(rows)
    assert found["tar_at_far_1e-2"].isna().all()
    assert found["mean_average_precision"].isna().all()


def test_facts_of_the_data_that_a_leaderboard_lacks_are_not_measured() -> None:
    rows = pd.DataFrame({"train_images": [100]})
    for name in COUNTS:
        assert fact_of(rows, name) is None


def test_a_run_that_the_paper_has_not_is_a_line_without_a_published_number() -> None:
    everything = board("soft-fine-tuning").copy()
    extra = everything[everything["experiments"] == "table-4"].iloc[:1].copy()
    extra["method"], extra["method_options"] = "joint", "batch_norm=joint"
    both = pd.concat([everything, extra], ignore_index=True)
    (line,) = [
        x
        for x in lines("soft-fine-tuning", Evidence(both))
        if x.status == "no published number" and x.row.startswith("joint")
    ]
    assert (line.table, line.published, line.n) == ("Table 4", None, 1)


def test_distances_filters_and_advice_have_their_cells() -> None:
    distances = pd.DataFrame(
        [
            {
                "dataset": "caltech-256",
                "target": "all",
                "class_draw": None,
                "source": "imagenet all",
                "model": "caffenet",
                **{
                    n: v
                    for k, x in (("cosine", 0.07), ("mmd", 9.0), ("svm", 0.7), ("cnn", 0.6))
                    for n, v in ((k, x), (f"{k}_low", x / 2), (f"{k}_high", x * 2))
                },
            }
        ]
    )
    found = lines("best-practices", Evidence(board("best-practices"), distances=distances))
    cosine = of(found, "Table 2", "Caltech-256", "Cosine distance")
    assert (cosine.measured, cosine.published, cosine.basis) == (0.07, 0.071, SAME)
    assert of(found, "Table 2", "Caltech-256", "Linear SVM").measured == pytest.approx(70.0)
    assert of(found, "Table 2", "Coral", "MMD").status == "not run"
    cell = ("Cosine distance L (0.0-0.2)", "Images per class L (1-20)")
    advice = of(found, "Table 3", *cell)
    assert advice.published == "Freeze"
    assert advice.measured in ("freeze", "tune", "try both")
    assert advice.n == 2  # splits of 1 and 10 images; the last layer anew, as in CHU Fig. 2
    sensitivities = pd.DataFrame(
        {
            "a": ["near"],
            "b": ["self"],
            "percentage": [70.0],
            "ties_percentage": [4.0],
            "n_classes": [100],
            "layer": ["5"],
        }
    )
    found = lines("multifaceted", Evidence(board("multifaceted"), sensitivities=sensitivities))
    fig = "Fig. 9 (values given in text Sec. 4.3.1)"
    near = of(found, fig, "near > self", "percentage of categories")
    assert (near.measured, near.published, near.note) == (70.0, 51.0, "4 % ties")
    assert of(found, fig, "far > self", "percentage of categories").status == "not run"


def test_what_differs_from_the_paper_is_said() -> None:
    rows = pd.DataFrame(
        {"dataset": ["imagenet"], "target": ["dog.n.01"], "model": ["resnet18"], "epochs": [5]}
    )
    standard = {"data": ("imagenet *",), "model": ("caffenet",), "epochs": ("100",)}
    found = basis_of(rows, standard)
    assert (found.text, found.details) == (OTHER_NETWORK, ("resnet18", "5 epochs"))
    assert basis_of(rows.assign(model="caffenet", epochs=100), standard).text == SAME
    with pytest.raises(ValueError, match="not said"):
        basis_of(rows, {})


# --- what is read ---


@pytest.mark.parametrize("name", NAMES)
def test_a_rehearsal_is_never_called_a_reproduction(name: str) -> None:
    found, said = paper_tables(f"{name}--miniature", Evidence(board(name, "preset=miniature")))
    assert "no reproduction" in said[0]
    assert "0 of them on the paper's data and network" in said[1]
    headed = [one for one in found if "published" in one.head]
    assert len(headed) == len(GRIDS[name].tables)
    for one in found:
        assert len({len(row) for row in one.rows} | {len(one.head)}) == 1
        if "published" in one.head:
            column = one.head.index("published") + 1
            measured = [r for r in one.rows if r[column] not in ("not run", "not measured")]
            if measured:
                assert one.head[column] == f"measured, {OTHER_DATA}"


def test_the_report_of_a_papers_grid_has_its_tables_and_others_have_none() -> None:
    evidence = Evidence(board("soft-fine-tuning", "preset=miniature"))
    text = page(build("soft-fine-tuning--miniature", evidence, png=False))
    assert str(escape(TITLE)) in text
    assert str(escape("intermediate stage / ResNet-50")) in text
    assert "88.5" in text
    assert paper_tables("factors", evidence) == ([], [])
    assert str(escape(TITLE)) not in page(build("factors", evidence, png=False))


def test_another_grid_has_no_tables() -> None:
    assert paper_grid("tiny-imagenet") is None
    with pytest.raises(DataError, match="not the grid of a paper"):
        lines("tiny-imagenet", Evidence(board("soft-fine-tuning")))
    assert len(table("soft-fine-tuning", Evidence(board("soft-fine-tuning")))) > 60


def test_the_command_prints_the_tables_and_refuses_other_grids(tmp_path: Path) -> None:
    rows = board("selective-joint", "preset=miniature").drop(columns=list(ADDED))
    csv, numbers = tmp_path / "selective-joint--miniature.csv", tmp_path / "numbers.csv"
    rows.to_csv(csv, index=False)
    ran = CliRunner().invoke(app, ["findings", str(csv), "--tables", "--csv", str(numbers)])
    assert ran.exit_code == 0, ran.output
    words = " ".join(ran.output.split())
    assert "GE Table 5: MIT Indoor 67, by source" in words
    assert OTHER_DATA in words
    found = pd.read_csv(numbers)
    assert {"published", "measured", "low", "high", "n", "basis"} <= set(found.columns)
    csv.rename(tmp_path / "mine.csv")
    ran = CliRunner().invoke(app, ["findings", str(tmp_path / "mine.csv"), "--tables"])
    assert isinstance(ran.exception, BenchError)
    assert "--tables is for the grid of a paper" in str(ran.exception)
