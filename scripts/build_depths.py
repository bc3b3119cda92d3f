"""Counts the layers of every timm network into bench/models/depths.csv; and tags of weights.

    python scripts/build_depths.py           # the tags, bench/models/published.csv, take a second
    python scripts/build_depths.py --tags    # the tags alone

Networks are built on the meta device, so they need no memory; the few that compute with their own
weights while they are built are built on the CPU. What cannot be counted has a reason in the table.
Takes about six minutes on one core.
"""

from __future__ import annotations

import csv
import os
import sys
import warnings
from pathlib import Path

import timm
import torch

from bench.core.errors import BenchError
from bench.models.depths import TABLE_TIMM
from bench.models.layers import create, register_networks
from bench.models.numbering import depth
from bench.specs.run import ModelSpec

MODELS = Path(__file__).resolve().parents[1] / "bench" / "models"
TABLE = MODELS / "depths.csv"
TAGS = MODELS / "published.csv"


def count(name: str) -> tuple[int | None, str]:
    """Depth of a network, or why it has none."""
    spec = ModelSpec(name=name)
    try:
        with torch.device("meta"):
            return depth(create(spec, 10, seed=0)), ""
    except Exception as error:
        reason = explain(error)
    if "meta" in reason:
        try:
            return depth(create(spec, 10, seed=0)), ""
        except Exception as error:
            reason = explain(error)
    return None, reason


def explain(error: Exception) -> str:
    """An error in one line."""
    text = error.message if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:200]


def write_tags() -> None:
    """The tags of the weights that timm publishes of each network, the default one first."""
    tags: dict[str, list[str]] = {}
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        tags.setdefault(name, []).append(tag)
    with TAGS.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["name", "tags"])
        for name, known in sorted(tags.items()):
            default = timm.models.get_pretrained_cfg(name).tag
            writer.writerow([name, " ".join(sorted(known, key=lambda tag: (tag != default, tag)))])
    print(f"{len(tags)} networks with published weights, {TAGS}")


def main() -> int:
    """Writes the table and prints what could not be counted."""
    if timm.__version__ != TABLE_TIMM:
        print(f"timm is {timm.__version__}: set TABLE_TIMM in bench/models/depths.py to it first")
        return 1
    warnings.simplefilter("ignore")
    register_networks()
    write_tags()
    if "--tags" in sys.argv:
        return 0
    names = sorted(timm.list_models())
    temporary = TABLE.with_name(f".{TABLE.name}.tmp")
    skipped = 0
    with temporary.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["name", "depth", "reason"])
        for number, name in enumerate(names, start=1):
            layers, reason = count(name)
            writer.writerow([name, layers if layers is not None else "", reason])
            if layers is None:
                skipped += 1
                print(f"{name}: {reason}")
            if number % 100 == 0:
                print(f"{number} of {len(names)}", flush=True)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(TABLE)
    print(f"{len(names)} networks, {skipped} without a depth, {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
