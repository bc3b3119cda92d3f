"""Samples of several images: one trunk for all views, their features side by side (SFT §3, §4.2).

SFT's baseline for actions sees the whole image and the person's box (V = 2), the Part Action
Network nine crops (V = 9). The trunk is shared; whether the paper's is, it leaves open. The part
detector and the part actions are another paper's and are not here: crops are given as boxes
(`bench.data.transforms.views`).

A batch of n samples is n V images, the V views of the first sample, then those of the second …, so
that all of a network but its classifier sees images as always.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core.errors import ModelError
from bench.core.seeding import seed_from
from bench.models.domains import Trunk, classifier_name
from bench.models.heads import side_by_side
from bench.models.layers import create
from bench.specs.run import ModelSpec


class MultiView(nn.Module):
    """Images (n V, 3, S, S) to logits (n, C).

    Args:
        trunk: images to features (n V, D), the same for every view.
        head: the views' features side by side, (n, V D), to logits.
        views: V.

    >>> net = MultiView(nn.Flatten(), nn.Linear(2 * 12, 5), views=2)
    >>> net(torch.zeros(8, 3, 2, 2)).shape
    torch.Size([4, 5])
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, views: int) -> None:
        super().__init__()
        if views < 1:
            raise ModelError(f"{views} views", hint="a sample has at least one")
        self.trunk, self.head, self.views = trunk, head, views

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits.flatten(1)

    def features(self, images: Tensor) -> Tensor:
        """(n, V D), what the classifier is handed.

        Raises:
            ModelError: the images are not V for each sample.
        """
        if len(images) % self.views:
            raise ModelError(
                f"{len(images)} images are no whole number of samples with {self.views} views",
                hint="give the views of each sample one after the other",
            )
        return side_by_side(self.trunk(images), len(images) // self.views)


def viewing(model: nn.Module, views: int) -> nn.Module:
    """The network as a function of samples: itself for one view.

    Args:
        model: a network whose classifier takes V views (`widen_classifier`); shared, not copied.
        views: V.
    """
    if views == 1:
        return model
    classifier = model.get_submodule(classifier_name(model))
    return MultiView(Trunk(model, classifier), classifier, views)


def widen_classifier(
    model: nn.Module,
    spec: ModelSpec,
    views: int,
    *,
    seed: int,
    image_size: int | None = None,
) -> None:
    """Lets a network's classifier take the features of V views; with one view it stays as it is.

    The first block of its weights is its own, each further one as the network fills it from
    another seed, so views differ from the beginning. Changed in place; the network alone
    then gives nothing useful, see `viewing`.

    Args:
        model: as `create` made it.
        spec: what it was made from.
        views: V.
        seed: of the further blocks.
        image_size: see `bench.models.layers.create`.

    Raises:
        ModelError: there is no classifier, it is not one linear layer, or it is not the last thing
            that happens in the network.
    """
    if views == 1:
        return
    name = _linear_name(model, spec)
    _check_last(model, image_size)
    classifier = model.get_submodule(name)
    assert isinstance(classifier, nn.Linear)
    blocks = [classifier.weight.detach()]
    for view in range(1, views):
        other = create(
            spec,
            classifier.out_features,
            seed=seed_from(f"view|{seed}|{view}"),
            image_size=image_size,
        )
        blocks.append(other.get_parameter(f"{name}.weight").detach())
    wider = nn.Linear(
        views * classifier.in_features, classifier.out_features, classifier.bias is not None
    )
    with torch.no_grad():
        wider.weight.copy_(torch.cat(blocks, 1))
        if classifier.bias is not None:
            wider.bias.copy_(classifier.bias)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, wider)


def _linear_name(model: nn.Module, spec: ModelSpec) -> str:
    """The one layer of a network's classifier that has weights."""
    name = classifier_name(model)
    classifier = model.get_submodule(name)
    found = [part for part, module in classifier.named_modules() if list(module.parameters(False))]
    if len(found) != 1 or not isinstance(classifier.get_submodule(found[0]), nn.Linear):
        raise ModelError(
            f"the classifier of {spec.name} is not one linear layer, so it cannot take several "
            "views",
            hint="choose another network, or leave out views",
        )
    return f"{name}.{found[0]}".rstrip(".")


def _check_last(model: nn.Module, image_size: int | None) -> None:
    """What the network gives must be what its classifier gives for flat features."""
    classifier = model.get_submodule(classifier_name(model))
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    images = torch.zeros((1, channels, image_size or height, image_size or width))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            features = Trunk(model, classifier)(images)
            same = features.ndim == 2 and torch.equal(model(images), classifier(features))
    finally:
        model.train(training)
    if not same:
        raise ModelError(
            f"{type(model).__name__} does something behind its classifier",
            hint="choose another network for samples of several views",
        )
