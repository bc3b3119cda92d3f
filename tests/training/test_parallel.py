"""Several processes train as one: two CPU processes with gloo, against this one.

Run as a script, this file is one of the processes: `test_parallel.py RANK SIZE FOLDER`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.methods import Ingredients
from bench.methods.finetuning.plain import Plain
from bench.specs.run import TrainSpec
from bench.training.data_parallel import ALONE, Replica, Team, joined, whole_batch_norm
from bench.training.domain import Domain, DomainBatch
from bench.training.job import Interrupted, Outcome, TrainingJob
from bench.training.loop import train
from bench.training.process import set_threads

BASE = TrainSpec(epochs=3, batch_size=8, lr=0.05, augment="crop_flip_color", schedule="constant")


def _domain(count: int, seed: int = 0) -> Domain:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 160, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 60
    return Domain("toy", images.astype(np.uint8), labels, 3)


def _net(*, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            BatchNormAct2d(6) if norm else nn.Identity(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(96, 3),
        )


@dataclass
class Case:
    """A training; `double` computes in float64, `stop_at` asks rank 1 to stop after so many."""

    recipe: dict[str, Any] = field(default_factory=dict)
    net: dict[str, Any] = field(default_factory=dict)
    frozen_norm: bool = False
    double: bool = False
    stop_at: int | None = None
    identity: str = ""

    def job(self, folder: Path, team: Team) -> TrainingJob:
        recipe = TrainSpec.model_validate(BASE.model_dump() | self.recipe)
        net = _net(**self.net)
        still = [m for m in net.modules() if self.frozen_norm and isinstance(m, nn.BatchNorm2d)]
        for number, module in enumerate(still):
            assert module.running_mean is not None
            module.running_mean += 0.1 * number
            module.requires_grad_(False)
        if self.double:
            net.double()

        def set_modes() -> None:
            for module in still:
                module.eval()

        asked = iter(range(self.stop_at)) if self.stop_at is not None and team.rank else None
        return TrainingJob(
            net,
            Plain(Ingredients(_domain(30), recipe)),
            [{"params": [p for p in net.parameters() if p.requires_grad], "l2_sp": 0.01}],
            recipe,
            validation=_domain(300, seed=1),
            forward=(lambda x, parts: [net(x.double())]) if self.double else None,
            set_modes=set_modes,
            should_stop=lambda: asked is not None and next(asked, None) is None,
            checkpoint=folder / f"{self.identity}.ckpt" if self.identity else None,
            identity=self.identity,
            team=team,
        )


CASES = {
    "plain": Case({"accumulate": 3, "batch_size": 7, "select": "last"}),
    "adamw": Case({"optimizer": "adamw", "lr": 0.003, "label_smoothing": 0.1}),
    "mixed": Case({"mixup": 0.5, "cutmix": 1.0, "accumulate": 2, "policy": "randaugment"}),
    "averaged": Case({"ema": 0.8, "clip_norm": 0.5, "class_weights": "balanced"}),
    "frozen_norm": Case(net={"norm": True}, frozen_norm=True),
    "norm": Case({"accumulate": 2}, {"norm": True}, double=True),
    "parts": Case(
        {"accumulate": 2, "ema": 0.8, "batch_norm_parts": 2}, {"norm": True}, double=True
    ),
    "dropout": Case(net={"dropout": 0.4}),
    "dropout_resumed": Case(net={"dropout": 0.4}, stop_at=6, identity="dropout"),
    "left": Case(stop_at=5, identity="left"),
    "left_whole": Case(),
}


def _train_twice(case: Case, folder: Path, team: Team) -> Outcome:
    """Once more after a stop."""
    try:
        return train(case.job(folder, team))
    except Interrupted:
        case.stop_at = None
        return train(case.job(folder, team))


def _three_steps(team: Team, whose: str) -> dict[str, Tensor]:
    """On halves of a batch of 7, by torch's DistributedDataParallel or by ours in two parts."""
    net = _net(norm=True).double()
    ours = Replica(team, net, lambda x, parts: [net(x)], parts=2) if whose == "ours" else None
    theirs = nn.parallel.DistributedDataParallel(net) if ours is None else None
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    noise = torch.Generator().manual_seed(0)
    with whole_batch_norm(team, net, parts=2) if ours else contextlib.nullcontext():
        for _ in range(3):
            x = torch.randn(7, 3, 8, 8, dtype=torch.float64, generator=noise)[team.rows(7)]
            labels = torch.arange(7)[team.rows(7)] % 3
            optimizer.zero_grad()
            out = ours(x, None)[0] if ours else theirs(x)  # type: ignore[misc]
            loss = nn.functional.cross_entropy(out, labels, reduction="sum") / 7
            (loss * team.size).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if ours:
                ours.share_statistics()
    return {name: value.clone() for name, value in net.state_dict().items()}


