"""One execution of a run: what it is given, and the network before its first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, StoreError
from bench.exports.tensorboard import LiveScalars
from bench.methods import METHODS
from bench.models import layers, weights
from bench.models.inputs import attach, statistics_of
from bench.models.multiview import widen_classifier
from bench.models.tuning import tune_only
from bench.results.store import Progress, RunFolder
from bench.runs.build import Context, Data, classes_of_parent
from bench.runs.distributed import Report
from bench.runs.parents import trained_state
from bench.specs.run import FromRun, RunSpec, Scratch, run_id
from bench.training.activations import ActivationStore
from bench.training.data_parallel import ALONE, Team
from bench.training.domain import Domain
from bench.training.job import EpochReport


@dataclass(frozen=True, eq=False)
class Execution:
    """A run that is executed by this process.

    Attributes:
        folder: of the run; this process, or the one that started it, holds its claim.
        spec, data: the run and its images.
        context: see `Context`.
        report, should_stop: see `bench.runs.execute.execute_batch`.
        activations: what runs of the batch share; without room where they share nothing, None where
            several processes train a run.
        team: the processes that train the run together.
    """

    folder: RunFolder
    spec: RunSpec
    data: Data
    context: Context
    report: Report
    should_stop: Callable[[], bool]
    activations: ActivationStore | None = None
    team: Team = ALONE
    scalars: LiveScalars | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.context.torch_device()

    @property
    def is_on_features(self) -> bool:
        """Whether the method fits to features, without steps of a network."""
        return METHODS[self.spec.method.name].kind != "steps"

    def check_identity(self) -> None:
        """Refuses images that are not those that the run was planned with.

        Raises:
            StoreError: they differ.
        """
        if run_id(self.spec, self.context.fingerprint) != self.folder.run_id:
            raise StoreError(
                "the images are not those that this run was planned with",
                place=str(self.folder.path),
                hint="the data set changed since; plan again with bench grid",
            )

    def parent_state(self) -> Mapping[str, Tensor] | None:
        """The weights to copy; None from scratch."""
        match self.spec.init:
            case Scratch():
                return None
            case FromRun(run=parent):
                return trained_state(parent, self.context)
            case other:
                size = self.spec.data.image_size
                return weights.load_state(other, self.spec.model.name, image_size=size)

    def network(self, parent_state: Mapping[str, Tensor] | None) -> nn.Module:
        """The network before its first step, on its device: random, then what the pattern copies.

        Random numbers are the CPU's, so that a GPU begins with the same weights.
        """
        spec = self.spec
        seed, size = spec.seeds.init, spec.data.image_size
        outputs, drop_path = self._outputs(), spec.train.drop_path
        model = layers.create(spec.model, outputs, seed=seed, image_size=size, drop_path=drop_path)
        attach(model, statistics_of(spec))
        views = 1 if self.is_on_features else self.data.views  # features are of one image each
        widen_classifier(model, spec.model, views, seed=seed, image_size=size)
        layers.apply_pattern(model, spec.layers, parent_state)
        tune_only(model, spec.layers, spec.train.tuned)
        return model.to(self.device)

    def check_inputs(self, domains: Sequence[Domain]) -> None:
        """Compares the normalisation of images with that of the weights that the run starts from.

        Raises:
            BenchError: they differ.
        """
        weights = statistics_of(self.spec)
        for domain in domains:
            if (domain.mean, domain.std) != (weights.mean, weights.std):
                raise BenchError(
                    f"images of {domain.name} would be normalised by {domain.mean} and "
                    f"{domain.std}, the weights were trained with {weights.mean} and {weights.std}",
                    hint="this is a bug; please report it",
                )

    def check_frozen(self, model: nn.Module, before: str) -> None:
        """Compares the frozen layers with their fingerprint before training.

        Raises:
            BenchError: they differ.
        """
        if layers.frozen_fingerprint(model, self.spec.layers) != before:
            raise BenchError(
                "a frozen layer changed during training", hint="this is a bug; please report it"
            )

    def report_epoch(self, epoch: EpochReport, before: int = 0) -> None:
        """Reports an epoch that has ended; `before` are those of an earlier training of the run."""
        self.report(
            {
                "event": "epoch",
                "id": self.folder.run_id,
                "epoch": before + epoch.epoch + 1,
                "epochs": before + epoch.epochs,
                "val_top1_accuracy": epoch.val_top1_accuracy,
            }
        )
        if before or not self.team.leads:  # the history is that of the first training
            return
        values = (row["val_top1_accuracy"] for row in epoch.history)
        best = max((value for value in values if value is not None), default=None)
        progress = Progress(epoch.epoch + 1, epoch.epochs, best, epoch.left_s)
        self.folder.show_progress(progress, epoch.history)
        if self.scalars is not None:
            self.scalars.add(epoch.history)

    def _outputs(self) -> int:
        """Classes of the network's own classifier; of a copied one that is not trained, its own."""
        if self.is_on_features and self.spec.layers.kind(self.spec.layers.depth) != "R":
            return len(classes_of_parent(self.spec, self.context) or self.data.loaded.classes)
        if METHODS[self.spec.method.name].kind == "extraction":
            return 1  # random weights depend on it, and must be one network for all selections
        return len(self.data.loaded.classes)
