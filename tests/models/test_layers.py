"""Layer patterns on any network: ledger X-1 (a) to (e), LI-11, and the notation itself."""

import copy
import functools

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.core.errors import ModelError
from bench.models.layers import (
    apply_pattern,
    create,
    freeze_modes,
    frozen_fingerprint,
    parameter_groups,
    trainable_parameters,
)
from bench.models.numbering import depth, numbered_layers
from bench.models.prefix import prefix_suffix
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, TrainSpec

DEPTHS = {
    "narrow8_32": 8,
    "resnet18": 10,  # stem, 8 blocks, classifier
    "mobilenetv2_100": 19,  # stem, 17 blocks, classifier
    "vit_tiny_patch16_224": 14,  # embedding, 12 blocks, classifier
    "convnext_atto": 14,  # stem, 12 blocks, classifier
}
NETWORKS = sorted(DEPTHS)
SIDE = 64


@functools.cache
def _fresh(name: str, classes: int, seed: int) -> nn.Module:
    return create(ModelSpec(name=name), classes, seed=seed, image_size=SIDE)


def fresh(name: str, classes: int = 5, seed: int = 0) -> nn.Module:
    return copy.deepcopy(_fresh(name, classes, seed))


def parent_of(name: str, classes: int = 5) -> dict[str, Tensor]:
    """A trained parent: other draws, and constants moved as training moves them."""
    stream = torch.Generator().manual_seed(7)
    return {
        key: value.detach() + 0.01 * torch.rand(value.shape, generator=stream).to(value.dtype)
        if value.is_floating_point()
        else value + 3
        for key, value in fresh(name, classes, seed=1).state_dict().items()
    }


def middle(name: str) -> LayerPattern:
    last = DEPTHS[name]
    return LayerPattern.parse(f"F(1-3)T(4-{last - 2})R({last - 1}-{last})")


def images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def train(
    model: nn.Module, groups: list[dict[str, object]], steps: int = 3, **options: float
) -> None:
    optimizer = torch.optim.SGD(groups, **options)
    labels = torch.tensor([0, 1, 2, 3])
    for step in range(steps):
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images(seed=step)), labels).backward()
        optimizer.step()


# --- numbering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_and_buffer_is_in_exactly_one_layer(name: str) -> None:
    model = fresh(name)
    layers = numbered_layers(model)
    assert [layer.number for layer in layers] == list(range(1, DEPTHS[name] + 1))
    assert depth(model) == DEPTHS[name]
    for kind, everyone in (
        ("parameters", [n for n, _ in model.named_parameters()]),
        ("buffers", [n for n, _ in model.named_buffers()]),
    ):
        placed = [n for layer in layers for n in getattr(layer, kind)]
        assert sorted(placed) == sorted(everyone)
    modules = [n for layer in layers for n in layer.modules]
    assert len(modules) == len(set(modules))
    leaves = {n for n, m in model.named_modules() if n and not list(m.children())}
    assert leaves <= set(modules)
    head = {id(p) for p in model.get_classifier().parameters()}
    named = dict(model.named_parameters())
    assert {id(named[n]) for n in layers[-1].parameters} == head


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_numbers_ascend_in_the_forward_pass(name: str) -> None:
    model = fresh(name).eval()
    number = {module: layer.number for layer in numbered_layers(model) for module in layer.modules}
    seen: list[int] = []
    for module, n in number.items():
        part = model.get_submodule(module)
        if list(part.parameters(recurse=False)):
            part.register_forward_hook(lambda *_, n=n: seen.append(n))
    model(images(1))
    assert seen == sorted(seen)
    assert set(seen) == set(range(1, DEPTHS[name] + 1))


def test_running_statistics_lie_with_their_normalisation() -> None:
    for name in ("narrow8_32", "resnet18", "mobilenetv2_100"):
        for layer in numbered_layers(fresh(name)):
            owners = {p.rpartition(".")[0] for p in layer.parameters}
            assert {b.rpartition(".")[0] for b in layer.buffers} <= owners
            for norm in (b.rpartition(".")[0] for b in layer.buffers):
                assert f"{norm}.weight" in layer.parameters


