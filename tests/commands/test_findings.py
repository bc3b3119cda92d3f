"""What `bench findings` prints, on the committed leaderboards and on what is none.

Numbers are computed again from the CSV with pandas and scipy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from analysis.findings.evaluate import CLAIMS, on_published
from bench.commands.app import app
from bench.commands.findings import effect_text
from bench.core.errors import BenchError

TUNE, FREEZE = "T(1-7)R(8)", "F(1-7)R(8)"
SIZE = ["images_per_class", "epochs", "batch_size", "target_classes"]
"""What is averaged over within a task: numbers of images and classes, with their schedules."""


@pytest.fixture(scope="module")
def tiny(committed: Path) -> Path:
    return committed / "tiny-imagenet.csv"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All numbers for the photographs, written together with `photographs`."""
    return tmp_path_factory.mktemp("findings") / "numbers.csv"


@pytest.fixture(scope="module")
def photographs(tiny: Path, numbers: Path) -> str:
    """What is printed for the photographs, each row of the table on one line."""
    return said(str(tiny), "--csv", str(numbers), width=500)


@pytest.fixture(scope="module")
def few(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs' runs on one target with one seed, for what does not hang on numbers."""
    table = pd.read_csv(tiny, keep_default_na=False)
    kept = table[(table["seed_order"] == 0) & (table["class_draw"].astype(str) == "0")]
    path = tmp_path_factory.mktemp("few") / "few.csv"
    kept[kept["target"] == "animal.n.01"].to_csv(path, index=False)
    return path


def said(*arguments: str, width: int = 0) -> str:
    """The output with every run of white space as one space.

    Args:
        width: of the terminal; so wide that no cell of a table is broken if it is given.
    """
    with pytest.MonkeyPatch.context() as patch:
        if width:
            patch.setattr("bench.commands.findings.console", lambda: Console(width=width))
        result = CliRunner().invoke(app, ["findings", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def _changed(tiny: Path, path: Path, **columns: Any) -> Path:
    table = pd.read_csv(tiny, keep_default_na=False).assign(**columns)
    table.to_csv(path, index=False)
    return path


# --- the committed leaderboards, by hand ---


def _rows(path: Path) -> pd.DataFrame:
    """Runs on a target with nothing added to plain fine-tuning but a method."""
    rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
    plain = rows["expand_to"].isna() & (rows["copied_lr_factor"].fillna(1) == 1)
    plain &= rows[["tuned", "layer_lr_decay", "l2_sp"]].isna().all(axis="columns")
    return rows[plain & (rows["role"] != "source")]


def _paired(arms: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Both accuracies of each task, size and seed, each arm at its best rate by validation.

    A rate is chosen for each target and size among those that both arms tried.
    """
    found = []
    sizes = ["target", *SIZE]
    keys = [*sizes, "class_draw", "seed_init"]
    for arm, other in (arms, arms[::-1]):
        both = arm.merge(other[[*sizes, "lr"]].drop_duplicates(), on=[*sizes, "lr"])
        means = both.groupby([*sizes, "lr"])["val_top1_accuracy"].mean().rename("validation")
        best = means.reset_index().sort_values("validation").drop_duplicates(sizes, keep="last")
        found.append(both.merge(best[[*sizes, "lr"]], on=[*sizes, "lr"]).set_index(keys))
    assert all(side.index.is_unique for side in found)
    left, right = (side["top1_accuracy"] for side in found)
    return pd.DataFrame({"left": left, "right": right}).dropna().reset_index()


def _over_tasks(pairs: pd.DataFrame, values: pd.Series) -> tuple[float, float, float, int]:
    """Mean and Student's interval over tasks, of means over sizes, of means over seeds."""
    # Ten classes of a draw are of the task that its twenty classes are.
    task = pairs["target"].str.replace(r" take \d+", "", regex=True)
    task = task + pairs["class_draw"].astype(str)
    by_size = values.groupby([task.rename("task"), *(pairs[name] for name in SIZE)]).mean()
    means = by_size.groupby("task").mean()
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    return float(means.mean()), float(low), float(high), len(means)


def _near_far(tiny: Path) -> tuple[float, float, float, int]:
    """LI-C4's near > far, in points."""
    rows = _rows(tiny)
    tuned = rows[rows["pattern"] == TUNE]
    pairs = _paired([tuned[tuned["source"] == side] for side in ("near", "far")])
    assert len(pairs) == 68
    return _over_tasks(pairs, 100 * (pairs["left"] - pairs["right"]))


def _points(found: tuple[float, float, float, int]) -> str:
    mean, low, high, _ = found
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


# --- what is printed ---


def test_the_committed_photographs_decide_what_they_decide(tiny: Path, photographs: str) -> None:
    text = photographs
    assert "645 finished runs, 9 tasks (targets and class draws)" in text
    assert "200 more with labels for validation, which choose epoch and learning rate" in text
    lines = text.split("Not decided")[0]
    for claim in ("LI-C1", "LI-C4", "CHU-C2"):
        assert claim in lines
    assert (
        "A verdict needs p (Holm, over all comparisons that these runs allow) of at most" in lines
    )
    assert f"near > far: {_points(_near_far(tiny))} points 6 tasks" in lines
    assert "before fine-tuning not enough evidence (on 6 of 8 parts) not enough evidence" in lines
    assert "20 claims have no runs here" in text


def test_numbers_and_both_verdicts_are_those_of_the_csv(
    tiny: Path, photographs: str, numbers: Path
) -> None:
    table = pd.read_csv(numbers).set_index("claim")

    def agrees(claim: str, found: tuple[float, float, float, int]) -> None:
        row = table.loc[claim]
        assert (row["effect"], row["low"], row["high"]) == pytest.approx(found[:3])
        assert (row["n"], row["counted"]) == (found[3], "task")

    agrees("LI-C4", _near_far(tiny))
    rows = _rows(tiny)
    # More source classes: a slope in doublings for each draw and seed.
    random = rows[rows["source"].str.startswith("categories") & (rows["pattern"] == TUNE)]
    slopes = [
        (draw, stats.linregress(np.log2(g["source_classes"]), 100 * g["top1_accuracy"]).slope)
        for (draw, _), g in random.groupby(["class_draw", "seed_init"])
    ]
    means = pd.DataFrame(slopes, columns=["draw", "slope"]).groupby("draw")["slope"].mean()
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    agrees("LI-C1", (float(means.mean()), float(low), float(high), 3))
    # With 100 images per class or more: the logarithm of tuned over frozen, in percent.
    far = rows[(rows["source"] == "far") & (rows["images_per_class"] >= 100)]
    pairs = _paired([far[far["pattern"] == pattern] for pattern in (TUNE, FREEZE)])
    ratio = _over_tasks(pairs, 100 * np.log(pairs["left"] / pairs["right"]))
    agrees("CHU-C2", ratio)
    assert table.loc[["LI-C1", "CHU-C2"], "verdict"].tolist() == ["not enough evidence"] * 2
    # The slope's test images and overlapping draws leave LI-C1 open even on these tasks.
    assert table.loc[["LI-C1", "CHU-C2"], "here"].tolist() == ["not enough evidence", "holds"]
    assert (table["p_holm"].dropna() <= 1).all()
    # An effect of which the interval over tasks excludes zero is no verdict by itself.
    assert table.loc["LI-C4", "low"] > 0
    assert table.loc["LI-C4", "p_holm"] > 0.05
    assert table.loc["LI-C4", ["verdict", "here"]].tolist() == ["not enough evidence"] * 2
    text = [f"{math.exp(value / 100):.2f}" for value in ratio[:3]]
    assert f"× {text[0]} ({text[1]} to {text[2]})" in photographs


def test_ways_of_borrowing_are_undecided_and_say_how_many_tasks_would_do(committed: Path) -> None:
    path = committed / "borrowing-tiny-imagenet.csv"
    text = said(str(path), width=500)
    rows = _rows(path)
    rows = rows[(rows["pattern"] == TUNE) & (rows["source"] == "near")]
    amounts = ["borrow.categories", "borrow.images", "borrow.total_images"]
    whole = rows[amounts].isna().all(axis="columns")
    soft = rows[(rows["method"] == "soft") & (rows["method.schedule"] == "epoch") & whole]
    pairs = _paired([soft, rows[rows["method"] == "plain"]])
    assert len(pairs) == 16  # four draws, two seeds, two sizes
    found = _over_tasks(pairs, 100 * (pairs["left"] - pairs["right"]))
    assert found[3] == 4
    assert f"not enough evidence not enough evidence {_points(found)} points 4 tasks" in text
    assert "holds: +9.9" in text  # the paper's, beside it
    # At the level that Holm leaves, which is between that of one test and that of all.
    family = int(re.findall(r"These runs allow (\d+)\.", text)[0])
    (wanted,) = re.findall(r"SFT-C1 about (\d+) tasks instead of 4: method: soft and", text)
    deviation = (found[2] - found[1]) / 2 / stats.t.ppf(0.975, 3) * math.sqrt(4)

    def enough(level: float) -> int:
        return next(
            n
            for n in range(3, 1000)
            if (stats.t.ppf(1 - level / 2, n - 1) + stats.t.ppf(0.8, n - 1)) * deviation
            <= found[0] * math.sqrt(n)
        )

    assert int(wanted) in {enough(0.05 / k) for k in range(1, family + 1)}


def test_a_folder_is_all_its_leaderboards_but_runs_of_two_grids_are_no_pair(
    committed: Path, tiny: Path, photographs: str
) -> None:
    text = said(str(committed), width=500)
    assert "3 leaderboards (borrowing, borrowing-tiny-imagenet, tiny-imagenet)" in text
    # What one grid shows is the same beside grids that have no such runs; more is tested.
    assert f"near > far: {_points(_near_far(tiny))}" in text
    allowed = [int(re.findall(r"These runs allow (\d+)\.", t)[0]) for t in (photographs, text)]
    assert allowed[0] < allowed[1]


def test_details_name_every_claim_and_what_it_needs(few: Path) -> None:
    text = said(str(few), "--details")
    for claim in CLAIMS:
        assert claim.id in text
    assert "to decide it, run:" in text


def test_one_claim_alone(tmp_path: Path, tiny: Path, photographs: str) -> None:
    text = said(str(tiny), "--claim", "LI-C4", "--csv", str(tmp_path / "numbers.csv"))
    assert "LI-C4" in text
    assert "CHU-C2" not in text
    assert "far > scratch: holds" in text
    assert "near > far: not enough evidence" in text
    assert "the gap near - far is larger before fine-tuning: holds" in text
    table = pd.read_csv(tmp_path / "numbers.csv")
    assert table["claim"].tolist() == ["LI-C4"]
    # It would hold with all three of its main parts.
    assert table["verdict"].tolist() == ["not enough evidence"]
    assert table["published_verdict"].tolist() == ["fails"]
    # To ask for one claim makes the family no smaller.
    (allowed,) = re.findall(r"These runs allow \d+\.", text)
    assert allowed in photographs


# --- the papers' own numbers ---


def test_published_numbers_alone_have_the_ledgers_verdicts() -> None:
    text = said("--published")
    verdicts = {f.claim: f.verdict for f in on_published()}
    assert [c for c, v in verdicts.items() if v == "fails"] == ["LI-C4", "CHU-C5"]
    assert "LI-C4 fails: far > scratch: against it DOG SVM -0.24" in text
    assert "CHU-C5 fails" in text
    assert "the other way round: Coral and Plankton" in text
    for claim, verdict in verdicts.items():
        if verdict == "holds":
            assert f"{claim} " in text.split("An effect")[0]
    assert "14 claims rest on values that are only drawn" in text
    assert "p (Holm)" not in text


def test_effects_are_printed_in_their_unit() -> None:
    by_claim = {f.claim: f for f in on_published()}
    assert effect_text(by_claim["CHU-C5"].main) == "0.96 Spearman"
    assert effect_text(by_claim["SFT-C7"].main) == "+5.0 epochs"
    assert effect_text(by_claim["LI-C2"].main) == "+1.1 points"


# --- what is wrong is said ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "this is not a leaderboard: it has no column status, dataset"),
        ('a,"b\n1', "no CSV table"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not text in UTF-8: byte 0x89"),
    ],
)
def test_a_file_that_is_no_leaderboard(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BenchError, match=message) as caught:
        said(str(path))
    assert str(path) in str(caught.value)
    assert "results/GRID.csv" in str(caught.value)


def test_the_aggregated_table_is_refused(committed: Path) -> None:
    with pytest.raises(BenchError, match="no column status"):
        said(str(committed / "tiny-imagenet-aggregated.csv"))


def test_a_leaderboard_without_rows_or_columns(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "x.csv"
    pd.read_csv(tiny).head(0).to_csv(path, index=False)
    with pytest.raises(BenchError, match="empty"):
        said(str(path))
    pd.read_csv(tiny).drop(columns=["pattern", "source"]).to_csv(path, index=False)
    with pytest.raises(BenchError, match="no column source, pattern"):
        said(str(path))


def test_values_that_cannot_be_are_named_with_their_line(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "x.csv"
    table = pd.read_csv(tiny, keep_default_na=False).astype(object)
    table.loc[3, "top1_accuracy"] = "good"
    table.to_csv(path, index=False)
    with pytest.raises(BenchError, match=r"x\.csv:5: top1_accuracy is 'good', not a number"):
        said(str(path))
    with pytest.raises(BenchError, match="status finished is not known"):
        said(str(_changed(tiny, path, status="finished")))


def test_one_seed_decides_nothing_and_that_is_said(tmp_path: Path, few: Path) -> None:
    text = said(str(few), "--csv", str(tmp_path / "numbers.csv"))
    assert "one seed only, so no interval and no verdict: add seed: [0, 1, 2]" in text
    numbers = pd.read_csv(tmp_path / "numbers.csv")
    assert numbers["effect"].notna().any()
    assert numbers[["low", "high", "p_holm"]].isna().all(axis=None)
    for column in ("verdict", "here"):
        assert set(numbers[column]) == {"not enough evidence"}


def test_runs_without_a_result_are_counted(tmp_path: Path, few: Path) -> None:
    table = pd.read_csv(few, keep_default_na=False)
    tuned = table.index[table["role"] != "source"]
    table.loc[tuned[:10], "status"] = "failed"
    table.to_csv(tmp_path / "x.csv", index=False)
    text = said(str(tmp_path / "x.csv"))
    assert len(tuned) > 20
    assert f" {len(tuned) - 10} finished runs" in text
    assert "10 runs without a result" in text
    assert "diverged" not in text


def test_runs_that_all_ended_at_chance_are_not_taken_for_missing_ones(
    tmp_path: Path, few: Path
) -> None:
    table = pd.read_csv(few, keep_default_na=False)
    tuned = table.index[table["role"] != "source"]
    table.loc[tuned, "not_converged"] = "run"
    table.loc[tuned[:2], ["status", "not_converged"]] = ["failed", ""]
    table.to_csv(tmp_path / "x.csv", index=False)
    text = said(str(tmp_path / "x.csv"))
    assert (
        f"none of {len(tuned)} runs on a target can be compared: {len(tuned) - 2} never left "
        "chance in training, or start from one that did not; 2 without a result. Train for more "
        "epochs or at another learning rate; --with-not-converged counts them"
    ) in text
    assert "has a result" not in text
    assert f"{len(tuned) - 2} finished runs" in said(
        str(tmp_path / "x.csv"), "--with-not-converged"
    )


def test_diverged_runs_are_finished_and_counted_at_chance(tmp_path: Path, tiny: Path) -> None:
    table = pd.read_csv(tiny, keep_default_na=False).astype({"top1_accuracy": object})
    table = table[table["target"].eq("instrumentality.n.03") | table["role"].eq("source")]
    away = table.index[table["source"].eq("near") & table["pattern"].eq(TUNE)][:3]
    table.loc[away, ["status", "top1_accuracy"]] = ["diverged", ""]
    table.to_csv(tmp_path / "x.csv", index=False)
    text = said(str(tmp_path / "x.csv"), "--claim", "LI-C4")
    assert f" {(table['role'] != 'source').sum()} finished runs" in text
    assert "3 runs diverged and count at chance" in text
    assert "without a result" not in text
    assert "3 diverged runs count at chance" in text


def test_what_a_verdict_needs_can_be_set_and_is_said(tiny: Path) -> None:
    strict = said(str(tiny), "--claim", "LI-C4", "--least-tasks", "4", "--smallest-effect", "7")
    assert (
        "of this kind needs 4 tasks or more, one about these tasks alone 3 seeds or more" in strict
    )
    assert re.search(r"an effect of 7 points? or more", strict)
    # Of three tasks there is no statement in general then, and 3.7 points are within 7.
    assert "the gap near - far is larger before fine-tuning: about equal (+3.7" in strict
    assert "within ±7 points" in strict
    assert "far > scratch: not enough evidence" in strict


def test_wrong_options(tiny: Path) -> None:
    with pytest.raises(BenchError, match="no claim 'LI-C14'"):
        said(str(tiny), "--claim", "LI-C14")
    with pytest.raises(BenchError, match="--published looks at the papers"):
        said(str(tiny), "--published")
    with pytest.raises(BenchError, match="no such leaderboard"):
        said("absent.csv")
    with pytest.raises(BenchError, match="--set belongs to a grid"):
        said(str(tiny), "--set", "train.lr=1")


def test_a_folder_without_leaderboards(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no leaderboard in this folder"):
        said(str(tmp_path))


def test_a_grid_without_results_says_so(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "defaults:\n  target: {dataset: digits, images_per_class: 5, test_per_class: 10}\n"
        "  model: narrow8_32\nexperiments:\n  one:\n    axes: {seed: [0, 1]}\n"
        "    set: {source: none, pattern: scratch}\n"
    )
    with pytest.raises(BenchError, match="no such results folder"):
        said(str(grid), "--results", str(tmp_path / "typo"))
    (tmp_path / "results").mkdir()
    text = said(str(grid), "--results", str(tmp_path / "results"))
    assert "none of 2 runs on a target has a result; run: bench grid" in text


def test_a_claim_may_be_written_in_lower_case(few: Path) -> None:
    text = said(str(few), "--claim", "li-c4")
    assert "LI-C4" in text
    assert "CHU-C2" not in text
