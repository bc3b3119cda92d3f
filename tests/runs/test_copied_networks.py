"""What copied networks keep: running statistics that stay, a classifier that is fitted first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from bench.models.layers import apply_pattern, create, freeze_modes
from bench.planning.workspace import Session, open_session
from bench.results.lookup import read_network
from bench.runs.build import Context, Loader
from bench.runs.execute import execute_batch
from bench.runs.execution import Execution
from bench.runs.probed_head import C, probe_head
from bench.specs.pattern import LayerPattern
from bench.specs.run import ModelSpec, RunSpec

GRID = """\
defaults:
  target: {dataset: digits, images_per_class: 8, val_per_class: 3, test_per_class: 5}
  model: test_efficientnet
  pattern: tune
  train: {epochs: 2, batch_size: 16, lr: 0.01}
  pretrain: {epochs: 1, batch_size: 16}
experiments:
  a:
    set: {source: self}
    include:
      - {}
      - {train.copied_statistics: fixed}
      - {train.copied_statistics: fixed, train.head: probe}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Session:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("copied")
    (folder / "grid.yaml").write_text(GRID)
    session = open_session(folder / "grid.yaml", results=folder / "results")
    for run in session.plan.runs.values():
        execute_batch(
            [(run.id, run.spec)],
            Context(results=str(folder / "results"), device="cpu"),
            report=lambda _: None,
            should_stop=lambda: False,
        )
    assert set(session.states().values()) == {"done"}
    return session


def _state(session: Session, statistics: str, head: str) -> dict[str, torch.Tensor]:
    (run,) = (
        run
        for run in session.plan.runs.values()
        if run.parent_id is not None
        and run.spec.train.copied_statistics == statistics
        and run.spec.train.head == head
    )
    return dict(read_network(session.store.folder(run.id, run.spec)).model.state_dict())


def test_fixed_statistics_are_the_sources_and_the_weights_are_trained(done: Session) -> None:
    (source,) = (run for run in done.plan.runs.values() if run.parent_id is None)
    before = read_network(done.store.folder(source.id, source.spec)).model.state_dict()
    moving, fixed = _state(done, "moving", "random"), _state(done, "fixed", "random")
    statistics = [name for name in before if "running_" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(before[name], fixed[name])
        assert not torch.equal(before[name], moving[name])
    assert not torch.equal(before["bn1.weight"], fixed["bn1.weight"])


def test_without_the_option_only_frozen_layers_keep_their_modes() -> None:
    net = create(ModelSpec(name="test_efficientnet"), 3, seed=0)
    apply_pattern(net, LayerPattern.parse(f"R(1-{_depth(net)})"), None)
    freeze_modes(net, LayerPattern.parse(f"R(1-{_depth(net)})"), True, fixed_statistics=True)
    assert all(m.training for m in net.train().modules())


def _depth(net: torch.nn.Module) -> int:
    from bench.models.numbering import numbered_layers

    return len(numbered_layers(net))


def test_the_classifier_begins_as_scikit_learns_logistic_regression(
    done: Session, tmp_path: Path
) -> None:
    (run,) = (run for run in done.plan.runs.values() if run.spec.train.head == "probe")
    context = Context(results=str(done.store.root), device="cpu")
    folder = done.store.folder(run.id, run.spec)
    data = Loader(context)(run.spec)
    execution = Execution(folder, run.spec, data, context, lambda _: None, lambda: False)
    net = execution.network(execution.parent_state())
    words = probe_head(execution, net)
    assert "began as a logistic regression" in words
    train = data.domain("train", net)
    pixels = torch.from_numpy(np.asarray(train.images[np.arange(train.size)])).float() / 255
    mean, std = torch.tensor(train.mean), torch.tensor(train.std)
    inputs = ((pixels - mean) / std).permute(0, 3, 1, 2)
    net.eval()
    with torch.inference_mode():
        features = net.forward_head(net.forward_features(inputs), pre_logits=True).numpy()
        logits = net(inputs).numpy()
    oracle = LogisticRegression(C=C, max_iter=5000, tol=1e-8).fit(features, train.labels)
    np.testing.assert_allclose(
        torch.softmax(torch.from_numpy(logits), 1).numpy(),
        oracle.predict_proba(features),
        atol=2e-3,
    )
    record = folder.record()
    assert record is not None
    assert any("logistic regression" in note for note in record["notes"]["training"])


@pytest.mark.parametrize("pattern", ["R(1-8)", "T(1-8)"])
def test_a_probed_head_needs_features_and_a_new_classifier(pattern: str, done: Session) -> None:
    (run,) = (run for run in done.plan.runs.values() if run.spec.train.head == "probe")
    raw = run.spec.model_dump()
    raw["pattern"] = pattern
    if pattern.startswith("R"):
        raw["init"] = {"kind": "scratch"}
        raw["train"]["copied_statistics"] = "moving"
    with pytest.raises(ValidationError, match=r"train\.head is probe"):
        RunSpec.model_validate(raw)