def test_a_group_of_vectors_joins_the_layer_before() -> None:
    """timm gives VGG's BatchNorms groups of their own."""
    with torch.device("meta"):
        layers = numbered_layers(timm.create_model("vgg11_bn"))
    assert len(layers) == 8 + 1 + 1
    assert "features.1.running_mean" in layers[0].buffers
    assert layers[0].parameters[0] == "features.0.weight"
    assert layers[-1].parameters == ("head.fc.weight", "head.fc.bias")


def test_a_network_without_grouping_is_refused() -> None:
    with pytest.raises(ModelError, match="does not list how its parameters group"):
        numbered_layers(nn.Sequential(nn.Linear(2, 2)))
    with torch.device("meta"):
        headless = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(ModelError, match="no classifier"):
        numbered_layers(headless)


# --- creation -------------------------------------------------------------------------------------


def test_same_seed_same_weights_and_the_callers_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, two = (create(ModelSpec(name="narrow8_32"), 5, seed=3).state_dict() for _ in range(2))
    other = create(ModelSpec(name="narrow8_32"), 5, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    drawn = [key for key in one if key.endswith("weight") and "norm" not in key]
    assert len(drawn) == 8
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError, match="nearest: narrow8_32"):
        create(ModelSpec(name="narow8_32"), 5, seed=0)
    with pytest.raises(ModelError, match="'a1_in1k' names pretrained weights"):
        create(ModelSpec(name="resnet18.a1_in1k"), 5, seed=0)
    with pytest.raises(ModelError, match="no network 'hf-hub"):
        create(ModelSpec(name="hf-hub:timm/resnet18"), 5, seed=0)


def test_dropout_of_the_spec_reaches_the_network() -> None:
    net = create(ModelSpec(name="narrow8_32", drop_rate=0.3), 5, seed=0)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]


# --- copy, freeze, re-initialise ----------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_pattern_copies_freezes_and_leaves_random(name: str) -> None:
    model, parent, pattern = fresh(name), parent_of(name), middle(name)
    before = copy.deepcopy(model.state_dict())
    applied = apply_pattern(model, pattern, parent)
    after = model.state_dict()
    assert sorted(applied.tuned + applied.frozen + applied.random) == sorted(after)
    for layer in numbered_layers(model):
        kind = pattern.kind(layer.number)
        for key in layer.parameters + tuple(b for b in layer.buffers if b in after):
            assert torch.equal(after[key], (before if kind == "R" else parent)[key])
        for key in layer.parameters:
            assert model.get_parameter(key).requires_grad == (kind != "F")
        if kind == "R":
            matrices = [key for key in layer.parameters if after[key].ndim >= 2]
            assert all(not torch.equal(after[key], parent[key]) for key in matrices)
    frozen = sum(
        model.get_parameter(key).numel()
        for layer in numbered_layers(model)
        if layer.number <= 3
        for key in layer.parameters
    )
    assert trainable_parameters(model) == sum(p.numel() for p in model.parameters()) - frozen


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_layers_are_bit_identical_after_training(name: str) -> None:
    """Ledger X-1 (a), with momentum and weight decay, for BatchNorm's buffers too."""
    model, pattern = fresh(name), middle(name)
    apply_pattern(model, pattern, parent_of(name))
    freeze_modes(model, pattern, frozen_dropout=True)
    before, print_before = copy.deepcopy(model.state_dict()), frozen_fingerprint(model, pattern)
    groups = parameter_groups(model, pattern, TrainSpec(lr=0.05, weight_decay=0.01))
    train(model, groups, momentum=0.9)
    after = model.state_dict()
    assert frozen_fingerprint(model, pattern) == print_before
    for layer in numbered_layers(model):
        keys = [k for k in layer.parameters + layer.buffers if k in after]
        moved = [key for key in keys if not torch.equal(after[key], before[key])]
        if layer.number <= 3:
            assert moved == []
        else:
            assert {k for k in keys if k.endswith(("weight", "running_mean"))} <= set(moved)
    for key in (k for layer in numbered_layers(model)[:3] for k in layer.parameters):
        assert model.get_parameter(key).grad is None


