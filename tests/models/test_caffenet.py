"""CaffeNet and its initialisation are LI's; the narrow ones have its layers."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bench.core.errors import ModelError
from bench.models.caffenet import CaffeNet, fill_li2019, li2019_fills
from bench.models.eight import LAYER_NAMES
from bench.models.layers import create, register_networks
from bench.models.narrow import NarrowNet
from bench.models.numbering import numbered_layers
from bench.specs.run import ModelSpec

GROUPED = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]
KERNELS = [(11, 96), (5, 256), (3, 384), (3, 384), (3, 256)]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def meta(name: str, **options: object) -> nn.Module:
    register_networks()
    with torch.device("meta"):
        return timm.create_model(name, **options)


def test_parameters_per_layer_with_groups() -> None:
    net = meta("caffenet")
    assert [count(net.get_submodule(name)) for name in LAYER_NAMES] == GROUPED
    assert count(net) == sum(GROUPED) == 60_965_224


def test_parameters_without_groups() -> None:
    assert count(meta("caffenet_ungrouped")) == 62_378_344


def test_the_papers_own_column_omits_incoming_channels() -> None:
    """LI Table 1: k*k*C_out + C_out for convolutions, the true number for full connections."""
    net = meta("caffenet")
    convolutions = [net.get_submodule(f"conv{n}.conv") for n in range(1, 6)]
    assert [(c.kernel_size[0], c.out_channels) for c in convolutions] == KERNELS
    printed = [k * k * c + c for k, c in KERNELS] + GROUPED[5:]
    assert printed[:5] == [11_712, 6_656, 3_840, 3_840, 2_560]
    assert sum(printed) == 58_659_752
    assert round(100 * printed[6] / sum(printed), 2) == 28.61


def test_shapes_of_every_layer() -> None:
    net, x = meta("caffenet"), torch.zeros(2, 3, 227, 227, device="meta")
    shapes = {}
    for name in LAYER_NAMES:
        x = net.get_submodule(name)(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes == {
        "conv1": (96, 27, 27),
        "conv2": (256, 13, 13),
        "conv3": (384, 13, 13),
        "conv4": (384, 13, 13),
        "conv5": (256, 6, 6),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (1000,),
    }


def test_pooling_comes_before_normalisation() -> None:
    for name in ("conv1", "conv2"):
        parts = [part for part, _ in meta("caffenet").get_submodule(name).named_children()]
        assert parts == ["conv", "relu", "pool", "norm"]


def test_normalisation_across_channels_is_the_formula() -> None:
    """b_c = a_c / (1 + 1e-4/5 * sum of squares over 5 neighbouring channels) ** 0.75, by loops."""
    norm = meta("caffenet").get_submodule("conv1").norm
    activations = np.random.default_rng(0).normal(0, 50, size=(1, 9, 2, 2))
    expected = np.empty_like(activations)
    for c in range(9):
        around = activations[:, max(0, c - 2) : c + 3]
        expected[:, c] = activations[:, c] / (1 + 1e-4 / 5 * (around**2).sum(axis=1)) ** 0.75
    found = norm(torch.from_numpy(activations)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert not np.allclose(expected, activations)


def test_another_image_size_has_to_be_asked_for() -> None:
    with torch.device("meta"):
        net = CaffeNet(num_classes=3)
        with pytest.raises(ModelError, match="built for images of 227 pixels and got 224x224"):
            net(torch.zeros(1, 3, 224, 224))
        small = CaffeNet(num_classes=3, img_size=131)
        assert small(torch.zeros(1, 3, 131, 131)).shape == (1, 3)
        with pytest.raises(ModelError, match="vanish"):
            CaffeNet(img_size=16)


@pytest.mark.parametrize("side", [67, 96, 128, 224, 227, 256])
def test_fc6_is_as_wide_as_the_map(side: int) -> None:
    with torch.device("meta"):
        net = CaffeNet(num_classes=2, img_size=side)
        assert net(torch.zeros(1, 3, side, side)).shape == (1, 2)


@pytest.mark.parametrize("name", ["caffenet", "narrow8_32", "narrow8_64"])
def test_timms_dialect(name: str) -> None:
    net = meta(name, num_classes=7, in_chans=1, drop_rate=0.25)
    size = net.pretrained_cfg["input_size"]
    images = torch.zeros(2, *size, device="meta")
    assert size[0] == 1
    assert net(images).shape == (2, 7)
    features = net.forward_features(images)
    assert features.shape[1] == net.num_features
    assert net.forward_head(features, pre_logits=True).shape == (2, net.head_hidden_size)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]
    net.reset_classifier(3)
    assert net(images).shape == (2, 3)
    assert count(net.get_classifier()) == 3 * net.head_hidden_size + 3
    net.reset_classifier(0)
    assert net(images).shape == (2, net.head_hidden_size)
    assert [layer.number for layer in numbered_layers(meta(name))] == list(range(1, 9))
    with pytest.raises(ModelError, match="no published weights"):
        timm.create_model(name, pretrained=True)


def test_narrow_networks_have_four_hundred_thousand_parameters() -> None:
    for name in ("narrow8_32", "narrow8_64"):
        assert count(meta(name, num_classes=20)) == 416_020


@pytest.mark.parametrize(
    ("name", "sides"), [("narrow8_32", (24, 32, 33, 40)), ("narrow8_64", (48, 64, 72))]
)
def test_narrow_networks_take_sizes_near_the_nominal(name: str, sides: tuple[int, ...]) -> None:
    net = meta(name, num_classes=4)
    for side in sides:
        assert net(torch.zeros(2, 3, side, side + 2, device="meta")).shape == (2, 4)
    with pytest.raises(ModelError, match="too small"):
        net(torch.zeros(2, 3, 8, 8, device="meta"))


def test_registering_is_explicit_and_may_be_repeated() -> None:
    register_networks()
    register_networks()
    assert timm.is_model("caffenet")
    assert timm.is_model("narrow8_64")


def test_the_fills_of_caffenet_are_those_of_the_paper() -> None:
    fills = li2019_fills(meta("caffenet"))
    stds = [fill.std for fill in fills.values()]
    biases = [fill.bias for fill in fills.values()]
    assert stds == [0.01] * 5 + [0.005, 0.005, 0.01]
    assert biases == [0, 1, 0, 1, 1, 1, 1, 1]


def test_filled_weights_have_the_declared_moments() -> None:
    """Ledger X-1 (c); bounds are five standard errors of a Gaussian sample."""
    net = create(ModelSpec(name="caffenet", filler="li2019"), 100, seed=0)
    for name, fill in li2019_fills(net).items():
        module = net.get_submodule(name)
        weight, n = module.weight.detach().double(), module.weight.numel()
        assert abs(float(weight.mean())) < 5 * fill.std / n**0.5
        assert abs(float(weight.std()) / fill.std - 1) < 5 / (2 * n) ** 0.5
        assert bool((module.bias == fill.bias).all())


def test_filler_leaves_normalisation_alone() -> None:
    net = NarrowNet(num_classes=3)
    fill_li2019(net)
    norm = net.get_submodule("conv2.norm")
    assert bool((norm.weight == 1).all())
    assert bool((norm.bias == 0).all())
    assert 0.008 < float(net.get_submodule("conv2.conv").weight.detach().std()) < 0.012


def test_other_backbones_have_their_published_sizes() -> None:
    """Ledger X-3."""
    sizes = {
        "mobilenetv2_100": 3_504_872,
        "resnet50": 25_557_032,
        "inception_v4": 42_679_816,
        "resnetv2_152": 60_185_128,
    }
    assert {name: count(meta(name)) for name in sizes} == sizes
