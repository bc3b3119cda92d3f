"""Extractions executed as a worker would, and the tables that are made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from analysis.comparisons.evidence import Evidence
from analysis.comparisons.ratios import DISTANCE_KEYS, with_distance
from analysis.leaderboard.read import parse, with_not_converged
from analysis.measurements import tables as measuring
from analysis.measurements.distance_parts import DistanceOptions, Side
from analysis.measurements.distances import measure
from analysis.measurements.features_file import read_extracted
from analysis.measurements.tables import Measurements, evidence, measurements, wide_distances
from analysis.measurements.transferability import leep, logme
from analysis.measurements.transferability_ranking import rankings
from bench.core.errors import BenchError, StoreError
from bench.models import layers
from bench.planning.workspace import Session, open_session
from bench.results.leaderboard import rows, to_csv
from bench.results.store import RunFolder
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.planned import PlannedRun
from bench.specs.run import ModelSpec, RunSpec
from bench.training.domain import Domain
from bench.training.features import extract

GRID = """\
defaults:
  target:
    dataset: digits
    classes: {recipe: categories, side: target, target_n: 4}
    images_per_class: 6
    val_per_class: 5
    test_per_class: 8
  model: narrow8_32
  pattern: tune
  train: {epochs: 1, batch_size: 16}
  pretrain: {epochs: 2, batch_size: 16, lr: 0.03}
sources:
  some: {classes: {side: source, n: 5}, images_per_class: 20}
  other: {classes: {side: source, n: 3}, images_per_class: 20}
experiments:
  a:
    axes: {source: [some, other], seed: [0, 1]}
    include: [{source: none, pattern: scratch}]
measure:
  distances: {images: 40, split: trainval, resamples: 20, permutations: 20, cnn_epochs: 1}
  filters: {layers: [1, 5], top: 3, choose_on: trainval}
  transferability: {images: 20}
