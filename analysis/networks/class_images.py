"""Images that a network takes for the very idea of a class.

"A Multifaceted Analysis of Fine-tuning in Deep Model for Visual Recognition", §4.3.3, Fig. 11,
after Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", §2:

    I_c = argmax_I  S_c(I) - λ ‖I‖²

S_c is the class's score before softmax, I the image as the network sees it, from which the mean is
subtracted; the ascent begins at I = 0 and the mean is added back when the image is shown. The step
sizes are not stated there. Here the t-th step (from 0) is 1 / (λ (t + 2)) along the gradient, so

    I ← (t I + 2 ∇S_c(I) / 2λ) / (t + 2)

is a running mean of gradients: no learning rate, never longer than the largest gradient over 2λ,
and for a linear score w·I + b the exact w / 2λ after one step. The best image on the way is kept.
(A line search is no help: scores of ReLU networks have kinks, at which it stops short.)
Deviations: I is also divided by the channels' standard deviations, as networks here are trained; λ
is not stated either, see `Ascent`. Jitter and blur, which later work adds, are off by default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from analysis.statistics.corrections import generator
from bench.core.errors import DataError
from bench.data.colours import IMAGENET_STD

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


Contrast = Literal["stretched", "as is"]
_BATCH = 32


@dataclass(frozen=True)
class Ascent:
    """How a class image is looked for.

    Attributes:
        l2: λ, in points of score per unit of ‖I‖²; None takes `contrast_cost` divided by the number
            of values of an image, 3 S², and by the mean square of a photograph's values as the
            network takes them, so that one choice suits images of every size and every scale.
        contrast_cost: points of score that an image costs whose values have the root mean square of
            a photograph's: 1 after division by ImageNet's deviation, 58 on Caffe's scale.
        steps: of ascent.
        jitter: moves the image by up to so many pixels, another way at each step, wrapped around.
        blur: standard deviation in pixels of a Gaussian that smooths the image after each step.
        seed: of the jitter.

    Raises:
        DataError: for a number that makes no sense.
    """

    l2: float | None = None
    contrast_cost: float = 30.0
    steps: int = 200
    jitter: int = 0
    blur: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("contrast_cost", 1e-9), ("steps", 1), ("jitter", 0), ("blur", 0)):
            value = getattr(self, name)
            if not low <= value < float("inf"):
                raise DataError(f"{name} is {value}", hint=f"give a number from {low:g} on")
        if self.l2 is not None and not 0 < self.l2 < float("inf"):
            raise DataError(
                f"l2 is {self.l2}",
                hint="give a number above 0: without a penalty there is no largest score",
            )


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Class images and what they reach.

    Attributes:
        images: (N, 3, S, S) float32, as the network sees them: 0 is the mean colour.
        scores: (N,) S_c before softmax.
        objectives: (N,) S_c - λ‖I‖².
        probabilities: (N,) of the class after softmax.
        start_scores: (N,) S_c of the mean image, where the ascent began.
        l2: λ.
    """

    images: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64]
    objectives: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    start_scores: npt.NDArray[np.float64]
    l2: float

    @property
    def rms(self) -> npt.NDArray[np.float64]:
        """(N,) root mean square of each image's values; 0: its score did not move the image."""
        squares = np.square(self.images.astype(np.float64)).mean(axis=(1, 2, 3))
        found: npt.NDArray[np.float64] = np.sqrt(squares)
        return found


def class_images(
    model: nn.Module,
    classes: Sequence[int],
    size: int,
    options: Ascent | None = None,
    device: torch.device | str = "cpu",
) -> ClassImages:
    """The class images of some of a network's classes (LI §4.3.3).

    Args:
        model: gives scores (N, C) before softmax for inputs (N, 3, size, size); its modes are left
            as they were, and it is moved to `device`.
        classes: numbers of its outputs.
        size: side of the images in pixels.
        options: penalty, steps and the like.

    Raises:
        DataError: no class or a number that the network does not have, or a score that is not
            finite.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> found = class_images(net, [1], 2, Ascent(l2=0.5, steps=5))
    >>> bool(np.allclose(found.images[0].ravel(), net[1].weight[1].detach().numpy(), atol=1e-6))
    True
    """
    import torch

    options = options or Ascent()
    if not classes:
        raise DataError("no class is asked for", hint="name one class or more")
    l2 = options.l2
    if l2 is None:
        l2 = options.contrast_cost / (3 * size * size * _photograph_mean_square(model))
    model.to(device)
    with _evaluating(model):
        with torch.no_grad():
            outputs = model(torch.zeros(1, 3, size, size, device=device))
        if outputs.ndim != 2:
            raise DataError(f"the network gives shape {tuple(outputs.shape)}, not (N, classes)")
        wrong = [c for c in classes if not 0 <= c < outputs.shape[1]]
        if wrong:
            raise DataError(
                f"class {wrong[0]} is asked for", hint=f"classes: 0 to {outputs.shape[1] - 1}"
            )
        starts = range(0, len(classes), _BATCH)
        parts = [_ascend(model, classes[s : s + _BATCH], size, l2, options, device) for s in starts]
    images, objectives = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    scores, chances = (np.concatenate([part[i] for part in parts]) for i in (2, 3))
    first = outputs[0].double().cpu().numpy()[list(classes)]
    return ClassImages(images, scores, objectives, chances, first, l2)


