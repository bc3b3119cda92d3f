"""Networks by name, and layer patterns on them: copy, freeze, re-initialise (CHU, LI).

A frozen layer gets no gradient, no weight decay, no momentum step and no update of running
statistics. Each parameter is frozen by itself: `requires_grad` set on a module has no effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from bench.core.errors import ModelError, nearest
from bench.models import caffenet, halved, narrow
from bench.models.eight import register
from bench.models.equivalents import save_once, take_pixels_first
from bench.models.numbering import Layer, numbered_layers
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec


def register_networks() -> None:
    """Makes this package's networks known to timm; may be called again."""
    register(
        *(caffenet.caffenet, caffenet.caffenet_ungrouped),
        *(narrow.narrow8_32, narrow.narrow8_64),
        halved.resnet50_half,
    )


def create(
    spec: ModelSpec,
    num_classes: int,
    *,
    seed: int,
    image_size: int | None = None,
    drop_path: float = 0.0,
) -> nn.Module:
    """A network with random weights, the same for the same seed; torch's own stream stays put.

    Args:
        spec: name, filler and dropout.
        num_classes: outputs of the classifier.
        seed: of the initial weights.
        image_size: side of the images in pixels, for networks built for one size (a ViT's position
            table, CaffeNet's fc6); others ignore it. None is the network's own size.
        drop_path: see `TrainSpec.drop_path`; the weights do not depend on it.

    Raises:
        ModelError: when timm has no such network or cannot build it so.

    >>> net = create(ModelSpec(name="narrow8_32"), 5, seed=0)
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """
    register_networks()
    check_name(spec.name)
    options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": spec.drop_rate}
    if drop_path:
        options["drop_path_rate"] = drop_path
    config = timm.get_pretrained_cfg(spec.name, allow_unregistered=True)
    if image_size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(spec.name, pretrained=False, **options)
        except ModelError:
            raise
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            given = {key: value for key, value in options.items() if value is not None}
            raise ModelError(
                f"timm cannot build {spec.name} with {given}: {error}",
                hint=f"leave out {'train.drop_path' if drop_path else 'drop_rate'}, change "
                "image_size, or choose another network",
            ) from error
        if spec.filler == "li2019":
            caffenet.fill_li2019(model)
    take_pixels_first(model)
    save_once(model)
    return model


def check_name(name: str) -> None:
    """Refuses what is not the plain name of a network.

    Raises:
        ModelError: with the nearest names.
    """
    if timm.is_model(name) and "." not in name:
        return
    plain, _, tag = name.partition(".")
    if tag and timm.is_model(plain):
        raise ModelError(
            f"network {name!r}: {tag!r} names pretrained weights, not a network",
            hint=f"write {plain!r} here, and the tag {tag!r} in the source that weights come from",
        )
    raise ModelError(
        f"there is no network {name!r}; nearest: {nearest(name, timm.list_models())}",
        hint="give a name from timm.list_models(), caffenet or narrow8_32",
    )


@dataclass(frozen=True)
class Applied:
    """What a pattern did: names of parameters and buffers by their treatment.

    Attributes:
        layers: the numbered layers.
        tuned, frozen: copied from the parent, and verified to be equal.
        random: kept their fresh values.
        absent: counters of batches that the parent did not have (old files); they stay 0.
    """

    layers: tuple[Layer, ...]
    tuned: tuple[str, ...]
    frozen: tuple[str, ...]
    random: tuple[str, ...]
    absent: tuple[str, ...]


