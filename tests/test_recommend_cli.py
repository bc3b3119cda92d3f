"""`bench recommend` on a network trained here and a folder of images; what is wrong with them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from analysis.advice import AdviceLine, Situation, Support
from bench.cli import app
from bench.errors import BenchError
from bench.recommend_cli import band_tables, curve_tables, gather

GRID = """\
defaults:
  target:
    dataset: wordnet-shapes
    classes: {recipe: near_far, root: mammal.n.01, side: target, target_n: 3, source_n: 4}
    images_per_class: 4
    val_per_class: 3
    test_per_class: 6
  model: narrow8_32
  train: {lr: 0.02, epochs: 1, batch_size: 16}
  pretrain: {lr: 0.02, epochs: 1, batch_size: 32}
sources:
  near: {classes: {side: near}, images_per_class: 20}
experiments:
  ways:
    axes: {source: [near], pattern: [tune, freeze], train.lr: [0.01, 0.03], seed: [0, 1, 2]}
measure:
  distances: {images: 12}
"""
NEAR = (
    "{dataset: wordnet-shapes, classes: {recipe: near_far, root: mammal.n.01, side: near, "
    "target_n: 3, source_n: 4}, images_per_class: 20, val_per_class: 3, test_per_class: 6}"
)


def said(command: str, *arguments: str) -> str:
    """The output with every run of white space as one space."""
    result = CliRunner().invoke(app, [command, *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid, its results, and a folder of images of which three are the source's."""
    from bench.data import catalog
    from bench.retrieve_command import parse_selection

    folder = tmp_path_factory.mktemp("recommend")
    (folder / "grid.yaml").write_text(GRID)
    said("grid", str(folder / "grid.yaml"), "--results", str(folder / "results"), "--workers", "1")
    places = {"data_root": None, "cache_dir": folder / "results" / "cache"}
    mine = parse_selection("x", NEAR.replace("side: near", "side: target"))
    theirs = parse_selection("x", NEAR)
    loaded = catalog.load(catalog.resolve(mine, 0, **places), mine, **places)
    source = catalog.load(catalog.resolve(theirs, 0, **places), theirs, **places)
    for row in loaded.train:
        label = folder / "birds" / loaded.classes[int(loaded.labels[row])]
        label.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(loaded.images[row]).save(label / f"{row}.png")
    first = folder / "birds" / loaded.classes[0]
    Pillow.fromarray(source.images[0]).save(first / "again.jpg", quality=85)
    Pillow.fromarray(source.images[1]).save(first / "saved.png")
    mirrored = np.ascontiguousarray(source.images[2][:, ::-1])
    Pillow.fromarray(mirrored).save(first / "mirrored.png")
    return folder


def _run_of_source(place: Path) -> str:
    (found,) = (place / "results" / "runs").glob("*near-20pc-r1-8*")
    return found.name.rpartition("-")[2]


def test_a_folder_and_a_run(place: Path) -> None:
    out = place / "advice.csv"
    text = said(
        "recommend",
        *("--target", str(place / "birds"), "--source", _run_of_source(place)),
        *("--grid", str(place / "grid.yaml"), "--results", str(place / "results")),
        *("--csv", str(out), "--regret", "--accuracy", "0.9", "--images", "12"),
    )
    assert "target: 3 classes" in text
    assert "narrow8_32 trained on wordnet-shapes mammal.n.01 near" in text
    assert "cosine 0." in text
    assert "shared images: 2 the same picture, 1 mirrored" in text
    assert "CHU Table 3 as printed" in text
    assert "the same from your runs" in text
    assert "the regret of this advice cannot be said: 1 target" in text
    rows = {row["topic"]: row for row in csv.DictReader(out.read_text().splitlines())}
    assert rows["overlap"]["because"].startswith("3 images of the target")
    assert "grid: ways (" in rows["freeze or tune"]["supporting"]
    assert rows["learning rate, tune"]["verdict"] == "measured"
    assert rows["borrowing"]["verdict"] == "as printed"
    assert rows["more labels"]["verdict"] == "no evidence"


def test_a_selection_finds_the_run_that_learned_it(place: Path) -> None:
    target = NEAR.replace("side: near", "side: target").replace(": 20", ": 30")
    text = said(
        "recommend",
        *("--target", target, "--source", NEAR, "--results", str(place / "results")),
        *("--images", "12", "--images-per-class", "250"),
    )
    assert f"run {_run_of_source(place)[:12]}" in text
    assert "advice is for 250 per class, as asked" in text
    assert "250 images per class (large)" in text
    assert "overlap none found" in text


def test_timm_without_its_images_says_what_is_missing(place: Path, tmp_path: Path) -> None:
    text = said(
        "recommend",
        *("--target", str(place / "birds"), "--source", "timm:resnet18"),
        *("--results", str(tmp_path), "--image-size", "32"),
    )
    assert "no distance and no overlap (name them with --source-images" in text
    assert "no runs of yours: the papers alone are heard" in text
    assert "distance unknown; CHU Table 3: freeze at low distance" in text


def test_what_is_wrong_is_said(place: Path) -> None:
    results = ("--results", str(place / "results"))
    birds = ("--target", str(place / "birds"))
    with pytest.raises(BenchError, match="no such folder"):
        said("recommend", "--target", "no/such", "--source", "timm:resnet18", *results)
    with pytest.raises(BenchError, match="no run matches 'ffffffff'"):
        said("recommend", *birds, "--source", "ffffffff", *results)
    with pytest.raises(BenchError, match="no network 'resnet_18'"):
        said("recommend", *birds, "--source", "timm:resnet_18", *results)
    with pytest.raises(BenchError, match="learned this source from scratch"):
        said("recommend", *birds, "--source", "digits", *results)
    with pytest.raises(BenchError, match="not a fraction"):
        said("recommend", *birds, "--source", "timm:resnet18", "--accuracy", "80", *results)
    with pytest.raises(BenchError, match=r"target .*classes"):
        said("recommend", "--target", "{classes: 3}", "--source", "timm:resnet18", *results)


def test_findings_read_a_grid_with_its_distances(place: Path) -> None:
    grid = str(place / "grid.yaml")
    text = said("findings", grid, "--results", str(place / "results"))
    assert "12 finished runs" in text
    assert "CHU-C3" in text.split("claims have no runs here")[0]  # it needs a distance


def test_regret_is_printed_where_there_are_two_targets(committed: Path) -> None:
    from analysis.advice_table import regret
    from analysis.board import read
    from analysis.evidence import Evidence
    from bench.options import console
    from bench.recommend_cli import regret_table

    found = regret(Evidence(read(committed / "tiny-imagenet.csv")))
    out = console()
    with out.capture() as captured:
        for part in regret_table(found):
            out.print(part)
    text = " ".join(captured.get().split())
    assert "your 3 class draws" in text
    assert "always freeze 3.75 2.56 to 4.95" in text


def _line(n: int = 3) -> AdviceLine:
    return AdviceLine("more labels", "twice the labels", "because", (Support("e", n),), "measured")


def test_curves_stand_below_a_heading_and_at_most_five_are_shown() -> None:
    heading, _, rest = curve_tables([_line() for _ in range(8)])
    assert "may be of other data" in str(heading)
    assert rest == "and 3 more: --csv FILE writes all"


def test_bands_without_distances_say_how_they_come_in(place: Path) -> None:
    evidence, _ = gather((), place / "results", None)
    tables = band_tables(Situation(images_per_class=4, classes=3), evidence)
    assert "--grid GRID brings in" in str(tables[-1].caption)
