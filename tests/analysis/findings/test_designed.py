"""Claims that are judged by the parts which a table beside their leaderboard names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.comparisons.evidence import Evidence
from analysis.findings.designed import as_designed, chosen, read_design
from analysis.findings.parts import Part
from bench.commands.app import app
from bench.core.errors import DataError


def test_the_command_gives_the_verdict_of_the_page(committed: Path, tmp_path: Path) -> None:
    """Before, CHU-C3 was judged here on its far source too, and so decided by another part."""
    board, numbers = committed / "evidence" / "near-far.csv", tmp_path / "all.csv"
    ended = CliRunner().invoke(app, ["findings", str(board), "--csv", str(numbers)])
    assert ended.exit_code == 0, ended.output
    shown = " ".join(ended.output.split())
    assert "CHU-C3, GE-C1, GE-C3: judged by the parts that" in shown
    found = pd.read_csv(numbers).set_index("claim")
    page = (committed / "evidence" / "README.md").read_text()
    claims = pd.read_csv(committed / "evidence" / "claims.csv")
    mine = claims[(claims["family"] == "near-far") & claims["images_per_class"].isna()]
    for claim in mine["claim"].unique():
        rows = [r for r in page.splitlines() if r.startswith(f"| {claim} |") and "near-far" in r]
        verdict = rows[0].split(" | ")[2].split(" (")[0].strip("*")
        stated = found.loc[claim, "verdict"]
        assert verdict == ("not decided" if stated == "not enough evidence" else stated), claim
    (row,) = mine[mine["claim"] == "CHU-C3"].to_dict("records")
    assert found.loc["CHU-C3", "effect"] == pytest.approx(row["effect"])
    assert found.loc["CHU-C3", "p_holm"] == pytest.approx(row["p_holm"])


def test_a_row_of_a_leaderboard_goes_before_one_of_all(tmp_path: Path) -> None:
    assert as_designed(Evidence(pd.DataFrame()), tmp_path / "a.csv").designed == {}
    (tmp_path / "designed.csv").write_text("leaderboard,claim,parts\n,X-1,near$\na,X-1,^far\n")
    of = {name: read_design(tmp_path / f"{name}.csv")["X-1"] for name in ("a", "b")}
    near, far = (Part(name, "not enough evidence") for name in ("from near", "far one"))
    assert [part.name for part in chosen([near, far], of["a"])] == ["far one"]
    assert [part.name for part in chosen([near, far], of["b"])] == ["from near"]
    assert chosen([far], of["b"]) == [far]
    assert as_designed(Evidence(pd.DataFrame()), tmp_path).designed == {}


@pytest.mark.parametrize("text", ["leaderboard,claim\n,X-1\n", "leaderboard,claim,parts\n,X-1,(\n"])
def test_a_table_that_is_none_is_an_error_with_its_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "designed.csv").write_text(text)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_design(tmp_path / "a.csv")
    assert caught.value.hint == "its columns: leaderboard, claim, parts (a regular expression)"
