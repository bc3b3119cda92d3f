"""Networks and files of weights, tried out in another process before a grid trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

import bench.models.compatibility as module
from bench.core.errors import GridError, ModelError
from bench.models.compatibility import check_networks, trial_of
from bench.models.depths import depth_of
from bench.models.layers import create
from bench.models.published import SMALLEST, check_size, check_tag
from bench.models.weights import file_sha256
from bench.specs.data import DataSpec
from bench.specs.run import FromFile, FromRun, ModelSpec, RunSpec, TrainSpec


def run(model: str, size: int, file: Path | None = None, pattern: str = "T(1-7)R(8)") -> RunSpec:
    return RunSpec(
        data=DataSpec(dataset="digits", image_size=size, test_per_class=5),
        model=ModelSpec(name=model),
        pattern="R(1-8)" if file is None else pattern,
        **({} if file is None else {"init": FromFile(path=str(file), sha256=file_sha256(file))}),
    )


def test_another_process_answers(tmp_path: Path) -> None:
    runs = [
        (run("test_resnet", 32), 10, None, "g.yaml:1"),
        (run("test_vit", 8), 10, None, "g.yaml:2"),
    ]
    with pytest.raises(GridError, match=r"g.yaml:2: 'test_vit' .* 8 pixels"):
        check_networks(runs, tmp_path)
    assert len(json.loads((tmp_path / "networks.json").read_text())) == 1


def test_networks_and_weights_that_do_not_fit_are_found_and_good_ones_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ask", lambda trials: [module._answer(one) for one in trials])
    good, other = tmp_path / "good.safetensors", tmp_path / "other.safetensors"
    state = create(ModelSpec(name="narrow8_32"), 7, seed=1).state_dict()
    save_file(state, good)
    save_file({f"x.{name}": value for name, value in state.items()}, other)
    fine = [
        (run("test_resnet", 32), 10, None, "g.yaml:1"),
        (run("narrow8_32", 32, good), 4, None, "g.yaml:2"),
    ]
    wrong = [(run("narrow8_32", 32, other), 4, None, "g.yaml:3")]
    small = [(run("test_vit", 8), 10, None, "g.yaml:4")]
    with pytest.raises(GridError, match=r"g.yaml:3: .*other.safetensors.*29 missing"):
        check_networks(fine + wrong + small, tmp_path)
    monkeypatch.setattr(module, "_ask", lambda trials: pytest.fail(f"asked again: {trials}"))
    check_networks(fine, tmp_path)
    monkeypatch.setattr(module, "_ask", lambda trials: [module._answer(one) for one in trials])
    with pytest.raises(GridError, match=r"g.yaml:4: 'test_vit' .* 8 pixels.*\n.*160"):
        check_networks(fine + small, tmp_path)
    good.write_bytes(other.read_bytes())
    asked: list[object] = []
    monkeypatch.setattr(module, "_ask", lambda trials: asked.extend(trials) or [None] * len(trials))
    check_networks([(run("narrow8_32", 32, good), 4, None, "g.yaml:2")], tmp_path)
    assert len(asked) == 1  # the file is another one now


def test_a_network_copied_for_images_of_another_size(tmp_path: Path) -> None:
    """A transformer's positions are those of one size; convolutions fit all."""

    def copied(model: str, size: int) -> RunSpec:
        own = run(model, 32)
        depth = depth_of(model)
        source = own.model_copy(update={"data": own.data.model_copy(update={"image_size": size})})
        init = FromRun(run=source.model_copy(update={"pattern": f"R(1-{depth})"}))
        return own.model_copy(update={"init": init, "pattern": f"T(1-{depth - 1})R({depth})"})

    fine = [copied("test_vit", 32), copied("test_resnet", 64)]
    check_networks([(spec, 10, None, "g.yaml:1") for spec in fine], tmp_path)
    with pytest.raises(GridError) as caught:
        check_networks([(copied("test_vit", 64), 10, None, "g.yaml:2")], tmp_path)
    assert caught.value.message.startswith(
        "'test_vit' is trained on source images of 64 pixels and copied for images of 32: the "
        "weights to copy do not fit the network: 1 mis-shaped: pos_embed"
    )


