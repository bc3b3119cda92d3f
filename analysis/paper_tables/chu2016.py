"""The tables of "Best Practices for Fine-tuning" (2016), cell by cell, and its Figure 3."""

from __future__ import annotations

from typing import Literal

from analysis.paper_tables.cells import Advised, Arm, Cell, Distance, Drawn, PaperTable, Words, arm
from analysis.papers.chu2016_bands import PRINTED_DATA, PRINTED_DISTANCES

_DATA: dict[str, Words] = {
    "Caltech256": ("caltech-256 *", "wordnet-shapes feline.n.01"),
    "SUN397": ("sun-397 *", "wordnet-shapes bird.n.01"),
    "MITIndoor": ("mit-indoor-67 *", "wordnet-shapes vehicle.n.01"),
    "CUB-200": ("cub-200-2011 *", "wordnet-shapes structure.n.01"),
    "Coral": ("moorea-corals *", "wordnet-shapes food.n.01"),
    "Plankton": ("whoi-plankton *", "digits *"),
    "Yosinski": ("imagenet half b*", "wordnet-shapes half b*"),
}
_IN_TABLE_2 = {"Caltech256": "Caltech-256", "MITIndoor": "MIT-Indoor"}
_SPLITS = {name: 5 if name == "Yosinski" else 3 if name == "CUB-200" else 4 for name in _DATA}
_REAL = tuple(words[0] for words in _DATA.values())
_USUAL = {"data": _REAL, "model": ("caffenet",), "image_size": ("227",)}


def _runs(name: str, **where: str) -> Arm:
    experiment = "yosinski" if name == "Yosinski" else "figure-3"
    return arm(experiment, data=_DATA[name], **where)


def _counts() -> tuple[Cell, ...]:
    cells = []
    for name, splits in _SPLITS.items():
        cells += [
            Cell(name, "# Categories", _runs(name), "target_classes"),
            Cell(name, "Val images per class", _runs(name), "validation images per class"),
            Cell(name, "Test images per class", _runs(name), "test images per class"),
        ]
        cells += [
            Cell(
                name,
                f"Train images per class (split {k})",
                _runs(name, size=str(k)),
                "images_per_class",
            )
            for k in range(1, splits + 1)
        ]
    return tuple(cells)


_MEASURES: dict[str, Literal["cosine", "mmd", "svm", "cnn"]] = {
    "Cosine distance": "cosine",
    "MMD": "mmd",
    "Linear SVM": "svm",
    "CNN": "cnn",
}

TABLES = (
    PaperTable(
        "Table 1",
        "data sets and splits",
        _counts(),
        _USUAL,
        note="Published *: the data set's own test set. Coral and Plankton have 8 and 34 classes "
        "in the paper's text, those with enough images. CUB's own split has 29 or 30 training "
        "images of a class (CHU-A3).",
    ),
    PaperTable(
        "Table 2",
        "distances of the targets from their source",
        tuple(
            Cell(_IN_TABLE_2.get(name, name), column, Distance(_DATA[name], measure))
            for name in ("Yosinski", *[n for n in _DATA if n != "Yosinski"])
            for column, measure in _MEASURES.items()
        ),
        _USUAL,
        note="On the features before the classifier, after ReLU (fc7 in the paper), of the network "
        "trained on the source; cosine with the norms' square roots (CHU-A1); a domain classifier "
        "at 50 % tells nothing.",
    ),
    PaperTable(
        "Table 3",
        "freeze or tune, by distance and images per class",
        tuple(
            Cell(row, column, Advised(distance, data))
            for distance, row in PRINTED_DISTANCES.items()
            for data, column in PRINTED_DATA.items()
        ),
        _USUAL,
        note="Measured: what these runs decide by their 95 % interval of tuned over frozen "
        "accuracy, with the number of pairs behind it.",
    ),
)
"""In the paper's order."""

_PATTERNS = (
    *("T(1-7)R(8)", "F(1-7)R(8)", "T(1-5)R(6-8)", "F(1-5)R(6-8)", "T(1-3)R(4-8)", "F(1-3)R(4-8)"),
    *("T(1)R(2-8)", "F(1)R(2-8)"),
)
_NAMES = {word: name for name, words in _DATA.items() for word in words} | {
    pattern: pattern for pattern in _PATTERNS
}
FIGURES = tuple(
    Drawn(
        f"Figure 3{which}",
        "test accuracy of every run",
        experiment,
        ("data", "images_per_class"),
        ("pattern",),
        _NAMES,
        _USUAL,
    )
    for experiment, which in (("figure-3", ""), ("yosinski", " (Yosinski)"))
)
