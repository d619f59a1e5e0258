"""The box around what an image shows, against the list of its voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.extent import nonzero_box


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["?", "u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8"]),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([1, -1, 2])] * 3),
    st.data(),
)
def test_the_box_holds_exactly_what_is_not_zero_in_any_type_and_memory_order(dtype, shape, axes, steps, data) -> None:
    array = np.zeros(shape, dtype)
    for _ in range(data.draw(st.integers(0, 3))):
        array[tuple(data.draw(st.integers(0, n - 1)) for n in shape)] = -1 if np.dtype(dtype).kind in "if" else 1
    seen = array.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
    places = np.argwhere(seen)
    expected = tuple(slice(at.min(), at.max() + 1) for at in places.T) if len(places) else None
    assert nonzero_box(seen) == expected


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_minus_zero_is_zero_and_nan_and_the_smallest_number_are_not(dtype) -> None:
    array = np.full((3, 4, 5), -0.0, dtype)
    assert nonzero_box(array) is None
    for value, at in itertools.product((np.nan, np.finfo(dtype).smallest_subnormal), ((0, 0, 0), (2, 1, 4))):
        shown = array.copy()
        shown[at] = value
        assert nonzero_box(shown) == tuple(slice(n, n + 1) for n in at)


def test_an_array_without_voxels_shows_nothing() -> None:
    assert nonzero_box(np.empty((0, 4, 5), np.int16)) is None
