"""The table of depths agrees with the networks, and is read without importing torch."""

import subprocess
import sys
from importlib import metadata

import pytest
import timm
import torch

from bench.core.errors import ModelError
from bench.models.depths import TABLE_TIMM, depth_of
from bench.models.layers import create, register_networks
from bench.models.numbering import depth
from bench.specs.run import ModelSpec

SAMPLE = [
    "caffenet",
    "caffenet_ungrouped",
    "narrow8_32",
    "narrow8_64",
    "resnet18",
    "resnet50",
    "mobilenetv2_100",
    "inception_v4",
    "resnetv2_152",
    "vgg16",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "efficientnet_b0",
    "densenet121",
]
same_timm = pytest.mark.skipif(
    metadata.version("timm") != TABLE_TIMM, reason=f"the table is of timm {TABLE_TIMM}"
)


@same_timm
@pytest.mark.parametrize("name", SAMPLE)
def test_table_agrees_with_the_network(name: str) -> None:
    with torch.device("meta"):
        assert depth_of(name) == depth(create(ModelSpec(name=name), 1000, seed=0))


@same_timm
def test_table_has_every_network() -> None:
    register_networks()
    depths, refused = [], []
    for name in timm.list_models():
        try:
            depths.append(depth_of(name))
        except ModelError as error:
            refused.append(error.message)
    assert len(depths) > 1300
    assert min(depths) >= 2
    assert all("cannot be numbered" in message for message in refused)


def test_depths_that_are_known_on_paper() -> None:
    names = ("caffenet", "narrow8_32", "narrow8_64")
    assert [depth_of(name) for name in names] == [8, 8, 8]
    assert depth_of("resnet50") == 1 + (3 + 4 + 6 + 3) + 1
    assert depth_of("vit_tiny_patch16_224") == 1 + 12 + 1


def test_answers_without_torch_timm_or_pandas() -> None:
    code = (
        "import sys; from bench.models.depths import depth_of; d = depth_of('caffenet')\n"
        "print(d, [m for m in ('torch', 'timm', 'pandas', 'numpy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "8 []", answer.stderr


def test_wrong_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="no network 'cafenet'; nearest: caffenet"):
        depth_of("cafenet")
    with pytest.raises(ModelError, match="tag 'a1_in1k' in the source"):
        depth_of("resnet18.a1_in1k")
    with pytest.raises(ModelError, match="no group_matcher"):
        depth_of("poolformer_s12")


def test_with_another_timm_the_network_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.models import depths

    monkeypatch.setattr(metadata, "version", lambda package: "9.9.9")
    monkeypatch.setattr(depths, "_table", dict)
    assert depth_of("resnet18") == 10
    assert depths._answer("resnet81") is None
