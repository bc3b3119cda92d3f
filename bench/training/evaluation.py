"""Predictions of a network and the measures computed from them.

Everything is a fraction in [0, 1] or nats; nothing here looks at training state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import DataError
from bench.training.data_parallel import ALONE, Team
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions
from bench.training.precision import autocast

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def predict(
    forward: Callable[[Tensor], Tensor],
    data: Domain,
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    channels_last: bool = True,
) -> Logits:
    """Class scores of all images of `data`, not augmented.

    Args:
        forward: normalised float32 (n, 3, S, S) to logits (n, C). A module should be in evaluation
            mode; that is the caller's to set.
        data: images with their normalisation; labels are not read.

    Returns:
        float32 (N, C), ready for `numpy.savez`.

    >>> toy = Domain("toy", np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64), 1)
    >>> predict(lambda x: x.flatten(1)[:, :2], toy).shape
    (3, 2)
    """
    options = FeedOptions(torch.device(device), channels_last, precision, resident=False)
    return predict_feed(forward, Feed(data, options), batch_size)


def predict_feed(
    forward: Callable[[Tensor], Tensor],
    feed: Feed,
    batch_size: int | None = None,
    team: Team = ALONE,
) -> Logits:
    """As `predict`, from batches that are already prepared (perhaps past a frozen prefix).

    The batches are shared out over the processes of `team`, who all get the logits of all images.
    """
    options, size = feed.options, feed.domain.size
    batch_size = batch_size or feed.images_per_pass
    if not size:
        raise DataError(f"domain {feed.domain.name!r} has no image to predict")
    chunks = {}
    with torch.inference_mode():
        for start in range(team.rank * batch_size, size, team.size * batch_size):
            inputs = feed.plain_batch(start, start + batch_size)
            with autocast(options.device, options.precision):
                chunks[start] = forward(inputs).float()
        logits: Logits = team.gather_logits(chunks, size).cpu().numpy()
    return logits


def top1_accuracy(logits: Logits, labels: Labels) -> float:
    """The fraction of images whose highest score is their class; ties go to the lower class.

    >>> top1_accuracy(np.array([[2.0, 1.0], [0.0, 1.0]], np.float32), np.array([0, 0]))
    0.5
    """
    return float(np.mean(logits.argmax(1) == labels))


STUCK = 0.98
"""A run learned nothing whose training loss stayed above this share of chance in every epoch."""


def chance_loss(labels: NDArray[np.int64]) -> float:
    """Cross-entropy in nats of predicting each class by its frequency: the entropy of the labels.

    >>> round(chance_loss(np.array([0, 0, 1, 1])), 4)
    0.6931
    """
    shares = np.bincount(labels)[np.unique(labels)] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def stayed_at_chance(
    losses: Sequence[float | None], labels: NDArray[np.int64], *, alike: bool = False
) -> bool:
    """Whether no epoch's mean training loss fell below `STUCK` x `chance_loss`.

    Args:
        losses: of each epoch, in nats; epochs in which no image of the target was shown have none.
        labels: of the training images.
        alike: classes are shown or weighed alike, so that chance is an equal share for each.

    >>> stayed_at_chance([1.40, 1.38], np.arange(4)), stayed_at_chance([1.40, 1.20], np.arange(4))
    (True, False)
    """
    known = [loss for loss in losses if loss is not None]
    chance = chance_loss(np.unique(labels) if alike else labels)
    return bool(known) and min(known) > STUCK * chance


def mean_class_accuracy(logits: Logits, labels: Labels) -> float:
    """The unweighted mean over classes of the fraction of a class's images that are right.

    Classes without an image do not count (ledger X-5, GE, SFT).

    >>> scores = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float32)
    >>> mean_class_accuracy(scores, np.array([0, 0, 0, 1]))
    0.5
    """
    right = logits.argmax(1) == labels
    classes = logits.shape[1]
    count = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right, minlength=classes)
    present = count > 0
    return float(np.mean(hits[present] / count[present]))


def mean_average_precision(scores: Logits, labels: Labels) -> float:
    """The mean over classes of their `average_precisions` (mAP); of those with an image.

    >>> mean_average_precision(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    1.0
    """
    return float(np.mean(list(average_precisions(scores, labels).values())))


def average_precisions(scores: Logits, labels: Labels) -> dict[int, float]:
    """The average precision of each class's score as its detector, by label.

    AP = sum over thresholds of (R_n - R_n-1) P_n, one class against the rest, all images with
    equal scores at one threshold, nothing interpolated. Classes without an image have none.
    """
    found = {}
    for label in np.unique(labels).tolist():
        order = np.argsort(-scores[:, label], kind="stable")
        ranked, hits = scores[order, label], np.cumsum(labels[order] == label)
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        gained = np.diff(hits[last], prepend=0)
        found[label] = float((gained * hits[last] / (last + 1)).sum() / hits[-1])
    return found


def softmax(logits: Logits) -> Logits:
    """Probabilities of the classes, float32 (N, C); computed in double precision."""
    scores = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares: Logits = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    return shares


def cross_entropy(logits: Logits, labels: Labels) -> float:
    """Mean of -log softmax(logits)[label], in nats, summed in double precision.

    Not finite when the logits are not.

    >>> round(cross_entropy(np.zeros((1, 4), np.float32), np.array([2])), 4)
    1.3863
    """
    scores = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = scores - scores.max(1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(1))
        return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


def epochs_to_threshold(
    history: Sequence[Mapping[str, float | int | None]],
    threshold: float,
    column: str = "train_top1_accuracy",
) -> int | None:
    """The number of epochs until `column` first reaches `threshold` (SFT Fig. 5); None if never.

    >>> epochs_to_threshold([{"train_top1_accuracy": a} for a in (0.3, 0.7, 0.9)], 0.7)
    2
    """
    for finished, row in enumerate(history, start=1):
        value = row[column]
        if value is not None and value >= threshold:
            return finished
    return None


def epochs_to_converge(
    history: Sequence[Mapping[str, float | int | None]],
    share: float = 0.95,
    column: str = "train_top1_accuracy",
) -> int | None:
    """The number of epochs until `column` first reaches a share of its last value.

    None without a last value. A network that is accurate at once has converged at once, however
    high its accuracy is (LI Fig. 5: fine-tuning against training from scratch).

    >>> epochs_to_converge([{"train_top1_accuracy": a} for a in (0.3, 0.78, 0.8)])
    2
    """
    last = history[-1][column] if history else None
    return None if last is None else epochs_to_threshold(history, share * last, column)
