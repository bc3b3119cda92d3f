"""Tidy tables of the ratio charts, of fitted learning curves and of where curves cross.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", Figs. 1 and 2: a chart has a
point per pair of runs and, over each band of images per class or of distance, their average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd

from analysis.comparisons.contrasts import Answer
from analysis.comparisons.curves import runs_of_curves
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.learning_curves import (
    PowerLaw,
    crossing,
    fit_power_law,
    images_wanted,
    repeated_laws,
)
from analysis.comparisons.ratios import (
    Ratios,
    band_averages,
    copy_ratios,
    scratch_ratios,
    tune_freeze_ratios,
)
from analysis.comparisons.units import summarise
from analysis.papers.chu2016_bands import BANDS, DATA_EDGES, DISTANCE_EDGES
from bench.core.errors import DataError

By = Literal["data", "distance"]


def ratio_charts(evidence: Evidence) -> dict[str, Ratios]:
    """Every ratio chart that the leaderboard has pairs for, by its name.

    Names are `tune / freeze` (CHU Fig. 2), `tuned / scratch`, `frozen / scratch` and, for CHU
    Fig. 1, such as `tuned: last 1 / last 3 random`.
    """
    board = evidence.board
    plain = (board["method"] == "plain") & (board["role"] != "source")
    rule = evidence.lr_rule(plain)
    found = {"tune / freeze": tune_freeze_ratios(evidence, rule, plain)}
    words: tuple[tuple[str, Literal["tune", "freeze"]], ...] = (
        ("tuned", "tune"),
        ("frozen", "freeze"),
    )
    for word, treatment in words:
        found[f"{word} / scratch"] = scratch_ratios(evidence, treatment, rule, plain)
    deeper = plain & (board["reinit"] > 1) & board["treatment"].isin(["tune", "freeze"])
    for reinit in sorted({int(n) for n in board.loc[deeper, "reinit"]}):
        for word, treatment in words:
            name = f"{word}: last 1 / last {reinit} random"
            found[name] = copy_ratios(evidence, treatment, reinit, rule, plain)
    return {name: ratios for name, ratios in found.items() if len(ratios.frame)}


def point_table(ratios: Ratios, by: By) -> pd.DataFrame:
    """The points of a chart: x, shown_x, ratio, source, near_chance; few images first.

    `shown_x` spreads points of equal x, sources side by side, so that they can be told apart.
    """
    column = "n_per_class" if by == "data" else "distance"
    known = ratios.frame[ratios.frame[column].notna()]
    points = pd.DataFrame(
        {
            "x": known[column].astype(float),
            "ratio": known["ratio"].astype(float),
            "source": known["source_origin"].astype(str),
            "near_chance": [near is True for near in known["near_chance"]],
        }
    ).sort_values(["x", "source", "ratio"], ignore_index=True)
    sources = sorted(set(points["source"]))
    side = points["source"].map(sources.index) - (len(sources) - 1) / 2
    # Steps of the golden ratio fall beside each other, in no order that could look like a trend.
    spread = points.groupby(["x", "source"]).cumcount() * 0.6180339887 % 1 - 0.5
    offset = (side + 0.6 * spread) * (0.16 / max(len(sources), 2))
    if by == "data":
        points["shown_x"] = points["x"] * offset.map(math.exp)
    else:
        points["shown_x"] = points["x"] + 0.05 * offset
    return points


def band_table(ratios: Ratios, by: By) -> pd.DataFrame:
    """Averages per band: band, start, end, ratio, geometric_mean, low, high, n, unit, note.

    `ratio` is the average of the points, the paper's trend line; the geometric mean weighs tasks
    alike, and `low` and `high` are its interval. A band without a point has none, and its note
    says so. Ends are clipped to the points drawn.
    """
    column = "n_per_class" if by == "data" else "distance"
    known = ratios.frame[column].dropna().astype(float)
    edges = DATA_EDGES if by == "data" else DISTANCE_EDGES
    first, last = float(known.min()), float(known.max())
    wide = (first / 1.25, last * 1.25) if by == "data" else (max(first - 0.02, 0.0), last + 0.02)
    starts = (wide[0], *map(float, edges))
    ends = (*map(float, edges), wide[1])
    table = band_averages(ratios, by)
    rows = []
    for band, start, end in zip(BANDS, starts, ends, strict=True):
        row = table[table["band"] == band].iloc[0]
        rows.append(
            {
                "band": band,
                "start": max(start, wide[0]),
                "end": min(end, wide[1]),
                "ratio": row["mean_ratio"],
                "geometric_mean": row["geometric_mean"],
                "low": row["low"],
                "high": row["high"],
                "points": int(row["points"]),
                "n": int(row["n"]),
                "unit": row["unit"],
                "note": row["note"],
            }
        )
    found = pd.DataFrame(rows)
    return found[found["start"] < found["end"]].reset_index(drop=True)


# --- fits and crossings ---------------------------------------------------------------------------


def fits(evidence: Evidence, points: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Power laws through the learning curves, and how many more labels they ask for.

    Returns:
        Curves: line, setting, n_per_class, accuracy (fitted to all runs). Laws: line, setting,
        exponent, low, high (95 %, over tasks or the seeds of one: a law is fitted to each
        repetition), n, unit, wanted (the best line's accuracy at the most images that it was
        measured at), images (per class for it; None: out of reach), images_low, images_high,
        extrapolated, note. Lines with fewer than three numbers of images have no row.
    """
    runs = runs_of_curves(evidence)
    laws: list[tuple[str, str, PowerLaw, pd.DataFrame]] = []
    for (line, setting, _), group in runs.groupby(["line", "setting", "condition"], sort=False):
        known = group[group["top1_accuracy"] < 1]
        try:
            law = fit_power_law(known["x"].to_numpy(), 1 - known["top1_accuracy"].to_numpy())
        except DataError:
            continue
        laws.append((str(line), str(setting), law, known))
    curves = [
        {"line": line, "setting": setting, "n_per_class": n, "accuracy": 1 - law.error(n)}
        for line, setting, law, _ in laws
        for n in _spaced(law.smallest, law.largest, points)
    ]
    rows = []
    for line, setting, _, known in laws:
        rivals = [(g, of.largest) for _, s, of, g in laws if s == setting]
        wanted = max(
            float(g.loc[g["x"] == largest, "top1_accuracy"].mean()) for g, largest in rivals
        )
        rows.append({"line": line, "setting": setting} | _law_row(known, wanted))
    return (
        pd.DataFrame(curves, columns=["line", "setting", "n_per_class", "accuracy"]),
        pd.DataFrame([row for row in rows if row["n"]], columns=list(_LAW_COLUMNS)),
    )


