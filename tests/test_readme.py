"""The README's tables against the committed leaderboards, computed again with pandas and scipy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

README = (Path(__file__).parents[1] / "README.md").read_text()
TUNE, FREEZE = "T(1-7)R(8)", "F(1-7)R(8)"


@pytest.fixture(scope="module")
def near_far(committed: Path) -> pd.DataFrame:
    """Runs of the near/far experiment, each condition at its best rate by validation."""
    board = pd.read_csv(committed / "tiny-imagenet.csv", keep_default_na=False, na_values=[""])
    mine = board[[("near-far" in str(e).split(";")) for e in board["experiments"]]]
    means = mine.groupby(["source", "pattern", "images_per_class", "lr"])["val_top1_accuracy"]
    table = means.mean().unstack("lr")
    best = table.idxmax(axis=1).rename("best").reset_index()
    joined = mine.merge(best, on=["source", "pattern", "images_per_class"])
    return joined[joined["lr"] == joined["best"]]


def _over_draws(values: pd.Series) -> tuple[float, float]:
    """Mean over draws of the means over seeds, and half of Student's interval, in points."""
    means = 100 * values.groupby(level="class_draw").mean()
    half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean()), float(half)


def _arm(runs: pd.DataFrame, source: str, pattern: str, n: int) -> pd.Series:
    rows = runs[(runs["source"] == source) & (runs["pattern"] == pattern)]
    rows = rows[rows["images_per_class"] == n]
    return rows.set_index(["class_draw", "seed_order"])["top1_accuracy"].sort_index()


def test_the_main_table_has_intervals_over_the_three_draws(near_far: pd.DataFrame) -> None:
    line = re.compile(
        r"^    (near|far|none) +(\d+) +(\S+) +([0-9.]+) +([0-9.]+) +([0-9.]+) – ([0-9.]+)  "
        r"3 tasks +(\d+)$",
        re.M,
    )
    rows = line.findall(README)
    assert len(rows) == 15
    for source, n, pattern, lr, mean, low, high, runs in rows:
        arm = _arm(near_far, source, pattern, int(n))
        value, half = _over_draws(arm)
        assert float(mean) == pytest.approx(value, abs=0.051)
        assert float(low) == pytest.approx(value - half, abs=0.051)
        assert float(high) == pytest.approx(value + half, abs=0.051)
        assert int(runs) == len(arm) == 15
        mine = near_far[(near_far["source"] == source) & (near_far["pattern"] == pattern)]
        assert set(mine[mine["images_per_class"] == int(n)]["lr"]) == {float(lr)}


def _number(text: str) -> float:
    return float(text.replace("−", "-"))


DIFFERENCES = {
    "near over far, tuned": (("near", TUNE), ("far", TUNE)),
    "near over far, frozen": (("near", FREEZE), ("far", FREEZE)),
    "freezing over tuning, near": (("near", FREEZE), ("near", TUNE)),
    "tuned near over scratch": (("near", TUNE), ("none", "R(1-8)")),
    "frozen far over scratch": (("far", FREEZE), ("none", "R(1-8)")),
}


@pytest.mark.parametrize("name", list(DIFFERENCES))
def test_the_paired_differences_are_those_of_the_leaderboard(
    name: str, near_far: pd.DataFrame
) -> None:
    (row,) = re.findall(rf"^\| {name} \| (.*) \|$", README, re.M)
    cells = row.split(" | ")
    left, right = DIFFERENCES[name]
    for n, cell in zip((5, 20, 100), cells, strict=True):
        mean, half = re.fullmatch(r"(\S+) ± (\S+) \(.*\)", cell).groups()  # type: ignore[union-attr]
        found = _arm(near_far, *left, n) - _arm(near_far, *right, n)
        value, wide = _over_draws(found)
        assert _number(mean) == pytest.approx(value, abs=0.051)
        assert _number(half) == pytest.approx(wide, abs=0.051)


def test_freezing_a_near_network_is_5_74_points_below_tuning_at_100(near_far: pd.DataFrame) -> None:
    """Runs with another rate for copied layers used to flow in and made it 5.9."""
    found = _arm(near_far, "near", FREEZE, 100) - _arm(near_far, "near", TUNE, 100)
    assert _over_draws(found) == pytest.approx((-5.74, 2.13), abs=0.005)
    assert "−5.7 ± 2.1" in README


def test_the_borrowing_table_has_every_method_at_both_sizes(committed: Path) -> None:
    board = pd.read_csv(
        committed / "borrowing-tiny-imagenet.csv", keep_default_na=False, na_values=[""]
    )
    board = board[board["role"] == "finetune"]
    table = README[README.index("| | 5 images per class | 20 images per class |") :]
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", table, re.M))
    plain = board[(board["method"] == "plain") & (board["pattern"] == TUNE)]
    plain = plain[plain[["tuned", "layer_lr_decay", "l2_sp"]].isna().all(axis=1)]
    base = plain[plain["source_links"] == 1]
    lines = {
        "soft (SFT)": (board["method"] == "soft")
        & (board["method.schedule"] == "epoch")
        & board["borrow.images"].isna()
        & board["borrow.categories"].isna(),
        "soft, α ≡ 0": board["method.schedule"].eq("zero") & (board["method"] == "soft"),
        "soft, a tenth of the source images": board["borrow.images"].eq(0.1),
        "soft, a tenth of the source classes": board["borrow.categories"].eq(0.1),
        "joint, 3,000 random source images": board["borrow.total_images"].eq(3000),
        "joint, BatchNorm for each domain": board["method.batch_norm"].eq("separate"),
        "soft with selected images": board["method"] == "soft_selective",
        "LP-FT": board["source_links"] == 2,
        "layer-wise rates, 0.7": board["layer_lr_decay"].eq(0.7),
        "L2-SP, 0.01": board["l2_sp"].eq(0.01),
        "normalisations only": board["tuned"].eq("norm"),
        "all layers but the last frozen": (board["method"] == "plain")
        & (board["pattern"] == FREEZE),
        "linear SVM on fixed features": board["method"] == "svm",
        "scratch": board["source"] == "none",
    }
    keys = ["class_draw", "seed_order", "images_per_class"]
    for name, which in lines.items():
        arm = board[which].set_index(keys)["top1_accuracy"]
        gain = 100 * (arm - base.set_index(keys)["top1_accuracy"]).dropna()
        means = gain.groupby(level=["images_per_class", "class_draw"]).mean()
        for n, cell in zip((5, 20), rows[name].split(" | "), strict=True):
            value = float(means.loc[n].mean())
            assert _number(cell.split(" ")[0]) == pytest.approx(value, abs=0.051), (name, n)
    assert len(rows) >= 18
