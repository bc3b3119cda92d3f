"""Which rows of a leaderboard belong to which arm of the papers' comparisons.

The methods' options and the labels of sources and of borrowed images are read here and nowhere
else in the analyses. An option that a row does not state has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd

from analysis.board import SEEDS, key_of, options
from bench.records import COLUMNS

__all__ = [
    "LOSS_FACTORS",
    "borrows",
    "fine_tuned",
    "fine_tuned_again",
    "frozen_features",
    "is_method",
    "joint",
    "layers_frozen",
    "probes",
    "scratch",
    "selective",
    "soft",
    "source_is",
]

LOSS_FACTORS = tuple(c.name for c in COLUMNS if c.name in ("method", "method_options", "borrowed"))
"""What differs when the loss is built differently."""
Part = Literal["all", "categories", "images", "random"]


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


def source_is(board: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Rows whose source is so called, of the same data set or of another one."""
    return board["source"].map(lambda s: isinstance(s, str) and (f" {s}").endswith(f" {name}"))


def _with_options(
    board: pd.DataFrame, method: str, test: Callable[[Mapping[str, str]], bool]
) -> pd.Series[bool]:
    wanted = board["method_options"].map(lambda text: test(options(text)))
    return is_method(board, method) & wanted.astype(bool)


def borrows(board: pd.DataFrame, part: Part = "all", selections: int = 1) -> pd.Series[bool]:
    """Rows that borrow this part of their source, from so many selections of images.

    The leaderboard writes "0.1 of classes" (categories), "0.1 of images", "500 random images"
    behind what is borrowed, and joins several selections by ;.
    """
    marks: Mapping[Part, str] = {
        "categories": " of classes",
        "images": " of images",
        "random": " random images",
    }

    def test(label: Any) -> bool:
        text = label if isinstance(label, str) else ""
        found = [name for name, mark in marks.items() if mark in text]
        return found == ([] if part == "all" else [part]) and text.count(";") + 1 == selections

    return board["borrowed"].map(test).astype(bool)


def soft(
    board: pd.DataFrame, intermediate: bool = False, part: Part = "all", targets: int = 1
) -> pd.Series[bool]:
    """Soft fine-tuning (SFT §3) with the source's own classifier.

    Args:
        intermediate: the stage with α = 0 throughout instead of the schedule.
        part: what of the source is kept (SFT Table 3).
        targets: 2 where a second target data set is trained along (Eq. 3).
    """

    def test(o: Mapping[str, str]) -> bool:
        zero = o.get("schedule", "epoch") == "zero"
        return zero == intermediate and o.get("source_head", "kept") == "kept"

    return _with_options(board, "soft", test) & borrows(board, part, targets)


def joint(board: pd.DataFrame, part: Part = "all") -> pd.Series[bool]:
    """Joint fine-tuning with all of the source, or as many random images of it (GE Tables 2, 3)."""
    return is_method(board, "joint") & borrows(board, part)


def selective(
    board: pd.DataFrame,
    adaptive: bool = True,
    bank: str = "kernels",
    layers: str | None = "1,2",
) -> pd.Series[bool]:
    """Selective joint fine-tuning (GE §3), one model, from one source.

    Args:
        adaptive: whether the number of neighbours grows between rounds.
        bank: kernels of a network's layers, or gabor.
        layers: of the kernels; None: other ones than the first two.
    """

    def test(o: Mapping[str, str]) -> bool:
        named = o.get("layers", "1,2").replace(" ", "")
        fits = named == layers if layers is not None else named != "1,2"
        return (
            (o.get("adaptive", "True") == "True") == adaptive
            and o.get("bank", "kernels") == bank
            and (fits or bank != "kernels")
            and o.get("fuse", "False") == "False"
        )

    return _with_options(board, "selective", test) & borrows(board)


def probes(board: pd.DataFrame) -> pd.DataFrame:
    """Layer probes of a leaderboard: network, layer, accuracy, seed; lower layers first.

    Networks are near and far as pretrained, self (trained on the target alone), FT-near and FT-far
    (fine-tuned on the target; the leaderboard writes "near > self T(1-7)R(8)").
    """
    done = board[is_method(board, "probe") & (board["status"] == "done")].reset_index(drop=True)
    seeds = list(done["task"] + " " + key_of(done, SEEDS)) if len(done) else []
    rows = []
    for row, seed in zip(done.to_dict("records"), seeds, strict=True):
        network, layer = _network(row["source"]), options(row["method_options"]).get("layer", "")
        if network is not None and layer.isdigit():
            rows.append((network, int(layer), float(row["top1_accuracy"]), seed))
    rows.sort(key=lambda r: (r[1], r[0], r[3]))
    table = pd.DataFrame(rows, columns=["network", "layer", "accuracy", "seed"])
    return table.assign(layer=[str(r[1]) for r in rows])


def _network(source: Any) -> str | None:
    words = source.split(" > ") if isinstance(source, str) else []
    if not words:
        return None
    first = words[0].split(" ")[-1]
    if len(words) == 1:
        return first if first in ("near", "far", "self") else None
    return f"FT-{first}" if first in ("near", "far") and words[1].startswith("self") else None
