"""Figures over epochs from the histories of a grid's runs: LI Figs. 4 and 5, SFT Fig. 5."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparisons import epochs
from analysis.comparisons.evidence import Evidence
from analysis.figures import charts
from analysis.figures.style import canvas
from analysis.leaderboard.labels import number
from analysis.report.figures import Picture, draw_picture
from bench.core.errors import DataError
from bench.core.text import counted
from bench.results.store import Store
from bench.specs.planned import Plan

_RATES = "add train.lr: [0.03, 0.01, 0.003] to the grid's axes:"
_SOURCES = "add sources of several n to the grid's axes: see grids/factors.yaml"
_SOFT = "add {borrow: parent, method: soft} to the grid's include:"
Lines = tuple[pd.DataFrame, dict[str, pd.DataFrame]]
"""Lines of `analysis.comparisons.epochs`, and the histories of their runs."""


def figures(plan: Plan, store: Store, board: pd.DataFrame) -> list[Picture]:
    """The three figures, each drawn or with what it lacks.

    Args:
        plan: of the whole grid.
        store: its results folder.
        board: its leaderboard, of `analysis.leaderboard.of_grid.grid_board`.
    """
    evidence = Evidence(board)

    def with_histories(lines: pd.DataFrame, needed: str) -> Lines:
        if lines.empty:
            raise DataError("no runs for these curves", hint=needed)
        return lines, _histories(lines, plan, store)

    def rates() -> tuple[Figure, str]:
        return _accuracy_and_loss(*with_histories(epochs.rate_lines(evidence), _RATES))

    def sources() -> tuple[Figure, str]:
        return _accuracy_and_loss(*with_histories(epochs.source_lines(evidence), _SOURCES))

    def soft() -> tuple[Figure, str]:
        return _soft(*with_histories(epochs.soft_lines(evidence), _SOFT))

    return [
        draw_picture("epochs-rate", "Training at each learning rate (LI Fig. 4)", rates),
        draw_picture("epochs-source", "Training from each source (LI Fig. 5)", sources),
        draw_picture("epochs-soft", "Training by soft and plain fine-tuning (SFT Fig. 5)", soft),
    ]


def _histories(lines: pd.DataFrame, plan: Plan, store: Store) -> dict[str, pd.DataFrame]:
    """The histories of the lines' runs by id; a run without one is left out."""
    found = {}
    for key in lines["run_id"]:
        path = store.folder(key, plan.runs[key].spec).path / "history.csv"
        if path.is_file():
            found[key] = pd.read_csv(path)
    return found


def _accuracy_and_loss(
    lines: pd.DataFrame, histories: Mapping[str, pd.DataFrame]
) -> tuple[Figure, str]:
    """Accuracy on validation images, where all lines have it, and training loss."""
    accuracy = epochs.over_epochs(lines, histories, "val_top1_accuracy")
    loss = epochs.over_epochs(lines, histories, "train_loss")
    if set(loss["line"]) != set(lines["line"]):
        raise DataError("the runs' histories are not there", hint="run: bench grid GRID")
    held_out = set(accuracy["line"]) == set(lines["line"])
    figure, axes = canvas(1, 2 if held_out else 1, height=3.5)
    styles = charts.line_looks(loss)
    if held_out:
        charts.epoch_curves(accuracy, axes[0], "validation accuracy, %", styles=styles)
    charts.epoch_curves(loss, axes[-1], "training loss, nats", 1.0, styles)
    charts.legend_below(axes[0])
    ends = loss[loss["run_id"] == ""].groupby("line", sort=False)["y"].last()
    said = ", ".join(f"{line} {number(value)}" for line, value in ends.items())
    none = "" if held_out else f" {_NO_ACCURACY}"
    return figure, f"{_THICK} Training loss at the end: {said}.{_ENDS}{none}"


_THICK = "Thick lines are means of the runs, which are thin."
_ENDS = " A mean ends where a run diverged."
_NO_ACCURACY = (
    "Not all runs hold validation images out, so their accuracy after each epoch is not there; "
    "target.val_per_class gives it, out of the training images."
)


def _soft(lines: pd.DataFrame, histories: Mapping[str, pd.DataFrame]) -> tuple[Figure, str]:
    table = epochs.over_epochs(lines, histories, "train_top1_accuracy")
    names = list(dict.fromkeys(lines["line"]))
    if set(table["line"]) != set(names):
        raise DataError("the runs' histories are not there", hint="run: bench grid GRID")
    figure, (ax,) = canvas(height=3.5)
    charts.epoch_curves(table, ax, "training accuracy, %")
    charts.legend_below(ax)
    found = epochs.lead(table, *names)
    runs = counted(int(table["runs"].iloc[0]), "pair")
    level = f"{100 * epochs.LEAST_LEVEL:.0f} %"
    ahead = f"no level from {level} on is reached by both"
    if found.epochs is not None:
        ahead = f"its smallest lead from {level} on is {found.epochs:+g} epochs"
    gain = f"{100 * found.gain:+.1f} points on average over the epochs"
    least = f"{100 * found.least_gain:+.1f} in the worst"
    return figure, f"{_THICK} Soft fine-tuning is {gain}, {least} ({runs}); {ahead}."
