"""`bench recommend` on a network trained here and a folder of images; what is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow
from scipy import stats
from typer.testing import CliRunner

from analysis.advice.types import AdviceLine, Situation, Support
from bench.commands.app import app
from bench.commands.recommend import band_tables, curve_tables, gather
from bench.core.errors import BenchError
from bench.models.published import is_installed
from bench.planning.workspace import Session
from bench.results.records import COLUMNS

GRID = """\
defaults:
  target:
    dataset: wordnet-shapes
    classes: {recipe: near_far, root: mammal.n.01, side: target, target_n: 3, source_n: 4}
    images_per_class: 4
    val_per_class: 3
    test_per_class: 6
  model: narrow8_32
  train: {lr: 0.02, epochs: 10, batch_size: 4}
  pretrain: {lr: 0.02, epochs: 4, batch_size: 8}
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
def place(
    tmp_path_factory: pytest.TempPathFactory, run_here: Callable[[Path, Path], Session]
) -> Path:
    """A grid, its results, and a folder of images of which three are the source's."""
    from bench.commands._selections import parse_selection
    from bench.data import catalog

    folder = tmp_path_factory.mktemp("recommend")
    (folder / "grid.yaml").write_text(GRID)
    run_here(folder / "grid.yaml", folder / "results")
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
    assert "the regret of this advice is not known: 1 target" in text
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
    assert "there are no runs here, so only the papers' numbers are used" in text
    assert "distance unknown; CHU Table 3: freeze at low distance" in text


@pytest.mark.skipif(not is_installed("efficientnet-lite0"), reason="the extra weights")
def test_a_package_of_weights_is_a_source(place: Path, tmp_path: Path) -> None:
    arguments = (
        *("--target", str(place / "birds"), "--source", "package:efficientnet-lite0"),
        *("--results", str(tmp_path), "--image-size", "64"),
    )
    text = said("recommend", *arguments)
    assert "source: tf_efficientnet_lite0, weights efficientnet-lite0" in text
    assert "no distance and no overlap (name them with --source-images" in text
    digits = "{dataset: digits, image_size: 64, images_per_class: 5, test_per_class: 5}"
    text = said("recommend", *arguments, "--source-images", digits, "--images", "20")
    assert "no distance and no overlap" not in text
    assert "distance" in text
    as_in_grids = [a.replace("package:efficientnet-lite0", WEIGHTS) for a in arguments]
    again = said("recommend", *as_in_grids, "--source-images", digits, "--images", "20")
    assert again == text
    as_network = [a.replace("package:efficientnet-lite0", digits) for a in arguments]
    named = ("--network", "package:efficientnet-lite0", "--images", "20")
    text = said("recommend", *as_network, *named)
    assert "source: a selection; tf_efficientnet_lite0, weights efficientnet-lite0" in text


WEIGHTS = "{package: efficientnet-lite0}"


def _distances(text: str) -> str:
    """The distances, from their heading to the next line's."""
    return text.partition("distances at")[2].partition("shared images")[0]


def test_a_file_of_weights_is_a_source(place: Path, tmp_path: Path) -> None:
    run = _run_of_source(place)
    (stored,) = (place / "results" / "runs").glob(f"*{run}/model-*.safetensors")
    file, model = tmp_path / "near.safetensors", tmp_path / "model"
    file.write_bytes(stored.read_bytes())
    results = ("--results", str(place / "results"))
    said("export", run, "--out", str(model), *results)
    common = ("--target", str(place / "birds"), *results, "--images", "12")
    expected = said("recommend", *common, "--source", run)
    theirs = (*common, "--source-images", NEAR)
    bare = ("--source", str(file), "--network", "narrow8_32")
    mapped = ("--source", f"{{file: {file}, model: narrow8_32}}")
    for source, name in (
        (bare, file.name),
        (mapped, file.name),
        (("--source", str(model)), "model.safetensors"),
        (("--source", str(model / "model.safetensors")), "model.safetensors"),
    ):
        text = said("recommend", *theirs, *source)
        assert f"source: narrow8_32, weights {name}" in text
        assert "cosine 0." in _distances(text)
        assert _distances(text) == _distances(expected)
    text = said("recommend", *common, *bare)
    assert "no distance and no overlap (name them with --source-images" in text
    text = said("recommend", *common, "--source", NEAR, "--network", str(model))
    assert "source: a selection; narrow8_32, weights model.safetensors" in text
    grey = ", mean: [0.5, 0.5, 0.5], std: [1.0, 1.0, 1.0]}"
    text = said("recommend", *theirs, "--source", mapped[1].replace("}", grey))
    assert _distances(text) != _distances(expected)
    network = ("--network", mapped[1], *results, "--images", "12")
    assert "of narrow8_32, weights near.safetensors" in said(
        "distance", "--source", NEAR, "--target", NEAR.replace("side: near", "side: far"), *network
    )


