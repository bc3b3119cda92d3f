"""One thing changes in a pair, and the order of rows changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.advice.labels import curves, more_labels
from analysis.advice.types import Significance, Situation
from analysis.comparisons.evidence import Evidence
from analysis.comparisons.learning_curves import repeated_laws
from analysis.comparisons.pairing import best_lr, comparisons, pair
from analysis.comparisons.units import summarise
from analysis.findings.evaluate import CLAIMS, Examined, examine
from analysis.leaderboard import arms
from analysis.leaderboard.read import COPIED, LOSS, PATTERN, SOURCE, prepare
from analysis.statistics.decisions import hypothesis_name
from bench.results.leaderboard import describe
from bench.specs.data import Borrowed, DataSpec, NearFarClasses, RandomClasses
from bench.specs.planned import DataFacts, Plan, PlannedRun
from bench.specs.run import FromRun, MethodSpec, ModelSpec, RunSpec, Seeds, TrainSpec
from benchmarks.simulated import ARMS, Design, Truth, simulate

FROM_SCRATCH = (*SOURCE, *PATTERN, *COPIED)
TUNE, FREEZE, SCRATCH = "T(1-7)R(8)", "F(1-7)R(8)", "R(1-8)"


def source(
    images: int | None = None, side: Any = "near", classes: int = 20, **more: Any
) -> RunSpec:
    chosen = NearFarClasses(root="animal.n.01", side=side, source_n=classes)
    data = DataSpec(dataset="d", classes=chosen, images_per_class=images)
    return RunSpec(data=data, model=ModelSpec(name="m"), pattern=SCRATCH, **more)


def run(parent: RunSpec | None, pattern: str = TUNE, seed: int = 0, **more: Any) -> RunSpec:
    start = {} if parent is None else {"init": FromRun(run=parent)}
    classes = NearFarClasses(root="animal.n.01", side="target", class_draw=more.pop("draw", 0))
    images = more.pop("images", 10)
    data = DataSpec(dataset="d", classes=classes, images_per_class=images)
    seeds = Seeds(draw=seed, init=seed, order=seed)
    rest = {**start, **more}
    model = ModelSpec(name="m")
    return RunSpec(data=data, model=model, pattern=pattern, seeds=seeds, **rest)


def board(*cells: tuple[float, RunSpec], validation: list[float] | None = None) -> pd.DataFrame:
    """The leaderboard of real specs with these accuracies."""
    runs: dict[str, PlannedRun] = {}
    facts = DataFacts("f", tuple("abcdefghij"), "k", 100, 100, available_images=1000)
    for number, (_, spec) in enumerate(cells):
        parent = None
        if spec.parent is not None:
            parent = f"p{abs(hash(spec.parent))}"
            runs[parent] = PlannedRun(parent, spec.parent, None, (), facts)
        runs[str(number)] = PlannedRun(str(number), spec, parent, ("e",), facts)
    rows = describe(Plan("g", runs, len(cells)))
    found = []
    for number, (accuracy, _) in enumerate(cells):
        val = accuracy if validation is None else validation[number]
        outcome = {"status": "done", "top1_accuracy": accuracy, "val_top1_accuracy": val}
        found.append(rows[str(number)] | outcome | {"test_images": 1000})
    return prepare(pd.DataFrame(found))


# --- the faults that were seen -------------------------------------------------------------------


def test_partners_have_the_same_parent() -> None:
    """Sources `many` and `few` under one label: each tuned run pairs with its own frozen one."""
    many, few = source(100), source(2)
    cells = []
    for seed in range(3):
        cells += [
            (0.50 + seed / 100, run(many, TUNE, seed)),
            (0.49 + seed / 100, run(many, FREEZE, seed)),
            (0.40 + seed / 100, run(few, TUNE, seed)),
            (0.35 + seed / 100, run(few, FREEZE, seed)),
        ]
    table = board(*cells)
    assert "source.images_per_class" in table.columns
    tuned, frozen = table["treatment"] == "tune", table["treatment"] == "freeze"
    found = pair(table, tuned, frozen, PATTERN).frame
    assert len(found) == 6
    gains = found.groupby("source.images_per_class")["difference"].mean()
    assert gains.to_dict() == pytest.approx({100: 0.01, 2: 0.05})
    assert [len(group) for group in comparisons(found)] == [3, 3]


def test_a_factor_of_copied_layers_never_varies_within_a_pair_of_patterns() -> None:
    near = source()
    slow = TrainSpec(copied_lr_factor=0.2)
    table = board(
        (0.5, run(near, TUNE)),
        (0.4, run(near, FREEZE)),
        (0.7, run(near, TUNE, train=slow)),
        (0.1, run(near, FREEZE, train=slow)),
    )
    found = pair(table, table["treatment"] == "tune", table["treatment"] == "freeze", PATTERN).frame
    assert sorted(found["difference"].round(6)) == [0.1, 0.6]
    assert found["comparison"].nunique() == 2


def test_statistics_that_frozen_layers_never_move_keep_no_pair_apart() -> None:
    near, partly = source(), "F(1-3)T(4-7)R(8)"
    table = board(
        (0.5, run(near, TUNE, train=TrainSpec(copied_statistics="fixed"))),
        (0.6, run(near, TUNE)),
        (0.7, run(near, TUNE, train=TrainSpec(l2_sp=0.1))),
        (0.4, run(near, FREEZE)),
        (0.3, run(near, partly)),
    )
    tuned, kind = table["treatment"] == "tune", table["treatment"]
    found = pair(table, tuned, kind == "freeze", PATTERN)
    assert sorted(found.frame["difference"].round(6)) == [0.1, 0.2]
    assert found.frame["comparison"].nunique() == 2
    assert found.unpaired == 1  # with L2-SP two things change
    held = pair(table, tuned, kind == "partly", PATTERN)
    assert list(held.frame["difference"].round(6)) == [0.3]
    assert held.unpaired == 2


@pytest.mark.parametrize("field", ["momentum", "optimizer", "augment", "label_smoothing"])
def test_a_setting_without_a_column_of_old_never_varies_within_a_pair(field: str) -> None:
    values: dict[str, tuple[Any, Any]] = {
        "momentum": (0.0, 0.9),
        "optimizer": ("sgd", "adamw"),
        "augment": ("none", "flip"),
        "label_smoothing": (0.0, 0.1),
    }
    near = source()
    one, other = (TrainSpec(**{field: value}) for value in values[field])
    table = board((0.5, run(near, TUNE, train=one)), (0.4, run(near, FREEZE, train=other)))
    found = pair(table, table["treatment"] == "tune", table["treatment"] == "freeze", PATTERN)
    assert (len(found), found.unpaired) == (0, 1)


def test_a_setting_of_the_source_never_varies_within_a_pair() -> None:
    quick, slow = source(train=TrainSpec(lr=0.1)), source(train=TrainSpec(lr=0.2))
    table = board((0.5, run(quick, TUNE)), (0.4, run(slow, FREEZE)))
    found = pair(table, table["treatment"] == "tune", table["treatment"] == "freeze", PATTERN)
    assert len(found) == 0
    far = source(side="far", train=TrainSpec(lr=0.1))
    table = board((0.5, run(quick, TUNE)), (0.4, run(far, TUNE)))
    near = table["source_side"] == "near"
    assert len(pair(table, near, ~near, SOURCE)) == 1


def test_seeds_of_a_source_that_varies_are_no_repetitions_of_the_target() -> None:
    """Five sources against one run from scratch share that run, and are one repetition."""
    cells = [(0.4, run(None, SCRATCH))]
    for k in range(5):
        cells.append((0.5 + k / 100, run(source(seeds=Seeds(draw=k, init=k, order=k)))))
    table = board(*cells)
    found = pair(table, table["source_side"] == "near", table["source"] == "none", FROM_SCRATCH)
    (row,) = found.frame.to_dict("records")
    assert (row["left"], row["right"]) == pytest.approx((0.52, 0.4))
    assert found.unpaired == 0
    gain = examine(Evidence(table)).gains.iloc[0]
    assert (gain["n"], gain["low"], gain["verdict"]) == (1, None, "undecided")


def test_sources_with_other_numbers_of_classes_are_comparisons_of_their_own() -> None:
    cells = []
    for seed in range(3):
        for classes, gain in ((20, 0.09), (60, 0.29)):
            near = source(classes=classes)
            cells.append((0.4 + gain + seed / 100, run(near, TUNE, seed)))
            cells.append((0.4 + seed / 100, run(near, FREEZE, seed)))
    table = board(*cells)
    assert table["recipe_id"].nunique() == 4
    frame = pair(table, table.treatment == "tune", table.treatment == "freeze", PATTERN).frame
    means = sorted(group["difference"].mean() for group in comparisons(frame))
    assert means == pytest.approx([0.09, 0.29])
    gains = examine(Evidence(table)).gains
    assert sorted(gains["gain_points"]) == pytest.approx([9.0, 29.0])
    assert gains["setting"].nunique() == 2


def test_a_number_of_source_classes_that_stands_with_the_target_is_a_treatment() -> None:
    """`target.classes.source_n` as an axis: the source has what its target's recipe says."""
    cells = []
    for seed in range(3):
        for count, gain in ((20, 0.02), (60, 0.3)):
            near = source(classes=count)
            own = NearFarClasses(root="animal.n.01", side="target", source_n=count)
            for pattern, level in ((TUNE, 0.4 + gain), (FREEZE, 0.4)):
                spec = run(near, pattern, seed)
                data = spec.data.model_copy(update={"classes": own})
                cells.append((level + seed / 100, spec.model_copy(update={"data": data})))
    table = board(*cells)
    frame = pair(table, table.treatment == "tune", table.treatment == "freeze", PATTERN).frame
    means = sorted(group["difference"].mean() for group in comparisons(frame))
    assert means == pytest.approx([0.02, 0.3])
    assert table["recipe_id"].nunique() == 4