def apply_pattern(
    model: nn.Module, pattern: LayerPattern, parent_state: Mapping[str, Tensor] | None
) -> Applied:
    """Copies T and F layers from the parent, freezes F layers, leaves R layers as they are.

    Args:
        model: freshly initialised; changed in place.
        pattern: must cover every layer of `model`.
        parent_state: the parent's parameters and buffers; None when nothing is copied.

    Raises:
        ModelError: when the pattern has another depth than the network, when a key of the parent
            is missing, unexpected or mis-shaped (the classifier may differ if it is R), when a copy
            does not equal its original, or when an R layer equals the parent's.
    """
    layers = numbered_layers(model)
    _check_depth(model, pattern, layers)
    if pattern.is_scratch != (parent_state is None):
        raise ModelError(
            f"pattern {pattern} copies layers, but there are no weights to copy"
            if parent_state is None
            else f"pattern {pattern} copies nothing, but there are weights to copy",
            hint="give a source for T and F layers, and none for R layers only",
        )
    place = _places(model, layers)
    own = {name: tensor for name, tensor in _state(model) if name in place}
    treated = {kind: tuple(n for n in own if pattern.kind(place[n]) == kind) for kind in "TFR"}
    absent: tuple[str, ...] = ()
    if parent_state is not None:
        absent = _check_keys(own, parent_state, place, pattern)
        for name in treated["T"] + treated["F"]:
            if name not in absent:
                _copy(name, own[name], parent_state[name])
        for number in pattern.layers("R"):
            names = [name for name in treated["R"] if place[name] == number]
            _check_random({name: own[name] for name in names}, parent_state)
    for name in treated["F"]:
        own[name].requires_grad_(False)
    return Applied(layers, treated["T"], treated["F"], treated["R"], absent)


def freeze_modes(
    model: nn.Module, pattern: LayerPattern, frozen_dropout: bool, *, fixed_statistics: bool = False
) -> Callable[[], None]:
    """Keeps normalisation of frozen layers in evaluation mode, also after `model.train()`.

    With `fixed_statistics` that of copied and tuned layers too (`train.copied_statistics`).

    Each of these modules is put right before it runs, so running statistics cannot move. Dropout of
    frozen layers (stochastic depth too) stays active as in Caffe, unless `frozen_dropout` is false:
    then whole frozen layers are in evaluation mode, and what they compute may be cached.

    Returns:
        a function that puts the modes right at once, for those who look before the next batch.
    """
    layers = numbered_layers(model)
    _check_depth(model, pattern, layers)
    frozen, tuned = set(pattern.layers("F")), set(pattern.layers("T"))
    still = [
        module
        for layer in layers
        for module in map(model.get_submodule, layer.modules)
        if (layer.number in frozen and not frozen_dropout)
        or (
            (layer.number in frozen or (fixed_statistics and layer.number in tuned))
            and _has_running_statistics(module)
        )
    ]
    for module in still:
        module.register_forward_pre_hook(_stay_in_evaluation)

    def put_right() -> None:
        for module in still:
            module.training = False

    put_right()
    return put_right