def test_fingerprint_sees_a_single_bit_and_only_frozen_layers() -> None:
    model, pattern = fresh("narrow8_32"), LayerPattern.parse("F(1-2)T(3-7)R(8)")
    apply_pattern(model, pattern, parent_of("narrow8_32"))
    first = frozen_fingerprint(model, pattern)
    with torch.no_grad():
        model.get_parameter("conv3.conv.weight").add_(1)
    model.to(memory_format=torch.channels_last)
    assert frozen_fingerprint(model, pattern) == first
    with torch.no_grad():
        model.get_buffer("conv2.norm.running_var").view(torch.int32)[0] ^= 1
    assert frozen_fingerprint(model, pattern) != first


def test_without_freeze_modes_the_buffers_would_move() -> None:
    """The reason for `freeze_modes`: parameters alone do not freeze a BatchNorm."""
    model, pattern = fresh("narrow8_32"), middle("narrow8_32")
    apply_pattern(model, pattern, parent_of("narrow8_32"))
    before = frozen_fingerprint(model, pattern)
    train(model, parameter_groups(model, pattern, TrainSpec()), steps=1)
    assert frozen_fingerprint(model, pattern) != before


def test_requires_grad_on_a_module_is_no_freezing() -> None:
    """Ledger X-1 (e): the trap itself, and that nothing here walked into it."""
    trap = nn.Linear(2, 2)
    trap.requires_grad = False  # nobody reads this attribute
    assert all(p.requires_grad for p in trap.parameters())
    model, pattern = fresh("resnet18"), middle("resnet18")
    apply_pattern(model, pattern, parent_of("resnet18"))
    freeze_modes(model, pattern, frozen_dropout=True)
    assert not any("requires_grad" in vars(module) for module in model.modules())
    frozen = [k for layer in numbered_layers(model)[:3] for k in layer.parameters]
    assert frozen
    model(images()).sum().backward()
    for key in frozen:
        assert not model.get_parameter(key).requires_grad
        assert model.get_parameter(key).grad is None


@pytest.mark.parametrize("kind", ["resnet18", "narrow8_32"])
def test_one_plain_step_is_lr_times_factor_times_gradient(kind: str) -> None:
    """Ledger X-1 (b), per layer, with Caffe's doubled rate for biases."""
    model, pattern = fresh(kind), middle(kind)
    apply_pattern(model, pattern, parent_of(kind))
    freeze_modes(model, pattern, frozen_dropout=True)
    spec = TrainSpec(
        lr=0.01, copied_lr_factor=0.2, bias_lr_mult=2.0, weight_decay=0.0, momentum=0.0
    )
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    train(model, parameter_groups(model, pattern, spec), steps=1)
    for layer in numbered_layers(model):
        factor = {"F": 0.0, "T": 0.2, "R": 1.0}[pattern.kind(layer.number)]
        for key in layer.parameters:
            parameter = model.get_parameter(key)
            if factor == 0.0:
                assert torch.equal(parameter, before[key])
                continue
            lr = 0.01 * (factor * (2.0 if key.endswith(".bias") else 1.0))
            expected = before[key].add(parameter.grad, alpha=-lr)
            assert torch.equal(parameter.detach(), expected)


