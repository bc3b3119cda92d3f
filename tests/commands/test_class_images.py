"""Pictures of networks that were really trained: commands, errors, and what the report shows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from analysis.measurements.tables import measurements
from analysis.networks.layer_maps import conv4, layer_maps, pair_similarity, read_picture
from analysis.networks.trained import network_name, read_trained
from analysis.report.run_figures import best_runs, figures
from bench.commands.app import app
from bench.core.errors import BenchError, DataError, StoreError
from bench.models.layers import create
from bench.planning.workspace import Session, open_session
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.planned import PlannedRun
from bench.specs.run import ModelSpec

GRID = """\
defaults:
  target:
    dataset: wordnet-shapes
    classes: {recipe: near_far, root: mammal.n.01, side: target, target_n: 3, source_n: 4}
    image_size: 32
    images_per_class: 6
    val_per_class: 4
    test_per_class: 6
  model: narrow8_32
  pattern: tune
  train: {epochs: 1, batch_size: 16}
  pretrain: {epochs: 2, batch_size: 16, lr: 0.03}
sources:
  near: {classes: {side: near}, images_per_class: 12}
  far: {classes: {side: far}, images_per_class: 12}
experiments:
  a:
    axes: {source: [near, far]}
    include:
      - {source: none, pattern: scratch}
      - {source: near, method: svm, pattern: freeze}
measure:
  distances: {images: 12, split: trainval, resamples: 5, permutations: 5, cnn_epochs: 1}
  filters: {layers: [5], where: {method: plain}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Session:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "grid.yaml").write_text(GRID)
    session = open_session(folder / "grid.yaml", results=folder / "results")
    context = Context(results=str(folder / "results"), device="cpu")
    for run in session.plan.runs.values():
        batch = [(run.id, run.spec)]
        execute_batch(batch, context, report=lambda _: None, should_stop=lambda: False)
    assert set(session.states().values()) == {"done"}
    return session


def chosen(session: Session, name: str) -> PlannedRun:
    return best_runs(session.plan, session.store)[name]


