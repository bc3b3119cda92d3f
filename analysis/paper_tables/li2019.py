"""The tables of "Multifaceted Analysis of Fine-Tuning" (2019), cell by cell, and its figures."""

from __future__ import annotations

from analysis.paper_tables.cells import Arm, Cell, Drawn, PaperTable, Sensitivity, arm

_USUAL = {
    "data": ("imagenet *",),
    "model": ("caffenet",),
    "image_size": ("227",),
    "epochs": ("100",),
    "target_classes": ("100",),
}
_SPREAD = (
    "± is the standard deviation over repeats (CROSS-3); the paper's caption calls it a variance."
)


# --- Table 2 -------------------------------------------------------------------------------------


def _sources(in_print: str, source: str | tuple[str, ...]) -> Arm:
    return arm("table-2", source=source, source_classes=(in_print, "*"))


_NUMBERS = {
    "1000": _sources("1000", ("all", "random")),
    "800": _sources("800", "categories 800"),
    "500": _sources("500", ("categories 500", "categories 40")),
    "200": _sources("200", ("categories 200", "categories 20")),
    "SF-FT": _sources("100", "self"),
    "Scratch": arm("table-2", source="none"),
    "100": _sources("100", "categories 100"),
    "80": _sources("80", ("categories 80", "categories 5")),
}


# --- Table 3 and figures 9 and 10 ----------------------------------------------------------------


def _table_3() -> tuple[Cell, ...]:
    cells = []
    for name, target in (("DOG", "dog.n.01"), ("INSTRU", "instrumentality.n.03")):
        for side in ("near", "far"):
            tuned = arm("table-3", target=target, source=side, method="plain", treatment="tune")
            after = arm("table-3", target=target, source=f"{side} > self T*", method="svm")
            before = arm("table-3", target=target, source=side, method="svm")
            column = f"{side}_{name}"
            cells += [
                Cell(f"{name} / CNN", column, tuned),
                Cell(f"{name} / SVM", column, after),
                Cell(f"{name} / SVM", f"{column} (before fine-tuning)", before),
            ]
        scratch = arm("table-3", target=target, treatment="scratch", method="plain")
        on_scratch = arm("table-3", target=target, source="self", method="svm")
        cells += [
            Cell(f"{name} / CNN", "scratch", scratch),
            Cell(f"{name} / SVM", "scratch", on_scratch),
        ]
    return tuple(cells)


_JUDGED = arm("table-3", target="instrumentality.n.03")
_FIG_9 = tuple(
    Cell(f"{a} > {b}", "percentage of categories", Sensitivity(a, b, _JUDGED))
    for a, b in (
        ("near", "self"),
        ("FT-near", "self"),
        ("far", "self"),
        ("FT-near", "FT-far"),
        ("FT-near", "near"),
        ("FT-far", "far"),
    )
)
_THREE = {"near": "near", "far": "far", "none": "scratch"}
_FIVE = {
    "near > self*": "FT-near",
    "far > self*": "FT-far",
    "near": "near",
    "far": "far",
    "self": "self",
}
_FIG_10 = {
    "fc8": ("FT-near", "FT-far", "Self", "near", "far"),
    "fc7": ("FT-near", "FT-far", "Self"),
}
_PROBED = {
    "FT-near": "near > self T*",
    "FT-far": "far > self T*",
    "Self": "self",
    "near": "near",
    "far": "far",
}

TABLES = (
    PaperTable(
        "Table 2",
        "number of source classes",
        tuple(
            Cell(row, "Accuracy mean", which, spread="Accuracy spread")
            for row, which in _NUMBERS.items()
        ),
        _USUAL,
        ("table-2",),
        note=f"{_SPREAD} The source of the row 1000 contains the target's classes (LI-A3).",
    ),
    PaperTable(
        "Table 3",
        "near and far sources; SVMs on fc7",
        _table_3(),
        _USUAL,
        ("table-3",),
    ),
    PaperTable(
        "Fig. 9 (values given in text Sec. 4.3.1)",
        "which network's filters detect more classes better",
        _FIG_9,
        _USUAL,
        note="Five best filters of a class in the last convolution, chosen and judged on the same "
        "test images, as in the paper.",
    ),
    PaperTable(
        "Fig. 10a (values given in text Sec. 4.3.2)",
        "logistic probes on the last two layers",
        tuple(
            Cell(
                name, layer, arm("figure-10", source=_PROBED[name], option_layer=layer.strip("fc"))
            )
            for layer, names in _FIG_10.items()
            for name in names
        ),
        _USUAL,
    ),
)
"""In the paper's order; its Table 1, the network, is no training (see `ELSEWHERE`)."""

_SIZES = ("images_per_class",)
FIGURES = (
    Drawn(
        "Figure 4",
        "initial learning rate",
        "figure-4",
        ("lr",),
        ("source",),
        {"categories *": "fine-tuned"},
        _USUAL,
    ),
    Drawn(
        "Figure 10a",
        "logistic probes on every layer",
        "figure-10",
        ("option_layer",),
        ("source",),
        _FIVE,
        _USUAL,
    ),
    Drawn(
        "Figure 12",
        "target classes and images per class",
        "figure-12",
        ("target_classes", *_SIZES),
        ("source",),
        _THREE,
        _USUAL | {"target_classes": ("100", "80", "40", "20", "10")},
    ),
    Drawn(
        "Figure 13",
        "the first layers frozen",
        "figure-13",
        ("frozen",),
        ("source",),
        {"0": "no layer frozen"} | _THREE,
        _USUAL,
    ),
    Drawn(
        "Figure 14",
        "expansion to as many images per class as the largest set has",
        "figure-14",
        (*_SIZES, "expand_to"),
        ("source",),
        _THREE,
        _USUAL,
    ),
)
