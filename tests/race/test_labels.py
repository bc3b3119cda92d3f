"""Wrong labels that were put in on purpose are found, and what is out of fold is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from bench.race.labels import FOLDS, C, Labels, out_of_fold, suspicious


def test_labels_that_were_changed_are_suspicious() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = (x[:600] / 16 * 8).astype(np.float32), y[:600].astype(np.int64)
    rng = np.random.default_rng(0)
    changed = rng.choice(600, 12, replace=False)
    labels = y.copy()
    labels[changed] = (labels[changed] + 1 + rng.integers(0, 9, 12)) % 10
    shares = out_of_fold(x, labels, 10, np.arange(600))
    names = tuple(map(str, range(10)))
    found = suspicious([str(n) for n in range(600)], names, labels, shares)
    hits = {int(one.image) for one in found} & set(changed.tolist())
    assert len(hits) >= 8
    assert len(found) <= len(hits) + 4
    for one in found:
        assert one.probability > 0.9
        assert one.of_label < 0.05
    assert [one.of_label for one in found] == sorted(one.of_label for one in found)


def test_folds_are_those_of_scikit_learn_with_groups_together() -> None:
    x, y = load_digits(n_class=3, return_X_y=True)
    x, y = x[:120].astype(np.float32), y[:120].astype(np.int64)
    groups = np.arange(120) // 2
    found = out_of_fold(x, y, 3, groups)
    literal = np.zeros((120, 3))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fitted, held in folds.split(x, y, groups):
        assert not set(groups[fitted]) & set(groups[held])
        model = LogisticRegression(C=C, max_iter=300, tol=1e-5).fit(x[fitted], y[fitted])
        literal[held] = model.predict_proba(x[held])
    np.testing.assert_allclose(found, literal, atol=1e-3)


def test_what_more_labels_gave_comes_with_an_interval() -> None:
    seen = Labels(244, (), 0.967, 0.959)
    assert (
        seen.doubled == "+0.8 points (from 95.9 to 96.7 %; no interval, as images come in groups)"
    )
    assert replace(seen, gain=(-0.012, 0.028)).doubled == (
        "+0.8 (-1.2 to +2.8) points, not distinguishable from no gain (from 95.9 to 96.7 %)"
    )
    assert replace(seen, accuracy=0.999, gain=(0.01, 0.07)).doubled == (
        "+4.0 (+1.0 to +7.0) points (from 95.9 to 99.9 %)"
    )
