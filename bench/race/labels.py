"""What features of the network say of the labels: which look wrong, and what more of them would do.

Every image is classified by a logistic regression that was not fitted to it (five folds, groups
kept together). Where such a classifier is sure of another class than the label, a person should
look (confident learning: Northcutt, Jiang, Chuang 2021, JAIR 70). The same with half of the images
shows how accuracy grows with their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from bench.data.dataset import Image
from bench.exports.network import trunk_of
from bench.methods.features.linear_probe import penultimate_features
from bench.methods.features.solvers import fit_in_memory
from bench.results.mistakes import paired_interval
from bench.results.store import RunFolder
from bench.runs.build import Context, Loader
from bench.training.evaluation import softmax
from bench.training.process import one_thread

FOLDS = 5
C = 0.1
SURE, UNLIKELY = 0.9, 0.05
"""A label is suspicious whose probability is below the second, another class's above the first."""


@dataclass(frozen=True)
class Suspicious:
    """An image whose label looks wrong.

    Attributes:
        image: its key: the path below the folder.
        label, looks_like: class names.
        probability: of `looks_like`.
        of_label: probability of `label`.
    """

    image: str
    label: str
    looks_like: str
    probability: float
    of_label: float


@dataclass(frozen=True)
class Labels:
    """What was seen of the labels.

    Attributes:
        images: how many were looked at.
        suspicious: the surest first.
        accuracy, with_half: out of fold, fitted to four fifths of the images, and to half of these.
        gain: 95 % interval of the difference, over the images; None where these come in groups.
    """

    images: int
    suspicious: tuple[Suspicious, ...]
    accuracy: float
    with_half: float
    gain: tuple[float, float] | None = None

    @property
    def doubled(self) -> str:
        """What twice as many labels gave, and whether that can be told from no gain."""
        points = f"{100 * (self.accuracy - self.with_half):+.1f}"
        shares = f"from {100 * self.with_half:.1f} to {100 * self.accuracy:.1f} %"
        if self.gain is None:
            return f"{points} points ({shares}; no interval, as images come in groups)"
        low, high = (100 * value for value in self.gain)
        told = "" if low > 0 or high < 0 else ", not distinguishable from no gain"
        return f"{points} ({low:+.1f} to {high:+.1f}) points{told} ({shares})"


def _group(image: Image) -> tuple[str, str]:
    return ("image", image.key) if image.group is None else ("group", image.group)


def look_at_labels(folder: RunFolder, context: Context) -> Labels | None:
    """Looks at the training and validation images of a run on features; None if they are too few.

    Args:
        folder: of a run whose network copies weights that have not seen these labels.
        context: where its images lie.
    """
    spec = folder.spec()
    data = Loader(context)(spec).joined()
    if min(np.bincount(data.loaded.labels[data.loaded.train])) < FOLDS:
        return None
    network = trunk_of(spec, folder, len(data.loaded.classes))
    domain, device = data.domain("train", network), context.torch_device()
    with one_thread():  # as in the workers, which have kept them
        x = penultimate_features(network, domain, device, context.cache / "features")
    images = data.resolved.train
    numbers = {name: n for n, name in enumerate(dict.fromkeys(map(_group, images)))}
    groups = np.array([numbers[_group(image)] for image in images])
    shares = out_of_fold(x, domain.labels, domain.num_classes, groups)
    half = out_of_fold(x, domain.labels, domain.num_classes, groups, share=0.5)
    right, half_right = (found.argmax(1) == domain.labels for found in (shares, half))
    gain = paired_interval(right, half_right)[1:] if len(numbers) == len(images) else None
    names = data.loaded.classes
    keys = [image.key for image in images]
    return Labels(
        domain.size,
        suspicious(keys, names, domain.labels, shares),
        float(np.mean(right)),
        float(np.mean(half_right)),
        gain,
    )


def out_of_fold(
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    groups: NDArray[np.int64],
    share: float = 1.0,
) -> NDArray[np.float32]:
    """Probabilities (N, classes) of each image by classifiers fitted to other groups.

    Args:
        x: float32 (N, D) features.
        labels: int64 (N,).
        classes: C.
        groups: (N,) images of one number stay together.
        share: of the images of the other folds that are fitted to, of each class alike.
    """
    found = np.zeros((len(x), classes), np.float32)
    rng = np.random.default_rng(0)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fitted, held in folds.split(x, labels, groups):
        if share < 1:
            parts = [rng.permutation(fitted[labels[fitted] == k]) for k in range(classes)]
            fitted = np.concatenate([part[: max(1, round(share * len(part)))] for part in parts])
        linear = fit_in_memory(
            x[fitted], labels[fitted], classes, loss="logistic", c=C, max_iter=300
        )
        found[held] = softmax(linear.scores(x[held]))
    return found


def suspicious(
    images: list[str],
    names: tuple[str, ...],
    labels: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> tuple[Suspicious, ...]:
    """The images whose label is unlikely and another class is sure, the surest first."""
    likeliest = shares.argmax(1)
    found = [
        Suspicious(
            images[n],
            names[labels[n]],
            names[likeliest[n]],
            float(shares[n, likeliest[n]]),
            float(shares[n, labels[n]]),
        )
        for n in range(len(labels))
        if shares[n, likeliest[n]] > SURE and shares[n, labels[n]] < UNLIKELY
    ]
    return tuple(sorted(found, key=lambda one: (one.of_label, one.image)))
