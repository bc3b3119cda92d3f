"""What `bench findings` prints, on the committed leaderboards and on what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.findings import CLAIMS, on_published
from bench.cli import app
from bench.errors import BenchError
from bench.findings_cli import effect_text


@pytest.fixture
def tiny(committed: Path) -> Path:
    return committed / "tiny-imagenet.csv"


def said(*arguments: str) -> str:
    """The output with every run of white space as one space."""
    result = CliRunner().invoke(app, ["findings", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def _changed(tiny: Path, path: Path, **columns: Any) -> Path:
    table = pd.read_csv(tiny, keep_default_na=False).assign(**columns)
    table.to_csv(path, index=False)
    return path


# --- the committed leaderboards ---


def test_the_committed_photographs_decide_what_they_decide(tiny: Path) -> None:
    text = said(str(tiny))
    assert "645 finished runs" in text
    lines = text.split("Not decided")[0]
    for claim in ("LI-C1", "LI-C4", "CHU-C2"):
        assert claim in lines
    assert "holds (3 of 3 parts)" in text
    assert "× 1.27 (1.13 to 1.44)" in text
    assert "could be chance: p after Holm is above 0.05" in text
    assert "18 claims have no runs here" in text


def test_ways_of_borrowing_are_undecided_and_say_how_many_draws_would_do(committed: Path) -> None:
    text = said(str(committed / "borrowing-tiny-imagenet.csv"))
    assert "SFT-C1" in text
    assert "class draws instead of 2" in text
    assert "holds: +9.9" in text  # the paper's, beside it


def test_a_folder_is_all_its_leaderboards_but_runs_of_two_grids_are_no_pair(
    committed: Path,
) -> None:
    text = said(str(committed))
    assert "3 leaderboards (borrowing, borrowing-tiny-imagenet, tiny-imagenet)" in text
    # What one grid decides is not lost beside grids that have no such runs.
    assert "near > far: +4.2 (+2.6 to +5.8)" in text


def test_details_name_every_claim_and_what_it_needs(tiny: Path) -> None:
    text = said(str(tiny), "--details")
    for claim in CLAIMS:
        assert claim.id in text
    assert "to decide it, run:" in text


def test_one_claim_alone(tmp_path: Path, tiny: Path) -> None:
    text = said(str(tiny), "--claim", "LI-C4", "--csv", str(tmp_path / "numbers.csv"))
    assert "LI-C4" in text
    assert "CHU-C2" not in text
    assert "far > scratch: holds" in text
    table = pd.read_csv(tmp_path / "numbers.csv")
    assert table["claim"].tolist() == ["LI-C4"]
    assert table["verdict"].tolist() == ["holds"]
    assert table["published_verdict"].tolist() == ["fails"]


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
    assert "12 claims rest on values that are only drawn" in text
    assert "p (Holm)" not in text


def test_effects_are_printed_in_their_unit() -> None:
    by_claim = {f.claim: f for f in on_published()}
    assert effect_text(by_claim["CHU-C5"]) == "0.96 Spearman"
    assert effect_text(by_claim["SFT-C7"]) == "+5.0 epochs"
    assert effect_text(by_claim["LI-C2"]) == "+1.1 points"


# --- what is wrong is said ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "this is not a leaderboard: it has no column status, dataset"),
        ('a,"b\n1', "no CSV table"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not a text file"),
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


def test_one_seed_decides_nothing_and_that_is_said(tmp_path: Path, tiny: Path) -> None:
    table = pd.read_csv(tiny, keep_default_na=False)
    kept = table[(table["seed_order"] == 0) & (table["class_draw"].astype(str) == "0")]
    path = tmp_path / "one.csv"
    kept[kept["target"] == "animal.n.01"].to_csv(path, index=False)
    text = said(str(path))
    assert "one seed only, so no interval and no verdict: add seed: [0, 1, 2]" in text
    assert "holds" not in text.split("in the paper")[1].split("LI-C1 ")[0].replace("holds:", "")


def test_runs_without_a_result_are_counted(tmp_path: Path, tiny: Path) -> None:
    table = pd.read_csv(tiny, keep_default_na=False)
    table.loc[:9, "status"] = "failed"
    table.to_csv(tmp_path / "x.csv", index=False)
    assert "10 runs have no result" in said(str(tmp_path / "x.csv"))


def test_wrong_options(tiny: Path) -> None:
    with pytest.raises(BenchError, match="no claim 'LI-C12'"):
        said(str(tiny), "--claim", "LI-C12")
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
    assert "none of 2 runs has a result; run: bench grid" in text


def test_a_claim_may_be_written_in_lower_case(tiny: Path) -> None:
    assert "LI-C4" in said(str(tiny), "--claim", "li-c4")