def test_a_further_source_of_one_target_does_not_split_the_comparison_of_others() -> None:
    """One target has a second source, taken from elsewhere; what all targets share is pooled."""
    roots = ("animal.n.01", "plant.n.02", "artifact.n.01")
    cells = []
    for place, root in enumerate(roots):
        own = NearFarClasses(root=root, side="target")
        for seed in range(2):
            origins = [root, "food.n.01"] if not place else [root]
            for origin in origins:
                near = source()
                classes = NearFarClasses(root=origin, side="near")
                data = near.data.model_copy(update={"classes": classes})
                near = near.model_copy(update={"data": data})
                for pattern, level in ((TUNE, 0.5), (FREEZE, 0.4)):
                    spec = run(near, pattern, seed)
                    data = spec.data.model_copy(update={"classes": own})
                    cells.append((level + seed / 100, spec.model_copy(update={"data": data})))
    table = board(*cells)
    frame = pair(table, table.treatment == "tune", table.treatment == "freeze", PATTERN).frame
    assert [group["task"].nunique() for group in comparisons(frame)] == [3, 1]


def test_one_source_is_one_source_whatever_the_targets_data_set() -> None:
    """Its label names the data set where the target's is another; the network is the same."""
    parent = source(side="far")
    cells = []
    for dataset in ("d", "e", "f"):
        classes = RandomClasses(n=10, class_draw=0)
        data = DataSpec(dataset=dataset, classes=classes, images_per_class=10)
        for accuracy, pattern in ((0.6, TUNE), (0.5, FREEZE)):
            spec = RunSpec(
                data=data, model=ModelSpec(name="m"), pattern=pattern, init=FromRun(run=parent)
            )
            cells.append((accuracy, spec))
    table = board(*cells)
    assert set(table["source"]) == {"far", "d far"}
    found = pair(table, table.treatment == "tune", table.treatment == "freeze", PATTERN)
    (group,) = comparisons(found.frame)
    assert group["task"].nunique() == 3


