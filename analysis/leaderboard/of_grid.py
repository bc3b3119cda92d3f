"""The leaderboard of a grid from its records, with what each run said of each test image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.leaderboard.read import prepare
from bench.results.leaderboard import rows
from bench.results.predictions import correct_images
from bench.results.store import Store
from bench.specs.planned import Plan


def grid_board(plan: Plan, store: Store, place: str | None = None) -> pd.DataFrame:
    """The prepared leaderboard of a plan's runs.

    Beside the columns of `analysis.leaderboard.read.prepare` it has `correct`: one truth value for
    each test image, in the order of the images, where a run's predictions are at hand; else None.
    So the sampling error of the test images is computed pair by pair.

    Args:
        place: the grid's file, for errors.
    """
    found = [{k: v for k, v in row.items() if k != "correct"} for row in rows(plan, store)]
    board = prepare(table_of(found), place)
    truths = [_correct(plan, store, row) for row in board.to_dict("records")]
    board["correct"] = pd.Series(truths, index=board.index, dtype=object)
    return board


def table_of(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of `bench.results.leaderboard` as a table; columns of numbers and nothing else are
    numbers.

    >>> table_of([{"lr": 0.1, "source": "near"}, {"lr": None, "source": "far"}]).dtypes["lr"]
    dtype('float64')
    """
    table = pd.DataFrame(found)
    for name in table.columns:
        known = [value for value in table[name] if value is not None]
        if known and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
            table[name] = pd.to_numeric(table[name])
    return table


def _correct(plan: Plan, store: Store, row: Mapping[Any, Any]) -> npt.NDArray[np.bool_] | None:
    if row["status"] != "done" or row["role"] == "source" or pd.isna(row["top1_accuracy"]):
        return None
    run = plan.runs[row["run_id"]]
    return correct_images(store.folder(run.id, run.spec), float(row["top1_accuracy"]))
