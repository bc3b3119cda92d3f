"""Where a record's numbers come from: borrowed images, overlap, machine."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch

from bench.core import processor
from bench.core.errors import DataError
from bench.data.inspection.overlap import is_named_as_in_imagenet
from bench.results.resolved import PRECISION, leaves_to_device
from bench.results.store import Store
from bench.runs.build import Context, Data
from bench.specs.run import FromFile, FromTimm, RunSpec, run_id
from bench.training.job import Method
from bench.training.precision import native_precision


def borrowed_record(data: Data) -> dict[str, Any]:
    """The record's part on borrowed images; empty where there are none."""
    if not data.borrowed:
        return {}
    return {
        "borrowed": [
            {
                "classes": list(loaded.classes),
                "classes_used": images.classes_used,
                "images": len(images.rows),
                "excluded_overlap": images.excluded,
                "fingerprint": images.resolved.fingerprint,
                "notes": dict(loaded.notes),
            }
            for loaded, images in data.borrowed
        ]
    }


def selected_images(method: Method, data: Data) -> dict[str, bytes]:
    """`selected.npz` of a method that selects source images in rounds; nothing of others.

    Its arrays have one entry for each image that some round can show, in the order of the data:
    `borrowed` (n,) the place in the run's `borrow`, from 1; `images` (n,) keys in that data set;
    `rounds` (n,) the first round that can show the image, from 1. Later ones can show it too.
    """
    first_rounds = getattr(method, "first_rounds", ())
    if not first_rounds:
        return {}
    first = np.concatenate(first_rounds)  # one source may be a pool of several borrowed sets
    images = [images.images for _, images in data.borrowed]
    names = [image.key.encode() for image in itertools.chain(*images)][: len(first)]
    places = np.repeat(np.arange(1, len(images) + 1), [len(of) for of in images])[: len(first)]
    shown = np.flatnonzero(first)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        borrowed=places[shown].astype(np.int16),
        images=np.array([names[row] for row in shown]),
        rounds=first[shown],
    )
    return {"selected.npz": content.getvalue()}


def overlap_with_tests(spec: RunSpec, data: Data, context: Context) -> int:
    """Test images that the run borrows or an ancestor was trained on, by content (CROSS-1).

    Those that published weights of timm or of a package have seen are counted by their names, see
    `is_named_as_in_imagenet`. What else such weights or a file have seen nobody knows.

    Raises:
        DataError: a test image is among the run's own training images.
    """
    test = data.resolved.test
    shown = [images.images for _, images in data.borrowed]
    for ancestor in spec.ancestors():
        resolved = context.resolve_data(ancestor)
        shown += [resolved.train, resolved.val]
        shown += [images.images for images in context.resolve_borrowed(ancestor, resolved)]
    seen = set(test[test.shared_with(*shown)].hashes)
    own = set(test[test.shared_with(data.resolved.train, data.resolved.val)].hashes)
    if own:
        raise DataError(
            f"{len(own)} test images are among the training images",
            hint="the split is wrong; this is a bug, please report it",
        )
    for run in (spec, *spec.ancestors()):
        imagenet = _imagenet_of(run)
        if imagenet is not None:
            full = imagenet == "full"
            named = (image for image in test if is_named_as_in_imagenet(image.key, full))
            seen |= {image.sha256 for image in named}
    return len(seen)


_SELF_SUPERVISED = frozenset({"mae", "fcmae", "dino"})
"""Tags of timm whose weights come from ILSVRC2012's training images without their labels."""
_FULL_IMAGENET = frozenset({"in21k", "in22k", "inw21k", "lvd142m"})
_ILSVRC = frozenset({"in1k", "in12k"}) | _SELF_SUPERVISED


def _imagenet_of(run: RunSpec) -> Literal["ilsvrc", "full"] | None:
    """Which ImageNet the published weights that a run copies were trained on, by their tag.

    `lvd142m` is DINOv2's collection, which holds ImageNet-22k. Packages have weights that were
    trained on ILSVRC2012.
    """
    if isinstance(run.init, FromFile):
        return "ilsvrc" if run.init.package is not None else None
    if not isinstance(run.init, FromTimm):
        return None
    tag = run.init.tag
    if tag is None:
        config = timm.get_pretrained_cfg(run.model.name, allow_unregistered=True)
        tag = getattr(config, "tag", None) or ""
    parts = set(tag.split("_"))
    if parts & _FULL_IMAGENET:
        return "full"
    return "ilsvrc" if parts & _ILSVRC else None


def device_name(device: torch.device, processes: int = 1) -> str:
    """The name of the GPU or of the processor, and how many processes trained together."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor.name()
    return name if processes == 1 else f"{processes} x {name}"


def arithmetic(device: torch.device) -> dict[str, Any] | None:
    """What the bits of a result on a GPU depend on besides the GPU; None on the CPU.

    `tf32` names what rounds the factors of float32 products to 10 bits; cuDNN's convolutions do
    where nobody forbids it. Without `deterministic` sums are added in an order that may change.
    """
    if device.type != "cuda":
        return None
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    rounded = {"convolutions": cudnn.allow_tf32, "products": matmul.allow_tf32}
    return {
        "tf32": [name for name, is_on in rounded.items() if is_on],
        "cudnn": cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def resolved_settings(spec: RunSpec, context: Context) -> dict[str, str]:
    """What the settings that were left to the device are, in the run and in what it starts from.

    Names and values as in `bench.results.resolved`; empty where nothing was left to the device.
    """
    found: dict[str, str] = {}
    if spec.train.precision == "auto":
        found[PRECISION] = native_precision(context.torch_device())
    for prefix, needed in (("source.", spec.parent), ("bank.", spec.bank)):
        if needed is not None and leaves_to_device(needed):
            key = run_id(needed, context.fingerprint)
            record = Store(Path(context.results)).folder(key, needed).record()
            values: Mapping[str, str] = (record or {}).get("resolved", {})
            found |= {f"{prefix}{name}": value for name, value in values.items()}
    return found
