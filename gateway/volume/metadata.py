"""model_metadata.json: what whoever made a model says of it. It never blocks a model: what is wrong is a warning.

Most of it describes and is only shown. What a model is wished to be computed with decides its vectors, so that is part
of its content, and in the digest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway import wish
from gateway.model import Reason
from gateway.volume.documents import Document, encodable
from gateway.volume.files import Folder
from gateway.volume.reasons import Unfit, reason
from gateway.wish import Wish

FILE: Final = "model_metadata.json"
MOST_SAMPLES: Final = 64
LONGEST_SAMPLE: Final = 2000  # characters


def read_metadata(directory: str, root: str) -> tuple[dict[str, Any], Reason | None]:
    """The object in model_metadata.json with all its keys, or {} and what is wrong with it. Never raises.

    A model without the file has no reason.
    """
    folder = Folder(directory, os.path.realpath(root))
    if not folder.has(FILE):
        return {}, None
    try:
        fields = Document.read(folder, FILE, "metadata_invalid").fields
        orjson.dumps(fields)  # it is shown with every model: what cannot be written must not hide the others
    except Unfit as error:
        return {}, reason("metadata_invalid", error.reason.message, FILE)
    except orjson.JSONEncodeError as error:
        return {}, reason("metadata_invalid", f"{FILE} cannot be shown: {error}", FILE)
    return fields, None


def read_wish(metadata: Mapping[str, Any]) -> tuple[Wish, Reason | None]:
    """The runtime and number format that the metadata asks for, and what is wrong with them. Never raises."""
    found, wrong = wish.read(metadata)
    return found, reason("metadata_invalid", f"{FILE}: {wrong}", FILE) if wrong else None


def read_samples(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of the golden vectors: they are like those that the model was made for. None where they are odd."""
    golden = metadata.get("golden")
    texts = golden.get("texts") if isinstance(golden, dict) else None
    if not isinstance(texts, list):
        return ()
    usable = [text for text in texts if isinstance(text, str) and encodable(text) and 0 < len(text) <= LONGEST_SAMPLE]
    return tuple(usable[:MOST_SAMPLES])
