"""Verification from a grid to the leaderboard: unseen identities, restricted training (SFT-6)."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_curve

from bench.core.errors import BenchError, DataError, GridError
from bench.data.identities import load_identities, resolve_identities
from bench.models.layers import create
from bench.planning.workspace import Session, open_session
from bench.results.aggregate import aggregate
from bench.results.leaderboard import rows
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.data import DataSpec
from bench.specs.evaluation import EvaluateSpec
from bench.specs.run import ModelSpec, RunSpec, run_id
from bench.training.domain import IMAGENET_MEAN, IMAGENET_STD

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "train.epochs=1",
    "train.warmup_epochs=0.0",
    "pretrain.epochs=1",
    "pretrain.warmup_epochs=0.0",
    "evaluate.verification.images_per_identity=12",
)


def _execute(session: Session, results: Path) -> None:
    context = Context(results=str(results), device="cpu")
    runs = [(run.id, run.spec) for run in session.plan.runs.values()]
    events: list[dict[str, Any]] = []
    execute_batch(runs, context, report=events.append, should_stop=lambda: False)
    assert [e["status"] for e in events if e["event"] == "ended"] == ["done"] * len(runs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path]:
    torch.set_num_threads(1)
    results = tmp_path_factory.mktemp("verified")
    text = (ROOT / "grids/verification.yaml").read_text().replace("seed: [0, 1, 2]", "seed: [0]")
    grid = results / "verification.yaml"
    grid.write_text(text)
    session = open_session(grid, results=results, overrides=SMALL)
    _execute(session, results)
    return session, results


def test_the_example_grid_ends_in_columns(finished: tuple[Session, Path]) -> None:
    session, _ = finished
    table = rows(session.plan, session.store)
    tested = [row for row in table if row["role"] == "finetune"]
    assert sorted(row["method"] for row in tested) == ["plain", "plain", "soft", "soft", "svm"]
    for row in tested:
        assert (row["genuine_pairs"], row["impostor_pairs"]) == (4 * 66, 48 * 47 // 2 - 4 * 66)
        rates = [row[f"tar_at_far_1e-{digit}"] for digit in (2, 3, 4, 5)]
        assert rates == sorted(rates, reverse=True)
        assert "FAR 0.01: 864 impostor pairs accept 8.6 at most" in row["verification_warning"]
    source = next(row for row in table if row["role"] == "source")
    assert source["verification"] is None
    assert source["tar_at_far_1e-2"] is None
    conditions = aggregate(table, session.plan)
    assert sum("tar_at_far_1e-3_mean" in row for row in conditions) == 5


def test_rates_are_those_of_features_and_pairs_taken_by_hand(
    finished: tuple[Session, Path],
) -> None:
    session, results = finished
    run = next(r for r in session.plan.runs.values() if r.spec.method.name == "soft")
    folder = session.store.folder(run.id, run.spec)
    record = folder.record()
    assert record is not None
    path = folder.file_named(record, "model")
    assert path is not None
    net = create(ModelSpec(name="narrow8_32"), 6, seed=1).eval()
    net.load_state_dict(load_file(path))
    places = {"data_root": None, "cache_dir": results / "cache"}
    found = resolve_identities(run.spec, **places)  # type: ignore[arg-type]
    loaded = load_identities(found, run.spec, **places)  # type: ignore[arg-type]
    assert not set(found.identities) & set(record["classes"])
    pixels = torch.from_numpy(np.array(loaded.images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    seen: list[torch.Tensor] = []
    net.get_submodule("fc8").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        net((pixels - mean) / std)
    unit = torch.nn.functional.normalize(seen[0].flatten(1)).numpy()
    pairs = list(itertools.combinations(range(len(unit)), 2))
    scores = [float(unit[i] @ unit[j]) for i, j in pairs]
    same = [loaded.labels[i] == loaded.labels[j] for i, j in pairs]
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    for digit in (2, 3, 4, 5):
        expected = tpr[fpr <= 10.0**-digit][-1]
        assert record["row"][f"tar_at_far_1e-{digit}"] == pytest.approx(expected, abs=2 / 264)


# --- people in a manifest -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six persons, each as a colour, with three expressions under two lights."""
    root = tmp_path_factory.mktemp("people")
    lines = [["path", "label", "group_expression", "group_light", "box"]]
    rng = np.random.default_rng(0)
    for person, number in itertools.product(range(6), range(12)):
        colour = np.array([40 * person, 250 - 40 * person, 20 * number])
        noise = rng.integers(0, 30, (16, 16, 3))
        name = f"p{person}-{number}.png"
        Image.fromarray((colour * 0.8 + noise).astype(np.uint8)).save(root / name)
        expression = ["surprise", "sadness", "anger"][number % 3]
        light = ["nir", "visible"][number // 3 % 2]
        lines.append([name, f"p{person}", expression, light, "2 2 10 12"])
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


GRID = """
defaults:
  target:
    dataset: manifest
    root: {root}
    classes: {{recipe: listed, names: [p0, p1, p2]}}
    image_size: 32
    images_per_class: 2
    val_per_class: 1
    test_per_class: 3
  model: narrow8_32
  pattern: scratch
  train: {{epochs: 1, batch_size: 6}}
  evaluate: {{verification: {{where: {{light: nir}}}}}}
experiments:
  all: {{}}
  two:
    axes:
      target.train_where: [{{expression: [surprise, sadness]}}]
      target.views: [[whole], [whole, box]]
"""


def test_training_on_two_expressions_is_tested_on_all(people: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(root=people))
    session = open_session(grid, results=tmp_path / "results")
    assert len(session.plan.runs) == 3
    _execute(session, tmp_path / "results")
    found = rows(session.plan, session.store)
    assert {row["train_where"] for row in found} == {None, "expression=surprise,sadness"}
    assert {(row["genuine_pairs"], row["impostor_pairs"]) for row in found} == {(45, 108)}
    assert all(row["verification"] == "all others, light=nir" for row in found)
    load = {"data_root": None, "cache_dir": tmp_path / "results" / "cache"}
    for run in session.plan.runs.values():
        who = resolve_identities(run.spec, **load)  # type: ignore[arg-type]
        assert who.identities == ("p3", "p4", "p5")
        numbers = {int(image.key.split("-")[1][:-4]) for image in who.images}
        assert numbers == {0, 1, 2, 6, 7, 8}


def _spec(root: Path, verification: dict[str, Any], **data: Any) -> RunSpec:
    given = {"val_per_class": 1, "test_per_class": 2, "images_per_class": 2, **data}
    given.setdefault("classes", {"recipe": "listed", "names": ("p0", "p1", "p2")})
    return RunSpec(
        data=DataSpec(dataset="manifest", root=str(root), **given),
        model=ModelSpec(name="narrow8_32"),
        pattern="R(1-8)",
        evaluate=EvaluateSpec.model_validate({"verification": verification}),
    )


@pytest.mark.parametrize(
    ("verification", "message"),
    [
        ({"identities": ["p3", "p9"]}, "no identity 'p9'"),
        ({"identities": ["p3", "p1"]}, "'p1' is to be verified on, but it is trained on"),
        ({"identities": 4}, "needs 4 identities that are not trained on(.|\n)*has 3 besides"),
        ({"images_per_identity": 1}, "no genuine pair"),
        ({"where": {"lamp": "nir"}}, "no column 'group_lamp'"),
        ({"where": {"light": "infrared"}}, "no image has group_light 'infrared'"),
    ],
)
def test_what_cannot_be_verified_is_an_error_before_training(
    people: Path, tmp_path: Path, verification: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        resolve_identities(_spec(people, verification), data_root=None, cache_dir=tmp_path)


def test_no_impostors_is_an_error_with_the_grids_line(people: Path, tmp_path: Path) -> None:
    names = "[p0, p1, p2, p3, p4]"
    text = GRID.format(root=people).replace("[p0, p1, p2]", names)
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    with pytest.raises(BenchError, match=r"not trained on(.|\n)*has 1 besides the 5"):
        open_session(grid, results=tmp_path)
    grid.write_text(GRID.format(root=people).replace("where: {light", "wehre: {light"))
    with pytest.raises(GridError, match=r"grid.yaml:\d+(.|\n)*wehre"):
        open_session(grid, results=tmp_path)


def test_ids_stay_without_verification_and_move_with_its_images(
    people: Path, tmp_path: Path
) -> None:
    fingerprint = Context(results=str(tmp_path)).fingerprint
    plain = _spec(people, {}).model_copy(update={"evaluate": None})
    ids = [
        run_id(spec, fingerprint)
        for spec in (
            plain,
            _spec(people, {}),
            _spec(people, {"where": {"light": "nir"}}),
            _spec(people, {"identities": 2}),
            _spec(people, {"identities": 2, "identity_draw": 1}),
        )
    ]
    assert len(set(ids)) == 5


def test_features_without_a_direction_are_a_note_and_no_lost_run() -> None:
    from bench.runs.evaluation import verify_run

    class Still(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)

        def get_classifier(self) -> torch.nn.Module:
            return self.fc

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(torch.zeros(len(images), 4))
            return logits

    class Some:
        def identities(self, model: torch.nn.Module) -> Any:
            from bench.training.domain import Domain

            return Domain("x", np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 0, 1, 1]), 2)

    row: dict[str, Any] = {}
    said = verify_run(Still(), Some(), torch.device("cpu"), row)  # type: ignore[arg-type]
    assert "length 0" in said["verification"]["not_measured"]
    assert "tar_at_far_1e-2" not in row