def parameter_groups(
    model: nn.Module, pattern: LayerPattern, train: TrainSpec
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: every trainable parameter once, no frozen one.

    Copied layers have the learning rate `lr * copied_lr_factor`, random ones `lr`; a bias (a
    parameter called so, of a normalisation too) `bias_lr_mult` times its layer's, and no weight
    decay unless `bias_weight_decay`. Besides `params`, `lr` and `weight_decay` each group holds
    `lr_factor` (its `lr` over the spec's), `l2_sp` and `names`. Copied layer n of N has
    `layer_lr_decay ** (N - n)` times its rate, and with `l2_sp` that pull in place of weight decay.

    Raises:
        ModelError: when a frozen layer would be trained, because the pattern was not applied.
    """
    layers = numbered_layers(model)
    _check_depth(model, pattern, layers)
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for layer in layers:
        kind = pattern.kind(layer.number)
        for name in layer.parameters:
            parameter = parameters[name]
            if kind == "F" and parameter.requires_grad:
                raise ModelError(
                    f"layer {layer.number} is frozen by {pattern}, but {name} would be trained",
                    hint="apply the pattern to the network first (apply_pattern)",
                )
            if not parameter.requires_grad:
                continue
            bias = name.rpartition(".")[2] == "bias"
            factor, decay, pull = 1.0, train.weight_decay, 0.0
            if kind == "T":
                factor = train.copied_lr_factor
                factor *= train.layer_lr_decay ** (len(layers) - layer.number)
                if train.l2_sp is not None:
                    decay, pull = 0.0, train.l2_sp
            factor *= train.bias_lr_mult if bias else 1.0
            decay = 0.0 if bias and not train.bias_weight_decay else decay
            group = groups.setdefault(
                (factor, decay, pull),
                {
                    "params": [],
                    "lr": train.lr * factor,
                    "weight_decay": decay,
                    "lr_factor": factor,
                    "l2_sp": pull,
                    "names": [],
                },
            )
            group["params"].append(parameter)
            group["names"].append(name)
    return list(groups.values())


def frozen_fingerprint(model: nn.Module, pattern: LayerPattern) -> str:
    """SHA-256 over names, types, shapes and bytes of frozen parameters and saved buffers.

    Equal before and after a training if and only if nothing frozen has moved by a single bit.
    """
    layers = numbered_layers(model)
    _check_depth(model, pattern, layers)
    place = _places(model, layers)
    digest = hashlib.sha256()
    for name, tensor in sorted(_state(model), key=lambda item: item[0]):
        if pattern.kind(place[name]) == "F":
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- parts ------------------------------------------------------------------------------------


def _check_depth(model: nn.Module, pattern: LayerPattern, layers: tuple[Layer, ...]) -> None:
    if pattern.depth != len(layers):
        names = ", ".join(f"{layer.number} {layer.name}" for layer in layers)
        raise ModelError(
            f"pattern {pattern} covers {pattern.depth} layers, "
            f"but {type(model).__name__} has {len(layers)}: {names}",
            hint=f"for example T(1-{len(layers) - 1})R({len(layers)})",
        )


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by name, shared ones under each of their names."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            yield name, tensor


def _places(model: nn.Module, layers: tuple[Layer, ...]) -> dict[str, int]:
    """Layer number by name of the state; a shared tensor lies where its first name does."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    number = {
        id(tensors[name]): layer.number
        for layer in layers
        for name in layer.parameters + layer.buffers
    }
    return {name: number[id(tensor)] for name, tensor in _state(model)}


def _check_keys(
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    place: Mapping[str, int],
    pattern: LayerPattern,
) -> tuple[str, ...]:
    """Accounts for every key of both sides; returns the batch counters that the parent lacks."""
    last_is_free = pattern.kind(pattern.depth) == "R"
    strict = [n for n in own if not (last_is_free and place[n] == pattern.depth)]
    lacking = [name for name in strict if name not in theirs]
    absent = tuple(name for name in lacking if name.endswith("num_batches_tracked"))
    problems = {
        "missing": [name for name in lacking if name not in absent],
        "unexpected": [name for name in theirs if name not in own],
        "mis-shaped": [
            f"{name} {tuple(theirs[name].shape)} instead of {tuple(own[name].shape)}"
            for name in strict
            if name in theirs and theirs[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {problem}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
            for problem, names in problems.items()
            if names
        )
        raise ModelError(
            f"the weights to copy do not fit the network: {listed}",
            hint="copy from the same network and image size; "
            "another number of classes needs R for the last layer",
        )
    return absent


def _copy(name: str, own: Tensor, theirs: Tensor) -> None:
    if not bool(torch.isfinite(theirs).all()):
        raise ModelError(
            f"the weights to copy are not finite in {name}",
            hint="the parent's training went wrong; lower its learning rate",
        )
    with torch.no_grad():
        own.copy_(theirs)
        same = torch.equal(own.to(theirs.device, theirs.dtype), theirs)
    if not same:
        raise ModelError(
            f"{name} is {theirs.dtype} at the parent and loses digits as {own.dtype}",
            hint="save the parent's weights as float32",
        )


def _check_random(layer: Mapping[str, Tensor], parent: Mapping[str, Tensor]) -> None:
    """Refuses an R layer in which every drawn number is the parent's.

    Constants (biases, scales) may agree, and so may values that a network always starts from, such
    as the identities of ConViT, as long as something beside them differs.
    """
    equal = []
    for name, own in layer.items():
        theirs, mine = parent.get(name), own.detach()
        if theirs is None or theirs.shape != own.shape or not own.requires_grad or own.numel() < 2:
            continue
        if bool((mine == mine.reshape(-1)[0]).all()):  # a constant
            continue
        if not torch.equal(mine.to(theirs.device, theirs.dtype), theirs):
            return
        equal.append(name)
    if equal:
        raise ModelError(
            f"{', '.join(equal[:3])} should be random, but equals the parent's",
            hint="the parent was not trained and has the same init seed: change one of the two",
        )


def _has_running_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None


def _stay_in_evaluation(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    module.training = False
