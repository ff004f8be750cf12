"""What a way of computing costs is measured as it would be seen in a search."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.errors import LoadFailed
from gateway.host import precision
from gateway.host.wire import Precision

# four directions in a plane: 0 and 1 are neighbours, and 2 and 3
EXACT = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)


def test_the_same_vectors_cost_nothing_whatever_their_length() -> None:
    assert precision.compare(EXACT * 3, EXACT) == Precision(4, 1.0, 1.0, 1.0)


def test_a_vector_that_turned_shows_in_the_cosines_and_in_who_its_neighbour_is() -> None:
    made = EXACT.copy()
    made[1] = [-1, 0]
    found = precision.compare(made, EXACT)
    assert found.lowest_cosine == pytest.approx(-0.9 / np.hypot(0.9, 0.1), abs=1e-5)
    assert found.mean_cosine == pytest.approx((3 + found.lowest_cosine) / 4, abs=1e-5)
    assert found.top1_agreement == 0.5  # of 0, whose neighbour has gone, and of 1 itself


@pytest.mark.parametrize("broken", [0.0, np.nan, np.inf])
def test_vectors_that_are_zero_or_not_finite_count_as_wrong(broken: float) -> None:
    made = EXACT.copy()
    made[2] = broken
    found = precision.compare(made, EXACT)
    assert found.lowest_cosine == 0.0
    with pytest.raises(LoadFailed, match=r"a cosine of 0\.0000 .* of 4 texts; at least 0\.97"):
        precision.demand(found, "openvino", "int8")


def test_each_number_format_has_its_own_floor() -> None:
    measured = Precision(24, 0.9985, 0.9995, 1.0)
    precision.demand(measured, "openvino", "int8")
    for dtype in ("float32", "bfloat16", "float16"):
        with pytest.raises(LoadFailed, match=f"in {dtype}, torch makes vectors"):
            precision.demand(measured, "torch", dtype)
