"""A finished run verified on identities that it was not trained on (SFT §4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from bench.core.errors import DataError
from bench.methods.features.linear_probe import features_of
from bench.runs.build import Data
from bench.training.domain import Domain
from bench.training.evaluation import predict
from bench.training.verification import FARS, Verification, verify


def verify_run(
    model: nn.Module, data: Data, device: torch.device, row: dict[str, Any]
) -> dict[str, Any]:
    """Adds `tar_at_far_…` and the numbers of pairs to `row`; returns notes for the record.

    The classifier is dropped; features are what it is handed, all views of an image together.
    Where features have no cosine the columns stay empty, and the notes say why.

    Args:
        model: the network with the weights kept.
        data: with the identities to verify on.
        device: where to compute.
        row: of the record.
    """
    domain = data.identities(model)
    if domain is None:
        return {}
    try:
        found = _verify(model, domain, device)
    except DataError as error:
        return {"verification": {"not_measured": error.message}}
    for far in FARS:
        row[f"tar_at_far_{_far(far)}"] = found.tar[far]
    row["genuine_pairs"], row["impostor_pairs"] = found.genuine_pairs, found.impostor_pairs
    row["verification_warning"] = "; ".join(found.warnings) or None
    return {
        "verification": {
            "identities": domain.num_classes,
            "images": domain.size,
            "thresholds": {_far(far): float(found.threshold[far]) for far in FARS},
            "warnings": list(found.warnings),
        }
    }


def _verify(model: nn.Module, domain: Domain, device: torch.device) -> Verification:
    features = predict(
        features_of(model, "penultimate", "post", domain, device), domain, device=device
    )
    return verify(np.asarray(features, np.float32), domain.labels)


def _far(far: float) -> str:
    """1e-2 and so on.

    >>> _far(0.01)
    '1e-2'
    """
    return f"{far:.0e}".replace("e-0", "e-")
