"""Runs on samples of several views, from a manifest with boxes to the record (SFT-3, SFT-5)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from bench.core.errors import DataError, GridError
from bench.data.catalog import load, resolve
from bench.data.transforms.views import crop, parse_box
from bench.methods import check_run
from bench.planning.workspace import open_session
from bench.results.store import RunFolder, Store
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.data import Borrowed, DataSpec
from bench.specs.run import FromRun, MethodSpec, ModelSpec, RunSpec, TrainSpec, run_id

CLASSES, IMAGES = 4, 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scanned digits of 32 pixels with a box around all of it and one around its lower half."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("views")
    digits = load_digits()
    lines = [["path", "label", "group", "box", "box_lower", "group_parity"]]
    for label in range(CLASSES):
        for number, row in enumerate(np.flatnonzero(digits.target == label)[:IMAGES]):
            pixels = np.kron(digits.images[row] * 15, np.ones((4, 4))).astype(np.uint8)
            name = f"{label}-{number}.png"
            Image.fromarray(pixels).convert("RGB").save(root / name)
            parity = ["even", "odd"][number % 2]
            lines.append([name, str(label), "", "0 0 32 32", "[0, 16, 32, 16]", parity])
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


def _data(folder: Path, **changes: Any) -> DataSpec:
    given = {"images_per_class": 5, "val_per_class": 3, "test_per_class": 4, **changes}
    return DataSpec(dataset="manifest", root=str(folder), **given)


def _spec(folder: Path, method: str = "plain", **changes: Any) -> RunSpec:
    data = _data(folder, **changes.pop("data", {}))
    options = changes.pop("options", {})
    recipe = {"epochs": 2, "batch_size": 8, "lr": 0.02, **changes.pop("train", {})}
    return RunSpec(
        data=data,
        model=ModelSpec(name="narrow8_32"),
        pattern=changes.pop("pattern", "R(1-8)"),
        method=MethodSpec(name=method, options=tuple(sorted(options.items()))),
        train=TrainSpec(**recipe),
        **changes,
    )


class Bench:
    def __init__(self, folder: Path) -> None:
        self.context = Context(results=str(folder / "results"), device="cpu")

    def run(self, spec: RunSpec) -> RunFolder:
        check_run(spec)
        key = run_id(spec, self.context.fingerprint)
        events: list[dict[str, Any]] = []
        execute_batch([(key, spec)], self.context, report=events.append, should_stop=lambda: False)
        assert events[-1]["status"] in ("done", "already"), events[-1]
        return Store(Path(self.context.results)).folder(key, spec)

    def record(self, spec: RunSpec) -> dict[str, Any]:
        record = self.run(spec).record()
        assert record is not None
        return record

    def weights(self, spec: RunSpec) -> dict[str, torch.Tensor]:
        found = self.run(spec)
        path = found.file_named(self.record(spec), "model")
        assert path is not None
        return load_file(path)


@pytest.fixture(scope="module")
def bench(folder: Path) -> Bench:
    return Bench(folder)


def test_one_view_equals_the_plain_network_bit_for_bit(folder: Path, bench: Bench) -> None:
    """Whole images named as a view are the same run; a box around all gives the same bits."""
    plain, boxed = _spec(folder), _spec(folder, data={"views": ("box",)})
    whole = _spec(folder, data={"views": ("whole",)})
    assert run_id(whole, bench.context.fingerprint) == run_id(plain, bench.context.fingerprint)
    assert run_id(boxed, bench.context.fingerprint) != run_id(plain, bench.context.fingerprint)
    ours, theirs = bench.weights(plain), bench.weights(boxed)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_views_are_cut_where_the_boxes_say(folder: Path, bench: Bench) -> None:
    data = _data(folder, views=("whole", "box_lower"))
    found = resolve(data, 0, data_root=None, cache_dir=bench.context.cache)
    images = load(found, data, data_root=None, cache_dir=bench.context.cache).images
    assert images.shape == (len(found.images), 64, 32, 3)
    for number, image in enumerate(found.images[:5]):
        pixels = np.asarray(Image.open(folder / image.key).convert("RGB"))
        assert np.array_equal(images[number, :32], pixels)
        assert np.array_equal(images[number, 32:], crop(pixels, (0, 16, 32, 16), 32))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("plain", {}),
        ("joint", {}),
        ("joint", {"batch_norm": "separate"}),
        ("soft", {"source_head": "kept"}),
        ("svm", {}),
        ("probe", {"layer": "5"}),
    ],
)
def test_methods_train_on_two_views(
    folder: Path, bench: Bench, method: str, options: dict[str, Any]
) -> None:
    source = _spec(folder)
    fixed = method in ("svm", "probe")
    spec = _spec(
        folder,
        method,
        data={"views": ("whole", "box_lower")},
        options=options,
        pattern="F(1-7)R(8)" if fixed else "F(1-2)T(3-7)R(8)",
        init=FromRun(run=source),
        borrow=() if fixed or method == "plain" else (Borrowed(data=source.data),),
        allow_overlap=True,
    )
    record = bench.record(spec)
    assert record["row"]["views"] == "whole;box_lower"
    assert 0 <= record["row"]["top1_accuracy"] <= 1
    if not fixed:
        weights = bench.weights(spec)
        assert weights["fc8.fc.weight"].shape == (CLASSES, 2 * 128)
        chain = spec.model_copy(
            update={"init": FromRun(run=spec), "pattern": "T(1-8)", "borrow": ()}
            | {"method": MethodSpec()}
        )
        assert bench.record(chain)["row"]["status"] == "done"  # SF-FT of a network with views


def test_what_cannot_have_views_says_so(folder: Path) -> None:
    two = {"views": ("whole", "box_lower")}
    source = _spec(folder)
    cases: list[tuple[str, RunSpec]] = [
        ("looks at whole images", _spec(folder, "selective", data=two, options={"bank": "gabor"},
                                        borrow=(Borrowed(data=source.data),))),
        ("needs no classifier", _spec(folder, "svm", data=two, pattern="F(1-8)",
                                      init=FromRun(run=source))),
        ("expand_to", _spec(folder, data=two, train={"expand_to": 20})),
        ("borrowed samples of 2 views", _spec(folder, "joint",
                                              borrow=(Borrowed(data=_data(folder, **two)),))),
    ]  # fmt: skip
    for message, spec in cases:
        with pytest.raises(GridError, match=message):
            check_run(spec)


def test_bad_views_are_errors_before_training(folder: Path, tmp_path: Path) -> None:
    def find(**changes: Any) -> None:
        resolve(_data(folder, **changes), 0, data_root=None, cache_dir=tmp_path)

    with pytest.raises(DataError, match=r"no view 'box_low'(.|\n)*box_lower"):
        find(views=("whole", "box_low"))
    with pytest.raises(DataError, match="no column 'group_party'"):
        find(train_where={"party": "odd"})
    with pytest.raises(DataError, match="no image has group_parity 'od'"):
        find(train_where={"parity": ["odd", "od"]})
    digits = DataSpec(dataset="digits", test_per_class=5, views=("whole", "box"))
    with pytest.raises(DataError, match="no view 'box'"):
        resolve(digits, 0, data_root=None, cache_dir=tmp_path)
    for text in ("1 2 3", "0 0 0 5", "-1 0 5 5", "a b c d", "0 0 nan 5"):
        with pytest.raises(DataError, match="is no box"):
            parse_box(text)
    with pytest.raises(DataError, match="reaches beyond"):
        crop(np.zeros((4, 4, 3), np.uint8), (2, 0, 3, 4), 4)


def test_a_missing_box_is_an_error_only_where_it_is_shown(tmp_path: Path) -> None:
    lines = ["path,label,box"]
    for number in range(8):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},{'0 0 4 4' if number else ''}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    given = {"val_per_class": 1, "test_per_class": 1, "image_size": 8}
    plain = DataSpec(dataset="manifest", root=str(tmp_path), **given)
    resolve(plain, 0, data_root=None, cache_dir=tmp_path / "cache")
    both = plain.model_copy(update={"views": ("whole", "box")})
    with pytest.raises(DataError, match=r"1 boxes are not given: 0.png: box"):
        resolve(both, 0, data_root=None, cache_dir=tmp_path / "cache")
    lines[1] = "0.png,0,5 5"
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"manifest.csv:2(.|\n)*'5 5' is no box"):
        resolve(plain, 0, data_root=None, cache_dir=tmp_path / "other")


def test_training_and_validation_images_are_restricted_and_the_test_is_not(
    folder: Path, tmp_path: Path
) -> None:
    def find(**changes: Any) -> Any:
        return resolve(_data(folder, **changes), 0, data_root=None, cache_dir=tmp_path)

    every = find()
    odd = find(train_where={"parity": "odd"}, images_per_class=2, val_per_class=1)
    assert all(int(i.key[2:-4]) % 2 for i in (*odd.train, *odd.val))
    assert odd.test == every.test
    with pytest.raises(DataError, match="too few images"):
        find(train_where={"parity": "odd"}, images_per_class=9)


def test_a_grid_reaches_views(folder: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"""
defaults:
  target: {{dataset: manifest, root: {folder}, val_per_class: 2, test_per_class: 3}}
  model: narrow8_32
  pattern: scratch
experiments:
  views:
    axes:
      target.views: [[whole], [whole, box_lower], [whole, box, box_lower]]
"""
    )
    session = open_session(grid, results=tmp_path / "results")
    assert [run.data.views for run in session.grid.runs] == [
        (),
        ("whole", "box_lower"),
        ("whole", "box", "box_lower"),
    ]
    assert len(session.plan.runs) == 3
