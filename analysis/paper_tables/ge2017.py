"""The tables of "Borrowing Treasures from the Wealthy" (2017), cell by cell."""

from __future__ import annotations

from analysis.paper_tables.cells import Arm, Averaged, Cell, Difference, Drawn, PaperTable, arm

_MEAN = "mean_class_accuracy"
_ALL_IMAGENET = ("imagenet all", "imagenet all, without overlap", "parent", "parent, without*")
_NETWORK = {"model": ("resnet152", "resnetv2_152"), "image_size": ("224",)}
_INITIAL = (
    "§4.1 names identity mappings [13] and starts from the weights released with [12], which are "
    "of the network without them. At full size that is resnet152, from timm's weights instead; the "
    "preset pre-activation trains resnetv2_152 on ImageNet first."
)
_OVERLAP = (
    "Stanford Dogs is cut from ImageNet, so that borrowed images can be test images (CROSS-1); the "
    "preset without-overlap leaves them out."
)


# --- Table 1 -------------------------------------------------------------------------------------


def _bank(layers: str) -> Arm:
    return arm("table-1", method="selective", option_bank="kernels", option_layers=layers)


_TABLE_1 = {
    "Conv1-Conv2 in AlexNet": _bank("1,2"),
    "Conv1-Conv5 in AlexNet": _bank("1,2,3,4,5"),
    "Conv4-Conv5 in AlexNet": _bank("4,5"),
    "Gabor Filters": arm("table-1", method="selective", option_bank="gabor"),
    "Fine-tuning w/o source domain": arm("table-1", method="plain"),
}


# --- Tables 2 and 3, and the ablation that they make ---------------------------------------------

_DOGS = ("stanford-dogs *", "wordnet-shapes bird.n.01")
_FLOWERS = ("flowers-102 *", "wordnet-shapes reptile.n.01")
_FULL = {
    "option_adaptive": "True",
    "option_bank": "kernels",
    "option_layers": "1,2",
    "option_partners": "nearest",
}
_COPIED = {"pattern": "T*", "method": "selective", "option_fuse": "False"}


def _ablation(table: str) -> dict[str, Arm]:
    """The paper's rows of Tables 2 and 3 that are trainings of its own, but for fusion."""
    return {
        "Training from scratch using target domain only": arm(table, method="plain", pattern="R*"),
        "Selective joint training from scratch": arm(table, method="selective", pattern="R*"),
        "Fine-tuning w/o source domain": arm(
            table, method="plain", pattern="T*", batch_size=("10", "16")
        ),
        "Joint fine-tuning with all source samples": arm(
            table, method="joint", borrowed=_ALL_IMAGENET
        ),
        "Selective joint FT with random source samples": arm(
            table, **_COPIED, option_partners="random"
        ),
        "Selective joint FT w/o iterative NN retrieval": arm(
            table, **_COPIED, **_FULL | {"option_adaptive": "False"}
        ),
        "Selective joint FT with Gabor filter bank": arm(table, **_COPIED, option_bank="gabor"),
        "Selective joint fine-tuning": arm(table, **_COPIED, **_FULL, training="least"),
    }


def _fusion(data: tuple[str, ...]) -> Arm:
    return arm("fusion", data=data, option_fuse="True")


_TABLE_2 = _ablation("table-2") | {"Selective joint FT with Model Fusion": _fusion(_DOGS)}
_TABLE_3 = _ablation("table-3") | {
    "Selective joint FT with model fusion": _fusion(_FLOWERS),
    "Selective joint FT with val set": arm("table-3", **_COPIED, **_FULL, training="most"),
}
_DROPS = {
    "entire source instead of retrieved": "Joint fine-tuning with all source samples",
    "random source instead of retrieved": "Selective joint FT with random source samples",
    "no iterative retrieval": "Selective joint FT w/o iterative NN retrieval",
    "Gabor instead of conv1-conv2": "Selective joint FT with Gabor filter bank",
    "no source": "Fine-tuning w/o source domain",
}