def test_a_gap_is_that_of_one_comparison_before_and_one_after() -> None:
    cells = []
    for seed in range(3):
        for side, gain in (("near", 0.1), ("far", 0.0)):
            start = source(side=side)
            cells.append((0.5 + gain + seed / 100, run(start, TUNE, seed)))
            for pattern, more in (("F(1-3)T(4-7)R(8)", 0.01), ("F(1-3)T(4-5)F(6-7)R(8)", 0.2)):
                accuracy = 0.3 + gain + (more if side == "near" else 0) + seed / 100
                cells.append((accuracy, run(start, pattern, seed)))
    found = examine(Evidence(board(*cells)))
    (claim,) = [f for f in found.findings if f.claim == "LI-C8"]
    parts = [p for p in claim.parts if p.name.startswith("near loses less")]
    assert sorted(p.effect for p in parts) == pytest.approx([1.0, 20.0])
    assert len({p.test.hypothesis for p in parts}) == 2


def test_a_gap_frees_the_rate_where_its_own_sides_chose_one() -> None:
    """A run elsewhere on the board without a validation accuracy does not hold the rate."""
    cells, validation = [], []
    for seed in range(3):
        for side, gain in (("near", 0.1), ("far", 0.0)):
            for pattern, best in ((TUNE, 0.1), ("F(1-3)T(4-7)R(8)", 0.2)):
                for lr in (0.1, 0.2):
                    train = TrainSpec(lr=lr)
                    accuracy = 0.3 + gain * (1 if pattern == TUNE else 2) + seed / 100
                    cells.append((accuracy, run(source(side=side), pattern, seed, train=train)))
                    validation.append(0.5 if lr == best else 0.4)
    cells.append((0.2, run(None, SCRATCH)))
    validation.append(float("nan"))
    found = examine(Evidence(board(*cells, validation=validation)))
    (claim,) = [f for f in found.findings if f.claim == "LI-C8"]
    (part,) = [p for p in claim.parts if p.name.startswith("near loses less")]
    assert (part.n, part.effect) == (3, pytest.approx(10.0))


