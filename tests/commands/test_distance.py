"""`bench distance`: the table, the CSV, and what it refuses."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from analysis.measurements.distance_parts import DistanceOptions, Side
from analysis.measurements.distances import measure
from analysis.measurements.selections import Places, SelectionDistances, measure_selections
from bench.commands._selections import named_network, parse_selection
from bench.commands.app import app
from bench.commands.distance import distance_table
from bench.core.errors import BenchError
from bench.data import catalog
from bench.methods.features.extract_options import taken_rows
from bench.models import layers
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.measures import DistancesAsked
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


def measured(
    folder: Path, source: str = SOURCE, target: str = TARGET, network: str = "scratch", **asked: Any
) -> SelectionDistances:
    model, _ = named_network(network, 32, folder)
    places: Places = {"data_root": None, "cache_dir": folder / "cache"}
    sides = (parse_selection("source", source), parse_selection("target", target))
    options = DistancesAsked(**asked)
    return measure_selections(*sides, model, options, places, torch.device("cpu"))


def test_distances_are_those_of_the_features_of_both_selections(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    found = measured(tmp_path, layer="5", images=20)
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
    assert distance_table(found.rows).row_count == len(names)
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
    found = measured(tmp_path, target=SOURCE, images=12)
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
    found = measured(tmp_path, network=key[:8], images=12)
    assert named_network(key[:8], 32, tmp_path)[1] == f"narrow8_32 of run {key[:8]}"
    (folder,) = (tmp_path / "runs").iterdir()
    assert measured(tmp_path, network=str(folder), images=12).rows == found.rows
    random = measured(tmp_path, images=12)
    assert found.rows[0]["value"] != random.rows[0]["value"]
    with pytest.raises(BenchError, match=r"trained on 32 pixels, the images have 16"):
        named_network(key[:8], 16, tmp_path)


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
    given = {"source": SOURCE, "target": TARGET, "results": str(tmp_path), "images": "8"} | change
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["distance", *options])
    assert isinstance(result.exception, BenchError)
    assert re.search(message, str(result.exception))


def test_an_unknown_device_is_an_error() -> None:
    result = CliRunner().invoke(app, ["distance", *PLACES, "--device", "gpu"])
    assert isinstance(result.exception, BenchError)
    assert "one of" in str(result.exception)