"""


class Bench:
    """A grid, and its runs executed one by one."""

    def __init__(self, folder: Path, grid: str = GRID) -> None:
        self.file = folder / "grid.yaml"
        self.file.write_text(grid)
        places = {"results": folder / "results", "data_root": folder}
        self.session: Session = open_session(self.file, **places)
        self.context = Context(**{name: str(path) for name, path in places.items()}, device="cpu")

    @property
    def measured(self) -> Measurements:
        return measurements(self.session.plan, self.session.store)

    def folder(self, run: PlannedRun) -> RunFolder:
        return self.session.store.folder(run.id, run.spec)

    def run(self, role: str | None = None, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """Executes what has the role; how each run ended."""
        events: list[dict[str, object]] = []
        for run in self.session.plan.runs.values():
            if role in (None, run.role):
                batch = [(run.id, run.spec)]
                execute_batch(batch, self.context, report=events.append, should_stop=stop)
        return [str(event["status"]) for event in events if event["event"] == "ended"]

    def board(self) -> pd.DataFrame:
        return parse(to_csv(rows(self.session.plan, self.session.store)), "board")

    def part(self, kind: str, **words: str) -> tuple[PlannedRun, RunSpec | None]:
        """The extraction of the first part of a measurement that has these attributes."""
        for asked, ids in self.session.plan.measures:
            for part, key in zip(asked.parts, ids, strict=True):
                if asked.name == kind and all(getattr(part, k) == v for k, v in words.items()):
                    return self.session.plan.runs[key], part.of
        raise AssertionError(words)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("measured"))
    before = bench.measured
    assert before.distances is before.filters is before.transferability is None
    assert len(before.missing) > 4
    assert all(f"run: bench grid {bench.file}" in sentence for sentence in before.missing)
    assert set(bench.run()) == {"done"}
    assert bench.measured.missing == ()
    return bench


# --- runs -------------------------------------------------------------------------------------


def test_an_extraction_leaves_features_and_no_metrics(done: Bench) -> None:
    run, _ = done.part("filters", network="FT-categories 5", role="judged")
    record = done.folder(run).record()
    assert record is not None
    assert [name.split("-")[0] for name in record["files"]] == ["features"]
    assert record["row"]["status"] == "done"
    assert record["row"].get("top1_accuracy") is None
    assert record["row"]["trainable_parameters"] == 0
    assert record["notes"]["method"]["layers"] == {"1": [32], "5": [64]}
    found = read_extracted(done.folder(run))
    assert found is not None
    assert len(found) == 32
    assert found.classes == tuple(record["classes"])
    assert set(found.split) == {"test"}


def test_published_extractions_are_not_repeated_and_leaderboards_do_not_name_them(
    done: Bench,
) -> None:
    assert set(done.run("extract")) == {"already"}
    assert "extract" not in set(done.board()["role"])
    assert set(done.session.states().values()) == {"done"}


def test_a_stopped_extraction_is_done_the_next_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run("source")
    asked = iter([False, True])
    run, _ = bench.part("distances", role="source")
    batch, events = [(run.id, run.spec)], []
    execute_batch(batch, bench.context, report=events.append, should_stop=lambda: next(asked, True))
    assert events[-1]["status"] == "stopped"
    assert bench.folder(run).record() is None
    execute_batch(batch, bench.context, report=events.append, should_stop=lambda: False)
    assert events[-1]["status"] == "done"
    assert not (bench.folder(run).path / ".extraction").exists()


def test_damaged_features_are_told_with_the_way_out(done: Bench, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run("source")
    run, _ = bench.part("distances", role="target")
    execute_batch(
        [(run.id, run.spec)], bench.context, report=lambda e: None, should_stop=lambda: False
    )
    path = bench.folder(run).published_file("features")
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="the features are damaged"):
        read_extracted(bench.folder(run))
    missing = [text for text in bench.measured.missing if "are damaged" in text]
    assert missing
    assert all("the extraction is repeated" in text for text in missing), missing
    path.unlink()
    assert [text for text in bench.measured.missing if "cannot be read" in text]


def test_a_run_that_is_no_extraction_has_no_features(done: Bench) -> None:
    trained = next(r for r in done.session.plan.runs.values() if r.role == "source")
    with pytest.raises(StoreError, match="left no features"):
        read_extracted(done.folder(trained))


def test_a_failed_extraction_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    run, _ = bench.part("transferability")
    folder = bench.folder(run)
    folder.path.mkdir(parents=True)
    folder.add_failure({"reason": "test", "message": "no luck"})
    (sentence,) = [text for text in bench.measured.missing if "no luck" in text]
    assert "--retry-failed" in sentence


# --- tables -----------------------------------------------------------------------------------


def test_distances_are_those_of_the_features(done: Bench) -> None:
    table = done.measured.distances
    assert table is not None
    sides = []
    for role in ("source", "target"):
        run, _ = done.part("distances", role=role)
        found = read_extracted(done.folder(run))
        assert found is not None
        assert found.pixels is not None
        pixels = found.pixels.transpose(0, 3, 1, 2)
        sides.append(Side(found.layers["penultimate"], found.labels.tolist(), pixels))
    options = DistanceOptions(images=40, resamples=20, permutations=20, cnn_epochs=1)
    mine = table[table["source"] == "categories 5"]
    for row, expected in zip(mine.to_dict("records"), measure(*sides, options), strict=True):
        assert row["distance"] == expected.name
        assert row["n"] == expected.n
        same = (row["value"], expected.value)
        assert same[0] == same[1] or (expected.value is None and pd.isna(row["value"]))
        assert not pd.isna(row["value"]) or row["notes"]
    assert set(mine["network"]) == {"categories 5"}


def test_wide_distances_join_the_leaderboard(done: Bench) -> None:
    wide = wide_distances(done.measured.distances)
    assert wide is not None
    assert {*DISTANCE_KEYS, "cosine", "cosine_low", "mmd_high", "svm", "cnn"} <= set(wide.columns)
    board = with_distance(done.board(), wide)
    tuned = board["source"].isin(["categories 5", "categories 3"]) & (board["role"] == "finetune")
    assert board.loc[tuned, "distance"].notna().all()
    assert board.loc[~tuned, "distance"].isna().all()
    assert board.loc[tuned, "distance"].nunique() == 2
    assert wide_distances(None) is None


TWO_FOLDERS = """\
defaults:
  model: narrow8_32
  pattern: freeze
  train: {epochs: 1, batch_size: 8}
  pretrain: {epochs: 1, batch_size: 8}
targets:
  dark: {dataset: folder, root: dark, image_size: 32, val_per_class: 2, test_per_class: 2}
  bright: {dataset: folder, root: bright, image_size: 32, val_per_class: 2, test_per_class: 2}
sources:
  digits: {dataset: digits, classes: {recipe: random, n: 3}, images_per_class: 10, test_per_class: 5}
