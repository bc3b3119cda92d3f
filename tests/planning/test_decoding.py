"""Forecasts have the time that images take to be decoded, as long as they are not in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.commands.app import app
from bench.data import catalog
from bench.planning import decoding
from bench.planning.decoding import Decoding, measure_decoding
from bench.planning.workspace import Session, open_session
from bench.specs.planned import PlannedRun

GRID = """\
defaults:
  target: {dataset: folder, root: images, image_size: 32, val_per_class: 2, test_per_class: 3}
  model: narrow8_32
  train: {epochs: 1, batch_size: 4, augment: none}
  pattern: scratch
experiments:
  two: {axes: {target.images_per_class: [2, 5], train.lr: [0.1, 0.2]}}
  large: {set: {target.image_size: 48}}
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(256, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "grid.yaml").write_text(GRID)
    return open_session(tmp_path / "grid.yaml", results=tmp_path / "results")


def _measured(session: Session) -> Decoding:
    places = {"data_root": session.data_root, "cache_dir": session.store.cache}
    return measure_decoding(session.wanted, **places)  # type: ignore[arg-type]


def _selected(session: Session, run: PlannedRun) -> catalog.Resolved:
    places = {"data_root": session.data_root, "cache_dir": session.store.cache}
    return catalog.resolve(run.spec.data, run.spec.seeds.draw, **places)  # type: ignore[arg-type]


def _decode(session: Session, run: PlannedRun) -> None:
    places = {"data_root": session.data_root, "cache_dir": session.store.cache}
    catalog.load(_selected(session, run), run.spec.data, **places)  # type: ignore[arg-type]


def _literal(session: Session) -> float:
    """A second for each image and size of which no run's images have been decoded."""
    cache, wanted = session.store.cache, set()
    for run in session.wanted:
        found, size = _selected(session, run), run.spec.data.kept_size
        wanted |= {(image.key, size) for image in found.images}
    for run in session.wanted:
        found, size = _selected(session, run), run.spec.data.kept_size
        if (cache / f"{found.fingerprint}-{size}").is_dir():
            wanted -= {(image.key, size) for image in found.images}
    return float(len(wanted))


def test_each_image_that_is_not_decoded_counts_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_image_s", lambda images, kind: float(bool(images)))
    monkeypatch.setattr(decoding, "usable_cores", lambda: 2)
    runs = session.wanted
    before = _measured(session)
    assert before.seconds(runs, workers=2) == _literal(session) / 2
    assert before.seconds([], workers=2) == 0
    (large,) = (run for run in runs if run.spec.data.image_size == 48)
    alone = before.seconds([large], workers=2)
    assert alone == len(_selected(session, large).images) / 2
    _decode(session, large)
    after = _measured(session)
    assert after.seconds(runs, workers=2) == before.seconds(runs, workers=2) - alone
    assert after.seconds(runs, workers=2) == _literal(session) / 2
    few = next(run for run in runs if run.spec.data.images_per_class == 2)
    _decode(session, few)  # whose images for validation and test the others have too
    assert 0 < _measured(session).seconds(runs, workers=2) == _literal(session) / 2


def test_some_images_are_decoded_to_see_how_long_it_takes(session: Session) -> None:
    found = _measured(session)
    assert found.seconds(session.wanted, workers=1) > 0
    assert not list(session.store.cache.glob("*-32")), "none is kept"


def test_nothing_is_decoded_where_all_is_in_the_cache(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in session.wanted:
        _decode(session, run)
    monkeypatch.setattr(catalog, "shown", None)
    assert _measured(session) == Decoding()


def test_nothing_is_decoded_beforehand_where_no_image_is_kept(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DECODE", "always")
    assert _measured(session) == Decoding()


def test_images_that_cannot_be_decoded_are_the_runs_affair(
    session: Session, tmp_path: Path
) -> None:
    for path in (tmp_path / "images").glob("*/*.png"):
        path.write_bytes(b"torn")
    assert _measured(session).seconds(session.wanted, workers=1) == 0


@pytest.mark.parametrize("seconds", [0.01, 10.0])
def test_the_plan_says_how_much_of_the_time_is_decoding(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(decoding, "_image_s", lambda images, kind: seconds)
    monkeypatch.setattr(decoding, "usable_cores", lambda: 1)
    asked = ["grid", str(session.grid.path), "--results", str(tmp_path / "results"), "--dry-run"]
    shown = CliRunner().invoke(app, asked, env={"COLUMNS": "300"}).output
    assert (" s of it to decode images" in shown) == (seconds > 1)
    assert "at the speed measured here" in shown
