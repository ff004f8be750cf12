"""The same vectors: two requests need not agree in the last bit, since weights are reordered while a model serves."""

from __future__ import annotations

from typing import Any

import numpy as np


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.array(found, "f4"), np.array(expected, "f4"), atol=1e-5)
