"""The runs of a grid, each once: what planning makes, and what everything after it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bench.specs.measures import Measure
from bench.specs.run import RunSpec


@dataclass(frozen=True)
class DataFacts:
    """Facts of the images that a run selects.

    Attributes:
        fingerprint: of classes and images, see `bench.data.catalog.Resolved`.
        classes: names of the classes, in the drawn order.
        key_space: data sets whose class names mean the same share it (all WordNet-keyed ones do).
        train_images: number of training images.
        held_out_images: validation and test images.
        validation_images: those of them for validation.
        missing: the images are not there (a dry run); the fingerprint is then made up.
        borrowed: of what the run borrows, in its order; `train_images` are those used.
        available_images: how many images the training images could be drawn from, all classes
            together, see `bench.data.selection.splits.Splits`; 0 where the images are missing.
        dataset_fingerprint: of the whole data set, whatever is selected of it; empty where the
            images are missing.
    """

    fingerprint: str
    classes: tuple[str, ...]
    key_space: str
    train_images: int
    held_out_images: int
    missing: bool = False
    borrowed: tuple[DataFacts, ...] = ()
    available_images: int = 0
    dataset_fingerprint: str = ""
    validation_images: int = 0


@dataclass(frozen=True)
class PlannedRun:
    """A run with its id, its parent's and the experiments that want it (none for a source).

    `measures` names the experiments of whose runs an extraction measures something; `averaged` says
    that a run is only there to be averaged by soups.
    """

    id: str
    spec: RunSpec
    parent_id: str | None
    experiments: tuple[str, ...]
    facts: DataFacts
    measures: tuple[str, ...] = ()
    bank_id: str | None = None
    ingredient_ids: tuple[str, ...] = ()
    averaged: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before: parent, bank of kernels, a soup's runs."""
        return tuple(key for key in (self.parent_id, self.bank_id, *self.ingredient_ids) if key)

    @property
    def role(self) -> str:
        """`source` for a run that is only there for others to start from, `ingredient` for one that
        is only there for soups to average, `extract` for features; else `finetune`."""
        if self.spec.method.name == "extract":
            return "extract"
        if self.experiments:
            return "finetune"
        return "ingredient" if self.averaged else "source"


@dataclass(frozen=True)
class Plan:
    """The runs of a grid, each once, parents before children, in the order of the file.

    `baselines` has, by experiment and run id, the id of the run that it is compared with.
    `measures` has the measurements, each with the ids of its parts' extractions.
    """

    name: str
    runs: Mapping[str, PlannedRun]
    cells: int
    baselines: Mapping[tuple[str, str], str] = field(default_factory=dict)
    measures: tuple[tuple[Measure, tuple[str, ...]], ...] = ()

    @property
    def repeated(self) -> int:
        """How many cells of the grid are equal to an earlier one, and so cost nothing."""
        return self.cells - sum(bool(run.experiments) for run in self.runs.values())

    def descendants(self, ids: Iterable[str]) -> dict[str, str]:
        """Every run below `ids`, with the one of `ids` that it is below of."""
        below: dict[str, str] = {}
        roots = set(ids)
        for run in self.runs.values():
            for needed in run.needs:
                if needed in roots or needed in below:
                    below.setdefault(run.id, needed if needed in roots else below[needed])
        return below

    def to_repeat(self, states: Mapping[str, str], damaged: Collection[str]) -> list[str]:
        """Of the finished runs whose files are `damaged` those that an unfinished run starts from.

        `states` are those of every run; `done` and `diverged` are finished.
        """
        again: set[str] = set()
        for run in reversed(list(self.runs.values())):  # children come after their parents
            unfinished = run.id in again or states[run.id] not in ("done", "diverged")
            if unfinished:
                again |= {needed for needed in run.needs if needed in damaged}
        return [key for key in self.runs if key in again]
