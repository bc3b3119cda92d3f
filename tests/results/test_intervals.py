"""Intervals of nested repetitions: against scipy, literal loops and simulated truths."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.results.intervals import (
    BOUNDED,
    NO_SPREAD,
    WITHOUT_IMAGES,
    Estimate,
    Observation,
    clipped,
    estimate,
    from_errors,
    student,
)


def _ends(e: Estimate) -> tuple[float, float]:
    assert e.low is not None
    assert e.high is not None
    return e.low, e.high


def _covers(e: Estimate, truth: float) -> bool:
    low, high = _ends(e)
    return low <= truth <= high


def _seeds(values: Sequence[float], task: str = "t", **given_: object) -> list[Observation]:
    return [Observation(task, str(s), v, **given_) for s, v in enumerate(values)]  # type: ignore[arg-type]


# --- Student's t ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1, 1).map(lambda v: round(v, 6)), min_size=2, max_size=9),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_students_interval_is_scipys(values: list[float], level: float) -> None:
    found = student(values, level)
    if np.ptp(values) == 0:
        assert (found.low, found.high, found.p, found.note) == (None, None, None, NO_SPREAD)
        return
    theirs = stats.ttest_1samp(values, 0)
    assert _ends(found) == pytest.approx(tuple(theirs.confidence_interval(level)), abs=1e-12)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.n, found.df, found.level) == (len(values), len(values) - 1, level)
    assert found.sign == (_ends(found)[0] > 0) - (_ends(found)[1] < 0)
    for margin in (-0.3, 0.0, 0.2):
        above = stats.ttest_1samp(values, margin, alternative="greater")
        below = stats.ttest_1samp(values, margin, alternative="less")
        assert found.p_above(margin) == pytest.approx(above.pvalue, rel=1e-9)
        assert found.p_below(margin) == pytest.approx(below.pvalue, rel=1e-9)


def test_an_interval_from_an_error_is_scipys() -> None:
    found = from_errors(1.5, 0.7, 3.4, 5, "seed")
    assert _ends(found) == pytest.approx(stats.t.interval(0.95, 3.4, loc=1.5, scale=0.7))
    assert found.p == pytest.approx(2 * stats.t.sf(1.5 / 0.7, 3.4))


def test_one_value_has_no_interval_and_says_so() -> None:
    found = student([0.3], unit="task")
    assert (found.low, found.high, found.p, found.sign) == (None, None, None, 0)
    assert found.note == "one task: no interval"
    assert found.p_above(0) is found.p_below(0) is None


@pytest.mark.parametrize("values", [[0.1, 0.1], [0.3 - 0.2, 0.1, 0.1], [0.0, 0.0]])
def test_equal_values_are_no_certainty(values: list[float]) -> None:
    for found in (student(values), estimate(_seeds(values))):
        assert (found.low, found.high, found.p, found.sign) == (None, None, None, 0)
        assert NO_SPREAD in found.note


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="all of them finite"):
        estimate(_seeds(values))


def test_accuracies_end_at_0_and_1() -> None:
    wide = from_errors(0.9, 0.1, 2, 3, "seed")
    found = clipped(wide, 0.0, 1.0)
    assert _ends(wide)[1] > 1
    assert _ends(found) == (_ends(wide)[0], 1.0)
    assert (found.value, found.p, found.error, found.df) == (0.9, wide.p, 0.1, 2)
    nothing = student([0.9])
    assert clipped(nothing, 0.0, 1.0) == nothing


# --- one task ------------------------------------------------------------------------------------


def test_the_unit_of_one_task_is_the_seed() -> None:
    values = [0.1, 0.25, 0.2, 0.31]
    found = estimate(_seeds(values))
    theirs = student(values)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(
        (theirs.value, theirs.low, theirs.high, theirs.p)
    )
    assert (found.unit, found.n, found.here) == ("seed", 4, None)
    assert found.note == WITHOUT_IMAGES


def test_sizes_are_averaged_within_a_seed_before_seeds_count() -> None:
    # Ten sizes of three seeds are three repetitions, and a size's own level is no spread.
    rng = np.random.default_rng(0)
    values = {(s, n): n / 10 + rng.normal(0, 0.01) for s in range(3) for n in range(10)}
    found = estimate([Observation("t", str(s), v, str(n)) for (s, n), v in values.items()])
    means = [float(np.mean([values[s, n] for n in range(10)])) for s in range(3)]
    assert _ends(found) == pytest.approx(_ends(student(means)))
    assert (found.n, found.unit) == (3, "seed")


def test_a_seed_that_lacks_a_size_moves_no_other_size() -> None:
    # Seed 2 has the easy size alone: it says nothing of the hard one.
    values = {
        (0, "hard"): 0.1,
        (1, "hard"): 0.2,
        (0, "easy"): 0.8,
        (1, "easy"): 0.9,
        (2, "easy"): 0.85,
    }
    found = estimate([Observation("t", str(s), v, n) for (s, n), v in values.items()])
    assert found.value == pytest.approx((0.15 + 0.85) / 2)
    # Each size has its spread and its degrees; the errors add up as if fully correlated.
    hard, easy = math.sqrt(2 * 0.05**2) / math.sqrt(2), 0.05 / math.sqrt(3)
    assert found.error == pytest.approx((hard + easy) / 2)
    wide = stats.t.ppf(0.975, 1) * hard + stats.t.ppf(0.975, 2) * easy
    assert found.high - found.value == pytest.approx(wide / 2)


@pytest.mark.parametrize(
    ("seeds", "spreads"),
    [
        *(((5, n), (1.0, 1.0)) for n in (5, 2, 1)),
        ((10, 2), (1.0, 1.0)),
        ((5, 2), (0.2, 4.0)),
        ((20, 2), (0.5, 5.0)),
    ],
)
def test_sizes_with_fewer_seeds_than_others_are_covered(
    seeds: tuple[int, int], spreads: tuple[float, float]
) -> None:
    # Effects of a seed are shared by its sizes. A size of one seed that spreads more than all
    # others cannot be covered: nothing says how far it spreads.
    rng = np.random.default_rng(len(seeds) + seeds[1])
    inside = 0
    for _ in range(1000):
        own = rng.normal(0, 1, (max(seeds), 1)) + rng.normal(0, 1, (max(seeds), 2))
        own *= spreads
        rows = [
            Observation("t", str(s), float(own[s, n]), str(n))
            for n, count in enumerate(seeds)
            for s in range(count)
        ]
        found = estimate(rows)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0 <= found.high
    assert inside / 1000 > 0.93


def test_a_repetition_that_is_there_twice_counts_once() -> None:
    rows = [Observation("t", str(s), v) for s, v in enumerate([0.1, 0.25, 0.2])]
    once, twice = estimate(rows), estimate([*rows, rows[0], rows[0]])
    assert (twice.value, twice.error, twice.n) == pytest.approx((once.value, once.error, once.n))


def _mean_squares(table: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Of seeds, images and the rest of a two-way table with one value per cell, by its definition.

    Searle, Casella, McCulloch, *Variance Components* (1992), §4.3.
    """
    seeds, images = len(table), len(table[0])
    grand = sum(sum(row) for row in table) / (seeds * images)
    of_seed = [sum(row) / images for row in table]
    of_image = [sum(table[s][i] for s in range(seeds)) / seeds for i in range(images)]
    ss_seeds = images * sum((m - grand) ** 2 for m in of_seed)
    ss_images = seeds * sum((m - grand) ** 2 for m in of_image)
    ss_rest = sum(
        (table[s][i] - of_seed[s] - of_image[i] + grand) ** 2
        for s in range(seeds)
        for i in range(images)
    )
    freedom = (seeds - 1) * (images - 1)
    return ss_seeds / (seeds - 1), ss_images / (images - 1), ss_rest / freedom


