"""One optimiser step: cut for accumulation, forward, the sum of the domains' losses, backward."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.data.transforms.augment import draw_noise
from bench.data.transforms.mixing import Mix
from bench.specs.batches import smallest_pass
from bench.specs.run import TrainSpec
from bench.training.data_parallel import Replica
from bench.training.domain import Domain, Step
from bench.training.domain_batches import Feed, Shown
from bench.training.optimizers import Anchors
from bench.training.precision import autocast

Parts = tuple[tuple[int, int], ...]
"""((domain, number of samples), ...) in the order of the batch; a sample of V views is V images."""

IN_STEP = "in a training step"
"""Note of an error that a step raised."""

Forward = Callable[[Tensor, Parts], Sequence[Tensor]]
"""(inputs of the parts one after the other, parts) -> logits (n, C_domain) of each part."""

_Labels = tuple[Tensor, Tensor | None]
"""Of images, and of those that they are mixed with."""


@dataclass
class Sums:
    """Running sums of an epoch, kept on the device so that no step has to wait for a number.

    Attributes:
        losses: cross-entropy summed over the images of each domain, without weights, float64 (D,).
        images: images of each domain shown, float64 (D,), on the CPU.
        correct: right predictions for images of the target domain, as trained on.
        worst: the largest loss of a step, weights included; NaN once a loss was NaN.
    """

    losses: Tensor
    images: Tensor
    correct: Tensor
    worst: Tensor

    @classmethod
    def zero(cls, device: torch.device, domains: int = 1) -> Sums:
        """Nothing seen yet."""
        losses, correct, worst = (
            torch.zeros(size, dtype=torch.float64, device=device) for size in ((domains,), (), ())
        )
        return cls(losses, torch.zeros(domains, dtype=torch.float64), correct, worst)

    def add(
        self, loss: Tensor, losses: Mapping[int, Tensor], images: Mapping[int, int], correct: Tensor
    ) -> None:
        """Counts one step: its loss, and the sums of each of its domains."""
        for domain, entropy in losses.items():
            self.losses[domain].add_(entropy)
        for domain, count in images.items():
            self.images[domain] += count
        self.correct += correct
        self.worst = torch.maximum(self.worst, loss)

    def mean_loss(self, domain: int) -> float | None:
        """Mean cross-entropy of a domain's images; None when none were shown."""
        shown = float(self.images[domain])
        return float(self.losses[domain]) / shown if shown else None

    def accuracy(self, target: int) -> float | None:
        """Share of right predictions on images of the target; None when none were shown."""
        shown = float(self.images[target])
        return float(self.correct) / shown if shown else None

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class _Piece:
    """The part of a domain's images that one forward pass takes; `scale` multiplies its summed
    cross-entropy. `partner` are the images to mix them with; None are the same, the last first."""

    domain: int
    shown: Shown
    scale: float
    partner: Shown | None = None

    def rows(self, own: slice, mixes: bool) -> _Piece:
        """Some of its images, mixed with the same ones as before."""
        partner = (self.partner or self.shown.reversed())[own] if mixes else None
        return replace(self, shown=self.shown[own], partner=partner)


def shown_in(
    steps: Sequence[Step],
    seed: int,
    epoch: int,
    device: torch.device,
    further: Mapping[str, int] | None = None,
    feeds: Sequence[Feed] = (),
) -> list[tuple[Shown, ...]]:
    """The images of each part of each step with the numbers of their augmentation, on the device.

    `further` names what else needs numbers, see `draw_noise`. Of `feeds`, one per domain, those
    with fixed views have numbers by image, others by its place in the epoch.
    """
    parts = [part for step in steps for part in step]
    whole = {}
    for domain in sorted({part.domain for part in parts}):
        indices = np.concatenate([part.indices for part in parts if part.domain == domain])
        fixed = feeds[domain].options.fixed if feeds else None
        if fixed is not None:
            view = epoch % fixed.count
            drawn = fixed.noise(feeds[domain].domain.size, view)[indices]
            whole[domain] = Shown.of(indices, drawn, device, view)
        else:
            drawn = draw_noise(len(indices), seed, epoch, domain, further=further)
            whole[domain] = Shown.of(indices, drawn, device)
    used: Counter[int] = Counter()

    def next_of(domain: int, count: int) -> Shown:
        used[domain] += count
        return whole[domain][used[domain] - count : used[domain]]

    return [tuple(next_of(part.domain, len(part.indices)) for part in step) for step in steps]


