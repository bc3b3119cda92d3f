"""Linear classifiers on fixed features: one-against-rest SVM and multinomial logistic regression.

Two solvers of the same two convex problems, X (N, D) features, y the labels, C > 0:

    squared_hinge   |W, b|^2 / 2 + C sum_i sum_c max(0, 1 - s_ic (W_c x_i + b_c))^2,  s = 1 or -1
    logistic        |W|^2 / 2    + C sum_i -log softmax(W x_i + b)[y_i]

scikit-learn's where the features fit in memory (its LinearSVC penalises the bias too), L-BFGS over
blocks of rows where they do not (conv1 of CaffeNet has 69,984 per image). Both problems have one
solution, so the two agree. Where a pass over the features is dear, it stops
after 40 iterations for all C together: on conv1's maps of noisy digits within 0.01 of the exact
solver's accuracy (a test), where averaged SGD, of one step size, was 0.02 to 0.03 below after 20
passes. Natural images have not been tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.core.errors import DataError
from bench.training.domain_batches import BATCH_SIZE, DeviceRows, images_at_most

Loss = Literal["squared_hinge", "logistic"]
Features = NDArray[np.float32]
Labels = NDArray[np.int64]

_WEIGHTS_HELD = 25
"""Times the weights that L-BFGS holds, with its history."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Scores are `features @ weight.T + bias`: float32 (C, D) and (C,).

    `passes` over the features were needed, together with other values of C; 0 where they were in
    memory.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    converged: bool
    passes: int = 0

    def scores(self, features: Features) -> NDArray[np.float32]:
        """(n, D) to (n, C)."""
        found: NDArray[np.float32] = features @ self.weight.T + self.bias
        return found


def _check(labels: Labels, classes: int) -> None:
    absent = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(absent):
        raise DataError(
            f"{len(absent)} of {classes} classes have no training image",
            hint="give every class at least one (images_per_class)",
        )
    if classes < 2:
        raise DataError("one class alone needs no classifier", hint="select two or more")


