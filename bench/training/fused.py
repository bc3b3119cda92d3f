"""Classifiers on the same fixed features, trained together as one batched problem.

Runs that freeze all layers but the last, see the same images unaugmented and differ only in
learning rate, weight decay and seeds are K softmax regressions. One batched product replaces K
small ones; each keeps its own order, rates, divergence and best epoch, so the results are those of
K runs up to the order in which a sum is taken. The gradient is written out:
d/dW of the mean cross-entropy is (softmax - target)ᵀ x / B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.specs.run import TrainSpec
from bench.training import evaluation as evaluate
from bench.training import optimizers as optim
from bench.training.domain_batches import BATCH_SIZE
from bench.training.job import EpochReport, Interrupted, Row

_CHECK_EVERY = 25
"""Steps between looks at the losses, as in `bench.training.loop`."""

Order = Callable[[int], Sequence[NDArray[np.int64]]]
"""epoch -> the images of each step."""


@dataclass(frozen=True, eq=False)
class Head:
    """One of the classifiers: how it starts and how it is trained.

    Attributes:
        weight, bias: (C, D) and (C,) before the first step.
        train: its recipe; all heads agree but for `lr` and `weight_decay`.
        weight_rate, bias_rate: (lr, weight decay) of each, see `layers.parameter_groups`.
        order: the images of each step; all heads take as many steps, of the same sizes.
    """

    weight: Tensor
    bias: Tensor
    train: TrainSpec
    weight_rate: tuple[float, float]
    bias_rate: tuple[float, float]
    order: Order


@dataclass(eq=False)
class HeadOutcome:
    """What one head leaves; the fields mean what they mean in `bench.training.job.Outcome`."""

    status: str = "done"
    history: list[Row] = field(default_factory=list)
    best_epoch: int | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    steps: int = 0
    images_seen: int = 0
    diverged_epoch: int | None = None
    best_score: tuple[float, float, int] | None = None


def train_heads(
    features: Tensor,
    labels: Tensor,
    heads: Sequence[Head],
    *,
    validation: tuple[Tensor, NDArray[np.int64]] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[int, EpochReport], object] = lambda head, report: None,
) -> list[HeadOutcome]:
    """Trains the heads by SGD; the outcome of each.

    Args:
        features: float32 (N, D).
        labels: int64 (N,).
        heads: K of them.
        validation: features (V, D) and labels (V,).
        should_stop: asked after each step.
        on_epoch: called after each epoch of a head.

    Raises:
        Interrupted: `should_stop` became true; nothing is kept.

    >>> from bench.specs.run import TrainSpec
    >>> recipe = TrainSpec(epochs=2, select="last", augment="none")
    >>> start = Head(torch.zeros(2, 3), torch.zeros(2), recipe, (0.1, 0.0), (0.1, 0.0),
    ...              lambda epoch: [np.array([0, 1])])
    >>> [outcome] = train_heads(torch.eye(3)[:2], torch.tensor([0, 1]), [start])
    >>> outcome.history[1]["train_loss"] < outcome.history[0]["train_loss"]
    True
    """
    return _Heads(features, labels, heads, validation, should_stop, on_epoch).run()


class _Heads:
    """The state of K heads: weights (K, C, D), biases (K, C), and what each leaves."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        heads: Sequence[Head],
        validation: tuple[Tensor, NDArray[np.int64]] | None,
        should_stop: Callable[[], bool],
        on_epoch: Callable[[int, EpochReport], object],
    ) -> None:
        self.features, self.labels, self.heads = features, labels, heads
        self.validation, self.should_stop, self.on_epoch = validation, should_stop, on_epoch
        self.recipe = heads[0].train
        self.weight = torch.stack([head.weight for head in heads]).to(features)
        self.bias = torch.stack([head.bias for head in heads]).to(features)
        momentum, nesterov = self.recipe.momentum, self.recipe.nesterov
        self.sgd = [
            _Sgd(self.weight, [head.weight_rate for head in heads], momentum, nesterov),
            _Sgd(self.bias, [head.bias_rate for head in heads], momentum, nesterov),
        ]
        classes = self.weight.shape[1]
        smoothing = self.recipe.label_smoothing
        wanted = torch.eye(classes, device=features.device, dtype=features.dtype)
        self.targets = wanted * (1 - smoothing) + smoothing / classes
        self.outcomes = [HeadOutcome() for _ in heads]
        self.first_loss: Tensor | None = None

    def run(self) -> list[HeadOutcome]:
        """All epochs; the outcomes in the order of the heads."""
        for epoch in range(self.recipe.epochs):
            self._train_epoch(epoch)
            if not self._alive():
                break
        last = self.recipe.epochs - 1
        for k in self._alive():
            outcome = self.outcomes[k]
            if not bool(self.weight[k].isfinite().all() and self.bias[k].isfinite().all()):
                outcome.status, outcome.diverged_epoch = "diverged", last
            elif self.recipe.select == "last":
                self._keep(k, last)
        return self.outcomes

    def _alive(self) -> list[int]:
        return [k for k, outcome in enumerate(self.outcomes) if outcome.status == "done"]

    def _train_epoch(self, epoch: int) -> None:
        alive = self._alive()
        orders = [head.order(epoch) for head in self.heads]
        shuffled = torch.from_numpy(np.stack([np.concatenate(order) for order in orders]))
        shuffled = shuffled.to(self.features.device)
        ends = np.cumsum([len(batch) for batch in orders[0]]).tolist()
        sums = torch.zeros(3, len(self.heads), dtype=torch.float64, device=self.features.device)
        losses, right, worst = sums.unbind()
        start = 0
        for step, shown in enumerate(ends):
            factor = optim.lr_factor(self.recipe, epoch, step, len(ends))
            loss, correct = self._step(shuffled[:, start:shown], factor)
            self.first_loss = loss if self.first_loss is None else self.first_loss
            losses.add_(loss, alpha=shown - start)
            right.add_(correct)
            torch.maximum(worst, loss.double(), out=worst)
            start = shown
            if (step + 1) % _CHECK_EVERY == 0 or shown == ends[-1]:
                for k in self._diverged(alive, worst):
                    alive.remove(k)
                    self._count(k, step + 1, shown)
                    self._end(k, epoch, self._row(k, epoch, len(ends), sums, shown))
            if self.should_stop():
                raise Interrupted(f"stopped in epoch {epoch + 1} of {self.recipe.epochs}")
        for k in alive:
            self._count(k, len(ends), ends[-1])
            self.outcomes[k].history.append(self._row(k, epoch, len(ends), sums, ends[-1]))
        self._evaluate(alive, epoch)

    def _count(self, k: int, steps: int, images: int) -> None:
        self.outcomes[k].steps += steps
        self.outcomes[k].images_seen += images

    def _step(self, indices: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """One step of all heads: their losses and numbers of images that were right, (K,) each."""
        heads, images = indices.shape
        shown = indices.reshape(-1)
        labels = self.labels.index_select(0, shown)
        inputs = self.features.index_select(0, shown).view(heads, images, -1)  # (K, B, D)
        logits = torch.bmm(self.weight, inputs.mT).add_(self.bias[..., None])  # (K, C, B)
        targets = self.targets.index_select(1, labels).view(-1, heads, images).transpose(0, 1)
        log_shares = logits.log_softmax(1)
        loss = -(targets * log_shares).sum((1, 2)) / images
        gradient = log_shares.exp().sub_(targets).div_(images)
        self.sgd[0].step(torch.bmm(gradient, inputs), factor)
        self.sgd[1].step(gradient.sum(2), factor)
        return loss, _right(logits, labels.view(heads, images)).sum(1)

    # --- one head ---

    def _row(self, k: int, epoch: int, steps: int, sums: Tensor, shown: int) -> Row:
        return {
            "epoch": epoch,
            "lr": self.heads[k].train.lr * optim.lr_factor(self.recipe, epoch, 0, steps),
            "train_loss": float(sums[0, k]) / shown,
            "train_top1_accuracy": float(sums[1, k]) / shown,
            "val_loss": None,
            "val_top1_accuracy": None,
        }

    def _diverged(self, alive: Sequence[int], worst: Tensor) -> list[int]:
        assert self.first_loss is not None
        chance = math.log(max(self.weight.shape[1], 2))
        first, highest = self.first_loss.tolist(), worst.tolist()
        limit = [self.recipe.explode_factor * max(loss, chance) for loss in first]
        return [k for k in alive if not (math.isfinite(highest[k]) and highest[k] <= limit[k])]

    def _end(self, k: int, epoch: int, row: Row) -> None:
        """Takes a head that diverged out; its weights become zero, the others' stay theirs."""
        outcome = self.outcomes[k]
        outcome.history.append(row)
        outcome.status, outcome.diverged_epoch = "diverged", epoch
        for sgd in self.sgd:
            sgd.stop(k)

    def _evaluate(self, alive: Sequence[int], epoch: int) -> None:
        recipe, scores = self.recipe, None
        due = epoch + 1 == recipe.epochs or (epoch + 1) % recipe.evaluate_every == 0
        if self.validation is not None and due and alive:
            scores = self._scores(self.validation[0])
        for k in alive:
            outcome, row = self.outcomes[k], self.outcomes[k].history[-1]
            if scores is not None and self.validation is not None:
                logits, truth = scores[k], self.validation[1]
                loss = evaluate.cross_entropy(logits, truth)
                top1 = evaluate.top1_accuracy(logits, truth)
                row["val_loss"], row["val_top1_accuracy"] = loss, top1
                if not math.isfinite(loss):
                    outcome.history.pop()
                    self._end(k, epoch, row)
                    continue
                score = (top1, -loss, -epoch)
                if recipe.select == "best_val" and (outcome.best_score or score) <= score:
                    outcome.best_score = score
                    self._keep(k, epoch)
            done, top1_ = float(row["train_loss"] or 0.0), row["val_top1_accuracy"]
            self.on_epoch(k, EpochReport(epoch, recipe.epochs, done, top1_, 0.0, outcome.history))

    def _keep(self, k: int, epoch: int) -> None:
        outcome = self.outcomes[k]
        outcome.best_epoch = epoch
        outcome.weight = self.weight[k].to("cpu", copy=True)
        outcome.bias = self.bias[k].to("cpu", copy=True)

    def _scores(self, features: Tensor) -> NDArray[np.float32]:
        """(K, V, C), from one product for all heads."""
        heads, classes, columns = self.weight.shape
        flat, bias = self.weight.reshape(-1, columns), self.bias.reshape(-1)
        chunks = [
            torch.addmm(bias, features[start : start + BATCH_SIZE], flat.T).cpu()
            for start in range(0, len(features), BATCH_SIZE)
        ]
        scores = torch.cat(chunks).reshape(-1, heads, classes).transpose(0, 1).contiguous()
        found: NDArray[np.float32] = scores.numpy()
        return found


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the highest of logits (K, C, B) is that of the label; of equal ones the first counts.

    On the CPU, where no two are equal, this is found several times faster than by argmax; to look
    for equal ones would make a GPU wait.
    """
    if logits.is_cuda:
        return logits.argmax(1) == labels
    highest = logits == logits.amax(1, keepdim=True)
    if int(highest.sum()) == labels.numel():
        return highest.gather(1, labels[:, None])[:, 0]
    return logits.argmax(1) == labels


class _Sgd:
    """torch's SGD on K parameters stacked along the first dimension, each with rates of its own."""

    def __init__(
        self,
        parameters: Tensor,
        rates: Sequence[tuple[float, float]],
        momentum: float,
        nesterov: bool,
    ) -> None:
        shape = (-1, *[1] * (parameters.ndim - 1))
        self.parameters, self.momentum, self.nesterov = parameters, momentum, nesterov
        self.lr, self.decay = (
            torch.tensor(column, dtype=torch.float64).to(parameters).view(shape)
            for column in zip(*rates, strict=True)
        )
        self.buffer: Tensor | None = None

    def step(self, gradient: Tensor, factor: float) -> None:
        """v = m v + g + wd w, w = w - lr v; `gradient` is overwritten."""
        gradient.addcmul_(self.parameters, self.decay)
        if self.momentum:
            if self.buffer is None:
                self.buffer = gradient.clone()
            else:
                self.buffer.mul_(self.momentum).add_(gradient)
            if self.nesterov:
                gradient.add_(self.buffer, alpha=self.momentum)
            else:
                gradient = self.buffer
        self.parameters.addcmul_(gradient, self.lr * -factor)

    def stop(self, k: int) -> None:
        """Parameter k is zero and no longer moves."""
        self.parameters[k], self.lr[k], self.decay[k] = 0, 0, 0
        if self.buffer is not None:
            self.buffer[k] = 0
