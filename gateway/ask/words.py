"""The words of texts, as LanceDB's full text search counts them: runs of letters and digits, small, with English
endings off, without the commonest, accents folded away. So what is searched in memory ranks as what is on the disk.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import snowballstemmer
from numpy.typing import NDArray

BETWEEN: Final = r"[^\p{L}\p{N}]+"  # as RE2 writes it, which takes 3 ms to prepare it: for many texts at once
RUN: Final = re.compile(r"[^\W_]+")  # the same, turned round
LONGEST: Final = 40  # bytes; what is longer is no word
KNOWN: Final = 200_000  # words whose form is remembered
COMMON_TEXT: Final = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves what which who whom this that these those am is are was were be been being
have has had having do does did doing a an the and but if or because as until while of at by for with about against
between into through during before after above below to from up down in out on off over under again further then once
here there when where why how all any both each few more most other some such no nor not only own same so than too
very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn
needn shan shouldn wasn weren won wouldn
"""
COMMON: Final = frozenset(COMMON_TEXT.split())
FOLDED: Final = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ı": "i"})
_english: Final = snowballstemmer.stemmer("english")


@lru_cache(KNOWN)
def form(run: str) -> str:
    """What a run of letters and digits counts as; empty for what counts as nothing."""
    if not run or len(run.encode()) >= LONGEST:
        return ""
    stem: str = _english.stemWord(run.lower())
    return "" if stem in COMMON else _folded(stem)


def of_text(text: str) -> list[str]:
    """As often as they are there: what a question says twice counts twice."""
    return [word for run in RUN.findall(text) if (word := form(run))]


def of_texts(texts: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """The text and the word of every occurrence, in numbers of equal count, and each word's number. The texts are cut
    outside of Python, where other threads may run."""
    whole = pa.chunked_array(texts, pa.string()).cast(pa.large_string()).combine_chunks()
    cut = pc.split_pattern_regex(whole, BETWEEN)
    runs = pc.list_flatten(cut).dictionary_encode()
    numbers: dict[str, int] = {}
    of_run = np.fromiter(
        (numbers.setdefault(word, len(numbers)) if (word := form(run)) else -1 for run in runs.dictionary.to_pylist()),
        dtype=np.int64,
        count=len(runs.dictionary),
    )
    words: NDArray[Any] = of_run[runs.indices.to_numpy()]
    counts = words >= 0
    return pc.list_parent_indices(cut).to_numpy()[counts], words[counts], numbers


def _folded(word: str) -> str:
    """Without accents, where that leaves ASCII."""
    if word.isascii():
        return word
    apart = unicodedata.normalize("NFKD", word.translate(FOLDED))
    bare = "".join(character for character in apart if not unicodedata.combining(character))
    return bare if bare.isascii() else word
