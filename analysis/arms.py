"""Which rows of a leaderboard belong to which arm of the papers' comparisons.

The names that the methods give their options are written down here and nowhere else in the
analyses. An option that a row does not state has its default.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.board import options

__all__ = [
    "LOSS_FACTORS",
    "fine_tuned",
    "frozen_features",
    "is_method",
    "layers_frozen",
    "scratch",
    "selective",
    "soft",
    "source_is",
]

LOSS_FACTORS = ("method", "method_options")
"""What differs when the loss is built differently."""


def is_method(board: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Rows of one training method."""
    return board["method"] == name


def fine_tuned(board: pd.DataFrame) -> pd.Series[bool]:
    """Plain fine-tuning: all layers but the last copied and tuned."""
    return is_method(board, "plain") & (board["treatment"] == "tune") & (board["reinit"] == 1)


def scratch(board: pd.DataFrame) -> pd.Series[bool]:
    """Nothing copied."""
    return is_method(board, "plain") & (board["treatment"] == "scratch")


def frozen_features(board: pd.DataFrame) -> pd.Series[bool]:
    """The source's features as they are, with a new classifier: before fine-tuning."""
    return is_method(board, "plain") & (board["treatment"] == "freeze") & (board["reinit"] == 1)


def layers_frozen(board: pd.DataFrame) -> pd.Series[bool]:
    """All layers but the last copied, one or more from the first on frozen (LI §4.5)."""
    copied = is_method(board, "plain") & (board["reinit"] == 1)
    return copied & (board["frozen"] > 0)


def source_is(board: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Rows whose source is so called, of the same data set or of another one."""
    return board["source"].map(lambda s: isinstance(s, str) and (f" {s}").endswith(f" {name}"))


def _with_options(
    board: pd.DataFrame, method: str, test: Callable[[dict[str, str]], bool]
) -> pd.Series[bool]:
    wanted = board["method_options"].map(lambda text: test(options(text)))
    return is_method(board, method) & wanted.astype(bool)


def _zero(text: str | None) -> bool:
    try:
        return text is not None and float(text) == 0
    except ValueError:
        return False


def soft(
    board: pd.DataFrame,
    intermediate: bool = False,
    source_part: str = "all",
    second_target: bool = False,
) -> pd.Series[bool]:
    """Soft fine-tuning (SFT §3).

    Args:
        intermediate: the stage with α = 0 throughout (option `alpha` 0) instead of the schedule.
        source_part: option `source_part`: all, categories (10 % of them) or images (10 %).
        second_target: whether a second target data set is trained along (option `second_target`).
    """

    def test(o: dict[str, str]) -> bool:
        second = o.get("second_target", "None").lower() not in ("none", "false", "")
        return (
            _zero(o.get("alpha")) == intermediate
            and o.get("source_part", "all") == source_part
            and second == second_target
        )

    return _with_options(board, "soft", test)


def selective(
    board: pd.DataFrame,
    choice: str = "retrieved",
    adaptive: bool | None = True,
    bank: str | None = "kernels",
) -> pd.Series[bool]:
    """Selective joint fine-tuning (GE §3).

    Args:
        choice: option `choice`: retrieved, or random source images of the same number.
        adaptive: option `adaptive`, whether the number of neighbours grows; None: either.
        bank: beginning of option `bank`: kernels of a network's layers or gabor; None: any.
    """

    def test(o: dict[str, str]) -> bool:
        return (
            o.get("choice", "retrieved") == choice
            and adaptive in (None, o.get("adaptive", "True").lower() == "true")
            and (bank is None or o.get("bank", "kernels").startswith(bank))
        )

    return _with_options(board, "selective", test)
