"""The page of verdicts on real photographs: complete, made by its script, right in its numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis.findings.evaluate import CLAIMS
from scripts import evidence

ROOT = Path(__file__).parents[1]
FAMILIES = sorted(path.stem for path in evidence.GRIDS.glob("*.yaml"))


def test_every_claim_has_a_grid_that_was_written_for_it() -> None:
    named = {name for path in evidence.GRIDS.glob("*.yaml") for name in evidence.claims_of(path)}
    assert {claim.id for claim in CLAIMS} - named == set()


def test_the_design_names_the_family_of_every_claim() -> None:
    design = (ROOT / "docs" / "experiments.md").read_text()
    rows = re.findall(r"^\| ([^|]*) \| ([^|]*) \|", design, re.M)
    for family in FAMILIES:
        for claim in evidence.claims_of(evidence.GRIDS / f"{family}.yaml"):
            paper, number = claim.split("-")
            mine = [names for names, where in rows if where == family and paper in names]
            assert any(number in re.findall(r"C\d+", names) for names in mine), (claim, family)


def test_the_page_is_what_its_script_writes(committed: Path) -> None:
    page, family = (committed / "evidence" / "README.md").read_text(), "depth"
    for cells in evidence.rows(list(evidence.judged(family))):
        assert f"| {' | '.join(cells)} |" in page


def test_the_readme_shows_what_the_script_prints() -> None:
    readme = (ROOT / "README.md").read_text()
    found = list(evidence.judged("near-far")) + list(evidence.judged("depth"))
    lines = list(evidence.bullets(found))
    assert len(lines) >= 6
    for line in lines:
        assert line in readme


def _mean_of_tasks(board: pd.DataFrame, source: str, pattern: str) -> pd.Series:
    arm = board[(board["source"] == source) & (board["pattern"] == pattern)]
    return 100 * arm.set_index(["task", "images_per_class"])["top1_accuracy"].sort_index()


def test_near_over_far_is_the_mean_over_tasks_of_their_differences(committed: Path) -> None:
    """LI-C4 with pandas and scipy alone; the interval there allows for shared test images too."""
    path = committed / "evidence" / "near-far.csv"
    board = pd.read_csv(path, keep_default_na=False, na_values=[""])
    board["task"] = board["experiments"] + board["class_draw"].astype(str)
    near, far = (_mean_of_tasks(board, source, "T(1-7)R(8)") for source in ("near", "far"))
    tasks = (near - far).groupby(level="task").mean().dropna()
    claims = pd.read_csv(committed / "evidence" / "claims.csv")
    mine = (claims["claim"] == "LI-C4") & (claims["part"] == "near > far")
    (row,) = claims[mine & claims["images_per_class"].isna()].to_dict("records")
    assert row["n"] == len(tasks) >= 10
    assert row["effect"] == pytest.approx(tasks.mean())
    half = stats.t.ppf(0.975, len(tasks) - 1) * tasks.std(ddof=1) / len(tasks) ** 0.5
    assert (row["high"] - row["low"]) / 2 >= half - 1e-9


def test_every_claim_was_measured_on_a_family_that_was_written_for_it(committed: Path) -> None:
    table = pd.read_csv(committed / "evidence" / "claims.csv")
    whole = table[table["images_per_class"].isna() & table["effect"].notna()]
    assert set(whole["claim"]) == {claim.id for claim in CLAIMS}


def test_layer_probes_are_read_from_a_leaderboard(committed: Path) -> None:
    """LI-C10 far > self with pandas alone: the lower half of eight layers, a mean of each task."""
    board = pd.read_csv(committed / "evidence" / "layers.csv", keep_default_na=False)
    probes = board[(board["method"] == "probe") & board["method.layer"].isin(["1", "2", "3", "4"])]
    means = probes.pivot_table(index="class_draw", columns="source", values="top1_accuracy")
    claims = pd.read_csv(committed / "evidence" / "claims.csv")
    mine = (claims["claim"] == "LI-C10") & claims["part"].str.startswith("far > self")
    (row,) = claims[mine & (claims["family"] == "layers")].to_dict("records")
    assert row["effect"] == pytest.approx(100 * (means["far"] - means["self"]).mean())
    assert row["n"] == len(means) == 10
