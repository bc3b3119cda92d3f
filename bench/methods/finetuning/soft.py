"""Soft fine-tuning: the source's loss fades out while the target's is learned.

"Effective Domain Knowledge Transfer with Soft Fine-tuning" (2019), Eqs. 1-3 and Fig. 3:

    loss = (1 - alpha) loss_src + loss_tar                 (1)
    alpha = min(1, num_epoch / E)                          (2)
    loss = (1 - alpha) loss_src + loss_tar + loss_tar'     (3)

The network keeps the parent's classifier for the source and gets a new one for the target. A sample
is a pair, so a step of `batch_size` shows as many source images besides. alpha = 0 throughout is
the paper's intermediate stage; once alpha is 1 the target is trained alone (the end stage).

The paper leaves open, so options: whether epochs count from 0 (default: the first epoch has the
source's loss in full) or from 1; alpha by epoch or by step; whether the source, once weightless,
still passes through the network (it would still move BatchNorm's statistics; default: no). E has no
common value (60 of 100 epochs, 20 of 25, 5 of 5); the default is four fifths of the epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.core.errors import GridError
from bench.methods.finetuning.joint import Weight
from bench.methods.finetuning.plain import Plain
from bench.methods.options import MethodOptions
from bench.methods.streams import Indices, Shuffled, SourceStream, reindexed, sources_of
from bench.specs.data import Bool, Positive
from bench.specs.run import BatchNormMode, RunSpec
from bench.training.domain import Domain, DomainBatch, Head, Step

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods import Ingredients
    from bench.training.job import Predict, Row


class SoftOptions(MethodOptions):
    """Options of soft fine-tuning.

    Attributes:
        schedule: alpha rises by epoch, by iteration (optimiser step), or stays zero.
        ramp_epochs: E of Eq. 2; None is four fifths of the epochs, to the nearest whole one.
        epoch_base: the number of the first epoch, or of the first step, in Eq. 2.
        source_head: the source's classifier is the parent's, or random as in joint training.
        drop_at_end: at alpha = 1 the source images are left out of the batch.
        second_weight: of loss_tar' in Eq. 3, for the second borrowed selection.
        reindex: the source's classifier has only the classes that have images (SFT-4 c keeps all).
        batch_norm: statistics over both domains, of each, or those of the parent; see
            `bench.models.heads.MultiHead`.
    """

    schedule: Literal["epoch", "iteration", "zero"] = "epoch"
    ramp_epochs: Positive | None = None
    epoch_base: Literal[0, 1] = 0
    source_head: Literal["kept", "random"] = "kept"
    drop_at_end: Bool = True
    second_weight: Weight = 1.0
    reindex: Bool = False
    batch_norm: BatchNormMode = "joint"

    @property
    def keeps_source_head(self) -> bool:
        """Whether the source's classifier is the parent's (Fig. 3)."""
        return self.source_head == "kept"

    def check_spec(self, spec: RunSpec) -> None:
        """Raises a GridError where there is no parent whose classifier can be kept."""
        super().check_spec(spec)
        if self.keeps_source_head and spec.borrow_pooled:
            raise GridError(
                f"method {spec.method.name!r} keeps the parent's classifier, but a pool is of "
                "several sets of classes",
                hint="set method.source_head: random, or borrow one selection",
            )
        if self.keeps_source_head and spec.init.kind == "scratch":
            raise GridError(
                f"method {spec.method.name!r} keeps the parent's classifier, and this run starts "
                "from nothing",
                hint="give it a source, or set method.source_head: random",
            )


def alpha(options: SoftOptions, ramp_epochs: float, epoch: int, step: int, steps: int) -> float:
    """Eq. 2: what the source's loss has lost of its weight, in [0, 1].

    `ramp_epochs` is E; `epoch` and `step`, of the `steps` of an epoch, count from 0.

    >>> [alpha(SoftOptions(), 60.0, epoch, 0, 10) for epoch in (0, 30, 60, 99)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if options.schedule == "zero":
        return 0.0
    if options.schedule == "iteration":
        return min(1.0, (epoch * steps + step + options.epoch_base) / (ramp_epochs * steps))
    return min(1.0, (epoch + options.epoch_base) / ramp_epochs)


class Soft:
    """Pairs of target and source images; the source's weight falls from 1 to 0.

    The first borrowed domain is the source, the second, if there is one, the second target.

    Args:
        stream: chooses the source images, as this method numbers them; at random if None.

    Raises:
        DataError: there is nothing to borrow.
        GridError: more than two domains.
    """

    target = 0

    def __init__(
        self,
        ingredients: Ingredients,
        options: SoftOptions,
        stream: SourceStream | None = None,
    ) -> None:
        source, *others = sources_of(ingredients, "soft")
        if len(others) > 1:
            raise GridError(
                f"soft fine-tuning has one source and one second target, not {1 + len(others)}",
                hint="borrow one or two selections",
            )
        self.options, self.plain = options, Plain(ingredients)
        self.ramp_epochs = options.ramp_epochs or max(1.0, round(0.8 * ingredients.train.epochs))
        classes = np.arange(source.num_classes, dtype=np.int64)
        if options.reindex:
            source, classes = reindexed(source)
        self.domains: tuple[Domain, ...] = (ingredients.target, source, *others)
        self.heads = {1: Head(kept=options.keeps_source_head, classes=classes)}
        self.batch_norm = options.batch_norm
        seed = ingredients.order_seed
        self.stream: SourceStream = stream or Shuffled(source.size, f"source|{seed}|1")
        self.second: Shuffled | None = None
        for second in others:
            self.heads[2] = Head(kept=False, classes=np.arange(second.num_classes, dtype=np.int64))
            if second.size:
                self.second = Shuffled(second.size, f"source|{seed}|2")

    def steps(self, epoch: int, predict: Predict) -> Sequence[Step]:
        """The target's steps with their source images, and the second target's (Eq. 3)."""
        chunks = self._shown(epoch, predict)
        steps = [[DomainBatch(0, chunk)] for chunk in chunks]
        weights = [1.0 - self._alpha(epoch, step, len(chunks)) for step in range(len(chunks))]
        if any(weights) or not self.options.drop_at_end:
            drawn = self.stream.draw(epoch, chunks, predict)
            for step, images, weight in zip(steps, drawn, weights, strict=True):
                if weight or not self.options.drop_at_end:
                    step.append(DomainBatch(1, images, weight))
        if self.second is not None and self.options.second_weight:
            more = self.second.draw(epoch, chunks, predict)
            for step, images in zip(steps, more, strict=True):
                step.append(DomainBatch(2, images, self.options.second_weight))
        return [tuple(step) for step in steps]

    def _shown(self, epoch: int, predict: Predict) -> list[Indices]:
        """The target images of each step."""
        return [part.indices for (part,) in self.plain.steps(epoch)]

    def _alpha(self, epoch: int, step: int, steps: int) -> float:
        return alpha(self.options, self.ramp_epochs, epoch, step, steps)

    def state(self) -> Mapping[str, Tensor]:
        """That of the stream."""
        return self.stream.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hands it to the stream."""
        self.stream.restore(state)

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """When alpha reached 1, and the validation accuracy then, at the end and at its best.

        SFT stops "soon after alpha reaches 1" and trains 40 epochs more: both are reported. Epochs
        count from 1, as in the leaderboard.
        """
        evaluated = [row for row in history if row["val_top1_accuracy"] is not None]
        ended = [row for row in evaluated if self._alpha(int(row["epoch"] or 0), 0, 1) >= 1.0]
        reached = [row for row in history if self._alpha(int(row["epoch"] or 0), 0, 1) >= 1.0]
        last = evaluated[-1] if evaluated else None
        best = max(evaluated, key=lambda row: row["val_top1_accuracy"] or 0.0, default=None)
        return {
            "ramp_epochs": self.ramp_epochs,
            "alpha_is_1_from_epoch": int(reached[0]["epoch"] or 0) + 1 if reached else None,
            "val_top1_accuracy_once_alpha_is_1": ended[0]["val_top1_accuracy"] if ended else None,
            "val_top1_accuracy_at_the_end": last["val_top1_accuracy"] if last else None,
            "best_val_top1_accuracy": best["val_top1_accuracy"] if best else None,
            "best_val_epoch": int(best["epoch"] or 0) + 1 if best else None,
        }