def test_curves_of_unlike_recipes_have_names_and_hypotheses_of_their_own() -> None:
    cells = []
    for decay in (0.0, 0.1):
        for seed in range(3):
            for images, accuracy in ((5, 0.3), (20, 0.5), (100, 0.7)):
                train = TrainSpec(weight_decay=decay)
                level = accuracy + decay + seed / 100
                cells.append((level, run(source(), TUNE, seed, images=images, train=train)))
    evidence = Evidence(board(*cells))
    found = curves(evidence)
    assert len({curve.label for curve in found}) == len(found) == 2
    asked = Significance(evidence.rules)
    more_labels(Situation(images_per_class=20, classes=10), evidence, asked)
    assert len(asked._tests) == 2


def test_means_over_other_runs_are_hypotheses_of_their_own() -> None:
    frame = pd.DataFrame({"left_runs": ["0 1"], "right_runs": ["5"], "left_place": 0})
    other = frame.assign(left_runs="0 2")
    swapped = frame.assign(left_runs="5", right_runs="0 1")
    assert hypothesis_name(frame, "k") != hypothesis_name(other, "k")
    assert hypothesis_name(frame, "k") == hypothesis_name(swapped, "k")
    allowed = [hypothesis_name(one, "k 1", symmetric=False) for one in (frame, swapped)]
    assert allowed[0] != allowed[1]


