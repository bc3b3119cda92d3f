"""Replaced layers: the numbers of torch's own, without its crash or with less memory."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from bench.models.equivalents import PixelsFirst, SavedOnce, save_once, take_pixels_first
from bench.models.layers import create
from bench.specs.run import ModelSpec

STEPS = """
import torch
from bench.models.layers import create
from bench.specs.run import ModelSpec

torch.set_num_threads(1)
net = create(ModelSpec(name="repvgg_a0"), 3, seed=0).train().to(memory_format=torch.channels_last)
images = torch.randn(4, 3, 224, 224).contiguous(memory_format=torch.channels_last)
for _ in range(4):
    net(images).sum().backward()
del net, images
print("trained")
"""


def test_a_network_whose_first_layer_crashed_is_trained() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [2, (3, 1)])
def test_values_and_gradients_are_those_of_torch_in_the_other_layout(
    stride: int | tuple[int, int], size: int
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 1, stride=stride).double())
    ours = copy.deepcopy(plain)
    assert take_pixels_first(ours) == ["0"]
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    both = [images.clone().requires_grad_(), images.clone().requires_grad_()]
    last = both[1].contiguous(memory_format=torch.channels_last)
    expected, found = plain(both[0]), ours.to(memory_format=torch.channels_last)(last)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(both[1].grad, both[0].grad)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)
    assert list(ours.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 8, 1, stride=2),
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(3, 8, 2, stride=2),
        nn.Conv2d(3, 8, 1, stride=2, padding=1),
        nn.Conv2d(8, 8, 1, stride=2, groups=8),
    ],
)
def test_others_are_left_alone(layer: nn.Conv2d) -> None:
    assert take_pixels_first(nn.Sequential(layer)) == []
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("name", ["resnet18", "narrow8_32", "mobilenetv3_small_050"])
def test_usual_networks_have_none(name: str) -> None:
    net = create(ModelSpec(name=name), 3, seed=0)
    assert not [one for one in net.modules() if isinstance(one, PixelsFirst)]


def _kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of activations that the backward pass of a network keeps, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
    assert output.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in own)


def _usual(model: nn.Module) -> nn.Module:
    """The network with torch's own ReLU6 again."""
    for layer in model.modules():
        if type(layer) is SavedOnce:
            layer.__class__ = nn.ReLU6
    return model


@pytest.mark.parametrize("value", [-1.0, -0.0, 0.0, 1e-30, 3.0, 6.0, 6.5, float("inf")])
def test_values_and_slopes_are_torchs_own(value: float) -> None:
    found = []
    for layer in (nn.ReLU6(inplace=True), SavedOnce(inplace=True)):
        x = torch.tensor([value, 2.0], requires_grad=True)
        y = layer(x * 1.0)
        y.sum().backward()
        assert x.grad is not None
        found.append((y.detach(), x.grad))
    (y, slope), (own_y, own_slope) = found
    torch.testing.assert_close(own_y, y, rtol=0, atol=0)
    torch.testing.assert_close(own_slope, slope, rtol=0, atol=0)


def test_a_network_has_the_same_bits_and_keeps_a_fifth_less() -> None:
    spec, images = ModelSpec(name="tf_efficientnet_lite0"), torch.randn(2, 3, 64, 64)
    gradients, kept = [], []
    for network in (_usual(create(spec, 3, seed=0)), create(spec, 3, seed=0)):
        network.train()(images).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
        kept.append(_kept_bytes(network, images))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None)
    assert kept[1] < 0.82 * kept[0]


def test_a_leaf_and_a_network_that_is_not_trained_are_torchs_own() -> None:
    layer = SavedOnce(inplace=True)
    with torch.no_grad():
        assert layer(torch.tensor([7.0])).item() == 6.0
    with pytest.raises(RuntimeError, match="leaf"):
        layer(torch.ones(1, requires_grad=True))


def test_only_relu6_in_place_is_changed() -> None:
    model = nn.Sequential(nn.ReLU6(inplace=True), nn.ReLU6(), nn.ReLU(inplace=True))
    assert save_once(model) == ["0"]
    assert save_once(model) == []


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mobilenetv2_035", 35),
        ("tf_efficientnet_lite0", 33),
        ("rexnet_100", 0),
        ("starnet_s050", 0),
    ],
)
def test_every_family_with_relu6_computes_the_same_bits(name: str, changed: int) -> None:
    """None writes over what such a layer gives: the backward pass would be an error."""
    found, images = [], torch.randn(2, 3, 64, 64)
    for usual in (True, False):
        network = create(ModelSpec(name=name), 3, seed=0, image_size=64)
        assert any(isinstance(layer, nn.ReLU6) for layer in network.modules())
        assert sum(type(layer) is SavedOnce for layer in network.modules()) == changed
        network = _usual(network) if usual else network
        with torch.random.fork_rng():
            torch.manual_seed(0)
            output = network.train()(images)
        output.square().sum().backward()
        found.append([output, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
