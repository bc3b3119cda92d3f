"""Images are normalised as the weights were trained, wherever the weights come from."""

from __future__ import annotations

import csv
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bench.commands._selections import _pretrained
from bench.grid.errors import CellError
from bench.grid.weights import WeightsReader
from bench.methods.retrieval.filter_banks import KernelBank
from bench.models import weights
from bench.models.inputs import CAFFE, InputStatistics, attach, attached, statistics_of
from bench.models.layers import create, register_networks
from bench.specs.data import DataSpec
from bench.specs.run import FromFile, FromRun, FromTimm, ModelSpec, RunSpec
from bench.training.domain import Domain
from bench.training.domain_batches import Feed, FeedOptions

DATA = DataSpec(dataset="digits")


def run(name: str, pattern: str, **given: object) -> RunSpec:
    return RunSpec(data=DATA, model=ModelSpec(name=name), pattern=pattern, **given)  # type: ignore[arg-type]


def published() -> list[tuple[str, str]]:
    text = resources.files("bench.models").joinpath("published.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return [(row["name"], tag) for row in rows for tag in row["tags"].split()]


def test_every_tag_of_timm_has_its_own_numbers() -> None:
    """Oracle: timm's description of each tag; those of the default tag are wrong for some."""
    register_networks()
    wrong = 0
    for name, tag in published():
        config = timm.get_pretrained_cfg(f"{name}.{tag}")
        if config is None or len(config.mean) != 3:
            continue
        found = statistics_of(run(name, "T(1-1)R(2-2)", init=FromTimm(tag=tag)))
        assert found == InputStatistics(tuple(config.mean), tuple(config.std)), (name, tag)
        usual = timm.get_pretrained_cfg(name)
        wrong += (tuple(usual.mean), tuple(usual.std)) != (found.mean, found.std)
    assert wrong > 20


def test_a_run_passes_its_numbers_on() -> None:
    parent = run("resnet50", "T(1-53)R(54)", init=FromTimm(tag="fb_swsl_ig1b_ft_in1k"))
    clip = run("vit_base_patch16_clip_224", "T(1-12)R(13)", init=FromTimm(tag="openai"))
    for source in (parent, clip):
        child = run(source.model.name, source.pattern, init=FromRun(run=source))
        assert statistics_of(child) == statistics_of(source)
    assert statistics_of(clip).mean == (0.48145466, 0.4578275, 0.40821073)


def test_caffe_takes_images_on_the_scale_of_its_initialisation() -> None:
    """LI §3: x - mean, not divided; the constants of `li2019` were made for it."""
    image = np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8)
    domain = Domain("two", image, np.array([0]), 1, mean=CAFFE.mean, std=CAFFE.std)
    inputs = Feed(domain, FeedOptions(torch.device("cpu"))).plain_batch(0, 1)
    assert inputs.amin() == pytest.approx(-0.485 * 255)
    assert inputs.amax() == pytest.approx((1 - 0.406) * 255)
    assert statistics_of(run("caffenet", "R(1-8)")) == CAFFE
    filled = RunSpec(
        data=DATA, model=ModelSpec(name="resnet18", filler="li2019"), pattern="R(1-21)"
    )
    assert statistics_of(filled) == CAFFE
    assert statistics_of(run("narrow8_32", "R(1-8)")) == InputStatistics()


def test_caffenet_sees_differences_between_images() -> None:
    """After conv5 images differ, and conv1 gets a gradient, on Caffe's scale only.

    Seen with photographs: deviation over images 0.086 against 0.0021, conv1's gradient over its
    weight 0.19 against 0.0041. Here with blobs of colour.
    """
    draw = np.random.default_rng(0)
    blobs = torch.from_numpy(draw.integers(0, 256, (16, 3, 6, 6)).astype(np.float32))
    pixels = nn.functional.interpolate(blobs, size=(227, 227), mode="bicubic")
    images = pixels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    spread, pull = {}, {}
    for name, statistics in (("caffe", CAFFE), ("imagenet", InputStatistics())):
        labels = np.arange(16)
        domain = Domain("blobs", images, labels, 16, mean=statistics.mean, std=statistics.std)
        net = create(ModelSpec(name="caffenet", filler="li2019"), 1000, seed=0).eval()
        inputs = Feed(domain, FeedOptions(torch.device("cpu"))).plain_batch(0, 16)
        with torch.no_grad():
            spread[name] = float(net.forward_features(inputs).std(0).mean())  # type: ignore[operator]
        nn.functional.cross_entropy(net(inputs), torch.arange(16)).backward()
        weight = net.get_parameter("conv1.conv.weight")
        assert weight.grad is not None
        pull[name] = float(weight.grad.norm() / weight.detach().norm())
    assert spread["caffe"] > 0.03
    assert spread["imagenet"] < 0.005
    assert pull["caffe"] > 0.1
    assert pull["imagenet"] < 0.01


def _weights(folder: Path) -> Path:
    path = folder / "net.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    return path


def test_a_file_states_its_numbers_or_has_them_beside_it(tmp_path: Path) -> None:
    path, model = _weights(tmp_path), ModelSpec(name="resnet18")
    read = WeightsReader()
    plain = read({"file": str(path)}, model)
    assert isinstance(plain, FromFile)
    assert plain.mean is None
    half = [0.5, 0.5, 0.5]
    given = read({"file": str(path), "mean": half, "std": half}, model)
    assert statistics_of(run("resnet18", "T(1-20)R(21)", init=given)).mean == (0.5, 0.5, 0.5)
    beside = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": half}}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    found = read({"file": str(path)}, model)
    assert isinstance(found, FromFile)
    assert found.mean == (0.1, 0.2, 0.3)
    for wrong, words in (
        ({"mean": half}, "without the other"),
        ({"mean": [1, 2], "std": half}, r"weights.mean is \[1, 2\]"),
        ({"mean": half, "std": [0.0, 1.0, 1.0]}, "weights.std"),
    ):
        with pytest.raises(CellError, match=words):
            read({"file": str(path), **wrong}, model)
    (tmp_path / "config.json").write_text("[" * 5000)
    with pytest.raises(CellError, match=r"config.json lies beside the weights"):
        read({"file": str(path)}, model)


def test_a_command_takes_images_as_the_tag_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench distance --network timm:NAME.TAG`; the weights need a network connection."""
    name, tag = "vit_small_patch16_224", "dino"
    assert timm.get_pretrained_cfg(name).mean != timm.get_pretrained_cfg(f"{name}.{tag}").mean
    state = create(ModelSpec(name=name), 1, seed=1, image_size=224).state_dict()
    monkeypatch.setattr(weights, "load_state", lambda *args, **more: state)
    model = _pretrained(f"{name}.{tag}", 224)
    assert attached(model).mean == tuple(timm.get_pretrained_cfg(f"{name}.{tag}").mean)


def test_a_bank_describes_images_as_its_own_network_takes_them() -> None:
    """GE's bank is AlexNet's, whatever network is tuned."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    bank = create(ModelSpec(name="narrow8_32"), 3, seed=0)
    attach(bank, CAFFE)
    assert attached(bank) == CAFFE
    kernels = KernelBank(bank, ("conv1.conv",), 32)
    ours = Domain("x", images, np.arange(3), 3, mean=CAFFE.mean, std=CAFFE.std)
    theirs = Domain("x", images, np.arange(3), 3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    for a, b in zip(kernels.responses(ours, 0, 3), kernels.responses(theirs, 0, 3), strict=True):
        assert torch.equal(a, b)
