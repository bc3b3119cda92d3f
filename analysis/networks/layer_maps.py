"""Two images in a network: the maps of one layer, and files decoded as data sets decode them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from analysis.measurements.clustering import SimilarityMap, position_similarity
from bench.core.errors import BenchError, DataError, ModelError
from bench.core.text import counted

if TYPE_CHECKING:
    from analysis.networks.trained import Trained


Stage = Literal["pre", "post", "end", "output"]


def read_picture(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """An image file as data sets of this program decode theirs: (size, size, 3).

    Raises:
        DataError: there is no such file, or it is no image.
    """
    from bench.data.files.decode import UnreadableError, decode

    try:
        return decode(path.read_bytes(), size)
    except OSError as error:
        raise DataError(
            f"the image cannot be read: {error.strerror}", place=str(path), hint="name a file"
        ) from None
    except UnreadableError as error:
        raise DataError(
            f"the image cannot be read: {error}", place=str(path), hint="name a JPEG or PNG file"
        ) from None


def conv4(network: Trained) -> str:
    """The layer that SFT Fig. 4 draws: conv4_x of a ResNet (`layer3` in timm), else layer 4."""
    return "layer3" if "layer3" in dict(network.model.named_modules()) else "4"


def layer_maps(
    network: Trained, pixels: npt.NDArray[np.uint8], layer: str, stage: Stage = "post"
) -> npt.NDArray[np.float32]:
    """The maps that a layer makes of some images: (N, C, H, W).

    Args:
        network: with its normalisation.
        pixels: (N, S, S, 3) uint8.
        layer: a layer's number or the name of a module.
        stage: before (`pre`) or after (`post`) its activation, at its `end` with pooling and
            normalisation, or a module's own `output` (`bench.training.features.extract`).

    Raises:
        ModelError: no such layer.
        DataError: the layer gives vectors or tokens, which have no positions; it says which
            numbered layers give maps.
    """
    found = _tapped(network, pixels, layer, stage)
    if found.ndim == 4 and found.shape[2] * found.shape[3] > 1:
        return found
    what = f"{found.shape[1:]}" if found.ndim > 2 else f"{found.shape[1]} numbers"
    raise DataError(
        f"layer {layer} of {network.spec.model.name} has no map: it gives {what} for an image of "
        f"{network.size} pixels",
        hint=f"layers with maps: {', '.join(_with_maps(network, pixels, stage)) or 'none'}",
    )


def _tapped(
    network: Trained, pixels: npt.NDArray[np.uint8], layer: str, stage: Stage
) -> npt.NDArray[np.float32]:
    from bench.training.features import LayerTap

    inputs = network.inputs(pixels)
    asked = int(layer) if layer.isdigit() else layer
    (found,) = LayerTap(network.model, [asked], stage, inputs[:1])(inputs)
    maps: npt.NDArray[np.float32] = found.float().cpu().numpy()
    return maps


def _with_maps(network: Trained, pixels: npt.NDArray[np.uint8], stage: Stage) -> list[str]:
    names = []
    for number in range(1, network.spec.layers.depth + 1):
        try:
            found = _tapped(network, pixels[:1], str(number), stage)
        except ModelError:
            continue
        if found.ndim == 4 and found.shape[2] * found.shape[3] > 1:
            names.append(str(number))
    return names


def pair_similarity(
    network: Trained, pixels: npt.NDArray[np.uint8], layer: str, stage: Stage = "post"
) -> SimilarityMap:
    """Similarity at each position of two images in a layer (SFT Fig. 4).

    Args:
        pixels: (2, S, S, 3) uint8, of the size that the network was trained with.

    Raises:
        DataError: not two images of that size, or a layer without maps.
    """
    if pixels.shape != (2, network.size, network.size, 3):
        raise DataError(
            f"images of shape {pixels.shape}; network {network.name} takes two of "
            f"{counted(network.size, 'pixel')}",
            hint="name runs that were trained on images of one size",
        )
    first, second = layer_maps(network, pixels, layer, stage)
    try:
        return position_similarity(first, second)
    except BenchError as error:
        raise DataError(f"network {network.name}, layer {layer}: {error.message}") from None
