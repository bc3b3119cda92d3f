"""The contract of the training loop: what it is given, asks of a method, and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from bench.specs.run import BatchNormMode, TrainSpec
from bench.training.data_parallel import ALONE, Team
from bench.training.domain import Domain, Head, Step
from bench.training.domain_batches import Feed
from bench.training.evaluation import Logits
from bench.training.steps import Forward

Predict = Callable[[int], Logits]
"""domain -> logits (N, C) of its images under the present network."""

Row = dict[str, float | int | None]
"""One epoch of a history."""


class Method(Protocol):
    """What the loop needs to know of a method.

    `steps` must give the same for the same epoch and `state`, also when it is asked a second time
    after `restore`: that is how a run resumes within an epoch.
    """

    @property
    def domains(self) -> Sequence[Domain]:
        """The label spaces trained on; a `DomainBatch` names them by position."""

    @property
    def target(self) -> int:
        """The domain that validation images belong to."""

    @property
    def heads(self) -> Mapping[int, Head]:
        """How the classifier of each domain but the target begins, by the domain's position."""

    @property
    def batch_norm(self) -> BatchNormMode:
        """How BatchNorm treats several domains; without effect with one."""

    def steps(self, epoch: int, predict: Predict) -> Sequence[Step]:
        """The optimiser steps of `epoch` (from 0).

        `predict(domain)` gives the present network's logits (N, C) of a domain's images, without
        augmentation and in evaluation mode; costly, so only for methods that need it.
        """

    def state(self) -> Mapping[str, Tensor]:
        """What the method has learned so far, beyond what follows from the epoch's number."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """What the record has of this training beyond the leaderboard: JSON values."""


class Interrupted(Exception):  # noqa: N818 -- a request that was met, not an error
    """`should_stop` became true; the run continues from its checkpoint when it is trained again."""


@dataclass(frozen=True)
class EpochReport:
    """Given to `on_epoch` after each epoch.

    Attributes:
        epoch: counts from 0.
        epochs: of the training.
        images_per_s: without evaluation.
        history: the rows so far.
        left_s: seconds to the end by the epochs of this process; None where it is not known.
    """

    epoch: int
    epochs: int
    train_loss: float
    val_top1_accuracy: float | None
    images_per_s: float
    history: Sequence[Row] = ()
    left_s: float | None = None


def unshared(feeds: Sequence[Feed], validation: Feed | None) -> None:
    """The default of `share`."""


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One training, prepared: nothing here is looked up elsewhere.

    Attributes:
        model: the network; trained in place, and left with the selected weights.
        method: names the images of each step.
        groups: parameter groups (see `optim.build`); parameters outside them are frozen.
        train: recipe.
        order_seed: seeds augmentation and dropout (the method seeds its own order).
        validation: decides the epoch that is kept; needed for `select: best_val`.
        device: where to train.
        forward: see `Forward`; None is `model(inputs)`, for methods with one domain.
        prefix: forward pass of the frozen first layers; then `forward` begins behind them.
        cache_prefix: run the prefix once per image only (`Feed.cache_prefix`; no dropout in it).
        share: called with the feeds (training, validation) before the first step; may give them
            kept activations, see `bench.training.frozen_prefix_cache`.
        set_modes: called after each `model.train()`, to put frozen layers back.
        stage: called before the steps of each epoch, by its number, to say what trains in it.
        identity: the run's id; a checkpoint of another is not used.
        checkpoint: its file; None writes none.
        checkpoint_every_s, checkpoint_every_epochs: whichever comes first; seconds hold within an
            epoch too, and grow up to twenty times where a checkpoint takes long to write.
        should_stop: asked after each step.
        on_epoch: called after each epoch.
        keep_before: epochs before which the weights are kept, for `Outcome.kept`.
        stop_after: epochs after which the training ends, although its schedule is planned for
            `train.epochs`; None is all.
        keep_end: write a checkpoint after the last epoch too, so that a caller who goes on with
            something else finds the outcome again.
        team: the processes that train this together, each with a job that is equal but for its
            `team` and `device`.
        resident: whether a GPU may hold all images.
    """

    model: nn.Module
    method: Method
    groups: Sequence[Mapping[str, Any]]
    train: TrainSpec
    order_seed: int = 0
    validation: Domain | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    forward: Forward | None = None
    prefix: Callable[[Tensor], Tensor] | None = None
    cache_prefix: bool = False
    share: Callable[[Sequence[Feed], Feed | None], object] = unshared
    set_modes: Callable[[], object] = lambda: None
    stage: Callable[[int], object] = lambda epoch: None
    identity: str = ""
    checkpoint: Path | None = None
    checkpoint_every_s: float = 60.0
    checkpoint_every_epochs: int | None = None
    should_stop: Callable[[], bool] = lambda: False
    on_epoch: Callable[[EpochReport], object] = lambda report: None
    keep_before: tuple[int, ...] = ()
    stop_after: int | None = None
    keep_end: bool = False
    team: Team = ALONE
    resident: bool = True


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a training leaves.

    Attributes:
        status: `diverged` when a loss was not finite or exploded; a result, not an error.
        history: a row per epoch: epoch (from 0), lr (of its first step, at factor 1), train_loss,
            train_top1_accuracy (target images as augmented, while the weights move), val_loss,
            val_top1_accuracy (None in epochs that were not evaluated). Losses are mean
            cross-entropies without weights, train_loss the target's; each further domain d has
            borrowed_d_loss and borrowed_d_weight (its mean weight in the loss of a step).
        best_epoch: the epoch of `state`; None when a diverged run leaves none.
        state: the selected weights, on the CPU; of a diverged run those of the best epoch
            evaluated before, or nothing.
        steps: optimiser steps.
        seconds: over all parts of an interrupted run.
        peak_memory_bytes: of the process, or of the GPU's tensors.
        kept: weights before the epochs of `keep_before`, in their order, on the CPU.
        notes: what a reader of the record should know (an unusable checkpoint, a resumption).
        refit: what the record has of a second training on training and validation images
            (`train.refit`); `history` and `best_epoch` are then of the first, `state` and `status`
            of the second, and costs of both. None: there was none.
        held_scores: of the validation images, by a classifier on features that was not fitted to
            them; that of `state` may be.
    """

    status: Literal["done", "diverged"]
    history: list[Row]
    best_epoch: int | None
    state: dict[str, Tensor]
    steps: int
    images_seen: int
    seconds: float
    peak_memory_bytes: int
    diverged_epoch: int | None = None
    notes: tuple[str, ...] = ()
    kept: tuple[dict[str, Tensor], ...] = ()
    refit: Mapping[str, Any] | None = None
    held_scores: Logits | None = None
