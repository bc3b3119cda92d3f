"""What commands cost before anything runs: no torch where all is remembered, no scipy for means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

GRID = """\
defaults:
  target: {dataset: folder, root: images, image_size: 32, val_per_class: 1, test_per_class: 1}
  model: narrow8_32
  pattern: scratch
  train: {epochs: 1, batch_size: 4}
experiments:
  rates:
    axes: {train.lr: [0.01, 0.02]}
"""
WATCHED = """\
import atexit, os, sys
open("started.txt", "a").write(f"{sys.orig_argv[-1]}\\n")
watched = ("torch", "timm", "pandas", "nltk", "scipy.optimize", "urllib.request")
atexit.register(
    lambda: open(os.environ["LOADED"], "a").write(
        f"{[name for name in watched if name in sys.modules]}\\n"
    )
)
"""
"""Every process of a command adds a line: its last argument when it starts, and when it ends in
peace which of these modules it has imported."""


def _loaded(folder: Path, *options: str) -> list[str]:
    """What each process of a command has imported, where `nvidia-smi` may lie in the folder."""
    loaded = folder / "loaded.txt"
    loaded.unlink(missing_ok=True)
    (folder / "started.txt").unlink(missing_ok=True)
    paths = [str(folder / "watch"), str(Path(__file__).parents[2])]
    watched = {"PYTHONPATH": os.pathsep.join(paths), "LOADED": str(loaded)}
    path = os.pathsep.join([str(folder / "tools"), os.environ["PATH"]])
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    subprocess.run(
        [sys.executable, "-m", "bench", "grid", "grid.yaml", *options],
        cwd=folder,
        env=environment | watched | {"PATH": path},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return loaded.read_text().splitlines()


def _own_images(tmp_path: Path) -> None:
    """A grid on a few images, and processes that are watched."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCHED)
    (tmp_path / "grid.yaml").write_text(GRID)
    rng = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def test_a_second_dry_run_of_own_images_imports_no_torch_in_any_process(tmp_path: Path) -> None:
    _own_images(tmp_path)
    first = _loaded(tmp_path, "--dry-run")
    assert first[-1] == "[]", "the command itself, which ends last"
    assert _loaded(tmp_path, "--dry-run") == ["[]"]


def test_on_a_machine_with_a_gpu_torch_is_asked_only_before_something_is_run(
    tmp_path: Path,
) -> None:
    _own_images(tmp_path)
    tool = tmp_path / "tools" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5d5ba0d6)'\n")
    tool.chmod(0o755)
    started = tmp_path / "started.txt"
    _loaded(tmp_path, "--dry-run")
    assert _loaded(tmp_path, "--dry-run") == ["[]"]
    assert started.read_text().split() == ["--dry-run"]
    _loaded(tmp_path, "--workers", "1")
    assert "bench.launch.local.worker" in started.read_text().split()
    (own,) = _loaded(tmp_path, "--workers", "1")
    assert "torch" not in own
    assert started.read_text().split() == ["1"], "nothing is left to do"


def test_intervals_of_a_leaderboard_import_no_scipy() -> None:
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from bench.results.intervals import Observation, estimate\n"
        "values = [(0.1, 0.2), (0.4, 0.1), (0.2, 0.2)]\n"
        "rows = enumerate(values)\n"
        "found = [Observation('a', str(n), v, image_variance=i) for n, (v, i) in rows]\n"
        "one, other = estimate(found), [replace(o, task='b') for o in found]\n"
        "assert one.low < one.high and estimate([*found, *other]).here.low\n"
        "print('scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
