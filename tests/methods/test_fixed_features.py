"""SVMs and probes: both solvers agree; C on validation; layers (LI-6, LI-8, SFT-3)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC
from torch import nn

from bench.core.errors import DataError, GridError, ModelError
from bench.data.transforms.augment import Scale, augment, normalise
from bench.methods import METHODS, build_features, check_run
from bench.methods.features import cost
from bench.methods.features.cost import PASSES, fit_s
from bench.methods.features.solvers import (
    Blocks,
    Loss,
    fit_in_memory,
    fit_streaming,
)
from bench.methods.features.task import FeatureTask, Fitted
from bench.models import layers
from bench.models.domains import classifier_name
from bench.specs.data import DataSpec
from bench.specs.run import FromTimm, MethodSpec, ModelSpec, RunSpec
from bench.training import evaluation as evaluate
from bench.training.domain import Domain
from bench.training.features import extract


def _data(count: int, classes: int, columns: int = 12, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, columns))
    x = centres[labels] + rng.normal(0, 1.2, (count, columns))
    return x.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("c", [0.01, 1.0])
def test_the_two_solvers_agree(loss: Loss, classes: int, c: float) -> None:
    x, y = _data(90, classes)
    blocks = Blocks(rows=17, dtype=torch.float64)
    (ours,) = fit_streaming(x, y, classes, loss=loss, c=[c], blocks=blocks)
    theirs = fit_in_memory(x, y, classes, loss=loss, c=c, max_iter=10_000)
    (single,) = fit_streaming(x, y, classes, loss=loss, c=[c], blocks=Blocks(rows=1000))
    assert ours.converged
    assert theirs.converged
    scores, expected = ours.scores(x), theirs.scores(x)
    if loss == "logistic":  # a softmax does not see what all classes have in common
        scores, expected = (part - part.mean(1, keepdims=True) for part in (scores, expected))
    assert np.abs(scores - expected).max() < 5e-3 * max(1.0, np.abs(expected).max())
    assert np.abs(single.scores(x) - ours.scores(x)).max() < 1e-2
    assert (ours.scores(x).argmax(1) == theirs.scores(x).argmax(1)).mean() > 0.98


def test_the_problems_are_those_of_scikit_learn() -> None:
    x, y = _data(90, 4)
    svm = LinearSVC(C=0.1, max_iter=10_000, dual="auto", random_state=0).fit(x, y)
    exact = Blocks(dtype=torch.float64)
    (ours,) = fit_streaming(x, y, 4, loss="squared_hinge", c=[0.1], blocks=exact)
    assert np.allclose(ours.weight, svm.coef_, atol=2e-3)
    assert np.allclose(ours.bias, svm.intercept_, atol=2e-3)
    logistic = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit(x, y)
    (ours,) = fit_streaming(x, y, 4, loss="logistic", c=[0.1], blocks=exact)
    assert np.allclose(ours.weight, logistic.coef_, atol=1e-3)
    shares = evaluate.softmax(ours.scores(x))
    assert np.allclose(shares, logistic.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
def test_several_values_of_c_share_their_passes(loss: Loss) -> None:
    """LI §4.3.2 on conv1: five values of C cost the passes of one, and have the same solutions."""
    x, y = _data(90, 4)
    choices, exact = [0.001, 0.1, 10.0], Blocks(rows=40, dtype=torch.float64)
    together = fit_streaming(x, y, 4, loss=loss, c=choices, blocks=exact)
    for c, ours in zip(choices, together, strict=True):
        (alone,) = fit_streaming(x, y, 4, loss=loss, c=[c], blocks=exact)
        np.testing.assert_allclose(ours.scores(x), alone.scores(x), rtol=1e-3, atol=5e-3)
        assert ours.passes == together[0].passes


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
def test_few_passes_have_the_accuracy_of_the_exact_solver(loss: Loss) -> None:
    """On conv1's maps of noisy scanned digits, more columns than images."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float()[:, None] * 15.9
    images = nn.functional.interpolate(pixels, size=32, mode="bilinear").numpy()
    noisy = images + np.random.default_rng(0).integers(-120, 120, images.shape)
    shown = noisy.clip(0, 255).astype(np.uint8).repeat(3, 1).transpose(0, 2, 3, 1)
    net = layers.create(ModelSpec(name="narrow8_32"), 10, seed=0)
    domain = Domain("digits", shown, digits.target, 10)
    x = extract(net, 1, domain, stage="end", pool="flatten")
    train, test = np.arange(len(x)) % 2 == 0, np.arange(len(x)) % 2 == 1
    labels = digits.target.astype(np.int64)
    choices = (0.001, 0.1, 10.0)
    few = fit_streaming(x[train], labels[train], 10, loss=loss, c=choices, max_iter=PASSES)
    assert few[0].passes < 1.5 * PASSES
    exact = fit_in_memory(x[train], labels[train], 10, loss=loss, c=choices[0], max_iter=300)
    right = [float((one.scores(x[test]).argmax(1) == labels[test]).mean()) for one in (*few, exact)]
    assert right[-1] > 0.9
    assert abs(right[0] - right[-1]) < 0.01
    assert min(right) > right[-1] - 0.02