def class_weights(domain: Domain, train: TrainSpec) -> Tensor | None:
    """What the loss of a class's images is multiplied by: float32 (C,), of absent classes 0.

    The mean over the images is 1. None where the recipe has no weights.

    >>> toy = Domain("toy", np.zeros((4, 2, 2, 3), np.uint8), np.array([0, 0, 0, 1]), 2)
    >>> class_weights(toy, TrainSpec(class_weights="balanced")).tolist()
    [0.6666666865348816, 2.0]
    """
    if train.class_weights == "none":
        return None
    counts = np.bincount(domain.labels, minlength=domain.num_classes)
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = domain.size / (present.sum() * counts[present])
    return torch.from_numpy(weights).float()


def _cut(
    step: Step, shown: tuple[Shown, ...], accumulate: int, mixed: int | None = None
) -> Iterator[list[_Piece]]:
    """The forward passes of a step; each takes an even share of every domain's images.

    A step that is too small for `accumulate` passes of two images of each domain has fewer of them:
    BatchNorm cannot be trained on one image. `mixed` is the domain whose images are mixed.
    """
    wholes = [
        _Piece(part.domain, rows, part.weight / len(part.indices))
        for part, rows in zip(step, shown, strict=True)
    ]
    passes = smallest_pass(min(len(part.indices) for part in step), accumulate)[0]
    if passes == 1:
        yield wholes
        return
    shares = [np.array_split(np.arange(len(whole.shown)), passes) for whole in wholes]
    for turn in range(passes):
        pieces = [
            whole.rows(slice(int(own[turn][0]), int(own[turn][-1]) + 1), whole.domain == mixed)
            for whole, own in zip(wholes, shares, strict=True)
            if len(own[turn])
        ]
        if pieces:
            yield pieces


def _plus(before: Tensor | None, more: Tensor) -> Tensor:
    return more if before is None else before + more


_NOTHING = contextlib.nullcontext()