def test_groups_hold_each_trainable_parameter_once() -> None:
    model, pattern = fresh("mobilenetv2_100"), middle("mobilenetv2_100")
    apply_pattern(model, pattern, parent_of("mobilenetv2_100"))
    spec = TrainSpec(copied_lr_factor=0.2, bias_lr_mult=2.0, bias_weight_decay=False)
    groups = parameter_groups(model, pattern, spec)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = [name for group in groups for name in group["names"]]
    assert len(names) == len(set(names)) == len(held)
    for group in groups:
        assert group["lr"] == spec.lr * group["lr_factor"]
        biases = {name.endswith(".bias") for name in group["names"]}
        assert len(biases) == 1
        assert group["weight_decay"] == (0.0 if biases == {True} else spec.weight_decay)


def test_groups_refuse_a_frozen_layer_that_would_be_trained() -> None:
    with pytest.raises(ModelError, match="would be trained"):
        parameter_groups(fresh("narrow8_32"), LayerPattern.parse("F(1)T(2-7)R(8)"), TrainSpec())


def test_nothing_is_left_to_train_when_all_is_frozen() -> None:
    model, pattern = fresh("narrow8_32"), LayerPattern.parse("F(1-8)")
    apply_pattern(model, pattern, parent_of("narrow8_32"))
    assert parameter_groups(model, pattern, TrainSpec()) == []
    assert trainable_parameters(model) == 0


# --- what does not fit --------------------------------------------------------------------------


def test_another_number_of_classes_needs_a_random_classifier() -> None:
    parent = parent_of("narrow8_32", classes=9)
    apply_pattern(fresh("narrow8_32"), LayerPattern.parse("T(1-7)R(8)"), parent)
    with pytest.raises(ModelError, match=r"mis-shaped: fc8.fc.weight \(9, 128\) instead of"):
        apply_pattern(fresh("narrow8_32"), LayerPattern.parse("T(1-8)"), parent)


def test_every_key_is_accounted_for() -> None:
    parent = parent_of("narrow8_32")
    parent["conv9.weight"] = parent.pop("conv2.conv.weight")
    with pytest.raises(ModelError) as raised:
        apply_pattern(fresh("narrow8_32"), LayerPattern.parse("T(1-7)R(8)"), parent)
    assert "1 missing: conv2.conv.weight; 1 unexpected: conv9.weight" in str(raised.value)


def test_missing_batch_counters_of_old_files_are_said() -> None:
    parent = parent_of("narrow8_32")
    del parent["conv2.norm.num_batches_tracked"]
    applied = apply_pattern(fresh("narrow8_32"), LayerPattern.parse("T(1-7)R(8)"), parent)
    assert applied.absent == ("conv2.norm.num_batches_tracked",)


def test_a_parent_that_is_not_finite_or_too_precise_is_refused() -> None:
    pattern = LayerPattern.parse("T(1-7)R(8)")
    broken = parent_of("narrow8_32")
    broken["fc6.fc.bias"][3] = float("nan")
    with pytest.raises(ModelError, match=r"not finite in fc6\.fc\.bias"):
        apply_pattern(fresh("narrow8_32"), pattern, broken)
    precise = parent_of("narrow8_32")
    precise["fc6.fc.bias"] = precise["fc6.fc.bias"].double() + 1e-12
    with pytest.raises(ModelError, match="loses digits"):
        apply_pattern(fresh("narrow8_32"), pattern, precise)


def test_random_layers_may_not_equal_the_parents() -> None:
    untrained = fresh("narrow8_32").state_dict()
    with pytest.raises(ModelError, match="should be random"):
        apply_pattern(fresh("narrow8_32"), LayerPattern.parse("T(1-7)R(8)"), untrained)


def test_depth_and_source_must_fit_the_pattern() -> None:
    model = fresh("narrow8_32")
    with pytest.raises(ModelError, match="covers 10 layers, but NarrowNet has 8: 1 conv1, 2 conv2"):
        apply_pattern(model, LayerPattern.parse("R(1-10)"), None)
    with pytest.raises(ModelError, match="no weights to copy"):
        apply_pattern(model, LayerPattern.parse("T(1-7)R(8)"), None)
    with pytest.raises(ModelError, match="copies nothing"):
        apply_pattern(model, LayerPattern.parse("R(1-8)"), parent_of("narrow8_32"))
    assert apply_pattern(model, LayerPattern.parse("R(1-8)"), None).frozen == ()


