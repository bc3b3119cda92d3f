"""Extraction against a plain forward pass with hooks; its choice of images; its resumption."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from analysis.measurements.features_file import read_features
from bench.core.errors import BenchError, DataError, GridError, ModelError, StoreError
from bench.data.dataset import Image
from bench.data.transforms.augment import normalise
from bench.grid.extractions import extraction_pattern
from bench.methods import METHODS, check, check_run
from bench.methods.features import extraction as extracting
from bench.methods.features.extract import Extract
from bench.methods.features.extract_options import ExtractOptions, layer_names, taken_rows
from bench.methods.features.task import FeatureTask, Selected
from bench.models import layers
from bench.specs.data import DataSpec
from bench.specs.run import FromTimm, MethodSpec, ModelSpec, RunSpec
from bench.training.domain import Domain
from bench.training.job import Interrupted

COUNT = 600


def _selected(count: int = COUNT, classes: int = 3) -> Selected:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % classes
    images = tuple(Image(f"{n}.png", f"c{labels[n]}", "train", f"{n:064d}") for n in range(count))
    cuts = [0, count // 2, count * 3 // 4, count]
    parts = {
        name: np.arange(cuts[i], cuts[i + 1]) for i, name in enumerate(("train", "val", "test"))
    }
    return Selected(pixels, labels, parts, images, tuple(f"c{n}" for n in range(classes)))


SELECTED = _selected()
LIKE = Domain("like", SELECTED.pixels[:1], SELECTED.labels[:1], 3)


def _net() -> nn.Module:
    net = layers.create(ModelSpec(name="narrow8_32", drop_rate=0.5), 7, seed=1)
    net.train()  # dropout and batch statistics must not reach the features
    return net


def _extract(folder: Path, net: nn.Module | None = None, stop: Any = None, **options: Any) -> Path:
    task = FeatureTask(
        net or _net(), LIKE, None, torch.device("cpu"), folder, SELECTED, stop or (lambda: False)
    )
    fitted = Extract(ExtractOptions(**options)).fit(task)
    assert fitted.model is None
    path = fitted.files["features.npz"]
    assert isinstance(path, Path)
    return path


# --- the numbers ------------------------------------------------------------------------------


def test_features_are_those_of_a_forward_pass_with_hooks(tmp_path: Path) -> None:
    net = _net()
    path = _extract(tmp_path, net, layers="penultimate, 5, conv3, scores", split="all", pool="none")
    found = read_features(path)
    assert net.training
    seen: dict[str, torch.Tensor] = {}
    children = dict(net.named_children())
    for name in ("conv3", "conv5", "fc8"):
        children[name].register_forward_hook(
            lambda _, given, output, name=name: seen.update({name: (given[0], output)})
        )
    net.eval()
    inputs = normalise(torch.from_numpy(SELECTED.pixels), LIKE.mean, LIKE.std)
    with torch.no_grad():
        expected = {"scores": net(inputs)}
    expected["penultimate"] = seen["fc8"][0]
    expected["5"], expected["conv3"] = seen["conv5"][1], seen["conv3"][1]
    assert list(found.layers) == ["penultimate", "5", "conv3", "scores"]
    for name, value in expected.items():
        assert found.layers[name].shape == tuple(value.shape)
        assert np.allclose(found.layers[name], value.numpy(), atol=1e-5), name
    assert all(array.dtype == np.float32 for array in found.layers.values())
    assert np.array_equal(found.labels, SELECTED.labels)
    assert found.images == tuple(image.key for image in SELECTED.images)
    assert found.sha256 == tuple(image.sha256 for image in SELECTED.images)
    assert Counter(found.split) == {"train": 300, "val": 150, "test": 150}


@pytest.mark.parametrize(("pool", "shape"), [("max", (64,)), ("mean", (64,)), ("flatten", None)])
def test_maps_are_pooled_as_asked(tmp_path: Path, pool: str, shape: tuple[int] | None) -> None:
    options: dict[str, Any] = {"layers": "5", "split": "val", "images": 9}
    whole = read_features(_extract(tmp_path / "a", pool="none", **options)).layers["5"]
    found = read_features(_extract(tmp_path / "b", pool=pool, **options)).layers["5"]
    by_hand = {
        "max": whole.max(axis=(2, 3)),
        "mean": whole.mean(axis=(2, 3)),
        "flatten": whole.reshape(9, -1),
    }[pool]
    assert np.allclose(found, by_hand, atol=1e-6)
    assert shape is None or found.shape[1:] == shape


def test_pixels_are_kept_beside_the_features(tmp_path: Path) -> None:
    same = read_features(_extract(tmp_path / "a", split="test", pixels=32)).pixels
    half = read_features(_extract(tmp_path / "b", split="test", pixels=16)).pixels
    assert same is not None
    assert half is not None
    given = SELECTED.pixels[SELECTED.rows["test"]]
    assert np.array_equal(same, given)
    assert half.shape == (150, 16, 16, 3)
    means = given.astype(float).mean(axis=(1, 2, 3)), half.astype(float).mean(axis=(1, 2, 3))
    assert np.abs(means[0] - means[1]).max() < 4
    assert read_features(_extract(tmp_path / "c")).pixels is None


def test_equal_content_gives_equal_bytes_without_pickle(tmp_path: Path) -> None:
    a, b = _extract(tmp_path / "a", images=20), _extract(tmp_path / "b", images=20)
    assert a.read_bytes() == b.read_bytes()
    with zipfile.ZipFile(a) as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
        assert not any(b"pickle" in archive.read(name)[:200] for name in archive.namelist())
    assert [path.name for path in (tmp_path / "a").iterdir()] == [a.name]


def test_a_torn_file_is_an_error(tmp_path: Path) -> None:
    path = _extract(tmp_path, images=20)
    with pytest.raises(DataError, match="no layer 'fc9'"):
        read_features(path, ["fc9"])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StoreError, match="these are no features"):
        read_features(path)


# --- interrupted ------------------------------------------------------------------------------


class _Stop:
    """True at the `at`-th question."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_an_interrupted_extraction_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracting, "BATCH_SIZE", 64)
    whole = _extract(tmp_path / "whole", layers="1,penultimate", split="all").read_bytes()
    asked: list[int] = []
    inputs = extracting._inputs
    monkeypatch.setattr(
        extracting,
        "_inputs",
        lambda task, of, rows: (asked.append(len(rows)), inputs(task, of, rows))[1],
    )
    options = {"layers": "1,penultimate", "split": "all"}
    with pytest.raises(Interrupted):
        _extract(tmp_path / "parts", stop=_Stop(5), **options)
    before = len(asked)
    again = _extract(tmp_path / "parts", **options)
    assert again.read_bytes() == whole
    assert before == 1 + 5
    assert len(asked) - before == 1 + 5  # a sample, then the last 280 of 600 images
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [again.name]