def fit_in_memory(
    features: Features, labels: Labels, classes: int, *, loss: Loss, c: float, max_iter: int = 1000
) -> Linear:
    """The solution by scikit-learn (LinearSVC or LogisticRegression).

    Args:
        features: (N, D).
        labels: (N,), 0 to classes - 1, each there at least once.
        classes: C.
        loss: which problem.
        c: C of the formulas above.
        max_iter: of the solver; `converged` is false when it did not suffice.

    Raises:
        DataError: fewer than two classes, or one without an image.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    _check(labels, classes)
    # Two classes are one problem to scikit-learn: w = W_1 - W_0 has half the penalty of W.
    pair = classes == 2
    if loss == "squared_hinge":
        solver: Any = LinearSVC(C=c, max_iter=max_iter, dual="auto", random_state=0)
    else:
        solver = LogisticRegression(C=2 * c if pair else c, max_iter=max_iter, tol=1e-5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        solver.fit(features, labels)
    weight, bias = np.asarray(solver.coef_), np.asarray(solver.intercept_)
    if pair:
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
        if loss == "logistic":
            weight, bias = weight / 2, bias / 2
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return Linear(weight.astype(np.float32), bias.astype(np.float32), converged)


@dataclass(frozen=True)
class Blocks:
    """Features are read `rows` at a time; products run on `device` in `dtype`, sums in float64."""

    rows: int = 1024
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32


def fit_streaming(
    features: Features,
    labels: Labels,
    classes: int,
    *,
    loss: Loss,
    c: Sequence[float],
    max_iter: int = 1000,
    blocks: Blocks = Blocks(),
) -> list[Linear]:
    """The solutions for several C by L-BFGS, side by side: one pass over the features serves all.

    The problems are solved as one, whose value is the sum of theirs, so that they share passes and
    the lengths of steps. An iteration is one pass, now and then two.

    Args:
        features: (N, D), perhaps mapped from a file.
        labels, classes, loss, max_iter: as in `fit_in_memory`.
        c: values of C.
        blocks: how features are read; memory is about rows x D x 4 bytes and, for each C, 25 times
            C x D x 4. A GPU holds all features where they take less than half of its free memory.

    Raises:
        DataError: as `fit_in_memory`.
    """
    _check(labels, classes)
    problem = _Problems(features, labels, classes, loss, c, blocks)
    solver = torch.optim.LBFGS(
        [problem.weight],
        max_iter=max_iter,
        max_eval=2 * max_iter,
        history_size=10,
        tolerance_grad=1e-7 if blocks.dtype == torch.float64 else 1e-5,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )
    solver.step(problem)  # type: ignore[no-untyped-call]
    iterations = solver.state[problem.weight]["n_iter"]
    converged = iterations < max_iter and problem.passes < 2 * max_iter
    return [
        Linear(part[:, :-1].copy(), part[:, -1].copy(), converged, problem.passes)
        for part in problem.weight.detach().float().cpu().numpy()
    ]


class _Problems:
    """One problem for each C at one `weight` (number of C, classes, D + 1); the bias is last."""

    def __init__(
        self,
        features: Features,
        labels: Labels,
        classes: int,
        loss: Loss,
        c: Sequence[float],
        blocks: Blocks,
    ) -> None:
        self.blocks = blocks
        self.loss, self.penalise_bias = _LOSSES[loss], loss == "squared_hinge"
        shape, device = (len(c), classes, features.shape[1] + 1), torch.device(blocks.device)
        self.weight = torch.zeros(shape, dtype=blocks.dtype, device=device, requires_grad=True)
        besides = _WEIGHTS_HELD * self.weight.nbytes
        fits = images_at_most() == BATCH_SIZE  # else this run has been short of GPU memory
        self.features = DeviceRows(features, device, resident=fits, besides=besides)
        self.labels = torch.from_numpy(labels).to(device)
        # Values are of the order of a mean loss: the solver's tolerances are absolute.
        self.scales = [1 / (one * len(labels)) for one in c]
        self.passes = 0

    def __call__(self) -> float:
        """The sum of the problems' values; leaves the gradient at `weight`."""
        self.passes += 1
        count, rows = len(self.labels), self.blocks.rows
        gradient = torch.zeros_like(self.weight)
        total = gradient.new_zeros((), dtype=torch.float64)  # a GPU is waited for at the end
        with torch.no_grad():
            w, b = self.weight[..., :-1], self.weight[..., -1:]
            for start in range(0, count, rows):
                x = self.features.between(start, start + rows).to(self.weight.dtype)
                y = self.labels[start : start + rows]
                parts = [self.loss(x @ one.T + bias.T, y) for one, bias in zip(w, b, strict=True)]
                total += sum(value for value, _ in parts) / count
                slopes = torch.stack([slope.T for _, slope in parts]) / count
                gradient[..., :-1] += slopes @ x
                gradient[..., -1] += slopes.sum(2)
            penalised = self.weight if self.penalise_bias else w
            for scale, one, slope in zip(self.scales, penalised, gradient, strict=True):
                total += 0.5 * scale * one.double().square().sum()
                slope[:, : one.shape[1]] += scale * one
        self.weight.grad = gradient
        return float(total)


def _squared_hinge(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over images and classes, and its slope with respect to the scores."""
    signs = torch.full_like(scores, -1.0)
    signs.scatter_(1, labels[:, None], 1.0)
    gap = (1 - signs * scores).clamp_(min=0)
    return gap.double().square().sum(), -2 * signs * gap


def _logistic(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    slope = scores.softmax(1)
    slope[torch.arange(len(labels), device=labels.device), labels] -= 1
    return cross_entropy(scores.double(), labels, reduction="sum"), slope


_LOSSES: dict[Loss, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "squared_hinge": _squared_hinge,
    "logistic": _logistic,
}
