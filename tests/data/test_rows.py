"""A view by rows is what indexing would have copied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.rows import Joined, Rows

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 3), dtype=np.uint8)
numbers = st.lists(st.integers(-7, 6), max_size=12).map(lambda n: np.array(n, dtype=np.int64))


@given(index=numbers, data=st.data())
def test_equals_a_copy(index, data):
    view, copy = Rows(IMAGES, index), IMAGES[index]
    assert (view.shape, view.ndim, view.dtype, view.nbytes, len(view)) == (
        copy.shape,
        copy.ndim,
        copy.dtype,
        copy.nbytes,
        len(copy),
    )
    np.testing.assert_array_equal(np.asarray(view), copy)
    start, stop = data.draw(st.tuples(st.integers(-3, 12), st.integers(-3, 12)))
    np.testing.assert_array_equal(view[start:stop], copy[start:stop])
    mask = np.arange(len(index)) % 2 == 0
    np.testing.assert_array_equal(view[mask], copy[mask])
    if len(index):
        some = data.draw(st.lists(st.integers(0, len(index) - 1)).map(np.int64))
        np.testing.assert_array_equal(view[some], copy[some])
        np.testing.assert_array_equal(view[0], copy[0])


@given(first=numbers.filter(len), data=st.data())
def test_rows_of_rows_are_rows_of_the_images(first, data):
    second = np.array(data.draw(st.lists(st.integers(0, len(first) - 1))), dtype=np.int64)
    twice = Rows(Rows(IMAGES, first), second)
    np.testing.assert_array_equal(np.asarray(twice), IMAGES[first][second])


def test_reads_no_more_than_asked(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, IMAGES)
    mapped = np.load(path, mmap_mode="r")
    view = Rows(mapped, np.array([5, 1]))
    assert view._images.base is not None  # a window on the file, not a copy
    np.testing.assert_array_equal(view[np.array([1])], IMAGES[[1]])


@pytest.mark.parametrize("index", [[7], [-8], [0, 99]])
def test_a_row_that_is_not_there(index):
    with pytest.raises(IndexError, match="of 7 images"):
        Rows(IMAGES, np.array(index))


def test_no_array_without_a_copy():
    with pytest.raises(ValueError, match="copy"):
        Rows(IMAGES, np.array([1])).__array__(copy=False)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_joined_arrays_are_numpys_concatenation(sizes: list[int], data: st.DataObject) -> None:
    draw = np.random.default_rng(sum(sizes))
    parts = [draw.integers(0, 256, (n, 2, 3), dtype=np.uint8) for n in sizes]
    whole = np.concatenate(parts)
    joined = Joined([*parts[:-1], Rows(parts[-1], np.arange(len(parts[-1])))])
    assert (joined.shape, joined.dtype, len(joined)) == (whole.shape, whole.dtype, len(whole))
    index = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=9))
    for which in (np.array(index, np.int64), slice(1, None, 2), 0, whole[:, 0, 0] > 99):
        np.testing.assert_array_equal(joined[which], whole[which])
    view = Rows(joined, np.array(index, np.int64))
    np.testing.assert_array_equal(np.asarray(view), whole[np.array(index, np.int64)])
    with pytest.raises(ValueError, match="cannot be joined"):
        Joined([whole, whole[:, :1]])


def test_content_is_that_of_the_rows() -> None:
    images, content = np.arange(10) ** 2, np.arange(20, dtype=np.uint8).reshape(10, 2)
    some = Rows(images, np.array([3, 1, 1, 9]), content)
    part = Rows(some, np.array([3, 0]))
    np.testing.assert_array_equal(some.content, content[[3, 1, 1, 9]])
    np.testing.assert_array_equal(part.content, content[[9, 3]])
    both = Rows(Joined([some, part]), np.array([5, 0, 4]))
    np.testing.assert_array_equal(both.content, content[[3, 3, 9]])
    np.testing.assert_array_equal(Rows(part, np.array([1]), content).content, content[[1]])
    other = Rows(images, np.array([1]), content[:, :1])
    for unknown in (Rows(images, np.array([1])), images, other):
        assert Joined([some, unknown]).content is None
    assert Rows(Joined([some, images]), np.array([1])).content is None
