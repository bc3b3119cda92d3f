"""Distance as the accuracy with which source and target can be told apart.

"Best Practices for Fine-tuning Visual Classifiers to New Domains", §3.1, Table 2: a linear SVM on
fc7 features and a small convolutional network on pixels; 50 % means indistinguishable. The paper
states neither class balance nor split nor C: here as many images of each side, a stratified half
trains and the other half tests, then the two change places, C = 1. Beside the SVM stands a
logistic classifier fitted by L-BFGS, some nine times faster on wide features.

The network is Krizhevsky's small one for CIFAR-10: three 5 x 5 convolutions of 32, 32 and 64
filters on 32 x 32 pixels. Deviation: no local response normalisation and Adam instead of its long
SGD schedule; only two classes are to be told apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from analysis.statistics.corrections import generator
from bench.core.errors import DataError

if TYPE_CHECKING:
    import torch


Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]
Classifier = Callable[[Numbers, Flags, Numbers], Flags]
"""(train inputs, train is-target, test inputs) to the test images taken for target images."""


@dataclass(frozen=True)
class DomainAccuracy:
    """Which images were told right: (n,) source and (n,) target, each tested exactly once."""

    source_right: Flags
    target_right: Flags

    @property
    def accuracy(self) -> float:
        """Fraction told right, both sides weighing the same."""
        return float(self.source_right.mean() + self.target_right.mean()) / 2


def domain_accuracy(
    source: npt.ArrayLike, target: npt.ArrayLike, classifier: Classifier, seed: int = 0
) -> DomainAccuracy:
    """Cross-fitted accuracy of telling source from target: each half is tested by the other.

    Args:
        source, target: (n, …) inputs, as many of each.

    Raises:
        DataError: with unequal sizes or fewer than four images of each.
    """
    a, b = np.asarray(source), np.asarray(target)
    if len(a) != len(b) or len(a) < 4:
        raise DataError(
            f"{len(a)} source and {len(b)} target images for a domain classifier",
            hint="give equal numbers, four or more; equal_sizes of the distances draws them",
        )
    n = len(a)
    right = [np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)]
    orders = [generator("domain split", side, seed).permutation(n) for side in ("s", "t")]
    for first in (True, False):
        halves = [(o[: n // 2], o[n // 2 :]) for o in orders]
        (fit_a, test_a), (fit_b, test_b) = [h if first else h[::-1] for h in halves]
        inputs = np.concatenate([a[fit_a], b[fit_b]])
        is_target = np.arange(len(inputs)) >= len(fit_a)
        told = classifier(inputs, is_target, np.concatenate([a[test_a], b[test_b]]))
        right[0][test_a] = ~told[: len(test_a)]
        right[1][test_b] = told[len(test_a) :]
    return DomainAccuracy(right[0], right[1])


def linear_svm(c: float = 1.0, unfinished: list[int] | None = None) -> Classifier:
    """scikit-learn's LinearSVC on the features as they are.

    Args:
        unfinished: gets the number of iterations of each fit that did not converge in them.
    """

    def classify(train: Numbers, is_target: Flags, test: Numbers) -> Flags:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        model = LinearSVC(C=c, dual="auto", random_state=0, max_iter=20_000)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(train, is_target)
        for other in caught:
            if issubclass(other.category, ConvergenceWarning):
                if unfinished is not None:
                    unfinished.append(model.max_iter)
            else:
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        told: Flags = model.predict(test)
        return told

    return classify


def logistic(l2: float = 1.0, iterations: int = 200) -> Classifier:
    """Logistic regression by L-BFGS; minimises Σ log-loss + l2/2 · ‖w‖², offset not penalised.

    `l2` is the inverse of scikit-learn's C.
    """

    def classify(train: Numbers, is_target: Flags, test: Numbers) -> Flags:
        weights, offset = fit_logistic(train, is_target, l2, iterations)
        told: Flags = test @ weights.astype(test.dtype) + offset > 0
        return told

    return classify


def fit_logistic(
    x: Numbers, positive: Flags, l2: float = 1.0, iterations: int = 200
) -> tuple[Array, float]:
    """Weights (D,) and offset of a two-class logistic regression.

    Products are taken in the features' own precision, sums in float64.
    """
    from scipy.optimize import minimize

    sign = np.where(positive, 1.0, -1.0)
    centre = x.mean(axis=0)
    centred = x - centre

    def objective(parameters: Array) -> tuple[float, Array]:
        w, b = parameters[:-1], parameters[-1]
        margin = sign * (centred @ w.astype(x.dtype) + b)
        loss = float(np.logaddexp(0, -margin).sum()) + l2 / 2 * float(w @ w)
        pull = -sign / (1 + np.exp(np.clip(margin, -700, 700)))
        gradient = centred.T @ pull.astype(x.dtype) + l2 * w
        return loss, np.append(gradient, pull.sum())

    start = np.zeros(x.shape[1] + 1)
    options = {"maxiter": iterations, "gtol": 1e-6 * len(x)}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    weights: Array = found.x[:-1]
    return weights, float(found.x[-1] - weights @ centre)


def proxy_a_distance(error: float) -> float:
    """2 (1 - 2ε) of a domain classifier's error ε (Ben-David et al.): 0 at chance, 2 when perfect.

    >>> proxy_a_distance(0.0), proxy_a_distance(0.5)
    (2.0, 0.0)
    """
    if not 0 <= error <= 1:
        raise DataError(f"error {error} is not between 0 and 1")
    return 2 * (1 - 2 * error)


def cnn_domain_classifier(epochs: int = 8, batch_size: int = 64, seed: int = 0) -> Classifier:
    """The small CIFAR-10 network on pixels: inputs (n, 3, 32, 32), uint8 or float.

    The mean image of the training half is taken off, as in the original. Deterministic for one
    thread count. Other sizes are refused: resize to 32 x 32 first.
    """

    def classify(train: Numbers, is_target: Flags, test: Numbers) -> Flags:
        import torch

        for name, images in (("training", train), ("test", test)):
            if images.shape[1:] != (3, 32, 32):
                raise DataError(
                    f"{name} images have shape {images.shape[1:]}, not (3, 32, 32)",
                    hint="resize the images of both sides to 32 x 32 first",
                )
        scale = 255.0 if train.dtype == np.uint8 else 1.0
        x = torch.from_numpy(np.ascontiguousarray(train)).float() / scale
        centre = x.mean(dim=0)
        spread = x.sub(centre).std().clamp_min(1e-6)
        y = torch.from_numpy(is_target.copy()).float()
        order = torch.from_numpy(
            np.concatenate(
                [generator("domain order", seed, e).permutation(len(x)) for e in range(epochs)]
            )
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator("domain net", seed).integers(2**31)))
            net = _cifar_net()
            _fit(net, (x - centre) / spread, y, order, batch_size)
        held_out = torch.from_numpy(np.ascontiguousarray(test)).float() / scale
        with torch.no_grad():
            parts = [net((part - centre) / spread) for part in torch.split(held_out, 1024)]
        told: Flags = (torch.cat(parts)[:, 0] > 0).numpy()
        return told

    return classify


def _cifar_net() -> torch.nn.Sequential:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 1),
    )


def _fit(
    net: torch.nn.Sequential,
    x: torch.Tensor,
    y: torch.Tensor,
    order: torch.Tensor,
    batch_size: int,
) -> None:
    import torch

    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    loss_of = torch.nn.BCEWithLogitsLoss()
    for batch in torch.split(order, batch_size):
        optimiser.zero_grad()
        loss_of(net(x[batch])[:, 0], y[batch]).backward()
        optimiser.step()
