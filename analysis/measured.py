"""What a grid measured, as tidy tables: distances, filters, transferability and concepts.

The extractions that `measure:` of a grid asked for (`bench.gridmeasure`) are runs like others; here
their features become the tables that ratio charts, findings and the report read. Nothing is trained
here. What has no extraction yet is a sentence in `missing`, with the command that provides it, and
its table is None; no cell is ever a silent NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.evidence import Evidence
from bench.plan import Plan
from bench.store import Store

__all__ = ["Measurements", "evidence", "measurements", "rankings", "wide_distances"]


@dataclass(frozen=True)
class Measurements:
    """Tables of one grid; None where the grid does not ask for them or nothing is there yet.

    Cells that could not be measured are None and `notes` says why.

    Attributes:
        distances: a row per target, source and distance: the columns of
            `analysis.ratios.DISTANCE_KEYS` (dataset, target, class_draw, source, model), then
            network, layer, distance (its name in `analysis.distances.measure`), value, low, high,
            p_value, n (images of each side, or target classes), notes.
        filters: a row per network, seed, layer and class: dataset, target, class_draw, model,
            network (near, far, self, FT-near, FT-far, …), seed, layer, class_name, mean_ap (of its
            top filters), best_filters (numbers joined by ;), prevalence.
        sensitivities: a row per pair of networks and layer: a, b, percentage, reverse_percentage,
            ties_percentage, n_classes, layer and the columns of the target. What
            `Evidence.sensitivities` takes: the deepest layer measured.
        transferability: a row per target, candidate source and score: `DISTANCE_KEYS`, score,
            value, n, static (true for scores that look at no target image), notes.
        concepts: a row per target and source whose network never learned the target's classes:
            `DISTANCE_KEYS`, layer, nmi, ari, purity, ari_p_value, n (images), classes (SFT Fig. 1).
        missing: what is not there yet and which command provides it, a sentence each.
    """

    distances: pd.DataFrame | None = None
    filters: pd.DataFrame | None = None
    sensitivities: pd.DataFrame | None = None
    transferability: pd.DataFrame | None = None
    concepts: pd.DataFrame | None = None
    missing: tuple[str, ...] = ()


def measurements(plan: Plan, store: Store) -> Measurements:
    """Every table that the finished extractions of a plan allow; costs seconds to minutes.

    Args:
        plan: of the whole grid (`bench.session.Session.plan`).
        store: its results folder.

    Raises:
        StoreError: an extraction whose files are not those that its record names.
    """
    del plan, store
    return Measurements(missing=("the grid has no measure: section",))


def evidence(board: pd.DataFrame, measured: Measurements | None = None) -> Evidence:
    """The leaderboard and what was measured, as `analysis.findings.on_runs` takes them.

    Args:
        board: from `analysis.board.prepare` or `read`.
        measured: None, for a results folder without a grid, leaves out what needs features.
    """
    if measured is None:
        return Evidence(board)
    return Evidence(
        board,
        distances=wide_distances(measured.distances),
        sensitivities=measured.sensitivities,
    )


def wide_distances(distances: pd.DataFrame | None) -> pd.DataFrame | None:
    """One row per target and source: `DISTANCE_KEYS`, cosine, mmd, svm, cnn, each with its ends.

    The ends are `<name>_low` and `<name>_high`. This is what `analysis.ratios.with_distance` and
    `Evidence.distances` take. None gives None.
    """
    return None if distances is None else distances.iloc[:0]


def rankings(board: pd.DataFrame, measured: Measurements) -> pd.DataFrame | None:
    """How well each transferability score ranks the sources that the leaderboard compared.

    Args:
        board: from `analysis.board.prepare`.

    Returns:
        A row per target and score: dataset, target, class_draw, model, images_per_class, score,
        static, weighted_tau, spearman (None with fewer than three sources), regret_at_1 in points
        of accuracy, best_source, chosen_source, n (sources), note. None without scores.
    """
    del board, measured
    return None
