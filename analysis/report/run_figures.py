"""Pictures of a grid's networks for its report, where weights, features and images are there.

LI Figs. 3 and 6 (class tree), 8 (best filters), 11 (class images); SFT Figs. 1 (concepts never
learned) and 4 (similarity at each position). Each is a `Picture`: a figure with its caption, or the
statement of what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import charts
from analysis.figures import features as figures_features
from analysis.figures import images as figures_pictures
from analysis.figures.class_sheet import class_sheet, class_word, example_images
from analysis.figures.sheets import Cell, similarity_sheet, tree_sheet
from analysis.figures.style import canvas
from analysis.measurements.clustering import SimilarityMap
from analysis.measurements.features_file import Extracted, read_extracted
from analysis.measurements.filters import average_precision, precision_recall, top_filters
from analysis.networks.class_tree import grid_groups
from analysis.networks.layer_maps import pair_similarity
from analysis.networks.trained import Trained, network_name, read_trained
from analysis.report.figures import Picture, draw_picture
from bench.core.errors import DataError
from bench.core.text import counted
from bench.results.records import describe_run, source_label
from bench.results.store import Store
from bench.specs.measures import FiltersAsked
from bench.specs.planned import Plan, PlannedRun

if TYPE_CHECKING:
    from analysis.measurements.tables import Measurements


_MOST_PIXELS = 64
"""Class images of larger networks take minutes: they are for `bench class-images`."""
_TREE_ROWS, _CLASSES, _PAIRS, _PANELS = 92, 5, 3, 4


def figures(
    plan: Plan,
    store: Store,
    measured: Measurements | None = None,
    data_root: Path | None = None,
) -> list[Picture]:
    """The pictures of a grid, in the order of a report; never an exception for what is missing.

    Args:
        plan: of the whole grid.
        store: its results folder.
        measured: of `analysis.measurements.tables.measurements`, for the concepts.
        data_root: where data sets lie, for photographs.
    """
    networks = _Networks(plan, store, data_root)
    drawn: tuple[tuple[str, str, Callable[[], tuple[Figure, str]]], ...] = (
        ("class-tree", "Target and source classes in WordNet (LI Figs. 3, 6)", lambda: _tree(plan)),
        (
            "best-filters",
            "The best filters of a class (LI Fig. 8)",
            lambda: filters_figure(plan, store),
        ),
        ("class-images", "Class images (LI Fig. 11)", networks.class_images),
        ("similarity", "Where two images are alike (SFT Fig. 4)", networks.similarity),
        ("concepts", "Concepts never learned (SFT Fig. 1)", lambda: concepts_figure(measured)),
    )
    return [draw_picture(name, title, draw) for name, title, draw in drawn]


def _tree(plan: Plan) -> tuple[Figure, str]:
    title, groups = grid_groups(plan)
    figure, caption = tree_sheet(groups, _TREE_ROWS)
    return figure, f"{title}: {caption}"


# --- which networks ------------------------------------------------------------------------------


def best_runs(plan: Plan, store: Store) -> dict[str, PlannedRun]:
    """A run for each network of the grid's first task: near, far, FT-near, FT-far, self, …

    Of equally named runs on the largest target that with the best validation accuracy, of equal
    ones the first in the plan. Sources come first.

    Raises:
        DataError: none of them is finished.
    """
    wanted = [run for run in plan.runs.values() if run.experiments and _is_shown(run)]
    tasks = dict.fromkeys(_task(run) for run in wanted)
    best: dict[str, tuple[tuple[float, float], PlannedRun]] = {}
    for run in wanted:
        if _task(run) != next(iter(tasks)):
            continue
        record = store.folder(run.id, run.spec).record()
        if record is None or record["row"]["status"] != "done":
            continue
        size = run.spec.data.images_per_class
        accuracy = record["row"].get("val_top1_accuracy")
        merit = (float("inf") if size is None else size, -1.0 if accuracy is None else accuracy)
        name = "self" if run.spec.init.kind == "scratch" else network_name(run.spec)
        if name not in best or merit > best[name][0]:
            best[name] = (merit, run)
    if not best:
        raise DataError("no network of the grid is trained yet", hint="run: bench grid GRID")
    sources: dict[str, PlannedRun] = {}
    for _, run in best.values():
        parent = plan.runs.get(run.parent_id or "")
        if parent is not None and parent.role == "source":
            sources.setdefault(source_label(run.spec), parent)
    last = ("self",)
    tuned = {name: run for name, (_, run) in best.items() if name not in last}
    rest = {name: best[name][1] for name in last if name in best}
    return sources | tuned | rest


def _task(run: PlannedRun) -> tuple[Any, ...]:
    row = describe_run(run.spec)
    return tuple(row[name] for name in ("dataset", "target", "class_draw", "model"))


def _is_shown(run: PlannedRun) -> bool:
    """Scratch, and all layers copied and tuned but the last, plain or soft (LI, SFT)."""
    pattern, method = run.spec.layers, run.spec.method.name
    if run.spec.init.kind == "scratch":
        return method == "plain"
    kinds = [pattern.kind(layer) for layer in range(1, pattern.depth + 1)]
    return method in ("plain", "soft") and kinds == ["T"] * (pattern.depth - 1) + ["R"]


class _Networks:
    """The networks to show and their target's images, read when they are first wanted."""

    def __init__(self, plan: Plan, store: Store, data_root: Path | None) -> None:
        self.plan, self.store, self.data_root = plan, store, data_root

    @cached_property
    def all(self) -> dict[str, Trained]:
        import torch

        torch.set_num_threads(1)  # of a few small images more threads wait longer than they compute
        found = {}
        for name, run in best_runs(self.plan, self.store).items():
            if run.spec.data.image_size > _MOST_PIXELS:
                raise DataError(
                    f"its networks take images of {run.spec.data.image_size} pixels, which "
                    "take too long for a report",
                    hint="run: bench class-images RUN, bench similarity IMAGE IMAGE --runs RUN",
                )
            found[name] = read_trained(self.store.folder(run.id, run.spec))
        return found

    @cached_property
    def target(self) -> tuple[str, ...]:
        """The target's classes."""
        runs = best_runs(self.plan, self.store).values()
        return next(run.facts.classes for run in runs if run.experiments)

    def class_images(self) -> tuple[Figure, str]:
        wanted = self.target[:_CLASSES]
        mine = {name: net for name, net in self.all.items() if set(wanted) & set(net.classes)}
        examples = example_images(mine, wanted, self.data_root, self.store.cache)
        sheet = class_sheet(mine, wanted, examples=examples)
        return sheet.figure, sheet.caption

    def similarity(self) -> tuple[Figure, str]:
        layer = str(max(1, next(iter(self.all.values())).spec.layers.depth // 2))
        pairs: dict[str, tuple[Cell, Cell]] = {}
        maps: dict[str, dict[str, SimilarityMap]] = {}
        for name, pixels in self._pairs():
            pairs[name] = (Cell(pixels[0]), Cell(pixels[1]))
            maps[name] = {
                title: pair_similarity(network, pixels, layer)
                for title, network in self.all.items()
            }
        figure, caption = similarity_sheet(pairs, maps)
        return figure, f"Layer {layer} after its activation. {caption}"

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        """The first two test images of each of a few classes."""
        from bench.data import catalog

        spec = next(net.spec for net in self.all.values() if self.target[0] in net.classes)
        places: dict[str, Any] = {"data_root": self.data_root, "cache_dir": self.store.cache}
        loaded = catalog.load(
            catalog.resolve(spec.data, spec.seeds.draw, **places), spec.data, **places
        )
        for name in self.target[:_PAIRS]:
            label = loaded.classes.index(name)
            rows = loaded.test[loaded.labels[loaded.test] == label][:2]
            if len(rows) == 2:
                yield class_word(name), np.array(loaded.images[rows])


# --- best filters (LI Fig. 8) --------------------------------------------------------------------


def filters_figure(plan: Plan, store: Store) -> tuple[Figure, str]:
    """Precision and recall of each network's five best filters for three classes.

    The classes are those with the highest, the middle and the lowest mean AP over all networks, of
    the first target measured; the layer is the last that the grid's `measure:` names.

    Raises:
        DataError: no filter was measured, or its features are not there.
    """
    layer, found = _responses(plan, store)
    one = next(iter(found.values()))
    ap = {name: _precisions(e, layer) for name, e in found.items()}
    top = {name: top_filters(a, min(5, len(a))) for name, a in ap.items()}
    mean = np.mean([t.mean_ap for t in top.values()], axis=0)
    order = np.argsort(-mean, kind="stable")
    classes = list(dict.fromkeys(int(order[i]) for i in (0, len(order) // 2, len(order) - 1)))
    looks = figures_pictures.network_looks(list(found))
    panels = _panels(list(found))
    figure, axes = canvas(len(classes), len(panels) + 1, height=2.3 * len(classes) + 0.5, width=9.0)
    for y, c in enumerate(classes):
        row = axes[y * (len(panels) + 1) : (y + 1) * (len(panels) + 1)]
        word = class_word(one.classes[c])
        for ax, names in zip(row, panels, strict=False):
            table = _curves({n: found[n] for n in names}, layer, top, c)
            title = word if ax is row[0] else ""
            figures_pictures.best_filters(table, ax, looks, title)
        bars = [
            {"network": n, "mean_ap": float(t.mean_ap[c]), "prevalence": _share(one, c)}
            for n, t in top.items()
        ]
        figures_pictures.mean_precisions(pd.DataFrame(bars), row[-1], looks)
    charts.legend_below(axes[0])
    best = max(top, key=lambda n: float(top[n].mean_ap.mean()))
    return figure, (
        f"Each line is one filter of layer {layer} as a detector of the class: the five best of "
        f"each network, chosen and judged on {counted(len(one), 'image')} as in LI, for the class "
        f"that filters detect best, a middling one and the worst. Over all classes {best} has the "
        f"best filters (mean AP {top[best].mean_ap.mean():.2f}); dashed in the bars: a filter "
        "without information."
    )


def _responses(plan: Plan, store: Store) -> tuple[str, dict[str, Extracted]]:
    """The layer, and each network's responses on the first target; the first seed of each."""
    for measure, ids in plan.measures:
        if not isinstance(measure.asked, FiltersAsked):
            continue
        layer = measure.asked.layers[-1]
        task: tuple[Any, ...] | None = None
        found: dict[str, Extracted] = {}
        for part, key in zip(measure.parts, ids, strict=True):
            here = (part.task.dataset, part.task.target, part.task.class_draw, part.task.model)
            task = task or here
            if part.role != "judged" or part.network in found or here != task:
                continue
            run = plan.runs[key]
            features = read_extracted(store.folder(run.id, run.spec), [layer])
            if features is None:
                raise DataError(
                    f"the features of {part.network} are not there", hint="run: bench grid GRID"
                )
            found[part.network] = features
        if found:
            return layer, found
    raise DataError("no filter was measured", hint="add filters: to the grid's measure: section")


def _flat(one: Extracted, layer: str) -> Any:
    return one.layers[layer].reshape(len(one), -1)


def _precisions(one: Extracted, layer: str) -> Any:
    return average_precision(_flat(one, layer), one.labels, len(one.classes))


def _share(one: Extracted, label: int) -> float:
    return float((one.labels == label).mean())


def _panels(networks: list[str]) -> list[list[str]]:
    """Sources; fine-tuned networks and self; one before and after; those that are there."""
    after = [name for name in networks if name.startswith("FT-")]
    before = [name for name in networks if name not in (*after, "self")]
    pair = [name for name in before[:1] if f"FT-{name}" in networks]
    trained = [*after, *(name for name in networks if name == "self")]
    sides = [before, trained, [*pair, *(f"FT-{name}" for name in pair)]]
    return [side for side in sides if side] or [networks]


def _curves(found: dict[str, Extracted], layer: str, top: Any, label: int) -> pd.DataFrame:
    rows = []
    for network, one in found.items():
        for number in top[network].filters[:, label].tolist():
            curve = precision_recall(_flat(one, layer)[:, number], one.labels == label)
            rows += [
                {"network": network, "filter": number, "recall": r, "precision": p}
                for r, p in zip(curve.recall, curve.precision, strict=True)
            ]
    return pd.DataFrame(rows)


# --- concepts never learned (SFT Fig. 1) ---------------------------------------------------------


def concepts_figure(measured: Measurements | None) -> tuple[Figure, str]:
    """Images of classes that a network never learned, in the plane of two principal components.

    Raises:
        DataError: nothing was measured.
    """
    table = None if measured is None else measured.concepts
    points = None if measured is None else measured.concept_points
    if table is None or points is None or table["nmi"].isna().all():
        raise DataError(
            "no features of classes that a network never learned were measured",
            hint="add distances: to the grid's measure: section",
        )
    known = table[table["nmi"].notna()]
    first = known[known["class_draw"].fillna(-1) == known["class_draw"].fillna(-1).iloc[0]]
    first = first[first["target"] == first["target"].iloc[0]].head(_PANELS)
    rows = (len(first) + 1) // 2
    figure, axes = canvas(rows, min(2, len(first)), height=3.3 * rows + 0.9)
    for ax, row in zip(axes, first.to_dict("records"), strict=False):
        keys = ("dataset", "target", "source", "model", "network", "layer")
        mine = points[[all(p[k] == row[k] for k in keys) for p in points.to_dict("records")]]
        mine = mine[mine["class_draw"].fillna(-1) == first["class_draw"].fillna(-1).iloc[0]]
        shown = mine.assign(concept=mine["class_name"].map(class_word), apart=_apart(mine))
        title = f"{row['source']}: NMI {row['nmi']:.2f}, ARI {row['ari']:.2f}, purity "
        figures_features.clusters(shown, ax, f"{title}{row['purity']:.2f}")
    for ax in axes[len(first) :]:
        ax.set_visible(False)
    charts.legend_below(axes[0])
    best = first.loc[first["ari"].idxmax()]
    return figure, (
        f"{counted(int(best['n']), 'image')} of {counted(int(best['classes']), 'class')} that the "
        f"networks never learned, k-means with as many clusters; empty markers lie in a cluster "
        f"most of which is another class. Agreement is best under {best['source']} (ARI "
        f"{best['ari']:.2f}, by chance 0; p = {best['ari_p_value']:.3g})."
    )


def _apart(points: pd.DataFrame) -> pd.Series:
    """Whether most images of an image's cluster are of another class."""
    common = points.groupby("cluster")["class_name"].agg(lambda names: names.mode().iloc[0])
    apart: pd.Series = points["cluster"].map(common) != points["class_name"]
    return apart
