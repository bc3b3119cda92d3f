"""Probes layer by layer: means over draws, and gains of one network over another in pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparisons import layer_probes
from analysis.comparisons.evidence import Evidence
from analysis.figures.style import styled
from analysis.leaderboard.read import read
from analysis.report import feature_figures
from bench.core.errors import DataError


@pytest.fixture(scope="module")
def rehearsal(committed: Path) -> Evidence:
    return Evidence(read(committed / "papers" / "multifaceted.csv"))


def literal(committed: Path) -> pd.DataFrame:
    """Accuracy by network, layer and draw, by pandas alone."""
    rows = pd.read_csv(committed / "papers" / "multifaceted.csv", dtype={"method.layer": str})
    rows = rows[(rows["method"] == "probe") & (rows["role"] == "finetune")]
    network = rows["source_side"].where(rows["source_links"] == 1, "FT-" + rows["source_side"])
    keys = ["network", "method.layer", "task_id"]
    return rows.assign(network=network).set_index(keys)["top1_accuracy"].unstack("task_id")


def test_means_and_gains_are_those_of_the_rows(rehearsal: Evidence, committed: Path) -> None:
    rows, table = literal(committed), layer_probes.probed(rehearsal)
    found = layer_probes.accuracies(table).set_index(["line", "x"])
    assert list(dict.fromkeys(found.index.get_level_values(0))) == list(layer_probes.NETWORKS)
    assert len(found) == 5 * 8
    gained = layer_probes.gains(table).set_index(["line", "x"])
    for layer in range(1, 9):
        for name in layer_probes.NETWORKS:
            values = rows.loc[(name, str(layer))]
            assert found.loc[(name, layer), "mean"] == pytest.approx(values.mean())
            assert found.loc[(name, layer), "n"] == 3
        for one, other in (pair for panel in layer_probes.PANELS for pair in panel):
            values = rows.loc[(one, str(layer))] - rows.loc[(other, str(layer))]
            row = gained.loc[(f"{one} − {other}", layer)]
            assert row["mean"] == pytest.approx(values.mean())
            if np.ptp(values) > 1e-9:
                ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                assert (row["low"], row["high"]) == pytest.approx(tuple(ends))


def test_the_report_draws_both_panels(rehearsal: Evidence) -> None:
    with styled():
        probes, _ = feature_figures.probes(rehearsal)
        gains, caption = feature_figures.probe_gains(rehearsal)
    assert [ax.get_ylabel() for ax in probes.axes] == ["test accuracy, %"]
    assert [ax.get_ylabel() for ax in gains.axes] == ["gain, percentage points"] * 2
    assert {"near − far", "FT-near − FT-far"} <= {
        str(line.get_label()) for line in gains.axes[0].get_lines()
    }
    assert "near − far is largest at layer" in caption


def test_without_probes_the_figures_say_what_to_add(committed: Path) -> None:
    other = Evidence(read(committed / "borrowing.csv"))
    for draw in (feature_figures.probes, feature_figures.probe_gains):
        with pytest.raises(DataError, match=r"no layers of near, far or self are probed") as error:
            draw(other)
        assert "name: probe, layer: 1" in str(error.value.hint)