# --- LI section 4.5 -----------------------------------------------------------------------------


def test_trainable_parameters_by_frozen_depth() -> None:
    """Ledger LI-11: what is left of X-2's table when the first n layers of CaffeNet are frozen."""
    table = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 409_700]
    with torch.device("meta"):
        described = create(ModelSpec(name="caffenet"), 100, seed=0)
    sizes = [
        sum(described.get_parameter(key).numel() for key in layer.parameters)
        for layer in numbered_layers(described)
    ]
    assert sizes == table
    parent = create(ModelSpec(name="caffenet"), 101, seed=1).state_dict()
    model = create(ModelSpec(name="caffenet"), 100, seed=0)
    for n in (1, 5, 7):
        tuned = f"T({n + 1}-7)" if n < 7 else ""
        apply_pattern(model, LayerPattern.parse(f"F(1-{n}){tuned}R(8)"), parent)
        assert trainable_parameters(model) == sum(table[n:])


# --- dropout in frozen layers ---------------------------------------------------------------------


def test_dropout_in_frozen_layers_is_active_unless_switched_off() -> None:
    pattern = LayerPattern.parse("F(1-7)R(8)")
    for active in (True, False):
        model = create(ModelSpec(name="narrow8_32", drop_rate=0.5), 5, seed=0)
        apply_pattern(model, pattern, parent_of("narrow8_32"))
        put_right = freeze_modes(model, pattern, frozen_dropout=active)
        model.train()
        assert torch.equal(model(images()), model(images())) is not active
        put_right()
        assert model.get_submodule("fc6.drop").training is active
        assert not model.get_submodule("conv1.norm").training


def test_modes_hold_in_a_copy_of_the_network() -> None:
    model, pattern = fresh("narrow8_32"), middle("narrow8_32")
    apply_pattern(model, pattern, parent_of("narrow8_32"))
    freeze_modes(model, pattern, frozen_dropout=True)
    twin = copy.deepcopy(model)
    before = frozen_fingerprint(twin, pattern)
    train(twin, parameter_groups(twin, pattern, TrainSpec()), steps=1)
    assert frozen_fingerprint(twin, pattern) == before