def test_targets_of_one_comparison_are_tasks_of_one_row() -> None:
    """Ten targets with two seeds say more in general than one target with five."""
    rng = np.random.default_rng(0)
    cells = []
    for target in range(10):
        data = DataSpec(dataset=f"d{target}", images_per_class=10)
        for seed in range(2):
            for parent, pattern, level in ((source(), TUNE, 0.6), (None, SCRATCH, 0.4)):
                spec = run(parent, pattern, seed).model_copy(update={"data": data})
                cells.append((level + rng.normal() / 100, spec))
    (gain,) = examine(Evidence(board(*cells))).gains.to_dict("records")
    assert (gain["n"], gain["unit"], gain["setting"]) == (10, "task", "")
    assert (gain["verdict"], gain["scope"]) == ("higher", "in general")


def test_few_tasks_have_a_verdict_on_those_tasks() -> None:
    rng = np.random.default_rng(1)
    cells = []
    for draw in range(2):
        for seed in range(5):
            for side, level in (("near", 0.6), ("far", 0.4)):
                spec = run(source(side=side), TUNE, seed, draw=draw)
                cells.append((level + rng.normal() / 100, spec))
    (claim,) = [f for f in examine(Evidence(board(*cells))).findings if f.claim == "LI-C4"]
    (part,) = [p for p in claim.parts if p.name == "near > far"]
    assert (part.verdict, part.scope, part.n) == ("holds", "on these 2 tasks", 2)


def test_overlapping_draws_widen_slopes_gaps_and_exponents_too() -> None:
    """What is derived from several runs carries the largest share that draws have in common."""
    design = Design(tasks=1, seeds=5, arms=tuple(ARMS), sizes=(5, 20, 100))
    table, _ = simulate(design, Truth(), np.random.default_rng(3))
    known = table.assign(available_images=2 * table["train_images"])
    unknown = table.assign(available_images=None)
    for name in ("LI-C6", "LI-C8"):
        widths = []
        for one in (known, unknown):
            (claim,) = [f for f in examine(Evidence(one)).findings if f.claim == name]
            widths.append({p.name: p.high - p.low for p in claim.parts if p.low is not None})
        assert widths[0]
        assert all(widths[0][part] > widths[1][part] for part in widths[0]), name
    laws = [repeated_laws(one[arms.fine_tuned(one)]) for one in (known, unknown)]
    ends = [summarise(law, "exponent", "exponents", "given") for law in laws]
    assert ends[0].high - ends[0].low > ends[1].high - ends[1].low


def _borrowing(name: str, parent: RunSpec, **options: Any) -> dict[str, Any]:
    from bench.methods import resolved

    given = tuple(sorted(resolved(name, options).items()))
    return {
        "method": MethodSpec(name=name, options=given),
        "borrow": (Borrowed(data=parent.data),),
    }


def test_what_two_methods_share_is_held_and_recipes_are_not_pooled() -> None:
    """GE-C1: selective and joint training with the same BatchNorm recipe, each a comparison."""
    near = source()
    cells = [
        (0.60, run(near, **_borrowing("selective", near))),
        (0.50, run(near, **_borrowing("joint", near))),
        (0.30, run(near, **_borrowing("joint", near, batch_norm="separate"))),
        (0.65, run(near, **_borrowing("selective", near, rounds=2))),
    ]
    table = board(*cells)
    found = pair(table, arms.selective(table), arms.joint(table), LOSS).frame
    assert sorted(found["difference"].round(6)) == [0.1, 0.15]
    assert found["comparison"].nunique() == 2


def test_a_rate_with_runs_that_diverged_is_not_chosen() -> None:
    near = source()
    cells, status = [], []
    for seed in range(3):
        for lr, accuracy in ((0.01, 0.4), (0.3, 0.9)):
            cells.append((accuracy, run(near, TUNE, seed, train=TrainSpec(lr=lr))))
            status.append("diverged" if lr == 0.3 and seed == 0 else "done")
    table = board(*cells).assign(status=status)
    assert set(best_lr(table)["lr"]) == {0.01}
    assert set(best_lr(table.assign(status="done"))["lr"]) == {0.3}
    # Where every rate diverged somewhere, the mean with chance decides.
    table["status"] = ["diverged" if i < 2 else "done" for i in range(6)]
    assert set(best_lr(table)["lr"]) == {0.3}