def _crossed_by_hand(table: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Standard error of the mean over seeds x images, and half the width of its interval.

    Each part has the quantile of its own degrees of freedom, and the squares add up.
    """
    seeds, images = len(table), len(table[0])
    ms_seeds, ms_images, ms_rest = _mean_squares(table)
    # E MS_seeds = images var_seeds + var_rest, E MS_images = seeds var_images + var_rest.
    of_seeds = ms_seeds / (seeds * images)
    of_images = max(0.0, ms_images - ms_rest) / (seeds * images)
    quantiles = [float(stats.t.ppf(0.975, n - 1)) for n in (seeds, images)]
    half = math.hypot(quantiles[0] * of_seeds**0.5, quantiles[1] * of_images**0.5)
    return math.sqrt(of_seeds + of_images), half


def _crossed(table: Sequence[Sequence[float]], task: str = "t") -> list[Observation]:
    return [
        Observation(task, str(s), float(np.mean(row)), per_image=np.asarray(row, dtype=float))
        for s, row in enumerate(table)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_seeds_and_test_images_are_crossed_as_in_an_analysis_of_variance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seeds, images = int(rng.integers(2, 6)), int(rng.integers(5, 40))
    table = (
        0.3
        + rng.normal(0, 0.2, (seeds, 1))
        + rng.normal(0, 0.5 * (seed % 3), (1, images))
        + rng.normal(0, 0.6, (seeds, images))
    )
    found = estimate(_crossed(table.tolist()))
    error, half = _crossed_by_hand(table.tolist())
    assert (found.value, found.error) == pytest.approx((table.mean(), error))
    assert _ends(found) == pytest.approx((table.mean() - half, table.mean() + half))
    assert (found.unit, found.n, found.note) == ("seed", seeds, "")


def test_images_that_differ_less_than_chance_add_nothing() -> None:
    # The parts of an image cancel over seeds, so that its mean square is below that of the rest.
    table = [[0.1, 0.5, 0.3], [0.6, 0.1, 0.4]]
    ms = _mean_squares(table)
    assert ms[1] < ms[2]
    assert _ends(estimate(_crossed(table))) == pytest.approx(
        _ends(student([float(np.mean(row)) for row in table]))
    )


def test_equal_accuracies_of_one_test_set_still_have_its_sampling_error() -> None:
    table = [[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0]]
    found = estimate(_crossed(table))
    assert found.error == pytest.approx(np.std(table[0], ddof=1) / math.sqrt(6))
    assert found.df == pytest.approx(5)


def test_predictions_of_other_numbers_of_images_are_not_crossed() -> None:
    mixed = [
        Observation("t", str(s), 0.5 + s / 10, per_image=np.ones(3 + s), image_variance=0.01)
        for s in range(3)
    ]
    assert estimate(mixed).note == BOUNDED


def test_from_counts_alone_the_images_error_of_one_task_is_bounded() -> None:
    values = [0.5, 0.6, 0.58]
    bounds = [v * (1 - v) / 100 for v in values]
    found = estimate(
        [
            Observation("t", str(s), v, image_variance=b)
            for s, (v, b) in enumerate(zip(values, bounds, strict=True))
        ]
    )
    of_seeds, of_images = np.var(values, ddof=1) / 3, float(np.mean(bounds))
    assert found.error == pytest.approx(math.sqrt(of_seeds + of_images))
    # A bound is no estimate, so its degrees of freedom are as good as infinite.
    half = math.hypot(stats.t.ppf(0.975, 2) * of_seeds**0.5, 1.959964 * of_images**0.5)
    assert found.high == pytest.approx(found.value + half, rel=1e-5)
    assert found.note == BOUNDED
    partly = [
        Observation("t", str(s), v, image_variance=b)
        for s, (v, b) in enumerate(zip(values, [*bounds[:2], None], strict=True))
    ]
    assert estimate(partly).note == WITHOUT_IMAGES
    assert _ends(estimate(partly)) == pytest.approx(_ends(student(values)))


def test_images_of_sizes_with_unlike_seeds_count_each_size_alike() -> None:
    """The mean weighs sizes alike, and so does what it owes to the test images."""
    rng = np.random.default_rng(5)
    images = {"5": rng.normal(0, 3, 400), "100": rng.normal(0, 1, 400)}
    seeds = {"5": 2, "100": 10}
    found, variances = [], []
    for n, count in seeds.items():
        for s in range(count):
            part = images[n] + rng.normal(0, 0.1, 400)
            found.append(Observation("t", str(s), float(part.mean()), n, part))
    literal = [
        np.mean([np.mean([o.per_image[i] for o in found if o.setting == n]) for n in seeds])
        for i in range(400)
    ]
    variances = np.var(literal, ddof=1) / 400
    alone = [Observation(o.task, o.repetition, o.value, o.setting) for o in found]
    both, without = estimate(found), estimate(alone)
    assert both.error**2 - without.error**2 == pytest.approx(variances)


def test_bounds_of_sizes_add_up_as_if_they_were_correlated() -> None:
    found = [
        Observation("t", str(s), v, n, image_variance=b)
        for n, count, b in (("5", 2, 0.09), ("100", 10, 0.01))
        for s, v in enumerate(np.linspace(0, 1, count))
    ]
    alone = [Observation("t", o.repetition, o.value, o.setting) for o in found]
    added = estimate(found).error ** 2 - estimate(alone).error ** 2
    assert added == pytest.approx(((0.3 + 0.1) / 2) ** 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_p_is_that_of_the_interval_at_every_level(share: float) -> None:
    """Few seeds and many images: at the levels of many comparisons degrees matched at 95 % lie."""
    rng = np.random.default_rng(1)
    images = math.sqrt(share) * rng.normal(0, 10, 300)
    rows = [images + rng.normal(0, 1, 300) + rng.normal() for _ in range(3)]
    found = [Observation("t", str(s), float(row.mean()) + 3, "", row) for s, row in enumerate(rows)]
    for level in (0.5, 0.95, 0.999, 0.99999):
        e = estimate(found, level)
        inside = abs(e.value) <= e.high - e.value
        assert (e.p >= 1 - level) == inside
        assert e.p_above(e.low) == pytest.approx((1 - level) / 2, rel=1e-6)


def test_seeds_that_agree_by_luck_are_no_certainty_of_their_size() -> None:
    rows = [Observation("t", str(s), v, "5") for s, v in enumerate([0.4, 0.4])]
    rows += [Observation("t", str(s), v, "20") for s, v in enumerate([0.5, 0.7, 0.6])]
    lucky, one = estimate(rows), estimate(rows[:1] + rows[2:])
    assert lucky.high - lucky.low > 0.7 * (one.high - one.low)


# --- draws that overlap --------------------------------------------------------------------------


def test_overlap_is_corrected_for_after_nadeau_and_bengio() -> None:
    values = [0.1, 0.3, 0.25, 0.18]
    for share in (0.2, 0.5, 0.9):
        found = estimate(_seeds(values, overlap=share))
        # (1 / J + n2 / n1) S², where n2 of the images are drawn for each of the n1 that are not.
        corrected = (1 / 4 + share / (1 - share)) * np.var(values, ddof=1)
        assert found.error == pytest.approx(math.sqrt(corrected))
        assert found.df == pytest.approx(3)
    plain = _ends(estimate(_seeds(values)))
    for nothing in (None, 1.0):  # not known, or all images: a statement about these images
        assert _ends(estimate(_seeds(values, overlap=nothing))) == pytest.approx(plain)


def test_what_draws_of_several_sizes_share_adds_up_at_most() -> None:
    rng = np.random.default_rng(0)
    shares = {"5": 0.1, "10": 0.2, "50": None}
    found = [
        Observation("t", str(s), rng.normal(), n, overlap=share)
        for s in range(4)
        for n, share in shares.items()
    ]
    means = [np.mean([o.value for o in found if o.repetition == str(s)]) for s in range(4)]
    shared = sum(
        math.sqrt(np.var([o.value for o in found if o.setting == n], ddof=1) * f / (1 - f))
        for n, f in (("5", 0.1), ("10", 0.2))
    )
    expected = np.var(means, ddof=1) / 4 + (shared / 3) ** 2
    assert estimate(found).error == pytest.approx(math.sqrt(expected))


def test_draws_that_share_images_cover_only_when_corrected() -> None:
    """A run's value is the mean of the images it drew out of a pool that is itself a sample."""
    rng = np.random.default_rng(3)
    seeds, pool, share, times = 5, 40, 0.5, 1500
    covered = {share: 0, None: 0}
    for _ in range(times):
        images = rng.normal(size=pool)
        values = [rng.choice(images, int(share * pool), replace=False).mean() for _ in range(seeds)]
        for known in covered:
            covered[known] += _covers(estimate(_seeds(values, overlap=known)), 0.0)
    assert 0.92 <= covered[share] / times <= 0.98
    assert covered[None] / times < 0.75


# --- several tasks -------------------------------------------------------------------------------


def test_seeds_are_averaged_within_tasks_and_tasks_are_the_unit() -> None:
    rng = np.random.default_rng(1)
    found, means = [], []
    for task in range(5):
        sizes = []
        for size in range(1 + task % 3):
            values = rng.normal(task, 1, 2 + task)
            sizes.append(sum(values) / len(values))
            found += [Observation(str(task), str(s), v, str(size)) for s, v in enumerate(values)]
        means.append(sum(sizes) / len(sizes))
    e = estimate(found)
    assert _ends(e) == pytest.approx(stats.t.interval(0.95, 4, np.mean(means), stats.sem(means)))
    assert (e.unit, e.n) == ("task", 5)
    assert e.here is not None
    assert e.here.value == pytest.approx(np.mean(means))
    assert (e.here.unit, e.here.n) == ("seed", sum(range(2, 7)))


@pytest.mark.parametrize("seed", range(5))
def test_two_given_tasks_are_welchs_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(1, 0.2, 2 + seed), rng.normal(0, 2, 6)
    here = estimate([*_seeds(list(one), "a"), *_seeds(list(other), "b")]).here
    assert here is not None
    # The mean of both is half of the difference between one and the other's negative.
    theirs = stats.ttest_ind(one, -other, equal_var=False)
    assert _ends(here) == pytest.approx([v / 2 for v in theirs.confidence_interval(0.95)])
    assert here.p == pytest.approx(theirs.pvalue)
    assert here.df == pytest.approx(theirs.df)


def test_given_tasks_carry_the_error_of_their_test_images_where_predictions_are_known() -> None:
    rng = np.random.default_rng(2)
    tables = [
        rng.normal(0, 1, (3, 1)) + rng.normal(0, 3, (1, m)) + rng.normal(size=(3, m))
        for m in (8, 20)
    ]
    here = estimate(
        [o for t, table in enumerate(tables) for o in _crossed(table.tolist(), str(t))]
    ).here
    assert here is not None
    terms = []
    for table in tables:
        seeds, images = table.shape
        ms_seeds, ms_images, ms_rest = _mean_squares(table.tolist())
        terms.append((ms_seeds / seeds / images / 4, seeds - 1))
        terms.append((max(0.0, ms_images - ms_rest) / seeds / images / 4, images - 1))
    variance = sum(v for v, _ in terms)
    assert here.error == pytest.approx(math.sqrt(variance))
    assert here.df == pytest.approx(variance**2 / sum(v**2 / d for v, d in terms))
    assert here.note == ""


def test_of_several_tasks_a_bound_from_counts_is_left_out_and_said() -> None:
    found = [
        Observation(task, str(s), v + s / 10, image_variance=0.5)
        for task, v in (("a", 0.1), ("b", 0.4))
        for s in range(3)
    ]
    e, plain = (
        estimate(found),
        estimate([Observation(o.task, o.repetition, o.value) for o in found]),
    )
    assert e.here is not None
    assert plain.here is not None
    assert e.here.note == WITHOUT_IMAGES
    assert _ends(e.here) == pytest.approx(_ends(plain.here))


def test_a_task_with_one_seed_has_the_spread_of_the_others() -> None:
    found = [*_seeds([0.1, 0.3], "a"), *_seeds([0.4, 0.5, 0.9], "b"), *_seeds([0.7], "c")]
    here = estimate(found).here
    assert here is not None
    of_a, of_b = np.var([0.1, 0.3], ddof=1), np.var([0.4, 0.5, 0.9], ddof=1)
    pooled = (of_a + 2 * of_b) / 3
    assert here.error == pytest.approx(math.sqrt(pooled * (1 / 2 + 1 / 3 + 1) / 9))
    assert here.df == pytest.approx(3)
    alone = estimate([*_seeds([0.7], "a"), *_seeds([0.6], "b")])
    assert alone.here is not None
    assert (alone.here.low, alone.here.note) == (None, "one seed for each task: no interval")
    assert alone.low is not None


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from("xyz"),
            st.sampled_from(["5", "10"]),
            st.integers(0, 100).map(lambda v: v / 100),
            st.booleans(),
        ),
        min_size=1,
        max_size=15,
        unique_by=lambda t: t[:3],
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_observations_does_not_matter(
    cells: list[tuple[str, str, str, float, bool]], shuffle: random.Random
) -> None:
    found = [Observation(t, s, v, n, diverged=int(away)) for t, s, n, v, away in cells]
    first = estimate(found)
    shuffle.shuffle(found)
    again = estimate(found)
    assert (first.value, first.diverged) == pytest.approx((again.value, again.diverged))
    assert first.diverged == sum(o.diverged for o in found)
    assert (first.unit, first.n, first.note) == (again.unit, again.n, again.note)
    assert (first.low is None) == (again.low is None)
    if first.low is not None:
        assert _ends(first) == pytest.approx(_ends(again))


