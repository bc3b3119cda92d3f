"""A network with a classifier for each domain, made from any timm network.

The trunk is the network up to the input of its classifier, whatever lies between the last features
and the classifier (pooling, dropout). A further classifier is built as the network builds its own,
with another number of classes, so it has the network's kind of layer and initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.core.errors import ModelError
from bench.models.heads import MultiHead
from bench.models.layers import create
from bench.models.prefix import until_input_of
from bench.specs.run import BatchNormMode, ModelSpec, TrainSpec


class Trunk(nn.Module):
    """A network up to the input of its classifier.

    Args:
        model: any timm network; stays whole.
        classifier: its classifier.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._classifier = [classifier]  # in a list: it is a part of `model` already

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to what the classifier is handed, (N, D) or (N, D, 1, 1)."""
        return until_input_of(self.model, self._classifier[0], images)


@dataclass(frozen=True, eq=False)
class ParentHead:
    """The classifier of the parent, to be kept for a borrowed domain.

    Attributes:
        state: the parent's weights, by name.
        rows: int64 (C,), its output for each class of the domain.
        outputs: how many outputs it should have, so that no other classifier is taken for it.
    """

    state: Mapping[str, Tensor]
    rows: NDArray[np.int64]
    outputs: int


def classifier_name(model: nn.Module) -> str:
    """The name of the module that is a network's classifier.

    Raises:
        ModelError: there is none, or more than one.

    >>> classifier_name(create(ModelSpec(name="narrow8_32"), 5, seed=0))
    'fc8'
    """
    find: Any = getattr(model, "get_classifier", None)
    found = find() if find is not None else None
    names: list[str] = [name for name, module in model.named_modules() if module is found]
    if not isinstance(found, nn.Module) or isinstance(found, nn.Identity) or not names:
        raise ModelError(
            f"{type(model).__name__} has no single classifier to put others beside",
            hint="choose a network with one classifier for methods that borrow",
        )
    return names[0]


def new_head(
    spec: ModelSpec,
    num_classes: int,
    *,
    seed: int,
    image_size: int | None = None,
    parent: ParentHead | None = None,
) -> nn.Module:
    """A classifier for a further domain, random or the parent's.

    Args:
        spec: the network that it will stand beside.
        num_classes: outputs.
        seed: of random weights.
        image_size: see `bench.models.layers.create`.
        parent: where the weights are kept from.

    Raises:
        ModelError: the parent has no such classifier, or too few outputs.
    """
    model = create(spec, num_classes, seed=seed, image_size=image_size)
    name = classifier_name(model)
    head = model.get_submodule(name)
    if parent is not None:
        own = dict(head.named_parameters())
        for key, tensor in own.items():
            _keep(tensor, parent, f"{name}.{key}")
    return head


def _keep(own: Tensor, parent: ParentHead, name: str) -> None:
    theirs = parent.state.get(name)
    if theirs is None:
        raise ModelError(
            f"the parent has no classifier to keep: its weights have no {name}",
            hint="set method.source_head: random, or start from weights with their classifier",
        )
    if len(theirs) != parent.outputs:
        raise ModelError(
            f"the parent's classifier {name} has {len(theirs)} outputs, "
            f"and it should know {parent.outputs} classes",
            hint="borrow what the parent was trained on, or set method.source_head: random",
        )
    kept = theirs[torch.from_numpy(parent.rows)]
    if kept.shape != own.shape:
        raise ModelError(
            f"the parent's classifier {name} has shape {tuple(kept.shape)}, "
            f"the network's {tuple(own.shape)}",
            hint="copy from the same network, or set method.source_head: random",
        )
    with torch.no_grad():
        own.copy_(kept)


def with_heads(
    model: nn.Module,
    heads: Sequence[nn.Module],
    *,
    batch_norm: BatchNormMode,
    image_size: int | None = None,
    views: Sequence[int] | None = None,
) -> MultiHead:
    """`model` as domain 0 and `heads` as the classifiers of domains 1, 2, …

    Args:
        model: a network; trained in place, its own classifier serves domain 0.
        heads: see `new_head`.
        batch_norm: see `MultiHead`.
        image_size: side of the images in pixels; None is the network's own size.
        views: of each domain's samples, see `MultiHead`.

    Raises:
        ModelError: when the network's classifier is not the last thing that happens in it.
    """
    classifier = model.get_submodule(classifier_name(model))
    trunk = Trunk(model, classifier)
    network = MultiHead(trunk, [classifier, *heads], batch_norm=batch_norm, views=views)
    if network.views[0] == 1:  # else `bench.models.multiview` has looked
        _check_same(model, network, image_size)
    return network


def _check_same(model: nn.Module, network: MultiHead, image_size: int | None) -> None:
    """The network with heads must give for domain 0 what the network gives."""
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    device = next(model.parameters()).device
    images = torch.zeros((1, channels, image_size or height, image_size or width), device=device)
    training = model.training
    network.eval()
    try:
        with torch.inference_mode():
            same = torch.equal(model(images), network(images, ((0, 1),))[0])
    finally:
        network.train(training)
    if not same:
        raise ModelError(
            f"{type(model).__name__} does something behind its classifier",
            hint="choose another network for methods that borrow",
        )


def head_groups(heads: Sequence[tuple[nn.Module, bool]], train: TrainSpec) -> list[dict[str, Any]]:
    """Parameter groups of further classifiers, as `layers.parameter_groups` gives for the network.

    Args:
        heads: (classifier, whether it is the parent's): a kept one counts as a copied layer.
        train: the recipe.
    """
    groups: list[dict[str, Any]] = []
    for number, (head, kept) in enumerate(heads, start=1):
        for name, parameter in head.named_parameters():
            bias = name.rpartition(".")[2] == "bias"
            factor = train.copied_lr_factor if kept else 1.0
            factor *= train.bias_lr_mult if bias else 1.0
            anchored = kept and train.l2_sp is not None
            plain = 0.0 if anchored or (bias and not train.bias_weight_decay) else 1.0
            groups.append(
                {
                    "params": [parameter],
                    "lr": train.lr * factor,
                    "weight_decay": plain * train.weight_decay,
                    "lr_factor": factor,
                    "l2_sp": train.l2_sp if anchored else 0.0,
                    "names": [f"domain {number} {name}"],
                }
            )
    return groups
