"""Samples of several images: one trunk for all views, their features side by side (SFT §3.1, §4.2).

SFT's baseline for actions sees the whole image and the person's box (V = 2), the Part Action
Network nine crops (V = 9). The trunk is shared; whether the paper's is, it does not say. The part
detector and the part actions are another paper's and are not here: crops are given as boxes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bench.errors import DataError, ModelError
from bench.models.domains import Trunk, classifier_name

__all__ = ["MultiView", "crop_views", "multi_view", "stack_views"]


class MultiView(nn.Module):
    """Views (n, V, 3, S, S), or one above the other (n, 3, V S, S), to logits (n, C).

    Args:
        trunk: images (n, 3, S, S) to features (n, D), the same for every view.
        head: the views' features side by side, (n, V D), to logits.
        views: V.

    >>> net = MultiView(nn.Flatten(), nn.Linear(2 * 12, 5), views=2)
    >>> net(torch.zeros(4, 2, 3, 2, 2)).shape, net(torch.zeros(4, 3, 4, 2)).shape
    (torch.Size([4, 5]), torch.Size([4, 5]))
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, views: int) -> None:
        super().__init__()
        if views < 1:
            raise ModelError(f"{views} views", hint="a sample has at least one")
        self.trunk, self.head, self.views = trunk, head, views

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """(n, V D): the features of the first view, then of the second …

        Raises:
            ModelError: another number of views.
        """
        views = self._views(images)
        found: Tensor = self.trunk(views.flatten(0, 1)).flatten(1)
        return found.view(len(views), -1)

    def _views(self, images: Tensor) -> Tensor:
        if images.ndim == 4 and images.shape[2] == self.views * images.shape[3]:
            n, channels, _, side = images.shape
            apart = images.reshape(n, channels, self.views, side, side)
            return apart.transpose(1, 2).contiguous()
        if images.ndim == 5 and images.shape[1] == self.views:
            return images
        raise ModelError(
            f"samples of shape {tuple(images.shape[1:])}, but the network takes {self.views} views",
            hint="give (n, V, 3, S, S), or the views one above the other: (n, 3, V S, S)",
        )


def multi_view(model: nn.Module, views: int, num_classes: int, *, seed: int) -> MultiView:
    """A network whose classifier sees `views` images; with one view it is the network itself.

    Args:
        model: any timm network; its weights are shared, not copied.
        views: V.
        num_classes: C; of no account for one view, which keeps the classifier.
        seed: of the new classifier's weights.

    Raises:
        ModelError: there is no classifier, or it is not one linear layer.
    """
    classifier = model.get_submodule(classifier_name(model))
    trunk = Trunk(model, classifier)
    if views == 1:
        return MultiView(trunk, classifier, 1)
    inner = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    if len(inner) != 1:
        raise ModelError(
            f"the classifier has {len(inner)} linear layers, so it cannot simply be made wider",
            hint="choose a network whose classifier is one linear layer",
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        wider = nn.Linear(views * inner[0].in_features, num_classes)
    if inner[0] is classifier:
        return MultiView(trunk, wider, views)
    head = copy.deepcopy(classifier)  # with its dropout or flattening
    name = next(name for name, module in classifier.named_modules() if module is inner[0])
    parent, _, last = name.rpartition(".")
    setattr(head.get_submodule(parent), last, wider)
    return MultiView(trunk, head, views)


def crop_views(
    image: NDArray[np.uint8], boxes: NDArray[np.floating], size: int
) -> NDArray[np.uint8]:
    """The views of one image, bilinearly resized.

    Args:
        image: uint8 (H, W, 3).
        boxes: (V, 4): left, top, right, bottom in pixels; may be fractions of pixels.
        size: side of each view in pixels.

    Returns:
        uint8 (V, size, size, 3).

    Raises:
        DataError: a box that is empty or reaches beyond the image.

    >>> crop_views(np.zeros((8, 6, 3), np.uint8), np.array([[0, 0, 6, 8], [1, 1, 3, 3]]), 4).shape
    (2, 4, 4, 3)
    """
    height, width = image.shape[:2]
    whole = Image.fromarray(image)
    views = []
    for number, box in enumerate(boxes):
        left, top, right, bottom = (float(edge) for edge in box)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DataError(
                f"box {number} is {left:g}, {top:g}, {right:g}, {bottom:g} "
                f"in an image of {width} x {height}",
                hint="give left, top, right, bottom in pixels, inside the image",
            )
        view = whole.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        views.append(np.asarray(view))
    return np.stack(views)


def stack_views(views: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, V, S, S, 3) to (N, V S, S, 3): the views one above the other, as a domain holds them.

    Mirroring such an image mirrors each view; shifts would mix them: augment with none or flip.
    """
    count, number, size = views.shape[:3]
    return views.reshape(count, number * size, size, 3)