def _process(rank: int, size: int, folder: Path) -> None:
    """What each of the two processes does."""
    set_threads(1)
    said = {}
    with joined(rank, size, torch.device("cpu"), folder / "meeting-point") as team:
        for name, case in CASES.items():
            if name == "left":
                with pytest.raises(Interrupted):
                    train(case.job(folder, team))
                continue
            outcome = _train_twice(case, folder, team)
            save_file(outcome.state, folder / f"{name}-{rank}.safetensors")
            said[name] = [outcome.history, outcome.steps, outcome.images_seen, outcome.notes]
        for whose in ("torchs", "ours"):
            save_file(_three_steps(team, whose), folder / f"{whose}-{rank}.safetensors")
        with pytest.raises(BenchError, match="batch of 1 images cannot be split over 2 processes"):
            train(Case({"batch_size": 1}).job(folder, team))
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    _process(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.exit()


@dataclass(frozen=True)
class Both:
    """What two processes left."""

    folder: Path

    def state(self, name: str, rank: int = 0) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}-{rank}.safetensors")

    def said(self, name: str, rank: int = 0) -> Any:
        return json.loads((self.folder / f"said-{rank}.json").read_text())[name]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("two")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(rank), "2", str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, words = process.communicate(timeout=300)
        assert process.returncode == 0, words
    return Both(folder)


def _alone(name: str, folder: Path) -> Outcome:
    set_threads(1)
    return train(CASES[name].job(folder, ALONE))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("plain", 1e-5),
        ("adamw", 1e-5),
        ("mixed", 1e-5),
        ("averaged", 1e-5),
        ("frozen_norm", 1e-5),
        ("norm", 1e-10),
        ("parts", 1e-10),
    ],
)
def test_two_processes_train_as_one(
    both: Both, tmp_path: Path, name: str, tolerance: float
) -> None:
    """The global batch is fixed, so weights and metrics are those of one process."""
    one = _alone(name, tmp_path)
    history, steps, images, notes = both.said(name)
    assert (steps, images) == (one.steps, one.images_seen)
    assert notes == ["trained by 2 CPU processes together"]
    for row, expected in zip(history, one.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)
    state = both.state(name)
    assert state.keys() == one.state.keys()
    for key, value in one.state.items():
        torch.testing.assert_close(state[key], value, rtol=tolerance, atol=tolerance)


def test_parts_are_what_torchs_data_parallel_training_computes(both: Both) -> None:
    """With BatchNorm as it is, and its buffers sent by rank 0 (`broadcast_buffers`)."""
    theirs = both.state("torchs")
    assert theirs["1.running_mean"].abs().max() > 0.01
    for rank in (0, 1):
        ours = both.state("ours", rank)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("views", [1, 2])
def test_one_process_computes_parts_as_a_network_for_each(views: int) -> None:
    """Two copies, half of the samples each, their gradients added, and the first one's buffers."""
    net = _net(norm=True).double()
    halves = [copy.deepcopy(net) for _ in range(2)]
    samples = 7
    x = torch.randn(samples * views, 3, 8, 8, dtype=torch.float64)
    weight = torch.randn(samples * views, 3, dtype=torch.float64)
    halves_of = (slice(4 * views), slice(4 * views, None))
    outs = []
    with whole_batch_norm(ALONE, net, parts=2, views=views):
        for _ in range(2):
            outs.append(net(x))
            (outs[-1] * weight).sum().backward()
    for turn in range(2):
        found = [half(x[rows]) for half, rows in zip(halves, halves_of, strict=True)]
        torch.testing.assert_close(torch.cat(found), outs[turn], rtol=1e-12, atol=1e-12)
        (torch.cat(found) * weight).sum().backward()
    for mine, one, other in zip(net.parameters(), *(h.parameters() for h in halves), strict=True):
        assert mine.grad is not None
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad, one.grad + other.grad, rtol=1e-12, atol=1e-12)
    for mine, first in zip(net.buffers(), halves[0].buffers(), strict=True):
        torch.testing.assert_close(mine, first, rtol=1e-12, atol=1e-12)


