"""Model folders: the exported network is the run's, tuned or a probe, and timm reads it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from typer.testing import CliRunner

from analysis.report.mistakes import mistakes
from bench.commands.app import app
from bench.commands.errors import write_mistakes
from bench.core.errors import BenchError, ModelError, StoreError
from bench.data.files.decode import Reading
from bench.exports.model_folder import read_model
from bench.exports.network import exported_network
from bench.exports.predict import _pixels, image_files, predictions, scores
from bench.planning.workspace import Session, open_session
from bench.results.mistakes import Predictions, read_predictions
from bench.results.store import RunFolder
from bench.runs.build import Context
from bench.runs.execute import execute_batch

GRID = """\
defaults:
  target:
    {{dataset: folder, root: {root}, image_size: 32, resize: 36, val_from: budget,
      test_per_class: 0.25}}
  model: test_efficientnet
  pattern: scratch
  train: {{epochs: 2, batch_size: 8}}
experiments:
  a:
    axes: {{}}
    include:
      - {{}}
      - {{source: self, pattern: freeze, method: {{name: probe}}}}
      - {{source: self, pattern: freeze, method: {{name: svm, normalise: true}}}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Session:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in (("blau", (30, 60, 200)), ("rot|gelb", (200, 80, 20))):
        (folder / "data" / name).mkdir(parents=True)
        for n in range(20):
            pixels = np.clip(rng.normal(colour, 60, (50, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{n}.png")
    (folder / "grid.yaml").write_text(GRID.format(root=folder / "data"))
    session = open_session(folder / "grid.yaml", results=folder / "results")
    context = Context(results=str(folder / "results"), device="cpu")
    for run in session.plan.runs.values():
        execute_batch(
            [(run.id, run.spec)], context, report=lambda _: None, should_stop=lambda: False
        )
    assert set(session.states().values()) == {"done"}
    return session


def folder_of(session: Session, method: str) -> RunFolder:
    wanted = [run for run in session.plan.runs.values() if run.role != "source"]
    (run,) = (run for run in wanted if run.spec.method.name == method)
    return session.store.folder(run.id, run.spec)


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, BenchError):
        return 2, str(result.exception)
    return result.exit_code, result.output or repr(result.exception)


@pytest.mark.parametrize("method", ["plain", "probe"])
def test_the_exported_model_computes_what_the_run_computed(
    done: Session, tmp_path: Path, method: str
) -> None:
    folder = folder_of(done, method)
    code, words = call(
        "export", str(folder.path), "--out", str(tmp_path / "m"), "--results", str(done.store.root)
    )
    assert code == 0, words
    model, stored = read_model(tmp_path / "m"), read_predictions(folder)
    root = done.store.root.parent / "data"
    pixels = np.stack([_pixels(root / key, model) for key in stored.images])
    np.testing.assert_allclose(scores(model, pixels), stored.logits, rtol=0, atol=1e-5)
    record = folder.record()
    assert record is not None
    right = float((stored.named == stored.labels).mean())
    assert right == pytest.approx(record["row"]["top1_accuracy"])
    network = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    same = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(same), model.network(same))
    config = timm.data.resolve_data_config(model=network)
    assert tuple(config["mean"]) == model.mean
    assert tuple(config["std"]) == model.std
    transform = timm.data.create_transform(**config)
    assert transform.transforms[0].size == 36
    labels = json.loads((tmp_path / "m" / "config.json").read_text())["label_names"]
    assert labels == ["blau", "rot|gelb"]


READ_WITH_OPTIONS = """\
defaults:
  target:
    {{dataset: folder, root: {root}, image_size: 32, val_from: budget, test_per_class: 0.25,
      options: {{depth: 12, alpha: ignore}}}}
  model: narrow8_32
  pattern: scratch
  train: {{epochs: 1, batch_size: 8}}
experiments: {{a: {{axes: {{seed: [0]}}}}}}
"""


def test_an_exported_model_reads_images_with_the_options_of_its_run(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for name, level in (("dark", 900), ("light", 2500)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(12):
            grey = np.clip(rng.normal(level, 300, (40, 40)), 0, 4095).astype(np.uint16)
            clear = rng.integers(0, 256, (40, 40, 4), dtype=np.uint8)  # half of it transparent
            picture = Image.fromarray(grey) if n % 2 else Image.fromarray(clear)
            picture.save(tmp_path / "data" / name / f"{n}.png")
    (tmp_path / "grid.yaml").write_text(READ_WITH_OPTIONS.format(root=tmp_path / "data"))
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    ((key, run),) = session.plan.runs.items()
    context = Context(results=str(tmp_path / "results"), device="cpu")
    execute_batch([(key, run.spec)], context, report=lambda _: None, should_stop=lambda: False)
    folder = session.store.folder(key, run.spec)
    code, words = call("export", str(folder.path), "--out", str(tmp_path / "m"))
    assert code == 0, words
    model, stored = read_model(tmp_path / "m"), read_predictions(folder)
    assert model.reading == Reading(depth="12", alpha="ignore")
    pixels = [_pixels(tmp_path / "data" / key, model) for key in stored.images]
    assert len({one.std() > 40 for one in pixels if not isinstance(one, str)}) == 2  # both kinds
    np.testing.assert_allclose(scores(model, np.stack(pixels)), stored.logits, rtol=0, atol=1e-5)


def test_what_the_options_of_a_run_do_not_read_has_a_way_out_without_options(
    done: Session, tmp_path: Path
) -> None:
    call("export", str(folder_of(done, "plain").path), "--out", str(tmp_path / "m"))
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "deep.png")
    (prediction,) = predictions(read_model(tmp_path / "m"), [tmp_path / "deep.png"])
    assert prediction.error == (
        "pixels of 16 bits, and none is above 1599: it would be black; save it with 8 bits a "
        "colour, opaque, in at most 179 megapixels (the model reads images as its run read them)"
    )


def test_predict_names_files_and_says_what_cannot_be_read(done: Session, tmp_path: Path) -> None:
    folder, root = folder_of(done, "plain"), done.store.root.parent / "data"
    call("export", str(folder.path), "--out", str(tmp_path / "m"))
    photos = tmp_path / "new"
    photos.mkdir()
    (photos / "a.png").write_bytes((root / "blau" / "3.png").read_bytes())
    (photos / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0torn")
    (photos / "notes.txt").write_text("no image")
    code, words = call(
        "predict", str(tmp_path / "m"), str(photos), "--out", str(tmp_path / "p.csv")
    )
    assert code == 1
    assert "1 file passed over: no images" in words
    with (tmp_path / "p.csv").open(newline="") as file:
        sound, torn = csv.DictReader(file)
    assert sound["class"] in ("blau", "rot|gelb")
    assert 0.5 <= float(sound["probability"]) <= 1
    assert torn["class"] == ""
    assert torn["error"]
    with pytest.raises(BenchError, match="is not there"):
        image_files([tmp_path / "nowhere"])
    code, words = call("predict", str(tmp_path / "mm"), str(photos))
    assert code == 2
    assert f"{tmp_path / 'mm'} is not there\n  {tmp_path} has m, " in words


def test_what_is_no_linear_layer_is_refused(done: Session) -> None:
    with pytest.raises(StoreError, match="scaled to length 1"):
        exported_network(folder_of(done, "svm"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{}", "no list label_names"),
        ("config.json", b"\xff\xfe", "cannot be read"),
        (
            "config.json",
            b'{"label_names": ["a"], "architecture": "test_efficientnet"}',
            "input_size",
        ),
        ("model.safetensors", b"torn", "cannot be read"),
    ],
)
def test_damaged_model_folders_are_refused(
    done: Session, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    call("export", str(folder_of(done, "plain").path), "--out", str(tmp_path / "m"))
    (tmp_path / "m" / name).write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_model(tmp_path / "m")


def test_a_folder_that_is_no_model_is_not_replaced(done: Session, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    code, words = call(
        "export", str(folder_of(done, "plain").path), "--out", str(tmp_path / "letters")
    )
    assert code == 2
    assert "is no model folder" in words


def test_counts_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 5)).astype(np.float32)
    found = Predictions(tuple("abcde"), (), labels, logits)
    np.testing.assert_array_equal(
        found.confusion(), confusion_matrix(labels, found.named, labels=range(5))
    )
    precision, recall, _, support = precision_recall_fscore_support(
        labels, found.named, labels=range(5), zero_division=0
    )
    assert [one.images for one in found.by_class()] == support.tolist()
    np.testing.assert_allclose([one.recall or 0 for one in found.by_class()], recall)
    np.testing.assert_allclose([one.precision or 0 for one in found.by_class()], precision)
    assert found.by_class()[4].recall is None
    assert len(found.wrong()) == int((found.named != labels).sum())


def test_without_a_mistake_the_table_has_its_columns(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1])
    right = Predictions(
        ("ant", "bee"), ("1", "2", "3"), labels, np.eye(2, dtype=np.float32)[labels]
    )
    write_mistakes(right, None, tmp_path)
    assert (tmp_path / "mistakes.csv").read_text().splitlines() == [
        "image,is_class,named,probability,of_label"
    ]


def test_errors_names_every_wrong_image_and_scikit_learns_recall(
    done: Session, tmp_path: Path
) -> None:
    folder = folder_of(done, "plain")
    results = str(done.store.root)
    found = read_predictions(folder)
    code, output = call("errors", folder.run_id[:12], "--results", results)
    assert code == 0, output
    wrong = found.wrong()
    assert f"{len(wrong)} test image{'s' * (len(wrong) != 1)} wrong" in output
    code, output = call("errors", folder.run_id[:12], "--results", results, "--out", str(tmp_path))
    assert code == 0, output
    with (tmp_path / "mistakes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {
        found.images[n]
        for n in range(len(found.labels))
        if found.logits[n].argmax() != found.labels[n]
    }
    assert {row["image"] for row in rows} == expected
    with (tmp_path / "classes.csv").open(encoding="utf-8", newline="") as file:
        recalls = [float(row["recall"]) for row in csv.DictReader(file)]
    theirs = precision_recall_fscore_support(
        found.labels, found.logits.argmax(1), labels=[0, 1], zero_division=0
    )[1]
    assert recalls == pytest.approx(list(theirs))
    assert (tmp_path / "mistakes.png").exists() == bool(wrong)


def test_the_report_has_the_errors_of_the_run_that_validation_chose(done: Session) -> None:
    texts, tables, sheets = mistakes(done.plan, done.store)
    records = {
        run.id: done.store.folder(run.id, run.spec).record()["row"]["val_top1_accuracy"]  # type: ignore[index]
        for run in done.plan.runs.values()
        if run.role != "source"
    }
    best = max(records, key=lambda key: records[key])
    run = done.plan.runs[best]
    found = read_predictions(done.store.folder(best, run.spec))
    wrong = found.wrong()
    assert texts[0].startswith(f"Of run {best[:12]}, the one with the best validation accuracy")
    assert {row[0] for row in tables[0].rows} == set(found.classes)
    assert sum(int(row[1]) for row in tables[0].rows) == len(found.labels)
    assert len(tables) == 1 + bool(wrong)
    if wrong:
        assert sum(int(row[2]) for row in tables[1].rows) == len(wrong)
    assert len(sheets) == bool(wrong)