def test_too_few_iterations_are_shown() -> None:
    x, y = _data(90, 4)
    assert not fit_in_memory(x, y, 4, loss="logistic", c=10.0, max_iter=2).converged
    assert not fit_streaming(x, y, 4, loss="logistic", c=[10.0], max_iter=2)[0].converged


def test_a_class_without_images_is_an_error() -> None:
    x, y = _data(20, 4)
    for fit, c in ((fit_in_memory, 1.0), (fit_streaming, [1.0])):
        with pytest.raises(DataError, match="1 of 5 classes have no training image"):
            fit(x, y, 5, loss="logistic", c=c)  # type: ignore[operator]
        with pytest.raises(DataError, match="one class alone"):
            fit(x, y * 0, 1, loss="logistic", c=c)  # type: ignore[operator]


def test_solvers_stop_early_only_where_a_pass_is_dear(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"layer": "2", "memory_mib": 1}
    assert not _fit(net, tmp_path, "probe", **given, c=1.0).outcome.notes
    monkeypatch.setattr(cost, "PASSES", 5)
    monkeypatch.setattr(cost, "READ_BYTES", 1)
    short = _fit(net, tmp_path, "probe", **given).outcome
    assert len(short.history) == len(short.notes) == 5
    assert all("passes over the features, near the solution" in note for note in short.notes)
    assert not _fit(net, tmp_path, "probe", **given, c=1.0, solver="streaming").outcome.notes


def test_the_forecast_of_conv1_counts_its_passes() -> None:
    """LI §4.3.2: 125,000 images of 69,984 numbers are 35 GB for each pass."""
    init = FromTimm()
    data, model = DataSpec(dataset="digits"), ModelSpec(name="caffenet")

    def seconds(images: int, **given: Any) -> float:
        method = MethodSpec(name="probe", options=tuple(given.items()))
        spec = RunSpec(data=data, model=model, pattern="F(1-7)R(8)", init=init, method=method)
        return fit_s(spec, images, 100)

    dear = seconds(125_000, layer="1")
    assert 62 * 35 < dear < 8 * 3600
    assert seconds(125_000, layer="1", c=1.0) < dear / 3
    assert seconds(125_000, layer="7") < dear / 4
    assert seconds(125_000, layer="1", solver="streaming") > dear
    assert seconds(1000, layer="5") < 100
    assert seconds(500, layer="5", parts=3) == seconds(2000, layer="5")


# --- on a network -----------------------------------------------------------------------------