class Stepper:
    """Takes optimiser steps.

    Args:
        forward: the network with its heads, behind the frozen prefix if there is one; a `Replica`
            takes its own rows of each batch, and its steps are those of all ranks together.
        optimizer: over the trained parameters.
        feeds: one per domain.
        target: the domain whose training accuracy is counted.
        train: precision, accumulation and label smoothing.
    """

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        feeds: Sequence[Feed],
        target: int,
        train: TrainSpec,
    ) -> None:
        self.forward, self.optimizer, self.feeds = forward, optimizer, feeds
        self.target, self.train = target, train
        self.anchors = Anchors(optimizer)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        weights = class_weights(feeds[target].domain, train)
        self.class_weights = None if weights is None else weights.to(feeds[0].options.device)
        self.device = feeds[0].options.device
        self.replica = forward if isinstance(forward, Replica) else None

    def take(
        self, step: Step, shown: tuple[Shown, ...], sums: Sums, mix: Mix | None = None
    ) -> Tensor:
        """One step over the images of `step`; returns its loss, on the device.

        Cut into `accumulate` forward passes, the gradient is that of one pass over all images
        (but for BatchNorm, which sees each pass by itself).

        Args:
            shown: the images of the step's parts, see `shown_in`.
            sums: counts the step.
            mix: of the target's images.
        """
        try:
            return self._take(step, shown, sums, mix)
        except RuntimeError as error:
            error.add_note(IN_STEP)
            raise

    def _take(self, step: Step, shown: tuple[Shown, ...], sums: Sums, mix: Mix | None) -> Tensor:
        loss: Tensor | None = None
        losses: dict[int, Tensor] = {}
        correct: Tensor | None = None
        self.optimizer.zero_grad(set_to_none=True)
        for pieces, around in self._passes(step, shown, mix):
            with around:
                outputs = self._outputs(pieces, mix)
                labels = [self._labels(piece, mix) for piece in pieces]
                summed = [
                    self._loss(*each, mix) for each in zip(pieces, outputs, labels, strict=True)
                ]
                parts = [p.scale * s for p, (s, _) in zip(pieces, summed, strict=True)]
                part_loss = functools.reduce(torch.add, parts)
                self._for_backward(part_loss).backward()  # type: ignore[no-untyped-call]
            loss = _plus(loss, part_loss.detach())
            for piece, (_, entropy) in zip(pieces, summed, strict=True):
                losses[piece.domain] = _plus(losses.get(piece.domain), entropy.detach().double())
            for piece, out, (own, other) in zip(pieces, outputs, labels, strict=True):
                if piece.domain == self.target:
                    larger = own if other is None or mix is None or mix.share >= 0.5 else other
                    correct = _plus(correct, (out.detach().argmax(1) == larger).sum())
        assert loss is not None
        if correct is None:
            correct = torch.zeros((), dtype=torch.int64, device=self.device)
        if self.replica is not None:
            names = list(losses)
            loss, correct, *rest = self.replica.team.totals(loss, correct, *losses.values())
            losses = dict(zip(names, rest, strict=True))
        self.anchors.pull()
        if self.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
        self.optimizer.step()
        if self.replica is not None:
            self.replica.share_statistics()
        images: Counter[int] = Counter()
        for part in step:
            images[part.domain] += len(part.indices)
        sums.add(loss, losses, images, correct)
        return loss

    def _labels(self, piece: _Piece, mix: Mix | None) -> _Labels:
        """Labels of a piece's images, and of those that they are mixed with."""
        feed = self.feeds[piece.domain]
        own = feed.labels_of(piece.shown)
        if mix is None or piece.domain != self.target:
            return own, None
        return own, own.flip(0) if piece.partner is None else feed.labels_of(piece.partner)

    def _loss(
        self, piece: _Piece, out: Tensor, labels: _Labels, mix: Mix | None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropies of a piece's images summed: as in the loss, and without class weights."""
        own, other = labels
        of_own = self._entropy(piece, out, own)
        if other is None or mix is None:
            return of_own
        of_other = self._entropy(piece, out, other)
        weighted, plain = (
            mix.share * a + (1 - mix.share) * b for a, b in zip(of_own, of_other, strict=True)
        )
        return weighted, plain

    def _entropy(self, piece: _Piece, out: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        smoothing = self._smoothing(piece)
        if self.class_weights is None or piece.domain != self.target:
            summed = cross_entropy(out.float(), labels, reduction="sum", label_smoothing=smoothing)
            return summed, summed
        each = cross_entropy(out.float(), labels, reduction="none", label_smoothing=smoothing)
        return (each * self.class_weights[labels]).sum(), each.sum()

    def _smoothing(self, piece: _Piece) -> float:
        """The target's labels are smoothed, a source's are not: its loss is the plain one."""
        return self.train.label_smoothing if piece.domain == self.target else 0.0

    def _passes(
        self, step: Step, shown: tuple[Shown, ...], mix: Mix | None
    ) -> Iterator[tuple[list[_Piece], contextlib.AbstractContextManager[object]]]:
        """The forward passes of a step, this rank's rows of them, and what to put around each."""
        replica = self.replica
        mixed = None if mix is None else self.target
        cut = _cut(step, shown, self.train.accumulate, mixed)
        if replica is None:
            yield from ((pieces, _NOTHING) for pieces in cut)
            return
        turns = list(cut)
        for number, pieces in enumerate(turns):
            mine = [
                piece.rows(replica.team.rows(len(piece.shown)), piece.domain == mixed)
                for piece in pieces
            ]
            yield mine, replica.pass_number(number, len(turns))

    def _for_backward(self, loss: Tensor) -> Tensor:
        """What makes gradients, averaged over the ranks, those of the sum of their losses."""
        return loss if self.replica is None else loss * self.replica.team.size

    def _outputs(self, pieces: list[_Piece], mix: Mix | None) -> Sequence[Tensor]:
        """Logits of each piece, from one forward call over all of them."""
        inputs = [
            self.feeds[p.domain].training_batch(
                p.shown, mix if p.domain == self.target else None, p.partner
            )
            for p in pieces
        ]
        parts = tuple((p.domain, len(p.shown)) for p in pieces)
        batch = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        with autocast(self.device, self.train.precision):
            return self.forward(batch, parts)
