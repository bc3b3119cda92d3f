"""Which rows of a leaderboard belong to which arm of the papers' comparisons.

By the settings' own columns; an option of a method that no column states has its default
(`analysis.leaderboard.labels.options`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd

from analysis.leaderboard.labels import options
from analysis.leaderboard.read import SEEDS, key_of

Amount = Literal["all", "categories", "images", "random"]
_AMOUNTS: Mapping[Amount, str] = {
    "categories": "borrow.categories",
    "images": "borrow.images",
    "random": "borrow.total_images",
}


def is_method(board: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Rows of one training method."""
    return board["method"] == name


def fine_tuned(board: pd.DataFrame) -> pd.Series[bool]:
    """Plain fine-tuning: all layers but the last copied and tuned."""
    return is_method(board, "plain") & (board["treatment"] == "tune") & (board["reinit"] == 1)


def fine_tuned_again(board: pd.DataFrame) -> pd.Series[bool]:
    """LI's SF-FT: the target's own scratch model trained on, its last layer copied or not."""
    tuned = (board["treatment"] == "tune") & (board["reinit"] <= 1)
    return is_method(board, "plain") & tuned & source_is(board, "self")


def scratch(board: pd.DataFrame) -> pd.Series[bool]:
    """Nothing copied."""
    return is_method(board, "plain") & (board["treatment"] == "scratch")


def frozen_features(board: pd.DataFrame) -> tuple[pd.Series[bool], pd.Series[bool]]:
    """The source's features as they are, before fine-tuning, with a new classifier.

    Returns:
        Linear SVMs on the penultimate layer, as the papers have them; and runs with all layers but
        the last frozen, which stand for them where no pair of SVMs can be made.
    """
    svm = _with_options(board, "svm", lambda o: o.get("layer", "penultimate") == "penultimate")
    plain = is_method(board, "plain") & (board["reinit"] == 1)
    return svm, plain & (board["treatment"] == "freeze")


def layers_frozen(board: pd.DataFrame) -> pd.Series[bool]:
    """All layers but the last copied, one or more from the first on frozen (LI §4.5)."""
    copied = is_method(board, "plain") & (board["reinit"] == 1)
    return copied & (board["frozen"] > 0)


def source_is(board: pd.DataFrame, side: str) -> pd.Series[bool]:
    """Rows that start straight from a source of this side (near, far, self), of whatever data."""
    return (board["source_side"] == side) & (board["source_links"] == 1)


def option(board: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A method's option in each row, its default where no column states it; None without it."""
    return pd.Series(
        [options(row).get(name) for row in _method_columns(board)],
        index=board.index,
        dtype=object,
    )


def _with_options(
    board: pd.DataFrame, method: str, test: Callable[[Mapping[str, Any]], bool]
) -> pd.Series[bool]:
    rows = is_method(board, method)
    fits = [
        bool(own) and test(options(row))
        for own, row in zip(rows, _method_columns(board), strict=True)
    ]
    return pd.Series(fits, index=board.index, dtype=bool)


def _method_columns(board: pd.DataFrame) -> list[dict[Any, Any]]:
    columns = ["method", *(n for n in board.columns if str(n).startswith("method."))]
    return board[columns].to_dict("records")


def borrows(board: pd.DataFrame, part: Amount = "all", selections: int = 1) -> pd.Series[bool]:
    """Rows that borrow this part of what is borrowed, from so many selections of images."""
    rows = board["borrowed_sets"].fillna(0).astype(int) == selections
    for amount, name in _AMOUNTS.items():
        given = board[name].notna() if name in board.columns else pd.Series(False, board.index)
        rows &= given if amount == part else ~given
    return rows


def soft(
    board: pd.DataFrame, intermediate: bool = False, part: Amount = "all", targets: int = 1
) -> pd.Series[bool]:
    """Soft fine-tuning (SFT §3) with the source's own classifier.

    Args:
        intermediate: the stage with α = 0 throughout instead of the schedule.
        part: what of the source is kept (SFT Table 3).
        targets: 2 where a second target data set is trained along (Eq. 3).
    """

    def test(o: Mapping[str, Any]) -> bool:
        zero = o.get("schedule", "epoch") == "zero"
        return zero == intermediate and bool(o.get("source_head", "kept") == "kept")

    return _with_options(board, "soft", test) & borrows(board, part, targets)


def joint(board: pd.DataFrame, part: Amount = "all") -> pd.Series[bool]:
    """Joint fine-tuning with all of the source, or as many random images of it (GE Tables 2, 3)."""
    return is_method(board, "joint") & borrows(board, part)


def selective(
    board: pd.DataFrame,
    adaptive: bool = True,
    bank: str = "kernels",
    layers: str | None = "1,2",
    partners: str = "nearest",
) -> pd.Series[bool]:
    """Selective joint fine-tuning (GE §3), one model, from one source.

    Args:
        adaptive: whether the number of neighbours grows between rounds.
        bank: kernels of a network's layers, or gabor.
        layers: of the kernels; None: other ones than the first two.
        partners: `random` for as many source images drawn at random (GE §4.6).
    """

    def test(o: Mapping[str, Any]) -> bool:
        named = str(o.get("layers", "1,2")).replace(" ", "")
        fits = named == layers if layers is not None else named != "1,2"
        return bool(
            bool(o.get("adaptive", True)) == adaptive
            and o.get("bank", "kernels") == bank
            and (fits or bank != "kernels")
            and not o.get("fuse", False)
            and o.get("partners", "nearest") == partners
        )

    return _with_options(board, "selective", test) & borrows(board)


def probes(board: pd.DataFrame) -> pd.DataFrame:
    """Layer probes of a leaderboard: network, layer, accuracy, task, seed; lower layers first.

    Networks are near and far as pretrained, self (trained on the target alone), FT-near and FT-far
    (fine-tuned on the target). The seed is the target's own: those of the networks before it belong
    to the networks, which are compared.
    """
    rows = []
    done = board[is_method(board, "probe") & board["status"].isin(["done", "diverged"])]
    for row, seed in zip(done.to_dict("records"), key_of(done, SEEDS), strict=True):
        side, layer = row["source_side"], str(options(row).get("layer", ""))
        network = side if row["source_links"] == 1 else f"FT-{side}"
        known = network in ("near", "far", "self", "FT-near", "FT-far")
        if known and row["source_links"] in (1, 2) and layer.isdigit():
            accuracy = float(row["top1_accuracy"])
            rows.append((network, int(layer), accuracy, row["task"], seed))
    rows.sort(key=lambda r: (r[1], r[0], r[3], r[4]))
    table = pd.DataFrame(rows, columns=["network", "layer", "accuracy", "task", "seed"])
    return table.assign(layer=[str(r[1]) for r in rows])
