"""Linear classifiers on fixed features: one-against-rest SVM and multinomial logistic regression.

Two solvers of the same two convex problems, X (N, D) features, y the labels, C > 0:

    squared_hinge   |W, b|^2 / 2 + C sum_i sum_c max(0, 1 - s_ic (W_c x_i + b_c))^2,  s = 1 or -1
    logistic        |W|^2 / 2    + C sum_i -log softmax(W x_i + b)[y_i]

scikit-learn's where the features fit in memory (its LinearSVC penalises the bias too), L-BFGS over
blocks of rows where they do not (conv1 of CaffeNet has 69,984 per image). Both problems have one
solution, so the two agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.core.errors import DataError

Loss = Literal["squared_hinge", "logistic"]
Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Linear:
    """Scores are `features @ weight.T + bias`: float32 (C, D) and (C,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    converged: bool

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


def fit_streaming(
    features: Features,
    labels: Labels,
    classes: int,
    *,
    loss: Loss,
    c: float,
    max_iter: int = 1000,
    rows: int = 1024,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Linear:
    """The solution by L-BFGS; features are read `rows` at a time, once per evaluation.

    Args:
        features: (N, D), perhaps mapped from a file.
        labels, classes, loss, c, max_iter: as in `fit_in_memory`.
        rows: of a block; memory is about rows x D x 4 bytes and 25 times C x D x 4.
        device: where the matrix products run.
        dtype: of the products; sums over images are in float64.

    Raises:
        DataError: as `fit_in_memory`.
    """
    _check(labels, classes)
    count, columns = features.shape
    target = torch.device(device)
    weight = torch.zeros(classes, columns + 1, dtype=dtype, device=target, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight],
        max_iter=max_iter,
        max_eval=2 * max_iter,
        history_size=10,
        tolerance_grad=1e-7 if dtype == torch.float64 else 1e-5,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )
    penalise_bias = loss == "squared_hinge"
    scale = 1 / (c * count)  # of the order of a mean loss: the solver's tolerances are absolute
    evaluations = 0

    def value() -> float:
        """The problem's value at `weight`; leaves the gradient there."""
        nonlocal evaluations
        evaluations += 1
        total, gradient = 0.0, torch.zeros_like(weight)
        with torch.no_grad():
            w, b = weight[:, :-1], weight[:, -1]
            for start in range(0, count, rows):
                block = np.ascontiguousarray(features[start : start + rows])
                x = torch.from_numpy(block).to(target, dtype)
                y = torch.from_numpy(labels[start : start + rows]).to(target)
                part, slope = _LOSSES[loss](x @ w.T + b, y)
                total += part
                gradient[:, :-1] += slope.T @ x
                gradient[:, -1] += slope.sum(0)
            penalised = weight if penalise_bias else w
            total = total / count + 0.5 * scale * float(penalised.double().square().sum())
            gradient /= count
            gradient[:, :-1] += scale * w
            if penalise_bias:
                gradient[:, -1] += scale * b
        weight.grad = gradient
        return float(total)

    solver.step(value)  # type: ignore[no-untyped-call]
    done = solver.state[weight]["n_iter"] < max_iter and evaluations < 2 * max_iter
    found = weight.detach().float().cpu().numpy()
    return Linear(found[:, :-1].copy(), found[:, -1].copy(), bool(done))


def _squared_hinge(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Sum over images and classes, and its slope with respect to the scores."""
    signs = torch.full_like(scores, -1.0)
    signs.scatter_(1, labels[:, None], 1.0)
    gap = (1 - signs * scores).clamp_(min=0)
    return float(gap.double().square().sum()), -2 * signs * gap


def _logistic(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    slope = scores.softmax(1)
    slope[torch.arange(len(labels), device=labels.device), labels] -= 1
    return float(cross_entropy(scores.double(), labels, reduction="sum")), slope


_LOSSES: dict[Loss, Callable[[Tensor, Tensor], tuple[float, Tensor]]] = {
    "squared_hinge": _squared_hinge,
    "logistic": _logistic,
}