experiments:
  a: {set: {source: digits}, axes: {target: [dark, bright]}}
measure:
  distances: {images: 12, split: trainval, resamples: 5, permutations: 5, cnn_epochs: 1}
"""


def test_two_folders_of_images_have_distances_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 200)):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(10):
                pixels = rng.integers(level, level + 40, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{number}.png")
    bench = Bench(tmp_path, TWO_FOLDERS)
    assert set(bench.run()) == {"done"}
    found = bench.measured
    assert found.missing == ()
    board = with_distance(bench.board(), wide_distances(found.distances))
    tuned = board[board["role"] == "finetune"]
    assert tuned["distance"].notna().all()
    assert tuned["distance"].nunique() == len(tuned) == 2
    wide = wide_distances(found.distances)
    assert wide is not None
    without = with_distance(bench.board(), wide.iloc[:1].drop(columns="task_id"))
    assert without.loc[without["role"] == "finetune", "distance"].nunique() == 1  # by words alone


def test_filters_are_judged_by_their_average_precision(done: Bench) -> None:
    table = done.measured.filters
    assert table is not None
    judged, chosen = (
        read_extracted(done.folder(done.part("filters", network="self", role=role)[0]))
        for role in ("judged", "chosen")
    )
    assert judged is not None
    assert chosen is not None
    mine = table[
        (table["network"] == "self") & (table["seed"] == "0 0 0") & (table["layer"] == "5")
    ]
    assert list(mine["class_name"]) == list(judged.classes)
    for c, row in enumerate(mine.to_dict("records")):

        def ap(one: object, f: int, c: int = c) -> float:
            scores, labels = one.layers["5"][:, f], one.labels  # type: ignore[attr-defined]
            return float(average_precision_score(labels == c, scores))

        order = sorted(range(64), key=lambda f: (-round(ap(chosen, f), 12), f))[:3]
        assert row["best_filters"] == ";".join(map(str, order))
        assert row["mean_ap"] == pytest.approx(np.mean([ap(judged, f) for f in order]), abs=1e-9)
        assert row["prevalence"] == 0.25


def test_sensitivities_pool_classes_and_average_seeds(done: Bench) -> None:
    found = done.measured
    assert found.filters is not None
    assert found.sensitivities is not None
    table = found.sensitivities.set_index(["layer", "a", "b"])
    pair = ("FT-categories 5", "categories 5")
    for layer in ("1", "5"):
        here = found.filters[found.filters["layer"] == layer]
        means = [
            here[here["network"] == name].groupby("class_name")["mean_ap"].mean() for name in pair
        ]
        row = table.loc[(layer, *pair)]
        assert row["percentage"] == 100 * (means[0] > means[1]).mean()
        assert row["n_classes"] == 4
        back = table.loc[(layer, *pair[::-1])]
        assert row["percentage"] == back["reverse_percentage"]
        total = row["percentage"] + row["reverse_percentage"] + row["ties_percentage"]
        assert total == pytest.approx(100)
    assert set(evidence(done.board(), found).sensitivities["layer"]) == {"5"}  # type: ignore[index]


def test_scores_are_of_the_targets_images_under_the_sources_network(done: Bench) -> None:
    table = done.measured.transferability
    assert table is not None
    run, _ = done.part("transferability")
    found = read_extracted(done.folder(run))
    assert found is not None
    mine = table[table["source"] == "categories 5"].set_index("score")["value"]
    assert mine["LogME"] == logme(found.layers["penultimate"], found.labels)
    shares = torch.from_numpy(found.layers["scores"]).double().softmax(1).numpy()
    assert mine["LEEP"] == pytest.approx(leep(shares, found.labels), abs=1e-12)
    assert table.groupby("source")["static"].sum().tolist() == [3, 3]
    parent = done.session.plan.runs[run.parent_id or ""]
    record = done.folder(parent).record()
    assert record is not None
    assert mine["source accuracy"] == record["row"]["top1_accuracy"]


def test_rankings_compare_with_what_the_grid_found(done: Bench) -> None:
    board = with_not_converged(done.board())
    found = rankings(board, done.measured.transferability)
    assert found is not None
    truth = board[board["role"] == "finetune"].groupby("source")["top1_accuracy"].mean()
    gap = 100 * abs(truth["categories 5"] - truth["categories 3"])
    scores = done.measured.transferability
    assert scores is not None
    better = max(("categories 3", "categories 5"), key=lambda s: (truth[s], s))
    for row in found.to_dict("records"):
        assert (row["targets"], row["ranked_targets"], row["candidates"]) == (1, 0, "2")
        assert pd.isna(row["weighted_tau"])
        values = scores[scores["score"] == row["score"]].set_index("source")["value"]
        right = values[better] == values.max()
        tied = values.nunique() == 1
        assert row["regret_points"] == pytest.approx(gap / 2 if tied else 0 if right else gap)
    assert rankings(board, None) is None


def test_concepts_are_classes_that_the_network_never_learned(done: Bench) -> None:
    found = done.measured
    assert found.concepts is not None
    assert found.concept_points is not None
    assert len(found.concepts) == 2
    assert (found.concepts["nmi"] > 0).all()
    assert found.concepts["n"].tolist() == [40, 40]
    assert len(found.concept_points) == 80
    assert set(found.concept_points["class_name"]) == {"0", "2", "4", "7"}


def test_rows_are_kept_by_what_they_were_computed_from(
    done: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done.measured

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for name in ("distance_rows", "concept_rows", "filter_rows", "score_rows"):
        monkeypatch.setattr(measuring, name, never)
    second = done.measured
    for name in ("distances", "filters", "transferability", "concepts"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    kept = next((done.session.store.cache / "measured").glob("*.json"))
    json.loads(kept.read_text())
    content = kept.read_bytes()
    kept.write_text("torn")
    with pytest.raises(AssertionError, match="computed again"):
        _ = done.measured
    kept.write_bytes(content)


def test_without_a_section_the_statement_says_what_to_add(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(GRID.partition("measure:")[0])
    session = open_session(file, results=tmp_path)
    found = measurements(session.plan, session.store)
    assert found == Measurements(missing=found.missing)
    assert "no measure: section" in found.missing[0]


# --- evidence ---------------------------------------------------------------------------------


def test_evidence_joins_leaderboard_and_measurements(done: Bench) -> None:
    board = done.board()
    joined = evidence(board, done.measured)
    assert isinstance(joined, Evidence)
    assert joined.distances is not None
    assert len(joined.distances) == 2
    assert joined.verification is None
    alone = evidence(board)
    assert alone.distances is None
    assert alone.sensitivities is None


def test_verification_columns_become_a_table(done: Bench) -> None:
    board = with_not_converged(done.board())
    board = board.assign(**{"tar_at_far_1e-2": 0.9, "tar_at_far_1e-3": 0.5})
    table = evidence(board).verification
    assert table is not None
    assert set(table["arm"]) == {"fine-tuning"}
    assert sorted(set(table["far"])) == [0.001, 0.01]
    assert set(table["tar"]) == {0.9, 0.5}
    assert set(table["expressions"]) == {"all"}
    few = evidence(board.assign(train_where="expression=Sadness,Surprise")).verification
    assert few is not None
    assert set(few["expressions"]) == {"two"}
    assert set(few["seed"]) == set(table["seed"])


def test_scratch_networks_are_one_for_both_sides(tmp_path: Path) -> None:
    """Source and target have unlike numbers of classes, and the same random features."""
    bench = Bench(tmp_path)
    file = tmp_path / "grid.yaml"
    grid = GRID.partition("measure:")[0] + "measure: {distances: {network: scratch, layer: 5}}\n"
    file.write_text(grid)
    bench.session = open_session(file, results=tmp_path / "results")
    assert set(bench.run("extract")) == {"done"}
    table = bench.measured.distances
    assert table is not None
    assert set(table["network"]) == {"random"}
    assert bench.measured.concepts is None
    net = layers.create(ModelSpec(name="narrow8_32"), 1, seed=0)
    for role in ("source", "target"):
        run, _ = bench.part("distances", role=role)
        found = read_extracted(bench.folder(run))
        assert found is not None
        assert found.pixels is not None
        data = Domain("d", found.pixels, found.labels, len(found.classes))
        expected = extract(net, 5, data, stage="end", pool="flatten")
        assert np.allclose(found.layers["5"], expected, atol=1e-5)


def test_wrong_layer_of_the_features_is_an_error(done: Bench) -> None:
    run, _ = done.part("transferability")
    with pytest.raises(BenchError, match=r"no layer '7'[\s\S]*penultimate"):
        read_extracted(done.folder(run), ["7"])