def test_batches_are_large_enough_for_parts_and_processes_as_many() -> None:
    steps = [(DomainBatch(0, np.arange(9)),), (DomainBatch(0, np.arange(7)),)]
    ALONE.check(steps, 1, parts=3)
    with pytest.raises(BenchError) as caught:
        ALONE.check(steps, 1, parts=4)
    assert caught.value.message == (
        "train.batch_norm_parts is 4, and a batch of 7 images has no two for each part"
    )
    assert caught.value.hint == "set it to at most 3, or train with a larger train.batch_size"
    Team(0, 3, ALONE.device).check(steps, 1, parts=3)
    with pytest.raises(BenchError, match="parts is 3, and 2 processes train together"):
        Team(0, 2, ALONE.device).check(steps, 1, parts=3)


@pytest.mark.parametrize("name", ["plain", "norm", "parts", "dropout"])
def test_all_ranks_hold_the_same_weights_and_history(both: Both, name: str) -> None:
    mine, other = both.state(name), both.state(name, 1)
    assert all(torch.equal(value, other[key]) for key, value in mine.items())
    assert both.said(name) == both.said(name, 1)


def test_a_stop_that_one_rank_asks_for_is_everybodys_and_resumes_to_the_bit(both: Both) -> None:
    """With dropout: the streams of all ranks are in the checkpoint."""
    resumed = both.said("dropout_resumed")
    assert "resumed in epoch 2 after step 3" in resumed[3]
    assert resumed[0] == both.said("dropout")[0]
    whole, again = both.state("dropout"), both.state("dropout_resumed")
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_what_two_processes_began_one_can_end(both: Both) -> None:
    case = CASES["left"]
    case.stop_at = None
    outcome = train(case.job(both.folder, ALONE))
    assert any(note.startswith("resumed in epoch 2") for note in outcome.notes)
    for key, value in both.state("left_whole").items():
        torch.testing.assert_close(outcome.state[key], value, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 50), st.integers(1, 9))
def test_rows_of_the_ranks_are_all_rows_once_and_even(count: int, size: int) -> None:
    parts = [np.arange(count)[Team(r, size, ALONE.device).rows(count)] for r in range(size)]
    assert np.concatenate(parts).tolist() == list(range(count))
    assert [len(part) for part in parts] == [len(p) for p in np.array_split(range(count), size)]


def test_one_process_asks_nobody_and_changes_nothing() -> None:
    net = _net(norm=True)

    def forward(x: Tensor, parts: Any) -> list[Tensor]:
        return [net(x)]

    state = {"cpu": torch.get_rng_state()}
    assert ALONE.replica(net, forward) is forward
    assert (ALONE.any(True), ALONE.any(False), ALONE.stream("a")) == (True, False, "a")
    assert ALONE.gather_states(state) == ALONE.own_states(state) == state
    ALONE.check([(DomainBatch(0, np.arange(1)),)], accumulate=3)
    with whole_batch_norm(ALONE, net):
        assert not any("forward" in vars(module) for module in net.modules())


def test_a_method_with_two_domains_is_refused_before_training() -> None:
    with pytest.raises(BenchError, match="2 domains cannot train on 4 GPUs"):
        Team(0, 4, ALONE.device).check_domains(2)


def test_other_ranks_have_streams_of_their_own() -> None:
    streams = {Team(rank, 3, ALONE.device).stream("dropout|0|1") for rank in range(3)}
    assert len(streams) == 3
    assert "dropout|0|1" in streams


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_ranks_is_torchs_where_there_is_one_rank(
    momentum: float | None, tmp_path: Path
) -> None:
    """Against torch.nn.BatchNorm2d in value, gradient and running statistics."""
    own = nn.BatchNorm2d(4, momentum=momentum).double()
    theirs = nn.BatchNorm2d(4, momentum=momentum).double()
    nn.init.uniform_(own.weight)
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    weight = torch.randn_like(x)
    found: list[list[Tensor]] = []
    cpu = torch.device("cpu")
    pretended = whole_batch_norm(Team(0, 2, cpu), own)
    with joined(0, 1, cpu, tmp_path / "meeting-point"), pretended:
        for module in (own, theirs):
            y = x.clone().requires_grad_()
            for _ in range(2):
                out = module(y)
            (out * weight).sum().backward()
            assert y.grad is not None
            assert module.weight.grad is not None
            found.append([out, y.grad, module.weight.grad, *module.buffers()])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected)
    assert "forward" not in vars(own)
