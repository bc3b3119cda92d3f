"""The rows of a grid's measurements, each from the features of one target and its networks.

Functions of features alone: which extractions there are, and where, is the business of
`analysis.measurements.tables`. A number that cannot be had is None and `notes` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.measurements import transferability as scores
from analysis.measurements.clustering import cluster_concepts
from analysis.measurements.distance_parts import DistanceOptions, Side
from analysis.measurements.distances import measure
from analysis.measurements.features_file import Extracted
from analysis.measurements.filters import average_precision, top_filters
from bench.core.errors import BenchError, DataError
from bench.specs.measures import DistancesAsked, FiltersAsked, TransferabilityAsked

Row = dict[str, Any]
STATIC = ("size", "source accuracy", "random")
"""Scores that look at no target image."""


def distance_rows(
    source: Extracted, target: Extracted, asked: DistancesAsked, wnids: bool
) -> list[Row]:
    """A row per distance: distance, value, low, high, p_value, n, notes (see CHU-2).

    Args:
        source, target: features of both sides under one network.
        asked: the layer, sizes and seeds.
        wnids: whether the classes of both are WordNet ids.
    """
    options = DistanceOptions(
        images=asked.images,
        resamples=asked.resamples,
        permutations=asked.permutations,
        cnn_epochs=asked.cnn_epochs,
        seed=asked.seed,
    )
    left, right = (_side(one, asked.layer, wnids) for one in (source, target))
    try:
        found = measure(left, right, options)
    except DataError as error:
        return [_nothing(f"{error.message}; {error.hint}" if error.hint else error.message)]
    return [
        {
            "distance": one.name,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "p_value": one.p_value,
            "n": one.n,
            "notes": "; ".join(one.notes),
        }
        for one in found
    ]


def _nothing(why: str) -> Row:
    return {
        "distance": "all",
        "value": None,
        "low": None,
        "high": None,
        "p_value": None,
        "n": 0,
        "notes": why,
    }


def _side(one: Extracted, layer: str, wnids: bool) -> Side:
    pixels = None if one.pixels is None else one.pixels.transpose(0, 3, 1, 2)
    features = one.layers[layer].reshape(len(one), -1)
    return Side(features, one.labels.tolist(), pixels, one.classes if wnids else None)


# --- concepts never trained (SFT Fig. 1) ------------------------------------------------------


def concept_rows(source: Extracted, target: Extracted, layer: str) -> tuple[Row, list[Row]]:
    """How well the target's classes cluster under a network that never learned them.

    Returns:
        One row: nmi, ari, purity, ari_p_value, n, classes, notes; and a row per image for the
        picture: x, y (two principal components), class_name, cluster.
    """
    shared = sorted(set(source.classes) & set(target.classes))
    row: Row = dict.fromkeys(("nmi", "ari", "purity", "ari_p_value"))
    row |= {"n": len(target), "classes": len(set(target.labels.tolist())), "notes": ""}
    if shared:
        row["notes"] = f"the network learned {len(shared)} of the classes: {', '.join(shared[:5])}"
        return row, []
    try:
        found = cluster_concepts(target.layers[layer].reshape(len(target), -1), target.labels)
    except DataError as error:
        return row | {"notes": error.message}, []
    points = [
        {"x": float(x), "y": float(y), "class_name": target.classes[label], "cluster": int(cluster)}
        for (x, y), label, cluster in zip(
            found.embedding, target.labels.tolist(), found.clusters, strict=True
        )
    ]
    numbers = {name: getattr(found, name) for name in ("nmi", "ari", "purity", "ari_p_value")}
    return row | numbers, points


# --- filters (LI-7) ---------------------------------------------------------------------------


def filter_rows(judged: Extracted, chosen: Extracted | None, asked: FiltersAsked) -> list[Row]:
    """A row per layer and class: layer, class_name, mean_ap, best_filters, prevalence, notes.

    Args:
        judged: largest responses of filters on the images that they are judged on.
        chosen: on the images by which a class's best filters are chosen; None: the same ones.
    """
    rows = []
    prevalence = np.bincount(judged.labels, minlength=len(judged.classes)) / len(judged)
    for layer in asked.layers:
        try:
            ap = _precisions(judged, layer)
            guide = None if chosen is None else _precisions(chosen, layer)
            top = top_filters(ap, min(asked.top, len(ap)), guide)
        except DataError as error:
            rows += [_no_class(layer, name, error.message) for name in judged.classes]
            continue
        note = "" if len(ap) >= asked.top else f"{len(ap)} filters in all"
        rows += [
            {
                "layer": layer,
                "class_name": name,
                "mean_ap": float(top.mean_ap[c]),
                "best_filters": ";".join(map(str, top.filters[:, c])),
                "prevalence": float(prevalence[c]),
                "notes": note,
            }
            for c, name in enumerate(judged.classes)
        ]
    return rows


def _precisions(one: Extracted, layer: str) -> npt.NDArray[np.float64]:
    responses = one.layers[layer].reshape(len(one), -1)
    return average_precision(responses, one.labels, len(one.classes))


def _no_class(layer: str, name: str, why: str) -> Row:
    numbers = dict.fromkeys(("mean_ap", "best_filters", "prevalence"))
    return {"layer": layer, "class_name": name, **numbers, "notes": why}


# --- transferability --------------------------------------------------------------------------


def score_rows(
    target: Extracted,
    asked: TransferabilityAsked,
    *,
    name: str,
    source_accuracy: float | None,
) -> list[Row]:
    """A row per score of one candidate: score, value, n, static, notes. Larger is better.

    Args:
        target: features of the target's training images under the candidate's network; `scores`
            among its layers are its classifier's outputs.
        name: of the candidate, for the random baseline.
        source_accuracy: of the candidate on its own task; None where it is not measured.
    """
    features = target.layers[asked.layer].reshape(len(target), -1)
    labels = target.labels
    logits = target.layers.get("scores")
    no_scores = "the network's classifier is not known"
    functions: Mapping[str, Callable[[], float] | str] = {
        "LogME": lambda: scores.logme(features, labels),
        "H-score": lambda: scores.h_score(features, labels),
        "H-score, shrunk": lambda: scores.h_score_shrunk(features, labels),
        "GBC": lambda: scores.gbc(features, labels),
        "PARC": lambda: scores.parc(features, labels),
        "k-NN": lambda: scores.knn(features, labels, asked.k),
        "LEEP": no_scores if logits is None else lambda: scores.leep(_softmax(logits), labels),
        "NCE": no_scores if logits is None else lambda: scores.nce(logits.argmax(axis=1), labels),
    }
    rows = [_score(score, function, len(target)) for score, function in functions.items()]
    parameters = float(target.record["notes"]["method"]["parameters"])
    static = scores.static_baselines([name], [parameters], [source_accuracy or 0.0])
    for score in STATIC:
        known = score != "source accuracy" or source_accuracy is not None
        value = static[score][name] if known else None
        note = "" if known else "its accuracy on its own task is not measured"
        rows.append({"score": score, "value": value, "n": 0, "static": True, "notes": note})
    return rows


def _score(name: str, function: Callable[[], float] | str, n: int) -> Row:
    row: Row = {"score": name, "value": None, "n": n, "static": False, "notes": ""}
    if isinstance(function, str):
        return row | {"notes": function}
    try:
        value = function()
    except BenchError as error:
        return row | {"notes": error.message}
    if not np.isfinite(value):
        return row | {"notes": f"the score is {value}"}
    return row | {"value": float(value)}


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    shares: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return shares
