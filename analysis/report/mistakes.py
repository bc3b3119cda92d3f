"""What the best run on own photographs got wrong: classes, confused pairs, the images."""

from __future__ import annotations

from pathlib import Path

from analysis.figures.mistakes import mistake_sheet
from analysis.report.figures import Picture, draw_picture
from analysis.text_tables import DASH, Table
from bench.core.errors import StoreError
from bench.core.text import counted
from bench.results.mistakes import Predictions, read_predictions
from bench.results.store import Store
from bench.specs.planned import Plan, PlannedRun

_OWN = ("folder", "manifest")
_MOST_CLASSES, _MOST_PAIRS, _MOST_IMAGES = 40, 20, 40


def mistakes(plan: Plan, store: Store) -> tuple[list[str], list[Table], list[Picture]]:
    """Sentences, tables and the sheet of the wrong images; empty where no run is of own images.

    The run is that with the best validation accuracy of all on own images, the first of equal ones:
    it is not chosen by the test images that are shown.
    """
    best: tuple[float, PlannedRun, Predictions] | None = None
    for run in plan.runs.values():
        if not run.experiments or run.spec.data.dataset not in _OWN:
            continue
        folder = store.folder(run.id, run.spec)
        try:
            record = folder.record()
            accuracy = None if record is None else record["row"].get("val_top1_accuracy")
            if accuracy is not None and (best is None or accuracy > best[0]):
                best = (accuracy, run, read_predictions(folder))
        except StoreError:  # a damaged record has its line from the command
            continue
    if best is None:
        return [], [], []
    accuracy, run, predictions = best
    wrong = predictions.wrong()
    text = (
        f"Of run {run.id[:12]}, the one with the best validation accuracy "
        f"({100 * accuracy:.1f} %): {counted(len(wrong), 'test image')} of "
        f"{len(predictions.labels)} wrong. bench errors {run.id[:12]} --out FOLDER writes all."
    )
    tables = [_classes(predictions)] + ([_pairs(predictions)] if wrong else [])
    root = run.spec.data.root
    if not wrong or root is None or not Path(root).is_dir() or not predictions.images:
        return [text], tables, []
    shown = wrong[:_MOST_IMAGES]
    caption = f"Label, what it was called and how surely; the surest {len(shown)} of {len(wrong)}."
    sheet = draw_picture(
        "mistakes",
        "The test images that were called another class",
        lambda: (mistake_sheet(shown, Path(root)), caption),
    )
    return [text], tables, [sheet]


def _classes(predictions: Predictions) -> Table:
    """The classes, that with the least recall first."""
    counts = sorted(
        predictions.by_class(), key=lambda one: (one.recall is None, one.recall, one.name)
    )
    rows = [
        (one.name, str(one.images), _percent(one.recall), _percent(one.precision))
        for one in counts[:_MOST_CLASSES]
    ]
    left = len(counts) - len(rows)
    return Table(
        "Classes, the least recall first",
        ("class", "test images", "recall %", "precision %"),
        tuple(rows),
        numbers=(1, 2, 3),
        note=f"{counted(left, 'class', 'classes')} with more recall left out." if left > 0 else "",
    )


def _pairs(predictions: Predictions) -> Table:
    pairs = predictions.confused()
    left = len(pairs) - _MOST_PAIRS
    return Table(
        "Confused classes, the most frequent first",
        ("label", "called", "test images"),
        tuple((label, called, str(n)) for label, called, n in pairs[:_MOST_PAIRS]),
        numbers=(2,),
        note=f"{counted(left, 'pair')} more left out." if left > 0 else "",
    )


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f}"