# --- the network in two halves --------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_both_halves_are_the_whole(name: str) -> None:
    model = fresh(name)
    state, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for n in sorted({1, 3, DEPTHS[name] // 2, DEPTHS[name] - 2, DEPTHS[name] - 1}):
        halves = prefix_suffix(model, n, SIDE)
        assert halves is not None, n
        assert model.training
        model.eval()
        whole = model(images(3, seed=n))
        crossing = halves[0](images(3, seed=n))
        assert not crossing.requires_grad
        assert torch.equal(halves[1](crossing), whole)
        model.train()
    assert torch.equal(torch.get_rng_state(), stream)
    after = model.state_dict()
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert prefix_suffix(model, 0, SIDE) is None
    assert prefix_suffix(model, DEPTHS[name], SIDE) is None


def test_caffenet_is_cut_anywhere() -> None:
    model = create(ModelSpec(name="caffenet"), 3, seed=0, image_size=99)
    assert all(prefix_suffix(model, n, 99) is not None for n in (1, 5, 7))


def test_the_suffix_keeps_its_dropout_and_gradients() -> None:
    model = create(ModelSpec(name="narrow8_32", drop_rate=0.5), 5, seed=0)
    halves = prefix_suffix(model, 5)
    assert halves is not None
    crossing = halves[0](images())
    one, two = halves[1](crossing), halves[1](crossing)
    assert not torch.equal(one, two)
    one.sum().backward()
    assert model.get_parameter("fc6.fc.weight").grad is not None
    assert model.get_parameter("conv5.conv.weight").grad is None


class Skipping(nn.Module):
    """Feeds the image past the first layer to the second, so that no single tensor crosses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.second(self.first(x)) + x).mean((2, 3)))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"first": "^first", "second": "^second"}

    def get_classifier(self) -> nn.Module:
        return self.head


def test_no_cut_where_more_than_one_tensor_would_cross() -> None:
    model = Skipping()
    assert depth(model) == 3
    assert prefix_suffix(model, 1, 8) is None
    assert prefix_suffix(model, 2, 8) is not None
    dense = create(ModelSpec(name="densenet121"), 5, seed=0)
    assert prefix_suffix(dense, 3, 32) is None


def test_cached_features_give_the_same_loss_curve() -> None:
    """Ledger X-1 (d): frozen layers run once for all images, against every step."""
    pattern = LayerPattern.parse("F(1-5)T(6-7)R(8)")
    x, labels = images(24), torch.arange(24) % 5
    curves = []
    for cached in (False, True):
        model = fresh("narrow8_32")
        apply_pattern(model, pattern, parent_of("narrow8_32"))
        freeze_modes(model, pattern, frozen_dropout=False)
        halves = prefix_suffix(model, 5, SIDE)
        assert halves is not None
        inputs, forward = (halves[0](x), halves[1]) if cached else (x, model)
        optimizer = torch.optim.SGD(parameter_groups(model, pattern, TrainSpec(lr=0.05)))
        losses = []
        for step in range(12):
            model.train()
            batch = torch.randperm(24, generator=torch.Generator().manual_seed(step))[:8]
            loss = nn.functional.cross_entropy(forward(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        curves.append(torch.stack(losses))
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=1e-6)
    assert curves[0][-3:].mean() < curves[0][:3].mean()


# --- the notation ---------------------------------------------------------------------------------

kinds_of_layers = st.lists(st.sampled_from("TFR"), min_size=1, max_size=30)


@given(kinds_of_layers)
def test_any_treatment_of_layers_can_be_written_and_read(kinds: list[str]) -> None:
    spelled = "".join(f"{kind}({n})" for n, kind in enumerate(kinds, start=1))
    pattern = LayerPattern.parse(spelled)
    assert [pattern.kind(n) for n in range(1, len(kinds) + 1)] == kinds
    assert pattern.depth == len(kinds)
    assert LayerPattern.parse(str(pattern)) == pattern
    assert str(LayerPattern.parse(str(pattern))) == str(pattern)
    assert sorted(n for kind in "TFR" for n in pattern.layers(kind)) == list(
        range(1, len(kinds) + 1)
    )
    frozen = next((n for n, kind in enumerate(kinds) if kind != "F"), len(kinds))
    assert pattern.frozen_prefix == frozen
    assert pattern.is_scratch == (set(kinds) == {"R"})


@given(st.text(alphabet="TFR()-0123456789 ", max_size=20))
def test_text_is_a_pattern_or_a_model_error(text: str) -> None:
    try:
        pattern = LayerPattern.parse(text)
    except ModelError:
        return
    assert LayerPattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["", "T(2-3)", "T(1-3)R(5)", "T(1-3)R(3)", "T(3-1)", "X(1)", "T1"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ModelError, match="write for example") as raised:
        LayerPattern.parse(text)
    assert repr(text) in str(raised.value) or text == ""


def test_identities_that_a_network_always_starts_from_are_no_copy() -> None:
    """ConViT's attention starts from identities, trained or not, whatever the seed."""
    parent, child = (create(ModelSpec(name="convit_tiny"), 3, seed=seed) for seed in (0, 1))
    depth = len(numbered_layers(child))
    state = {name: value.clone() for name, value in parent.state_dict().items()}
    apply_pattern(child, LayerPattern.parse(f"T(1-1)R(2-{depth})"), state)
    again = create(ModelSpec(name="convit_tiny"), 3, seed=0)
    with pytest.raises(ModelError, match="should be random, but equals the parent's"):
        apply_pattern(again, LayerPattern.parse(f"T(1-1)R(2-{depth})"), state)
