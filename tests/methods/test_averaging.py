"""WiSE-FT and soups: end points equal the ends; torch's own averaging as the oracle."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from bench.core.errors import ModelError
from bench.methods.averaging import greedy_soup, interpolated, uniform_soup
from bench.models import layers
from bench.specs.run import ModelSpec

State = dict[str, torch.Tensor]


def _networks(count: int) -> list[torch.nn.Module]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = layers.create(ModelSpec(name="resnet10t"), 3, seed=seed, image_size=32).train()
        network(torch.randn(4, 3, 32, 32))  # running statistics of its own
        found.append(network)
    return found


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_end_points_are_the_ends() -> None:
    start, end = (network.state_dict() for network in _networks(2))
    assert _equal(interpolated(start, end, 0.0), start)
    assert _equal(interpolated(start, end, 1.0), end)
    middle = interpolated(start, end, 0.25)
    for name, value in middle.items():
        expected = (
            torch.lerp(start[name], end[name], 0.25) if value.is_floating_point() else start[name]
        )
        assert torch.allclose(value, expected, atol=1e-6)


def test_a_uniform_soup_is_torchs_average() -> None:
    networks = _networks(3)
    theirs = AveragedModel(networks[0], use_buffers=True)
    for network in networks:
        theirs.update_parameters(network)
    found = uniform_soup([network.state_dict() for network in networks])
    expected = theirs.module.state_dict()
    for name, value in found.items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-6)


def test_a_soup_of_equal_networks_is_that_network() -> None:
    state = _networks(1)[0].state_dict()
    assert _equal(uniform_soup([state, state, state]), state)
    assert _equal(greedy_soup([state], [0.5], lambda _: 0.5)[0], state)


def _near(target: float) -> list[State]:
    return [
        {"w": torch.tensor([value])} for value in (target + 4, target - 2, target + 2, target - 40)
    ]


def test_a_greedy_soup_takes_what_does_not_lower_the_accuracy() -> None:
    states = _near(0.0)

    def accuracy(state: State) -> float:
        return -abs(float(state["w"]))

    soup, inside = greedy_soup(states, [accuracy(state) for state in states], accuracy)
    assert inside == (1, 2)  # -2, then the mean with 2 is 0; 4 and -40 lead away
    assert float(soup["w"]) == 0.0


def test_a_greedy_soup_is_never_worse_than_the_best_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        states: list[State] = [{"w": torch.randn(2, generator=generator)} for _ in range(5)]
        wanted = torch.randn(2, generator=generator)

        def accuracy(state: State, wanted: torch.Tensor = wanted) -> float:
            return -float((state["w"] - wanted).norm())

        soup, inside = greedy_soup(states, [accuracy(state) for state in states], accuracy)
        assert accuracy(soup) >= max(map(accuracy, states))
        assert _equal(soup, uniform_soup([states[n] for n in inside]))


def test_networks_that_differ_are_refused() -> None:
    one, other = {"a": torch.zeros(2)}, {"a": torch.zeros(3), "b": torch.zeros(1)}
    with pytest.raises(
        ModelError, match="network 2 differs from the first in 2 tensors, 'a' among"
    ):
        uniform_soup([one, other])
    with pytest.raises(ModelError, match="there is no network to average"):
        uniform_soup([])