_LAW_COLUMNS = (
    *("line", "setting", "exponent", "low", "high", "n", "unit", "wanted", "images"),
    *("images_low", "images_high", "extrapolated", "note"),
)


def _spaced(first: float, last: float, points: int) -> list[float]:
    step = (math.log(last) - math.log(first)) / (points - 1)
    return [math.exp(math.log(first) + i * step) for i in range(points)]


def _law_row(known: pd.DataFrame, wanted: float) -> dict[str, Any]:
    table = repeated_laws(known)
    row: dict[str, Any] = dict.fromkeys(_LAW_COLUMNS[2:]) | {"n": 0, "wanted": wanted, "note": ""}
    if table.empty:
        return row
    e = summarise(table, "exponent", "exponent", "given")
    row |= {"exponent": e.value, "low": e.low, "high": e.high, "n": e.n, "unit": e.unit}
    reached = images_wanted(table, wanted)
    if len(reached) < len(table):
        return row | {"note": f"accuracy {100 * wanted:.1f} % is out of reach of some fitted curve"}
    images = summarise(reached, "log_images", "images wanted", "given")
    at = math.exp(min(images.value, 700.0))
    if at > 1e6:
        return row | {"note": "more than a million images per class: the curve is flat"}
    outside = at > float(known["x"].max()) or at < float(known["x"].min())
    return row | {
        "images": at,
        "images_low": None if images.low is None else math.exp(images.low),
        "images_high": None if images.high is None else math.exp(min(images.high, 700.0)),
        "extrapolated": outside,
        "note": "beyond what was measured" if outside else "",
    }


def crossings(found: Sequence[Answer], gains: pd.DataFrame) -> pd.DataFrame:
    """Where the better arm changes with images per class, for the first two questions.

    Args:
        found: answers with their pairs.
        gains: their rows with verdicts (`analysis.findings.evaluate.examine`): a crossing is
            decided where one arm is better at the fewest images and the other at the most.

    Returns:
        question, label, left_name, right_name, setting, images (None: no crossing in what was
        measured), low, high (95 %), decided, above (what is better beyond), n, unit, smallest,
        largest, note.
    """
    return pd.DataFrame(list(_crossings(found, gains)), columns=list(_CROSSING_COLUMNS))


_CROSSING_COLUMNS = (
    *("question", "label", "left_name", "right_name", "setting", "images", "low", "high"),
    *("decided", "above", "n", "unit", "smallest", "largest", "note"),
)


def _crossings(found: Sequence[Answer], gains: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for answer in found:
        contrast = answer.contrast
        if contrast.question not in ("start", "treatment"):
            continue
        for (setting, _), group in answer.frame.groupby(["setting", "comparison"], sort=False):
            sizes = _common_sizes(group)
            if len(sizes) < 2:
                continue
            rows = group[group["n_per_class"].isin(sizes)]
            at = crossing(rows, f"{contrast.label} {setting}")
            mine = gains[(gains["label"] == contrast.label) & (gains["setting"] == setting)]
            ends = [mine[mine["n_per_class"] == n]["verdict"] for n in (min(sizes), max(sizes))]
            verdicts = {str(end.iloc[0]) for end in ends if len(end)}
            yield {
                "question": contrast.question,
                "label": contrast.label,
                "left_name": contrast.names[0],
                "right_name": contrast.names[1],
                "setting": setting,
                "images": at.images_per_class,
                "low": at.low,
                "high": at.high,
                "decided": verdicts == {"higher", "lower"},
                "above": at.above,
                "n": at.n,
                "unit": at.unit,
                "smallest": min(sizes),
                "largest": max(sizes),
                "note": at.note,
            }


def _common_sizes(group: pd.DataFrame) -> list[float]:
    """Numbers of images that were repeated as often as the most repeated one."""
    once = group[["n_per_class", "task", "seed"]].drop_duplicates()["n_per_class"].dropna()
    repeated = Counter(float(n) for n in once)
    return sorted(n for n, times in repeated.items() if times == max(repeated.values()))
