"""Images that are decoded each time they are shown: the same pixels and results, nothing kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import DataError
from bench.data.catalog import Loaded, load, resolve
from bench.data.rows import Joined, OnDemand, Rows
from bench.specs.run import RunSpec
from tests.data.test_boxes import animals, selection
from tests.runs.test_borrowed_runs import MODEL, PARENTS, RECIPE, TARGET, Bench, tuned

__all__ = ["animals"]
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 4, 2, 3), dtype=np.uint8)


def test_on_demand_is_indexed_as_the_array_is() -> None:
    asked: list[int] = []

    def read(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[np.ndarray]:  # type: ignore[type-arg]
        asked.extend(rows.tolist())
        return [PIXELS[row] for row in rows]

    images = OnDemand(read, PIXELS.shape)
    view, both = Rows(images, np.array([6, 2, 2])), Joined([Rows(images, np.arange(7)), PIXELS])
    assert asked == []
    assert (images.shape, images.ndim, images.dtype, len(images)) == (PIXELS.shape, 4, np.uint8, 7)
    for which in (3, -1, slice(1, 6, 2), slice(0, 0), np.array([5, 0, 5]), PIXELS[:, 0, 0, 0] > 99):
        np.testing.assert_array_equal(images[which], PIXELS[which])
    np.testing.assert_array_equal(np.asarray(view), PIXELS[[6, 2, 2]])
    np.testing.assert_array_equal(both[np.array([8, 1])], PIXELS[[1, 1]])
    asked.clear()
    assert view[np.array([1])].shape == (1, 4, 2, 3)
    assert asked == [2]


@pytest.mark.parametrize("views", [(), ("whole", "head", "feet")])
def test_pixels_are_those_of_the_cache_and_none_are_kept(
    animals: Path, tmp_path: Path, views: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = selection(animals, views=views)

    def loaded(how: str) -> Loaded:
        monkeypatch.setenv("BENCH_DECODE", how)
        places = {"data_root": None, "cache_dir": tmp_path / how}
        return load(resolve(data, 0, **places), data, **places)  # type: ignore[arg-type]

    once, always = loaded("once"), loaded("always")
    np.testing.assert_array_equal(np.asarray(always.images), once.images)
    np.testing.assert_array_equal(always.images[np.array([5, 0])], once.images[[5, 0]])
    assert len(list(tmp_path.glob("once/**/images.npy"))) == 1
    assert list(tmp_path.glob("always/**/images.npy")) == []
    with pytest.raises(DataError, match="BENCH_DECODE is 'never'"):
        loaded("never")


RUNS = (
    RunSpec(data=TARGET, model=MODEL, pattern="R(1-8)", train=RECIPE),
    tuned("joint", borrow=(PARENTS,)),
    tuned("probe", pattern="F(1-7)R(8)"),
)


@pytest.mark.parametrize("spec", RUNS, ids=["plain", "joint", "probe"])
def test_a_run_has_the_same_results(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, rows = [], []
    for how in ("once", "always"):
        monkeypatch.setenv("BENCH_DECODE", how)
        bench = Bench(tmp_path / how)
        for run in [*reversed(list(spec.ancestors())), spec]:
            bench.run(run)
        weights.append(bench.run(spec).weights_path.read_bytes())
        rows.append(bench.record(spec)["row"])
    assert weights[0] == weights[1]
    same = ("status", "top1_accuracy", "test_loss", "val_top1_accuracy")
    assert [rows[0][name] for name in same] == [rows[1][name] for name in same]
    assert list(tmp_path.glob("always/cache/**/images.npy")) == []
