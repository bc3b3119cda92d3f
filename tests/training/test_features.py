"""Features against hand-composed partial forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bench.core.errors import ModelError
from bench.data.transforms.augment import normalise
from bench.training.domain import Domain
from bench.training.features import LayerTap, extract

RNG = np.random.default_rng(0)
DATA = Domain("toy", RNG.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8), np.zeros(7, np.int64), 2)
X = normalise(torch.from_numpy(DATA.images), DATA.mean, DATA.std)


class Shared(nn.Module):
    """One in-place ReLU used three times, dropout, a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.flat, self.fc1, self.fc2 = nn.Flatten(), nn.Linear(256, 9), nn.Linear(9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x) + x))
        x = self.drop(self.act(self.fc1(self.flat(x))))
        return self.fc2(x)


@pytest.fixture(scope="module")
def net() -> Shared:
    torch.manual_seed(0)
    model = Shared()
    model(torch.randn(8, 3, 16, 16))  # running statistics that are not the initial ones
    return model


def _by_hand(net: Shared) -> dict[tuple[str, str], torch.Tensor]:
    net.eval()
    with torch.no_grad():
        first = net.norm1(net.conv1(X))
        a = first.relu()
        second = net.conv2(a) + a
        b = nn.functional.max_pool2d(second.relu(), 2)
        third = net.fc1(b.flatten(1))
        scores = net.fc2(third.relu())
        conv1, conv2 = net.conv1(X), net.conv2(a)
    net.train()
    return {
        ("conv1", "output"): conv1,
        ("conv1", "pre"): first,
        ("conv1", "post"): a,
        ("conv1", "end"): a,
        ("conv2", "output"): conv2,
        ("conv2", "pre"): second,
        ("conv2", "post"): second.relu(),
        ("conv2", "end"): b,
        ("fc1", "pre"): third,
        ("fc1", "post"): third.relu(),
        ("fc1", "end"): third.relu(),
        ("fc2", "pre"): scores,
        ("fc2", "post"): scores,
        ("fc2", "end"): scores,
        ("pool", "output"): b,
    }


def test_every_stage_equals_the_partial_forward_pass(net: Shared) -> None:
    for (layer, stage), expected in _by_hand(net).items():
        found = extract(net, layer, DATA, stage=stage, batch_size=3)
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, expected, rtol=1e-4, atol=1e-5, err_msg=f"{layer} {stage}"
        )


def test_pooling_is_over_places(net: Shared) -> None:
    maps = torch.from_numpy(extract(net, "conv2", DATA, stage="end"))
    assert maps.shape == (7, 4, 8, 8)
    expected = {"max": maps.amax((2, 3)), "mean": maps.mean((2, 3)), "flatten": maps.flatten(1)}
    for pool, value in expected.items():
        found = extract(net, "conv2", DATA, stage="end", pool=pool)
        np.testing.assert_allclose(found, value, rtol=1e-6)
    assert extract(net, "fc1", DATA, pool="max").shape == (7, 9)


def test_extraction_is_deterministic_and_leaves_modes_and_statistics(net: Shared) -> None:
    net.train()
    net.norm1.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first, second = (extract(net, "fc1", DATA) for _ in range(2))
    assert np.array_equal(first, second)
    assert net.training
    assert not net.norm1.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_layers_by_number_in_a_timm_network() -> None:
    model = timm.create_model("resnet18", num_classes=3)
    with torch.no_grad():
        model.eval()
        stem = model.maxpool(model.act1(model.bn1(model.conv1(X))))
        block = model.layer1[0](stem)
        scores = model(X)
    np.testing.assert_allclose(extract(model, 1, DATA, stage="end"), stem, atol=1e-5)
    np.testing.assert_allclose(extract(model, 2, DATA), block, rtol=1e-4, atol=1e-4)
    from bench.models.numbering import numbered_layers

    last = len(numbered_layers(model))
    np.testing.assert_allclose(extract(model, last, DATA), scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="1 to"):
        extract(model, last + 1, DATA)


def test_tokens_are_pooled_over_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(3, 5), nn.GELU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.fc(x.flatten(2).transpose(1, 2)))

    model = Tokens()
    tokens = extract(model, "fc", DATA)
    assert tokens.shape == (7, 256, 5)
    np.testing.assert_allclose(extract(model, "fc", DATA, pool="max"), tokens.max(1), rtol=1e-6)


def test_wrong_layers_are_named_with_the_nearest(net: Shared) -> None:
    with pytest.raises(ModelError, match=r"'conv3'[\s\S]*conv[12]"):
        extract(net, "conv3", DATA)
    with pytest.raises(ModelError, match="no weights"):
        extract(net, "pool", DATA)
    functional = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(512, 2))
    with pytest.raises(ModelError, match="no activation module follows"):
        extract(functional, "0", DATA)


def test_a_module_that_does_not_run_is_an_error() -> None:
    class Idle(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 2, 1), nn.ReLU())
            self.spare = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](self[0](x))  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="'spare' does not run"):
        LayerTap(Idle(), ["spare"], "output", X)
