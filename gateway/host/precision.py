"""What a way of computing costs: its vectors beside those of torch in float32, over the same texts.

The texts are fixed ones, short and long, of several kinds, and those that the model's maker gave with it. Source of
the two measures: cosines say how far a vector moved, the nearest neighbour whether a search would notice.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.errors import LoadFailed
from gateway.host.wire import Precision
from gateway.model import Manifest
from gateway.wish import LEAST_COSINE

Vectors = npt.NDArray[np.float32]

_PARAGRAPH: Final = (
    "The storage ring keeps a beam of electrons for many hours. Each time it passes a bending magnet it loses a little "
    "energy as light, and a cavity gives it back. Users at the end of each beamline see only the light: brilliant, "
    "collimated, and tunable from the infrared to hard x-rays. "
)
TEXTS: Final = (
    "beam",
    "7",
    "How is an electron beam stored?",
    "An electron beam is kept in a ring of magnets.",
    "Where can I buy a ticket to Hamburg?",
    "Tickets are sold at the station, and on board at a higher price.",
    "a poem about autumn leaves",
    "The cat sat on the mat, and the dog was not amused.",
    "SELECT name, price FROM products WHERE price < 100 ORDER BY name;",
    "def mean(values): return sum(values) / len(values)",
    "C6H12O6 + 6 O2 -> 6 CO2 + 6 H2O",
    "Quarterly revenue rose by 12% to 3.4 billion euros, the company said on Tuesday.",
    "Der Strahl wird in einem Ring aus Magneten gespeichert.",
    "Le chat est assis sur le tapis et regarde par la fenêtre.",
    "今日は天気がいいので、公園を散歩しました。",
    "This is not what I ordered; please send it back and refund me.",
    "This is exactly what I ordered; thank you for the quick delivery!",
    "Patients with diabetes mellitus should have their blood pressure taken at each visit.",
    "Ignore typos like teh and recieve: they hapen.",
    "https://example.org/a/very/long/path?with=a&query=string#and-an-anchor",
    _PARAGRAPH,
    "A recipe: " + "stir the soup, add salt and pepper, and wait for ten minutes; " * 6,
    _PARAGRAPH * 3,
    "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946",
)


def texts(manifest: Manifest) -> list[str]:
    """What a model is measured on, its default prompt before each."""
    prompt = manifest.prompts.get(manifest.default_prompt_name or "", "")
    return [prompt + text for text in (*TEXTS, *manifest.samples)]


def calibration(manifest: Manifest) -> list[str]:
    """Of the same words and lengths, and other texts: what was scaled to fit a text is measured too well on it."""
    return [" ".join(reversed(text.split())) for text in texts(manifest)]


def compare(made: Vectors, exact: Vectors) -> Precision:
    """`made` beside `exact`, both [texts, dim]."""
    ours, theirs = _units(made), _units(exact)
    cosines = np.einsum("ij,ij->i", ours, theirs)
    cosines = np.where(np.isfinite(cosines), cosines, 0.0)
    return Precision(
        texts=len(cosines),
        lowest_cosine=round(float(cosines.min()), 6),
        mean_cosine=round(float(cosines.mean()), 6),
        top1_agreement=round(float((_nearest(ours) == _nearest(theirs)).mean()), 4),
    )


def demand(precision: Precision, runtime: str, dtype: str) -> None:
    """Raises LoadFailed where the vectors are further from float32 than this number format may take them."""
    least = LEAST_COSINE[dtype]
    if precision.lowest_cosine < least:
        message = (
            f"in {dtype}, {runtime} makes vectors with a cosine of {precision.lowest_cosine:.4f} to those of torch in "
            f"float32, the lowest of {precision.texts} texts; at least {least} is asked for"
        )
        raise LoadFailed(message, reason="too_imprecise")


def _units(vectors: Vectors) -> npt.NDArray[np.float64]:
    rows = vectors.astype(np.float64)
    with np.errstate(all="ignore"):  # what is zero or not finite becomes NaN, and counts as a cosine of 0
        unit: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _nearest(units: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """For each row the other row that is nearest."""
    similar = np.nan_to_num(units @ units.T, nan=-1.0)
    np.fill_diagonal(similar, -np.inf)
    nearest: npt.NDArray[np.intp] = similar.argmax(axis=1)
    return nearest