def _images(count: int, seed: int) -> Domain:
    """Three classes of colour, noisy."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.normal(110, 55, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 14
    return Domain("toy", images.clip(0, 255).astype(np.uint8), labels, 3)


TRAIN, VAL, TEST = _images(36, 0), _images(18, 1), _images(24, 2)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return layers.create(ModelSpec(name="narrow8_32"), 7, seed=0)


def _fit(net: nn.Module, folder: Path, name: str, val: Domain | None = VAL, **given: Any) -> Fitted:
    task = FeatureTask(net, TRAIN, val, torch.device("cpu"), folder)
    return build_features(name, given).fit(task)


def test_the_svm_is_scikit_learns_on_the_same_features(net: nn.Module, tmp_path: Path) -> None:
    """SFT-3: mAP of decision values on cached features."""
    fitted = _fit(net, tmp_path, "svm", c=1.0)
    x, t = (extract(net, 7, data, stage="end", pool="flatten") for data in (TRAIN, TEST))
    x, t = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, t))
    theirs = LinearSVC(C=1.0, dual="auto", random_state=0).fit(x, TRAIN.labels)
    expected = theirs.decision_function(t)
    scores = evaluate.predict(fitted.model, TEST)
    assert np.allclose(scores, expected, atol=1e-3)
    one_hot = np.eye(3)[TEST.labels]
    macro = average_precision_score(one_hot, expected, average="macro")
    assert evaluate.mean_average_precision(scores, TEST.labels) == pytest.approx(macro, abs=1e-3)


def test_c_is_chosen_on_validation_images(net: nn.Module, tmp_path: Path) -> None:
    fitted = _fit(net, tmp_path, "svm")
    history, best = fitted.outcome.history, fitted.outcome.best_epoch
    assert best is not None
    assert [row["c"] for row in history] == [0.01, 0.1, 1.0, 10.0]
    accuracies = [row["val_top1_accuracy"] for row in history]
    assert accuracies[best] == max(accuracies)  # type: ignore[type-var]
    assert accuracies.index(max(accuracies)) == best  # type: ignore[type-var]
    assert fitted.notes["c"] == history[best]["c"]
    scores = evaluate.predict(fitted.model, VAL)
    assert evaluate.top1_accuracy(scores, VAL.labels) == accuracies[best]
    without = _fit(net, tmp_path, "svm", val=None)
    assert without.notes["c"] == 1.0
    assert "no validation images" in without.notes["c_chosen_on"]


@pytest.mark.parametrize(
    ("layer", "columns"), [("1", 8192), ("2", 3072), ("6", 256), ("7", 128), ("8", 7), ("fc7", 128)]
)
def test_features_of_every_layer(net: nn.Module, tmp_path: Path, layer: str, columns: int) -> None:
    """LI-8's table of dimensions, for the narrow network."""
    fitted = _fit(net, tmp_path, "probe", layer=layer, c=1.0, max_iter=3, solver="streaming")
    assert fitted.notes["features"] == columns == fitted.model.probe.in_features
    assert fitted.logits


def test_penultimate_is_what_the_classifier_is_handed(net: nn.Module, tmp_path: Path) -> None:
    by_name = _fit(net, tmp_path, "probe", c=1.0)
    by_number = _fit(net, tmp_path, "probe", c=1.0, layer="7")
    assert torch.allclose(by_name.model.probe.weight, by_number.model.probe.weight, atol=1e-4)


def test_features_beyond_memory_give_the_same_scores(net: nn.Module, tmp_path: Path) -> None:
    small = _fit(net, tmp_path, "probe", layer="2", c=0.01, memory_mib=1)
    large = _fit(net, tmp_path, "probe", layer="2", c=0.01)
    assert (small.notes["solver"], large.notes["solver"]) == ("streaming", "sklearn")
    a, b = (evaluate.predict(fitted.model, TEST) for fitted in (small, large))
    shares = evaluate.softmax(a), evaluate.softmax(b)
    assert np.abs(shares[0] - shares[1]).max() < 0.02
    assert not list(tmp_path.iterdir())