def test_a_file_of_weights_that_cannot_be_read_is_an_error(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "near.safetensors"
    (stored,) = (place / "results" / "runs").glob(f"*{_run_of_source(place)}/model-*.safetensors")
    file.write_bytes(stored.read_bytes())
    common = ("--target", str(place / "birds"), "--results", str(place / "results"))
    for source, message, hint in (
        (
            (str(file),),
            f"the weights file {file} does not name its network, and no config.json beside it does",
            "name it, for example --network resnet18, or write {file: PATH, model: resnet18}",
        ),
        (
            (str(file), "--network", "narow8_32"),
            None,
            "give a name from timm.list_models(), caffenet or narrow8_32",
        ),
        (
            (str(tmp_path / "far.safetensors"), "--network", "narrow8_32"),
            f"the weights file {tmp_path / 'far.safetensors'} is not there",
            "give a .safetensors, .pth, .pt, .ckpt, .bin or .tar file; there are: near.safetensors",
        ),
    ):
        with pytest.raises(BenchError) as caught:
            said("recommend", *common, "--source", *source)
        assert message is None or caught.value.message == message
        assert caught.value.hint == hint


def test_what_is_wrong_is_said(place: Path) -> None:
    results = ("--results", str(place / "results"))
    birds = ("--target", str(place / "birds"))
    with pytest.raises(BenchError, match="no such folder"):
        said("recommend", "--target", "no/such", "--source", "timm:resnet18", *results)
    with pytest.raises(BenchError, match="no run matches 'ffffffff'"):
        said("recommend", *birds, "--source", "ffffffff", *results)
    with pytest.raises(BenchError, match="no package of weights is called 'lite0'"):
        said("recommend", *birds, "--source", "package:lite0", *results)
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


def _settings(board: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns that say what a run is but for pattern and rate: settings, and repetitions."""
    names = [c.name for c in COLUMNS if c.kind == "factor" and c.name in board.columns]
    names += [name for name in board.columns if "." in name]
    repeated = [n for n in names if "class_draw" in n or n.startswith("seed_") or ".seeds." in n]
    return [n for n in names if n not in (*repeated, "pattern", "lr")], repeated


def _at_best_rates(board: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """Each condition at its best rate by validation, among the rates that both patterns tried."""
    kept = []
    for _, both in board.groupby(settings):
        arms = [arm for _, arm in both.groupby("pattern")]
        rates = set.intersection(*(set(arm["lr"]) for arm in arms)) or set(both["lr"])
        for arm in arms:
            tried = arm[arm["lr"].isin(rates)]
            repetitions = tried["task_id"] + tried["seeds"]
            every = repetitions.groupby(tried["lr"]).agg(set)
            common = tried[repetitions.isin(set.intersection(*every))]
            means = common.groupby("lr")["val_top1_accuracy"].mean()
            kept.append(tried[tried["lr"] == means.idxmax()])
    return pd.concat(kept)


def _regret_of_freezing(file: Path) -> list[float]:
    """Points that freezing loses in each task, by pandas alone.

    The better arm is that of every other seed, and the seeds between them are what is scored.
    """
    board = pd.read_csv(file, keep_default_na=False, dtype=str)
    settings, repeated = _settings(board)
    board["seeds"] = board[[n for n in repeated if "class_draw" not in n]].agg("|".join, axis=1)
    for name in ("lr", "top1_accuracy", "val_top1_accuracy"):
        board[name] = board[name].astype(float)
    tuned_and_frozen = ["T(1-7)R(8)", "F(1-7)R(8)"]
    board = board[(board["role"] == "finetune") & (board["method"] == "plain")]
    board = _at_best_rates(board[board["pattern"].isin(tuned_and_frozen)], settings)
    on = [*settings, *repeated, "seeds", "task_id", "parent_id"]
    sides = (board[board["pattern"] == pattern] for pattern in tuned_and_frozen)
    pairs = pd.merge(*sides, on=on, suffixes=("_t", "_f"), validate="one_to_one")
    lost: dict[str, list[float]] = {}
    for (*_, task), group in pairs.groupby([*settings, "task_id"]):
        ordered = group.sort_values("seeds")
        halves = ordered.iloc[0::2], ordered.iloc[1::2]
        points = []
        for half, other in (halves, halves[::-1]):
            tune = other["top1_accuracy_t"].mean() >= other["top1_accuracy_f"].mean()
            best = half["top1_accuracy_t"] if tune else half["top1_accuracy_f"]
            points.append(100 * (best - half["top1_accuracy_f"]).mean())
        lost.setdefault(task, []).append(sum(points) / 2)
    return [float(np.mean(values)) for values in lost.values()]


def test_regret_is_printed_where_there_are_two_targets(committed: Path) -> None:
    from analysis.advice.tune_or_freeze import regret
    from analysis.comparisons.evidence import Evidence
    from analysis.leaderboard.read import read
    from bench.commands._options import console
    from bench.commands.recommend import regret_table

    file = committed / "tiny-imagenet.csv"
    found = regret(Evidence(read(file)))
    out = console()
    with out.capture() as captured:
        for part in regret_table(found):
            out.print(part)
    text = " ".join(captured.get().split())
    assert "your 3 class draws" in text
    lost = _regret_of_freezing(file)
    assert f"always freeze {np.mean(lost):.2f} 3 tasks" in text
    row = found.table.set_index("strategy").loc["always freeze"]
    ends = stats.t.interval(0.95, 2, np.mean(lost), stats.sem(lost))
    assert (row["low"], row["high"]) == pytest.approx(ends)
    assert "every decision loses 0 on average" in text


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


def test_leaderboards_with_runs_that_learned_nothing_are_joined(committed: Path) -> None:
    from analysis.leaderboard.folder import join
    from analysis.leaderboard.read import ADDED, prepare, read

    board = read(committed / "borrowing.csv")
    plain = board.drop(columns=[name for name in ADDED if name in board.columns])
    stuck = prepare(plain.assign(not_converged=["run", *[None] * (len(plain) - 1)]))
    assert stuck["status"].iloc[0] == "not converged"
    both = join({"a": stuck, "b": board})
    assert list(both["status"]) == [*stuck["status"], *board["status"]]
