"""Golden vectors: texts with the vectors that whoever made a model got for them. A generation that answers others is
not the model that was published, however well it loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.engine.engine import Engine, Vectors
from gateway.host.wire import Options
from gateway.model import Generation, Reason
from gateway.volume import reasons
from gateway.volume.copying import Refused
from gateway.wish import LEAST_COSINE as LEAST_OF_DTYPE

FILE: Final = "model_metadata.json"
LEAST_COSINE: Final = 0.999  # float16 weights on another device stay above 0.9999
MOST_TEXTS: Final = 64  # of a few tokens each: one device call
Matrix = npt.NDArray[np.float64]


class Golden(msgspec.Struct, frozen=True):
    """`vectors` has one row for each text; no row is zero."""

    texts: tuple[str, ...]
    vectors: tuple[tuple[float, ...], ...]


class _Document(msgspec.Struct):
    texts: list[str]
    vectors: list[list[float]]


def read(metadata: Mapping[str, Any]) -> tuple[Golden | None, Reason | None]:
    """The golden vectors in a model's metadata, or what is wrong with them, which is a warning. Never raises."""
    if metadata.get("golden") is None:
        return None, None
    try:
        found = msgspec.convert(metadata["golden"], _Document)
        _check(found)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        return None, reasons.reason("golden_invalid", f"{FILE}: the golden vectors cannot be used: {error}", FILE)
    return Golden(tuple(found.texts), tuple(tuple(row) for row in found.vectors)), None


def _check(found: _Document) -> None:
    if not 1 <= len(found.texts) <= MOST_TEXTS:
        raise ValueError(f"expected 1 to {MOST_TEXTS} texts")
    if len(found.vectors) != len(found.texts):
        raise ValueError(f"there are {len(found.texts)} texts and {len(found.vectors)} vectors")
    if len({len(row) for row in found.vectors}) != 1:
        raise ValueError("the vectors differ in length")
    rows = np.asarray(found.vectors, dtype=np.float64)
    if not np.isfinite(rows).all() or not (np.abs(rows).sum(axis=1) > 0).all():
        raise ValueError("a vector is zero or not finite")


async def prove(engine: Engine, generation: Generation, golden: Golden) -> None:
    """Embeds the texts as `POST /embed` would, with no further wishes. Raises Refused (golden_mismatch), and what
    the engine raises."""
    manifest = generation.manifest
    prompt = manifest.prompts.get(manifest.default_prompt_name or "", "")
    answer = await engine.embed(generation, list(golden.texts), Options(None, True, prompt, None))
    if mismatch := compare(answer, golden, _least(engine, generation)):
        raise Refused((reasons.reason("golden_mismatch", mismatch, FILE),))


def _least(engine: Engine, generation: Generation) -> float:
    """What is asked for: less of a model that somebody wished to be computed with less."""
    loaded = [held.numerics for held in engine.residences().get(generation.digest, ()) if held.numerics]
    return min([LEAST_COSINE, *(LEAST_OF_DTYPE[numerics.dtype] for numerics in loaded)])


def compare(answer: Vectors, golden: Golden, least: float = LEAST_COSINE) -> str:
    """What is wrong with the answer; nothing when every row has a cosine of at least `least`."""
    expected = np.asarray(golden.vectors, dtype=np.float64)
    if answer.dim != expected.shape[1]:
        return f"the golden vectors have {expected.shape[1]} numbers, and the model makes {answer.dim}"
    made = np.frombuffer(answer.data, "<f4").reshape(answer.rows, answer.dim).astype(np.float64)
    found = cosines(made, expected)
    worst = int(found.argmin())
    if found[worst] >= least:
        return ""
    return (
        f"text {worst} has a cosine of {found[worst]:.4f} to its golden vector, the lowest of {len(found)}; "
        f"at least {least} is asked for"
    )


def cosines(one: Matrix, other: Matrix) -> Matrix:
    """Row by row; 0 where a row is zero or not finite."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(all="ignore"):
        found: Matrix = (one * other).sum(axis=1) / norms
    return np.where(np.isfinite(found), found, 0.0)