def _with_parts(net: nn.Module, data: Domain, parts: int) -> tuple[Any, Any]:
    """Features of whole images and of their parts, image by image, and labels."""
    found = [extract(net, 7, data, stage="end", pool="flatten")]
    for view in range(1, parts + 1):
        rows = []
        for image in data.images:
            name = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            words = [int.from_bytes(name[at : at + 4], "little") for at in (0, 4, 8, 12)]
            noise = np.random.default_rng([view, *words]).random((1, 8), np.float32)
            shown = augment(
                torch.from_numpy(image)[None],
                torch.from_numpy(noise),
                "scale_flip",
                scale=Scale(least_area=0.35),
            )
            x = normalise(shown, data.mean, data.std)
            handed: list[torch.Tensor] = []
            head = net.get_submodule(classifier_name(net))
            handle = head.register_forward_pre_hook(
                lambda _, given, into=handed: into.append(given[0].flatten(1))
            )
            with torch.no_grad():
                net.eval()(x)
            handle.remove()
            rows.append(handed[0].numpy())
        found.append(np.concatenate(rows))
    return np.concatenate(found), np.tile(data.labels, parts + 1)


def test_parts_are_fitted_to_beside_whole_images(net: nn.Module, tmp_path: Path) -> None:
    """By scikit-learn on the same features: three copies of an image weigh as much as one."""
    x, y = _with_parts(net, TRAIN, 2)
    theirs = LogisticRegression(C=0.03 / 3, max_iter=5000, tol=1e-6).fit(x, y)
    fitted = _fit(net, tmp_path, "probe", c=0.03, parts=2)
    t = extract(net, 7, TEST, stage="end", pool="flatten")
    ours = evaluate.softmax(evaluate.predict(fitted.model, TEST))
    assert np.abs(ours - theirs.predict_proba(t)).max() < 1e-3
    plain = evaluate.softmax(evaluate.predict(_fit(net, tmp_path, "probe", c=0.03).model, TEST))
    assert np.abs(ours - plain).max() > 1e-2
    assert fitted.outcome.images_seen == 3 * TRAIN.size
    (row,) = fitted.outcome.history  # of whole images
    whole = evaluate.top1_accuracy(evaluate.predict(fitted.model, TRAIN), TRAIN.labels)
    assert row["train_top1_accuracy"] == whole


def test_parts_beyond_memory_give_the_same_scores(net: nn.Module, tmp_path: Path) -> None:
    small = _fit(net, tmp_path, "probe", layer="2", c=0.01, parts=1, memory_mib=1)
    large = _fit(net, tmp_path, "probe", layer="2", c=0.01, parts=1)
    assert (small.notes["solver"], large.notes["solver"]) == ("streaming", "sklearn")
    a, b = (evaluate.softmax(evaluate.predict(one.model, TEST)) for one in (small, large))
    assert np.abs(a - b).max() < 0.02
    assert not list(tmp_path.iterdir())


def test_a_probe_on_raw_scores_is_no_worse_than_the_model_itself(tmp_path: Path) -> None:
    """LI-8: the identity is among the linear maps of the model's own scores."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.from_numpy(TRAIN.images).float().movedim(3, 1) / 64 - 2
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), torch.from_numpy(TRAIN.labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plain = Domain("p", TRAIN.images, TRAIN.labels, 3, (128 / 255,) * 3, (64 / 255,) * 3)
    task = FeatureTask(model, plain, None, torch.device("cpu"), tmp_path)
    options = {"layer": "head", "stage": "output", "c": 100.0}
    fitted = build_features("probe", options).fit(task)
    probed = evaluate.cross_entropy(evaluate.predict(fitted.model, plain), TRAIN.labels)
    own = evaluate.cross_entropy(evaluate.predict(model, plain), TRAIN.labels)
    assert probed <= own + 1e-3


def test_wrong_layers_and_patterns_are_errors(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer 'fc9'"):
        _fit(net, tmp_path, "svm", layer="fc9")
    with pytest.raises(ModelError, match="no layer 9"):
        _fit(net, tmp_path, "svm", layer="9")
    data, model = DataSpec(dataset="digits"), ModelSpec(name="narrow8_32")
    for name in ("svm", "probe"):
        method = MethodSpec(name=name)
        tuned = RunSpec(
            data=data, model=model, pattern="T(1-7)R(8)", init=FromTimm(), method=method
        )
        with pytest.raises(GridError, match=r"trains no layer[\s\S]*freeze"):
            check_run(tuned)
        check_run(tuned.model_copy(update={"pattern": "F(1-7)R(8)"}))
        assert METHODS[name].kind == "features"
