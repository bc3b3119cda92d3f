"""A model folder: weights, timm's `config.json` and a model card; written, and read again.

`timm.create_model("local-dir:FOLDER", pretrained=True)` builds the network, unless it is one of
this project's own, which `read_model` alone reads; its preprocessing is
`timm.data.create_transform(**timm.data.resolve_data_config(model=model))`. This project decodes
images in its own way (`bench.data.files.decode`: the centre square first, then bicubic); `size` and
`kept_size` say at which sizes, so that `bench predict` computes what the run computed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bench.core.errors import BenchError, ModelError
from bench.core.files import write_atomic
from bench.data.colours import Colours
from bench.data.files.decode import Reading
from bench.data.formats.contract import READING
from bench.models.inputs import InputStatistics, attach, attached
from bench.models.layers import create, register_networks
from bench.models.weights import save_state
from bench.results.lookup import Network
from bench.specs.run import ModelSpec

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"


@dataclass(frozen=True, eq=False)
class Model:
    """A network that names images.

    Attributes:
        network: in evaluation mode; normalised float32 (n, 3, size, size) to logits (n, C).
        classes: C names.
        size: side in pixels of the square that the network is shown.
        kept_size: side at which images are decoded; the middle `size` of it is shown.
        mean, std: per colour, as fractions of 255.
        reading: how the images that it was trained on were read.
        stored_as: how they were kept, see `DataSpec`: a JPEG changes pixels.
    """

    network: nn.Module
    classes: tuple[str, ...]
    size: int
    kept_size: int
    mean: Colours
    std: Colours
    reading: Reading
    stored_as: str


def write_model(network: Network, out: Path, run_id: str, card: str) -> None:
    """Writes the folder: complete, or not at all.

    Args:
        network: of `bench.exports.network.exported_network`.
        out: a folder that is made, or one that this function wrote before: it is replaced.
        run_id: of the run, for `config.json`.
        card: text of `README.md`.

    Raises:
        BenchError: `out` is something else.
    """
    if out.exists() and not (out / _CONFIG).is_file():
        raise BenchError(
            f"{out} is there and is no model folder", hint="give another folder with --out"
        )
    beside = out.with_name(f".{out.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        save_state(network.model, beside / _WEIGHTS)
        config = json.dumps(config_of(network, run_id), indent=1, ensure_ascii=False)
        write_atomic(beside / _CONFIG, config + "\n")
        write_atomic(beside / _CARD, card)
        if out.exists():
            shutil.rmtree(out)
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def config_of(network: Network, run_id: str) -> dict[str, Any]:
    """`config.json` in timm's layout; `bench` has what timm does not know."""
    data, inputs = network.spec.data, attached(network.model)
    kept = data.kept_size
    reading = {name: value for name, value in data.options if name in READING}
    return {
        "architecture": network.spec.model.name,
        "num_classes": len(network.classes),
        "num_features": int(getattr(network.model, "num_features", 0)),
        "label_names": list(network.classes),
        **({"model_args": {"img_size": data.image_size}} if _sized(network) else {}),
        "pretrained_cfg": {
            "input_size": [3, data.image_size, data.image_size],
            "mean": list(inputs.mean),
            "std": list(inputs.std),
            "interpolation": "bicubic",
            "crop_pct": data.image_size / kept,
            "crop_mode": "center",
            "num_classes": len(network.classes),
            "fixed_input_size": _sized(network),
        },
        "bench": {
            "run_id": run_id,
            "kept_size": kept,
            **({"reading": reading} if reading else {}),
            **({"stored_as": data.stored_as} if data.stored_as != "raw" else {}),
        },
    }


def _sized(network: Network) -> bool:
    """Whether the network is built for one size of images."""
    config = timm.get_pretrained_cfg(network.spec.model.name, allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)


def read_model(folder: Path) -> Model:
    """Reads what `write_model` wrote, or another folder in timm's layout with safetensors.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    config = _read_config(folder)
    try:
        shown = config.get("pretrained_cfg", config)
        classes = tuple(str(name) for name in config["label_names"])
        size = int(shown["input_size"][-1])
        kept = config.get("bench", {}).get("kept_size", round(size / float(shown["crop_pct"])))
        red, green, blue = (float(value) for value in shown["mean"])
        r, g, b = (float(value) for value in shown["std"])
        statistics = InputStatistics((red, green, blue), (r, g, b))
        spec = ModelSpec(name=config["architecture"])
        stored_as = str(config.get("bench", {}).get("stored_as", "raw"))
        own = config.get("bench", {}).get("reading", {})
        reading = Reading(
            str(own.get("depth", Reading.depth)),
            str(own.get("alpha", Reading.alpha)),
            int(own.get("max_megapixels", Reading.max_megapixels)),
        )
        sound = 0 < size <= int(kept) <= 16384 and min(r, g, b) > 0 and len(classes) > 0
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        ZeroDivisionError,
    ) as error:
        raise _damaged(folder / _CONFIG, f"{type(error).__name__}: {error}") from None
    if not sound:
        raise _damaged(folder / _CONFIG, f"sizes {size} and {kept}, deviation {(r, g, b)}")
    register_networks()
    network = create(spec, len(classes), seed=0, image_size=size)
    try:
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except FileNotFoundError:
        raise _damaged(folder / _WEIGHTS, "it is not there") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise _damaged(folder / _WEIGHTS, str(error).strip().split("\n")[0]) from None
    attach(network, statistics)
    mean, std = statistics.mean, statistics.std
    return Model(network.eval(), classes, size, int(kept), mean, std, reading, stored_as)


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        raise ModelError(
            "this is no model folder: it has no config.json",
            place=str(folder),
            hint="give a folder that bench export or bench finetune wrote",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, str(error).split("\n")[0]) from None
    if not isinstance(config, Mapping) or not isinstance(config.get("label_names"), list):
        raise _damaged(path, "it has no list label_names")
    return config


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"the model cannot be read: {why}", place=str(path), hint="export the run once more"
    )


def write_onnx(model: Model, path: Path) -> float:
    """Writes the network as ONNX, images (n, 3, size, size) to logits (n, C); compares both.

    Returns:
        The largest difference of a logit between onnxruntime and torch, on random images.

    Raises:
        ModelError: `onnx` or `onnxruntime` is not installed, or the network cannot be written.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ModelError(
            "ONNX needs the packages onnx, onnxscript and onnxruntime",
            hint="pip install onnx onnxscript onnxruntime",
        ) from None
    images = torch.randn(2, 3, model.size, model.size, generator=torch.Generator().manual_seed(0))
    try:
        torch.onnx.export(
            model.network,
            (images,),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
            dynamo=False,
        )
    except Exception as error:  # exporters of torch raise anything
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"torch cannot write this network as ONNX: {reason}",
            hint="leave out --onnx; model.safetensors is complete",
        ) from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (there,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        here = model.network(images).numpy()
    return float(abs(there - here).max())