# --- a known truth -------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 5), (2, 3), (3, 5), (10, 2)])
def test_intervals_cover_a_known_truth_as_often_as_they_say(tasks: int, seeds: int) -> None:
    """Crossed random effects: a seed's, a test image's and noise, about the truth of a task.

    The general interval is to cover the mean of all tasks, `here` the mean of those that were run.
    """
    rng = np.random.default_rng([tasks, seeds])
    times, images, mean = 1500, 30, 0.5
    general = here = 0
    for _ in range(times):
        truths = mean + rng.normal(0, 1.0, tasks)
        tables = (
            truths[:, None, None]
            + rng.normal(0, 0.6, (tasks, seeds, 1))
            + rng.normal(0, 1.5, (tasks, 1, images))
            + rng.normal(0, 1.5, (tasks, seeds, images))
        )
        found = [
            Observation(str(t), str(s), float(row.mean()), per_image=row)
            for t, table in enumerate(tables)
            for s, row in enumerate(table)
        ]
        e = estimate(found)
        general += tasks > 1 and _covers(e, mean)
        here += _covers(e if tasks == 1 else e.here, float(truths.mean()))  # type: ignore[arg-type]
    assert 0.92 <= here / times <= 0.98
    if tasks > 1:
        assert 0.92 <= general / times <= 0.98