def test_a_diverged_run_counts_at_chance_on_its_side_of_the_pair() -> None:
    near = source()
    rows = pd.DataFrame(board((0.5, run(near, TUNE)), (0.4, run(near, FREEZE)))).drop(
        columns=["task", "seed"]
    )
    rows["status"] = ["done", "diverged"]
    table = prepare(rows)
    found = pair(table, table["treatment"] == "tune", table["treatment"] == "freeze", PATTERN)
    assert found.frame["difference"].tolist() == pytest.approx([0.5 - 0.1])
    assert found.frame["diverged"].tolist() == [1]


def test_draws_of_a_target_repeat_a_comparison_and_other_recipes_do_not() -> None:
    near = source()
    cells = [
        (accuracy, run(near, pattern, draw=draw, train=TrainSpec(weight_decay=decay)))
        for draw in (0, 1)
        for decay in (0.0, 0.01)
        for pattern, accuracy in ((TUNE, 0.5 + decay), (FREEZE, 0.4))
    ]
    table = board(*cells)
    found = pair(table, table["treatment"] == "tune", table["treatment"] == "freeze", PATTERN).frame
    groups = list(comparisons(found))
    assert [group["task"].nunique() for group in groups] == [2, 2]
    assert [len(set(group["weight_decay"])) for group in groups] == [1, 1]


# --- the order of rows ---------------------------------------------------------------------------


def _faces(rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        (arm, said, far, rng.uniform(), task, seed, setting)
        for arm in ("soft", "fine-tuning")
        for said in ("all", "two")
        for far in (1e-2, 1e-4)
        for task in ("a", "b", "c")
        for seed in (0, 1)
        for setting in ("x", "y")
    ]
    columns = ["arm", "expressions", "far", "tar", "task", "seed", "setting"]
    return pd.DataFrame(rows, columns=columns)


def _shown(found: Examined) -> list[tuple[Any, ...]]:
    def rounded(*values: float | None) -> tuple[float | None, ...]:
        return tuple(None if v is None else round(v, 9) for v in values)

    parts = [
        (
            f.claim,
            f.verdict,
            f.here,
            p.name,
            p.verdict,
            p.here,
            p.n,
            p.main,
            *rounded(p.effect, p.low, p.high, p.p_holm),
        )
        for f in found.findings
        for p in sorted(f.parts, key=lambda part: part.name)
    ]
    gains = found.gains.drop(columns=["test", "setting", "estimate"])
    gains = gains.assign(p_holm=gains["p_holm"].astype(float)).round(9).astype(str)
    return parts + sorted(gains.itertuples(index=False, name=None))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_verdict_depends_on_the_order_of_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects = {arm: 0.02 * place for place, arm in enumerate(ARMS)}
    design = Design(3, 2, ARMS, (5, 20, 100), 300)
    table, _ = simulate(design, Truth(effects=effects), rng)
    faces = _faces(rng)
    distances = pd.DataFrame({"source": ["near", "far"], "cosine": [0.1, 0.3]})
    before = examine(Evidence(table, distances, faces))
    mixed = table.sample(frac=1, random_state=seed)
    mixed.attrs = table.attrs
    after = examine(
        Evidence(mixed, distances.iloc[::-1], faces.sample(frac=1, random_state=seed + 1))
    )
    assert _shown(before) == _shown(after)
    tested = {f.claim for f in before.findings if f.main.effect is not None}
    assert {"SFT-C1", "SFT-C5", "SFT-C6", "GE-C1", "LI-C4", "LI-C6", "CHU-C1", "CHU-C2"} <= tested
    assert len(CLAIMS) == 30