def test_a_network_that_describes_parts_of_images_takes_their_size(tmp_path: Path) -> None:
    fine = [(run("test_vit", 32), 32, "g.yaml:1"), (run("test_resnet", 64), 56, "g.yaml:1")]
    check_networks([], tmp_path, fine)
    with pytest.raises(GridError) as caught:
        check_networks([], tmp_path, [(run("test_vit", 64), 56, "g.yaml:2")])
    assert caught.value.place == "g.yaml:2"
    assert caught.value.message.startswith(
        "the filters of 'test_vit' for images of 64 pixels cannot describe parts of 56: "
    )


def test_what_the_tables_know_needs_no_trial(tmp_path: Path) -> None:
    assert trial_of(run("narrow8_32", 32), 10) is None
    (tmp_path / "networks.json").write_text("{")
    check_networks([(run("caffenet", 64), 10, None, "g.yaml:1")], tmp_path)
    assert (tmp_path / "networks.json").read_text() == "{"


def test_a_process_that_dies_leaves_the_question_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    check_networks([(run("resnet10t", 32), 10, None, "g.yaml:1")], tmp_path)
    assert (
        not (tmp_path / "networks.json").exists()
        or json.loads((tmp_path / "networks.json").read_text()) == []
    )


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_images_of_our_networks(name: str) -> None:
    import torch

    def passes(size: int) -> bool:
        try:
            with torch.device("meta"):
                net = create(ModelSpec(name=name), 10, seed=0, image_size=size)
                net(torch.empty(2, 3, size, size))
        except ModelError:
            return False
        return True

    assert passes(SMALLEST[name])
    assert not passes(SMALLEST[name] - 1)
    check_size(name, SMALLEST[name])
    with pytest.raises(ModelError, match=rf"at least {SMALLEST[name]}"):
        check_size(name, SMALLEST[name] - 1)


def test_the_table_of_published_weights_is_timms() -> None:
    import timm

    for full in timm.list_pretrained()[::37]:
        name, _, tag = full.partition(".")
        check_tag(name, tag)
        check_tag(name, None)
        if timm.models.get_pretrained_cfg(name).tag != tag:
            continue
        with pytest.raises(ModelError, match=f"weights: timm takes '{tag}'"):
            check_tag(name, "nonsense")
    for name in ("caffenet", "narrow8_32", "resnet50_half"):
        with pytest.raises(ModelError, match=f"no weights for '{name}'"):
            check_tag(name, None)


def test_one_image_at_a_time_is_found_before_anything_runs(tmp_path: Path) -> None:
    """torch: "Expected more than 1 value per channel when training", after hours of a source."""
    one = run("test_resnet", 32)
    one = one.model_copy(update={"train": TrainSpec(batch_size=1)})
    with pytest.raises(GridError, match=r"g.yaml:7: 'test_resnet' cannot be trained on one image"):
        check_networks([(one, 10, 1, "g.yaml:7")], tmp_path)
    cut = one.model_copy(update={"train": TrainSpec(batch_size=32, accumulate=8)})
    check_networks([(cut, 10, 3, "g.yaml:8"), (one, 10, None, "g.yaml:9")], tmp_path)


def test_a_network_without_residual_blocks_has_no_drop_path(tmp_path: Path) -> None:
    """Found before anything runs, also for networks whose sizes are known."""
    dropped = TrainSpec(drop_path=0.1)
    none = run("narrow8_32", 32).model_copy(update={"train": dropped})
    some = run("test_vit", 160).model_copy(update={"train": dropped})
    assert trial_of(run("narrow8_32", 32), 10) is None
    check_networks([(some, 10, None, "g.yaml:1")], tmp_path)
    with pytest.raises(GridError) as caught:
        check_networks([(some, 10, None, "g.yaml:1"), (none, 10, None, "g.yaml:2")], tmp_path)
    assert "g.yaml:2: timm cannot build narrow8_32 with" in str(caught.value)
    assert "leave out train.drop_path" in str(caught.value)
