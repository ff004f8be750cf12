"""Scores a model on questions: all texts become vectors, and every document is compared with every query.

The search is exact and in blocks, so memory is that of the vectors and two blocks more. Similarity is the cosine, or
the dot product of a model that says so. Vectors that are not finite are an error: they would rank anything first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from trainer.errors import InvalidInput, NotAModel
from trainer.questions import Questions
from trainer.scores import Scored, Scores, shown

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]
BLOCK_BYTES: Final = 64_000_000  # of similarities at once
CHUNK: Final = 1024  # texts between two reports of progress; the library sorts within them by length
# Nearer than this is equally near. Sums are taken in float64, where equal vectors differ by 1e-15 at most.
TIE: Final = 1e-9


class Encoder(Protocol):
    """What makes vectors of texts: a model in memory, or one behind a gateway."""

    def queries(self, texts: Sequence[str]) -> Vectors: ...

    def documents(self, texts: Sequence[str]) -> Vectors: ...

    @property
    def dot(self) -> bool:
        """Whether lengths of vectors mean something; else the cosine is taken."""
        ...


class Local:
    """A SentenceTransformer. An empty prompt leaves it to the model's own, if it has one for queries or documents."""

    def __init__(
        self, model: SentenceTransformer, batch_size: int = 32, query_prompt: str = "", document_prompt: str = ""
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._prompts = (query_prompt or None, document_prompt or None)

    @property
    def dot(self) -> bool:
        return str(self._model.similarity_fn_name) in ("dot", "dot_product")

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode(self._model.encode_query, texts, self._prompts[0])

    def documents(self, texts: Sequence[str]) -> Vectors:
        return self._encode(self._model.encode_document, texts, self._prompts[1])

    def _encode(self, encode: Any, texts: Sequence[str], prompt: str | None) -> Vectors:
        tensor = encode(
            list(texts), prompt=prompt, batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


def evaluate(
    model: SentenceTransformer | Encoder | Path | str,
    questions: Questions,
    *,
    batch_size: int = 32,
    query_prompt: str = "",
    document_prompt: str = "",
    progress: Progress | None = None,
) -> Scores:
    """Raises InvalidInput when the model gives vectors that are not finite."""
    encoder = encoder_of(model, batch_size, query_prompt, document_prompt)
    total = len(questions.queries) + len(questions.corpus)
    told = progress or (lambda done, of: None)
    queries = in_chunks(encoder.queries, questions.queries, lambda done: told(done, total))
    documents = in_chunks(encoder.documents, questions.corpus, lambda done: told(len(questions.queries) + done, total))
    each = tuple(ranked(queries, documents, questions, dot=encoder.dot))
    return Scores(questions.digest(), len(questions.corpus), each, questions.unanswered)


def encoder_of(
    model: SentenceTransformer | Encoder | Path | str,
    batch_size: int = 32,
    query_prompt: str = "",
    document_prompt: str = "",
) -> Encoder:
    """A path is loaded; what is an encoder already stays as it is."""
    if isinstance(model, Path | str):
        model = loaded(str(model))
    if hasattr(model, "encode_query"):
        return Local(model, batch_size, query_prompt, document_prompt)
    return model


def loaded(name: str, device: str = "auto") -> SentenceTransformer:
    """A model of any form that we make, by its directory, its run's, or as the hub names it.

    Raises NotAModel for what is none, and for an adapter, which is none without its base.
    """
    from trainer import contents, hardware, modelling, quiet, reload  # noqa: PLC0415  they import torch

    directory = contents.model_directory(modelling.find(name))
    if not (directory / "config.json").is_file() and (directory / "adapter_config.json").is_file():
        raise NotAModel(f"{directory}: an adapter; `trainer merge` makes a model of it, which can be evaluated")
    quiet.libraries()
    chosen = hardware.find(device).device
    try:
        return cast("SentenceTransformer", reload.load(directory, chosen))
    except Exception as error:  # anything can be wrong with a directory, and each library says so in its own way
        raise NotAModel(f"{directory}: cannot be loaded: {' '.join(f'{error}'.split())[:500]}") from error


def in_chunks(encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str], told: Callable[[int], None]) -> Vectors:
    """Raises InvalidInput for vectors that are not finite."""
    parts = []
    for start in range(0, len(texts), CHUNK):
        part = encode(texts[start : start + CHUNK])
        if not np.isfinite(part).all():
            place = start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise InvalidInput(f"the model gives no finite vector for {shown(texts[place])!r}")
        parts.append(part)
        told(start + len(part))
    return np.concatenate(parts)


def ranked(queries: Vectors, documents: Vectors, questions: Questions, *, dot: bool = False) -> Iterator[Scored]:
    """For each query, in order, where its right documents came among all documents."""
    rows = max(1, BLOCK_BYTES // (8 * len(documents)))
    for start in range(0, len(queries), rows):
        near = _similarities(queries[start : start + rows], documents, dot)
        for number, row in enumerate(near, start):
            yield _scored(row, number, questions)


def _similarities(queries: Vectors, documents: Vectors, dot: bool) -> NDArray[np.float64]:
    near = np.empty((len(queries), len(documents)))
    asked = wide(queries, dot)
    step = max(1, BLOCK_BYTES // (8 * documents.shape[1]))
    for start in range(0, len(documents), step):
        near[:, start : start + step] = asked @ wide(documents[start : start + step], dot).T
    return near


def wide(vectors: Vectors, dot: bool = False) -> NDArray[np.float64]:
    """In float64 and of length 1, unless lengths count. A vector of zeros stays one, and is near to nothing."""
    exact = vectors.astype(np.float64)
    if dot:
        return exact
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(lengths == 0, 1, lengths))


def _scored(near: NDArray[np.float64], number: int, questions: Questions) -> Scored:
    right = np.array(sorted(questions.relevant[number]))
    right = right[np.argsort(-near[right], kind="stable")]
    wrong = np.delete(near, right)
    # at each right document: the wrong ones that are as near or nearer, and the right ones up to it
    ranks = tuple(int((wrong >= near[place] - TIE).sum()) + nth for nth, place in enumerate(right, 1))
    first = int(right[0]) if ranks[0] == 1 else int(np.argmax(_without(near, right)))
    corpus = questions.corpus
    return Scored(shown(questions.queries[number]), ranks, shown(corpus[right[0]]), shown(corpus[first]))


def _without(near: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    masked = near.copy()
    masked[places] = -np.inf
    return masked