def _drops() -> tuple[Cell, ...]:
    tables = {"drop on Stanford Dogs": _TABLE_2, "drop on Oxford Flowers": _TABLE_3}
    return tuple(
        Cell(row, column, Difference(rows["Selective joint fine-tuning"], rows[without]), _MEAN)
        for row, without in _DROPS.items()
        for column, rows in tables.items()
    )


def _means(rows: dict[str, Arm], column: str = "mean Acc") -> tuple[Cell, ...]:
    return tuple(Cell(row, column, which, _MEAN) for row, which in rows.items())


# --- Tables 4 and 5 ------------------------------------------------------------------------------


def _table_4() -> tuple[Cell, ...]:
    rows = {"Fine-tuning w/o source domain": "plain", "Selective joint fine-tuning": "selective"}
    return tuple(
        Cell(
            row,
            f"mean Acc {n}/class",
            arm("table-4", method=method, size=str(place)),
            _MEAN,
            f"mean Acc {n}/class spread",
        )
        for row, method in rows.items()
        for place, n in enumerate((15, 30, 45, 60), 1)
    )


_TABLE_5 = {
    "Fine-tuning w/o source domain": arm("table-5", method="plain"),
    "Selective joint FT with ImageNet (i)": arm(
        "table-5", method="selective", borrowed=_ALL_IMAGENET
    ),
    "Selective joint FT with Places (ii)": arm(
        "table-5", method="selective", borrowed=("places-205 all", "vehicle.n.01")
    ),
    "Selective joint FT with hybrid data (iii)": arm(
        "table-5", method="selective", borrowed=("*;*",)
    ),
}

TABLES = (
    PaperTable(
        "Table 1",
        "which filters describe the images",
        tuple(Cell(row, "overall accuracy", which) for row, which in _TABLE_1.items()),
        {
            "data": ("flowers-102 *",),
            "model": ("resnet50_half",),
            "image_size": ("224",),
            "epochs": ("1500",),
        },
        ("table-1",),
    ),
    PaperTable(
        "Table 2",
        "Stanford Dogs 120",
        _means(_TABLE_2),
        _NETWORK | {"data": _DOGS[:1], "epochs": ("130",)},
        ("table-2", "fusion"),
        _MEAN,
        note=f"{_INITIAL} {_OVERLAP}",
    ),
    PaperTable(
        "Table 3",
        "Oxford Flowers 102",
        _means(_TABLE_3),
        _NETWORK | {"data": _FLOWERS[:1], "epochs": ("1500", "750")},
        ("table-3", "fusion"),
        _MEAN,
        note=_INITIAL,
    ),
    PaperTable(
        "Table 4",
        "Caltech 256, by training images per class",
        _table_4(),
        _NETWORK | {"data": ("caltech-256 *",), "images_per_class": ("15", "30", "45", "60")},
        ("table-4",),
        _MEAN,
        note=_INITIAL,
    ),
    PaperTable(
        "Table 5",
        "MIT Indoor 67, by source",
        (
            *_means(_TABLE_5),
            Cell(
                "Average the output of (ii) and (iii)",
                "mean Acc",
                Averaged(
                    _TABLE_5["Selective joint FT with Places (ii)"],
                    _TABLE_5["Selective joint FT with hybrid data (iii)"],
                ),
                _MEAN,
            ),
        ),
        _NETWORK | {"data": ("mit-indoor-67 *",), "epochs": ("300",)},
        ("table-5",),
        _MEAN,
        note=_INITIAL,
    ),
    PaperTable(
        "text Sec. 4.6 (ablation)",
        "the full method less each part",
        _drops(),
        _NETWORK | {"data": (_DOGS[0], _FLOWERS[0]), "epochs": ("130", "1500")},
        note=f"{_INITIAL} {_OVERLAP}",
    ),
)
"""In the paper's order."""

FIGURES = (
    Drawn(
        "§4.2",
        "number of neighbours K0",
        "k0",
        ("option_k0",),
        ("method",),
        {"selective": "selective joint fine-tuning"},
        {"data": _DOGS[:1], "model": ("resnet152",)},
    ),
)
"""What the text says of K0 without a number (GE-C5)."""
