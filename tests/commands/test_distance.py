"""`bench distance`: the table, the CSV, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from analysis.measurements.distance_parts import DistanceOptions, Side
from analysis.measurements.distances import measure
from bench.commands._neighbours import parse_selection
from bench.commands.app import app
from bench.commands.distance import distance_table, measure_selections
from bench.core.errors import BenchError
from bench.data import catalog
from bench.methods.features.extract_options import taken_rows
from bench.models import layers
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.run import ModelSpec, RunSpec, TrainSpec, run_id
from bench.training.domain import Domain
from bench.training.features import extract

SOURCE = (
    "{dataset: digits, classes: {recipe: listed, names: ['0', '1', '5']}, images_per_class: 10, "
    "val_per_class: 2, test_per_class: 5}"
)
TARGET = (
    "{dataset: digits, classes: {recipe: listed, names: ['3', '8']}, images_per_class: 12, "
    "val_per_class: 2, test_per_class: 5}"
)
PLACES = ("--source", SOURCE, "--target", TARGET)


def test_distances_are_those_of_the_features_of_both_selections(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    found = measure_selections(SOURCE, TARGET, layer="5", images=20, results=tmp_path)
    assert found.images == (20, 20)
    assert found.shared == 0
    net = layers.create(ModelSpec(name="narrow8_32"), 1, seed=0)
    cosine = found.rows[0]
    sides = []
    for text, keys in ((SOURCE, 3), (TARGET, 2)):
        data = parse_selection("a", text)
        resolved = catalog.resolve(data, 0, data_root=None, cache_dir=tmp_path / "cache")
        loaded = catalog.load(resolved, data, data_root=None, cache_dir=tmp_path / "cache")
        rows = taken_rows(resolved.images, loaded.train, 20)
        domain = Domain("d", loaded.images[rows], loaded.labels[rows], keys)
        sides.append(Side(extract(net, 5, domain, stage="end", pool="flatten")))
    expected = measure(*sides, DistanceOptions(images=20))[0]
    assert (cosine["distance"], cosine["n"]) == ("cosine", 20)
    assert cosine["value"] == pytest.approx(expected.value, abs=1e-5)
    names = [row["distance"] for row in found.rows]
    assert {"CNN accuracy", "EMD of class centroids", "WordNet path"} <= set(names)
    assert distance_table(found).row_count == len(names)
    (path,) = [row for row in found.rows if row["distance"] == "WordNet path"]
    assert "needs the WordNet ids" in path["notes"]


def test_the_command_prints_a_table_and_writes_a_csv(tmp_path: Path) -> None:
    out = tmp_path / "distances.csv"
    options = ("--results", str(tmp_path), "--images", "16", "--out", str(out))
    result = CliRunner().invoke(app, ["distance", *PLACES, *options])
    assert result.exit_code == 0, result.output
    assert "16 source and 16 target images, layer penultimate of narrow8_32" in result.output
    assert "not measured" in result.output
    assert "name the run trained on the source" in result.output
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["distance"] == "cosine"
    assert float(rows[0]["low"]) <= float(rows[0]["value"]) <= float(rows[0]["high"])


def test_images_of_both_sides_are_told(tmp_path: Path) -> None:
    found = measure_selections(SOURCE, SOURCE, images=12, results=tmp_path)
    assert found.shared == 12
    assert abs(found.rows[0]["value"]) < 1e-6


def test_a_run_is_a_network(tmp_path: Path) -> None:
    spec = RunSpec(
        data=parse_selection("source", SOURCE),
        model=ModelSpec(name="narrow8_32"),
        pattern="R(1-8)",
        train=TrainSpec(epochs=1),
    )
    context = Context(results=str(tmp_path), device="cpu")
    key = run_id(spec, context.fingerprint)
    execute_batch([(key, spec)], context, report=lambda e: None, should_stop=lambda: False)
    found = measure_selections(SOURCE, TARGET, network=key[:8], images=12, results=tmp_path)
    assert found.network == f"narrow8_32 of run {key[:8]}"
    (folder,) = (tmp_path / "runs").iterdir()
    by_path = measure_selections(SOURCE, TARGET, network=str(folder), images=12, results=tmp_path)
    assert by_path.rows == found.rows
    random = measure_selections(SOURCE, TARGET, images=12, results=tmp_path)
    assert found.rows[0]["value"] != random.rows[0]["value"]
    sides = [text.replace("digits,", "digits, image_size: 16,") for text in (SOURCE, TARGET)]
    with pytest.raises(BenchError, match=r"trained on 32 pixels, the images have 16"):
        measure_selections(*sides, network=key[:8], results=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "{dataset: digitz}"}, "data set 'digitz' is not known"),
        ({"target": "{dataset: digits, image_size: 64}"}, "give both the same image_size"),
        ({"target": "{datset: digits}"}, r"target \{datset"),
        ({"network": "nope"}, "no run matches 'nope'"),
        ({"network": "timm:resnet81"}, "no network 'resnet81'"),
        ({"network": "scratch:resnet81"}, "resnet81"),
        ({"layer": "9"}, "no layer 9"),
        ({"split": "trian"}, "split is 'trian'"),
    ],
)
def test_wrong_input_is_an_error(tmp_path: Path, change: dict[str, str], message: str) -> None:
    given = {"source": SOURCE, "target": TARGET, "network": "scratch"} | change
    with pytest.raises(BenchError, match=message):
        measure_selections(results=tmp_path, images=8, **given)  # type: ignore[arg-type]


def test_an_unknown_device_is_an_error() -> None:
    result = CliRunner().invoke(app, ["distance", *PLACES, "--device", "gpu"])
    assert isinstance(result.exception, BenchError)
    assert "one of" in str(result.exception)