def _photograph_mean_square(model: nn.Module) -> float:
    """Of a photograph's values as the network takes them; 1 where ImageNet's deviation divides."""
    from bench.models.inputs import attached

    ratios = np.divide(IMAGENET_STD, attached(model).std)
    return float(np.square(ratios).mean())


def _ascend(
    model: nn.Module,
    classes: Sequence[int],
    size: int,
    l2: float,
    options: Ascent,
    device: torch.device | str,
) -> tuple[npt.NDArray[np.float32], *tuple[npt.NDArray[np.float64], ...]]:
    """Images, objectives, scores and probabilities of a batch of classes."""
    import torch

    rows, wanted = torch.arange(len(classes)), torch.tensor(list(classes))
    rng = generator("class images, jitter", options.seed)
    image = torch.zeros(len(classes), 3, size, size, device=device)
    best, best_value = image, torch.full((len(classes),), -torch.inf, device=device)

    def judged(x: Tensor) -> tuple[Tensor, Tensor]:
        scores = model(x)[rows, wanted]
        return scores, scores - l2 * x.square().sum((1, 2, 3))

    for step in range(options.steps + 1):
        image = image.detach().requires_grad_()
        move = _move(rng, options.jitter)
        scores, values = judged(torch.roll(image, move, (2, 3)) if any(move) else image)
        if not bool(torch.isfinite(scores).all()):
            raise DataError("a class's score is not finite", hint="the training has diverged")
        better = values.detach() > best_value
        best = torch.where(better[:, None, None, None], image.detach(), best)
        best_value = torch.where(better, values.detach(), best_value)
        if step == options.steps:
            break
        (gradient,) = torch.autograd.grad(scores.sum(), image)
        image = (step * image.detach() + gradient / l2) / (step + 2)
        if options.blur:
            image = _blurred(image, options.blur)
    # With jitter the values of two steps are of unlike places: only the last image is comparable.
    kept = image.detach() if options.jitter else best
    with torch.no_grad():
        scores, values = judged(kept)
        chances = model(kept).softmax(1)[rows, wanted]
    numbers = (t.double().cpu().numpy() for t in (values, scores, chances))
    return (kept.float().cpu().numpy(), *numbers)


def _move(rng: np.random.Generator, jitter: int) -> tuple[int, int]:
    if not jitter:
        return (0, 0)
    down, right = rng.integers(-jitter, jitter + 1, 2).tolist()
    return (int(down), int(right))


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, the border repeated."""
    import torch
    from torch.nn import functional

    reach = min(max(1, round(3 * sigma)), images.shape[-1] - 1)
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    n, c, h, w = images.shape
    x = functional.pad(images.reshape(n * c, 1, h, w), (reach,) * 4, mode="replicate")
    x = functional.conv2d(x, kernel.view(1, 1, -1, 1))
    return functional.conv2d(x, kernel.view(1, 1, 1, -1)).reshape(n, c, h, w)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


_PEAK, _QUANTILE = 0.45, 0.99
"""Stretched, this quantile of an image's values is drawn so far from the mean colour."""


def shown(
    images: npt.ArrayLike,
    mean: Sequence[float],
    std: Sequence[float],
    contrast: Contrast = "stretched",
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Class images as pixels, the mean added back.

    Args:
        images: (N, 3, S, S) as the network sees them.
        mean, std: per colour channel, as fractions of 255.
        contrast: `as is`, or each image scaled about the mean colour so that the 99th percentile of
            its distances from it is 0.45 of the range; the pictures of unlike networks can then be
            compared in form, not in strength.

    Returns:
        (N, S, S, 3) uint8, and (N,) the share of values cut off at black or white.

    >>> pixels, cut = shown(np.zeros((1, 3, 2, 2)), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> int(pixels[0, 0, 0, 0]), float(cut[0])
    (128, 0.0)
    """
    away = np.asarray(images, dtype=np.float64) * np.asarray(std)[:, None, None]
    if contrast == "stretched":
        spread = np.quantile(np.abs(away), _QUANTILE, axis=(1, 2, 3), keepdims=True)
        away = away * np.divide(_PEAK, spread, out=np.ones_like(spread), where=spread > 0)
    values = away + np.asarray(mean)[:, None, None]
    cut = ((values < 0) | (values > 1)).mean(axis=(1, 2, 3))
    pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1), cut
