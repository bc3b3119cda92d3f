"""Convolutions of one pixel with a stride: the numbers of torch's own, and no crash."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from bench.models.layers import create
from bench.models.pointwise import PixelsFirst, take_pixels_first
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
