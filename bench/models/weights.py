"""Weights to copy from, and weights to keep: safetensors, or PyTorch files without their code.

A `.pth` file is a pickle, which can run code when it is read. Here it goes through
`torch.load(weights_only=True)`, which builds tensors and plain containers and refuses the rest.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core.errors import ModelError, StoreError, nearest
from bench.core.files import sync_folder, temporary_beside
from bench.models.layers import check_name, register_networks
from bench.specs.run import FromFile, FromTimm

WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict"),
    *("state_dict", "model_state_dict", "model"),
)
"""Keys under which training scripts keep the weights; the first that is there is opened, averaged
weights before others, as timm does."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name; taken off."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Names of weights files: safetensors, and what `torch.save` writes under any of the others."""

_log = logging.getLogger(__name__)


def load_state(
    init: FromTimm | FromFile, model_name: str, image_size: int | None = None
) -> dict[str, Tensor]:
    """Parameters and buffers that a run copies from, on the CPU, by the network's own names.

    Args:
        init: timm's published weights, or a file. A file may hold the names under one of
            `WRAPPERS` and with `PREFIXES`; what was taken off is said in the log.
        model_name: the network, as in `ModelSpec.name`.
        image_size: side of the images, for networks built for one size: timm fits their position
            tables to it.

    Raises:
        ModelError: when the file is not there, is not the one of the spec, or holds no weights;
            when timm has no such weights, or they are neither cached nor to be had.
    """
    if isinstance(init, FromFile):
        state = _from_file(init)
        return state if init.package is None else _named_as_timm(state, model_name)
    return _from_timm(init, model_name, image_size)


def _named_as_timm(state: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """Tensors of a package under timm's names: both are in the order of the layers.

    Raises:
        ModelError: the shapes differ.
    """
    with torch.device("meta"):
        own = timm.create_model(model_name).state_dict()
    counters = "num_batches_tracked"
    names = [name for name in own if not name.endswith(counters)]
    values = [value for name, value in state.items() if not name.endswith(counters)]
    if [own[name].shape for name in names] != [value.shape for value in values]:
        raise ModelError(
            f"the package's tensors are not those of {model_name}",
            hint="install the release of timm that this project was tested with",
        )
    return dict(zip(names, values, strict=True))


def save_state(model: nn.Module | Mapping[str, Tensor], path: Path) -> None:
    """Writes parameters and saved buffers as safetensors: complete, or not at all.

    Equal weights give equal bytes, whatever their device and memory format.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    plain = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        save_file(plain, temporary)
        sync_folder(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads what `save_state` wrote.

    Raises:
        StoreError: when the file is missing or torn.
    """
    try:
        state: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise StoreError(
            "the weights are missing", place=str(path), hint="run the grid again to train them"
        ) from None
    except (SafetensorError, OSError) as error:
        raise StoreError(
            f"the weights cannot be read: {error}",
            place=str(path),
            hint="delete the run's folder and run the grid again",
        ) from None
    return state


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        ModelError: when there is no such file.
    """
    try:
        with Path(path).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"cannot read the weights file: {error.strerror}",
            place=str(path),
            hint="give the path of a .safetensors, .pth or .pt file",
        ) from None


def _from_file(init: FromFile) -> dict[str, Tensor]:
    path = Path(init.path)
    found = file_sha256(path)
    if found != init.sha256:
        raise ModelError(
            f"the weights file has SHA-256 {found}, the spec says {init.sha256}",
            place=init.path,
            hint="the file has changed: restore it, or set sha256 to the new value on purpose",
        )
    if path.suffix == ".safetensors":
        try:
            loaded: Any = load_file(path)
        except SafetensorError as error:
            raise ModelError(
                f"this is no safetensors file: {error}",
                place=init.path,
                hint="copy it again; it may be incomplete, or a file of another kind",
            ) from None
    elif path.suffix in SUFFIXES:
        loaded = _load_torch(path)
    else:
        raise ModelError(
            f"weights are read from {', '.join(SUFFIXES[:-1])} and {SUFFIXES[-1]} files, not "
            f"{path.suffix!r}",
            place=init.path,
            hint="convert it to .safetensors",
        )
    state = _unwrap(loaded, init.path)
    _check_numbers(state, init.path)
    return state


def _check_numbers(state: Mapping[str, Tensor], place: str) -> None:
    """Refuses what cannot be trained: whole numbers (counters aside), complex numbers, NaN."""
    for name, value in state.items():
        counter = value.ndim == 0 or name.endswith("num_batches_tracked")
        if not value.is_floating_point() and not counter and not _is_index(name, value):
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} holds {kind}, not floating-point numbers",
                place=place,
                hint="quantised weights cannot be trained: give those from before, as float32",
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(
                f"{name} holds numbers that are not finite",
                place=place,
                hint="the file is damaged, or its training diverged: give another one",
            )


def _is_index(name: str, value: Tensor) -> bool:
    """Tables of positions, which networks with windows keep as buffers of whole numbers."""
    return name.endswith(("index", "position_ids")) and value.dtype in (torch.int64, torch.int32)


def _load_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of somebody else: any error may come of them
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        raise ModelError(
            f"the file cannot be read without running code from it: {reason}",
            place=str(path),
            hint="where you trust it, load it yourself and save its state_dict as .safetensors",
        ) from None


def _unwrap(loaded: Any, place: str) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if wrapper is not None:
            _log.info("%s: weights are those under %r", place, wrapper)
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(
            f"the file holds {type(loaded).__name__}, not weights by name",
            place=place,
            hint=f"save a state_dict, plain or under one of {', '.join(WRAPPERS)}",
        )
    strange = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if strange:
        raise ModelError(
            f"the file holds things that are not tensors: {', '.join(strange[:8])}",
            place=place,
            hint=f"save a state_dict, plain or under one of {', '.join(WRAPPERS)}",
        )
    state = {str(name): value for name, value in loaded.items()}
    changed = True
    while changed:
        changed = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
                _log.info("%s: took %r off every name", place, prefix)
                changed = True
    return state


def _from_timm(init: FromTimm, model_name: str, image_size: int | None) -> dict[str, Tensor]:
    register_networks()
    check_name(model_name)
    name = model_name if init.tag is None else f"{model_name}.{init.tag}"
    if not timm.models.is_model_pretrained(name):
        known = [n.partition(".")[2] for n in timm.list_pretrained(f"{model_name}.*")]
        raise ModelError(
            f"timm publishes no weights {name!r}",
            hint=f"tags of {model_name}: {nearest(init.tag or '', known)}"
            if known
            else "pretrain it in the grid (source: a selection), or choose another network",
        )
    config = timm.get_pretrained_cfg(name)
    size = {"img_size": image_size} if image_size and config.fixed_input_size else {}
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(name, pretrained=True, **size)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise ModelError(
            f"timm's weights {name!r} are neither cached nor could they be fetched: {reason}",
            hint="run once where there is a network (they are then cached below HF_HOME), or give "
            "a local .safetensors file",
        ) from error
    return {key: value.detach() for key, value in model.state_dict().items()}