def test_what_was_written_for_other_options_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracting, "BATCH_SIZE", 64)
    with pytest.raises(Interrupted):
        _extract(tmp_path, stop=_Stop(2), layers="5", pool="max")
    expected = _extract(tmp_path / "new", layers="5", pool="mean").read_bytes()
    assert _extract(tmp_path, layers="5", pool="mean").read_bytes() == expected


# --- which images -----------------------------------------------------------------------------


def _literal_rows(images: tuple[Image, ...], rows: list[int], limit: int) -> list[int]:
    """Classes take turns, each giving its next image, until there are enough."""
    import hashlib

    def rank(row: int) -> bytes:
        return hashlib.sha256(f"extract|{images[row].label}|{images[row].key}".encode()).digest()

    queues: dict[str, list[int]] = {}
    for row in sorted(rows, key=rank):
        queues.setdefault(images[row].label, []).append(row)
    taken: list[int] = []
    while len(taken) < limit:
        heads = sorted((queue.pop(0) for queue in queues.values() if queue), key=rank)
        taken += heads[: limit - len(taken)]
    return sorted(taken)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40).flatmap(
        lambda labels: st.tuples(st.just(labels), st.integers(1, len(labels)))
    )
)
def test_a_limit_takes_all_classes_alike_and_is_nested(drawn: tuple[list[int], int]) -> None:
    labels, limit = drawn
    images = tuple(Image(f"i{n}", f"c{c}", "train", "") for n, c in enumerate(labels))
    rows = np.arange(len(labels))
    found = taken_rows(images, rows, limit)
    assert found.tolist() == _literal_rows(images, rows.tolist(), limit)
    assert taken_rows(images, rows, None).tolist() == rows.tolist()
    if limit > 1:
        assert set(taken_rows(images, rows, limit - 1)) < set(found)
    counts = Counter(labels[row] for row in found)
    there = Counter(labels)
    for c in there:
        assert counts[c] == there[c] or counts[c] >= max(counts.values()) - 1


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    empty = SELECTED.rows | {"val": SELECTED.rows["val"][:0]}
    task = FeatureTask(
        _net(),
        LIKE,
        None,
        torch.device("cpu"),
        tmp_path,
        Selected(SELECTED.pixels, SELECTED.labels, empty, SELECTED.images, SELECTED.classes),
    )
    with pytest.raises(DataError, match="no val image"):
        Extract(ExtractOptions(split="val")).fit(task)


# --- options ----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["1", "5", "conv3", "penultimate", "scores"]), min_size=1))
def test_layers_are_named_once_in_order(names: list[str]) -> None:
    assert layer_names(", ".join(names)) == list(dict.fromkeys(names))
    assert ExtractOptions(layers=" , ".join(names)).layers == ",".join(dict.fromkeys(names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": " , "}, "no layer is named"),
        ({"split": "trian"}, "split is 'trian'"),
        ({"images": 0}, "images is 0"),
        ({"pixel": 32}, "no option 'pixel'"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GridError, match=message):
        check("extract", options)


def test_a_layer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer 9"):
        _extract(tmp_path, layers="9")
    with pytest.raises(BenchError, match="no layer 'fc9'"):
        _extract(tmp_path, layers="fc9")


def test_an_extraction_trains_no_layer() -> None:
    assert METHODS["extract"].kind == "extraction"
    assert extraction_pattern(FromTimm(), 8) == "F(1-7)R(8)"
    spec = RunSpec(
        data=DataSpec(dataset="digits"),
        model=ModelSpec(name="narrow8_32"),
        pattern="T(1-8)",
        init=FromTimm(),
        method=MethodSpec(name="extract"),
    )
    with pytest.raises(GridError, match="trains no layer"):
        check_run(spec)