def call(session: Session, *arguments: str) -> tuple[int, str]:
    results = ("--results", str(session.store.root))
    result = CliRunner().invoke(app, [*arguments, *results])
    if isinstance(result.exception, BenchError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def pictures(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    names = []
    for i in range(2):
        names.append(str(folder / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(names[-1])
    return names


# --- networks and maps --------------------------------------------------------------------------


def test_networks_have_the_papers_names_and_their_own_scores(done: Session) -> None:
    networks = best_runs(done.plan, done.store)
    assert list(networks) == ["near", "far", "FT-near", "FT-far", "self"]
    for name, run in networks.items():
        assert network_name(run.spec) == name
    run = networks["FT-near"]
    folder = done.store.folder(run.id, run.spec)
    network = read_trained(folder)
    assert not network.model.training
    assert network.classes == run.facts.classes
    with np.load(folder.predictions_path, allow_pickle=False) as kept:
        scores = next(kept[key] for key in kept.files if kept[key].ndim == 2)
    from bench.data import catalog

    places: dict[str, Any] = {"data_root": None, "cache_dir": done.store.cache}
    loaded = catalog.load(catalog.resolve(run.spec.data, 0, **places), run.spec.data, **places)
    with torch.no_grad():
        again = network.model(network.inputs(loaded.images[loaded.test])).numpy()
    np.testing.assert_allclose(again, scores, rtol=1e-4, atol=1e-4)


def test_similarity_is_the_cosine_at_each_position(done: Session) -> None:
    run = chosen(done, "near")
    network = read_trained(done.store.folder(run.id, run.spec))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    maps = layer_maps(network, pixels, "4").astype(np.float64)
    found = pair_similarity(network, pixels, "4")
    for y in range(maps.shape[2]):
        for x in range(maps.shape[3]):
            a, b = maps[0, :, y, x], maps[1, :, y, x]
            if a.any() and b.any():
                cosine = a @ b / np.sqrt((a @ a) * (b @ b))
                assert found.similarity[y, x] == pytest.approx(cosine, abs=1e-9)
            else:
                assert found.undefined[y, x]
    same = pair_similarity(network, pixels[[0, 0]], "4")
    np.testing.assert_allclose(same.similarity[~same.undefined], 1, atol=1e-12)
    with pytest.raises(DataError, match="two of 32"):
        pair_similarity(network, pixels[:, :16], "4")


# --- commands ------------------------------------------------------------------------------------


def test_class_images_of_several_runs(done: Session, tmp_path: Path) -> None:
    ids = [chosen(done, name).id[:16] for name in ("near", "FT-near", "FT-far")]
    code, said = call(
        done, "class-images", *ids, "--out", str(tmp_path), "--steps", "5", "--jitter", "1"
    )
    assert code == 0
    assert "jitter 1 px" in said
    with (tmp_path / "class-images.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_network = [row["network"] for row in rows]
    # The first six classes: four of near and two of the target, which the other two networks know.
    assert [by_network.count(n) for n in ("near", "FT-near", "FT-far")] == [4, 2, 2]
    assert all(float(row["l2"]) > 0 for row in rows)
    with Image.open(tmp_path / "class-images.png") as picture:
        assert picture.format == "PNG"


def test_classes_by_word_and_by_id(done: Session, tmp_path: Path) -> None:
    from analysis.figures.class_sheet import class_word

    run = chosen(done, "self")
    first, second = run.facts.classes[:2]
    wanted = f"{class_word(first).upper()},{second}"
    out = ("--out", str(tmp_path), "--steps", "1", "--no-photographs")
    code, _ = call(done, "class-images", run.id, "--classes", wanted, *out)
    assert code == 0
    with (tmp_path / "class-images.csv").open() as file:
        assert [row["class_name"] for row in csv.DictReader(file)] == [first, second]
    code, said = call(done, "class-images", run.id, "--classes", "unicorn", *out)
    assert code == 2
    assert "'unicorn'" in said
    assert class_word(first) in said


def test_runs_without_a_network_are_refused(done: Session, tmp_path: Path) -> None:
    for method in ("svm", "extract"):
        run = next(r for r in done.plan.runs.values() if r.spec.method.name == method)
        code, said = call(done, "class-images", run.id, "--out", str(tmp_path))
        assert code == 2
        assert "no network" in said
    with pytest.raises(StoreError, match="no result"):
        read_trained(done.store.folder("0" * 32, chosen(done, "near").spec))


def test_conv4_is_found_by_its_name(done: Session) -> None:
    """SFT Fig. 4: conv4 of ResNet-50, whose fourth numbered layer is in its first stage."""
    run = chosen(done, "near")
    small = read_trained(done.store.folder(run.id, run.spec))
    assert conv4(small) == "4"
    assert conv4(replace(small, model=create(ModelSpec(name="resnet50"), 3, seed=0))) == "layer3"


def test_similarity_of_two_files(done: Session, tmp_path: Path) -> None:
    images = pictures(tmp_path)
    ids = f"{chosen(done, 'near').id},{chosen(done, 'FT-near').id}"
    for name in ("s.png", "s.svg"):
        out = tmp_path / name
        code, said = call(done, "similarity", *images, "--runs", ids, "--out", str(out))
        assert code == 0
        assert "near " in said
        assert "layer 4, post" in said
        assert out.stat().st_size > 1000
    assert "FT-near" in (tmp_path / "s.svg").read_text()


def test_similarity_says_what_is_wrong(done: Session, tmp_path: Path) -> None:
    images, run = pictures(tmp_path), ("--runs", chosen(done, "near").id)
    out = ("--out", str(tmp_path / "s.png"))
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for arguments, wanted in (
        ((*images, *run, "--layer", "7"), "layers with maps: 1, 2, 3, 4, 5"),
        ((*images, *run, "--layer", "9"), "1 to 8"),
        ((*images, *run, "--layer", "conv9"), "no layer 'conv9'"),
        ((*images, *run, "--stage", "middle"), "--stage"),
        ((images[0], str(text), *run), "cannot be read"),
        ((images[0], str(tmp_path / "none.png"), *run), "none.png"),
        ((*images, "--runs", "nothing"), "no run matches"),
        ((*images, *run, "--out", "s.pdf"), ".svg"),
    ):
        given = arguments if "--out" in arguments else (*arguments, *out)
        code, said = call(done, "similarity", *given)
        assert code == 2
        assert wanted in said
    assert not (tmp_path / "s.png").exists()


def test_pictures_are_decoded_as_data_sets_do(tmp_path: Path) -> None:
    assert read_picture(Path(pictures(tmp_path)[0]), 24).shape == (24, 24, 3)


def test_class_trees(done: Session, tmp_path: Path) -> None:
    out = tmp_path / "tree.svg"
    code, said = call(done, "class-tree", str(done.grid.path), "--out", str(out))
    assert code == 0
    assert "11 classes" in said
    assert "near: 4 classes" in out.read_text()
    code, _ = call(done, "classes", "--under", "dog.n.01", "--figure", str(tmp_path / "dogs.svg"))
    assert code == 0
    assert "selected: 118 classes" in (tmp_path / "dogs.svg").read_text()
    code, said = call(done, "classes", "--dataset", "digits", "--figure", str(out))
    assert code == 2
    assert "WordNet" in said


# --- the report's pictures -----------------------------------------------------------------------


def test_a_report_shows_all_of_them(done: Session) -> None:
    found = figures(done.plan, done.store, measurements(done.plan, done.store))
    assert [picture.name for picture in found] == [
        "class-tree",
        "best-filters",
        "class-images",
        "similarity",
        "concepts",
    ]
    for picture in found:
        assert picture.figure is not None, picture.missing
        assert picture.caption.endswith(".")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    found = {picture.name: picture for picture in figures(session.plan, session.store)}
    assert found["class-tree"].figure is not None
    for name in ("best-filters", "class-images", "similarity", "concepts"):
        assert found[name].figure is None
        assert "run: bench grid" in found[name].missing or "measure:" in found[name].missing
