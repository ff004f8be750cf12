"""A model behind a running gateway, evaluated through `POST /embed` as its clients see it."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from trainer import __version__
from trainer.errors import InvalidInput, TrainerError
from trainer.evaluate import Vectors

KEY: Final = "DROPGATE_API_KEY"
SECONDS: Final = 300.0  # for one request; a model may have to be loaded first
TRIES: Final = 6
LONGEST_WAIT: Final = 30.0
BUSY: Final = (429, 503)


class Remote:
    """`url` is the gateway's, `model` any of its names. Prompts stand before each text, as the gateway puts them."""

    dot = False  # the gateway does not say; a cosine is what its knowledge bases search by

    def __init__(
        self,
        url: str,
        model: str,
        *,
        batch_size: int = 64,
        query_prompt: str = "",
        document_prompt: str = "",
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise InvalidInput(f"{url!r}: expected the gateway's URL, such as http://127.0.0.1:8001")
        self._url, self._model, self._batch_size = f"{url.rstrip('/')}/embed", model, batch_size
        self._prompts, self._pause = (query_prompt, document_prompt), pause

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self._embed(texts, self._prompts[0])

    def documents(self, texts: Sequence[str]) -> Vectors:
        return self._embed(texts, self._prompts[1])

    def _embed(self, texts: Sequence[str], prompt: str) -> Vectors:
        starts = range(0, len(texts), self._batch_size)
        parts = [self._asked(texts[start : start + self._batch_size], prompt) for start in starts]
        if len({part.shape[1] for part in parts}) > 1:
            raise TrainerError(f"{self._url}: the model was replaced by one of another dimension; evaluate again")
        return np.concatenate(parts)

    def _asked(self, texts: Sequence[str], prompt: str) -> Vectors:
        """A gateway that is busy says when to come again; after some tries it is believed."""
        wanted: dict[str, Any] = {"inputs": list(texts), "model": self._model} | ({"prompt": prompt} if prompt else {})
        for left in range(TRIES - 1, -1, -1):
            try:
                return self._answer(json.dumps(wanted).encode(), len(texts))
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or not left:
                    raise self._refused(error) from error
                self._pause(_seconds(error.headers.get("Retry-After")))
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", None) or error
                raise TrainerError(f"{self._url}: no answer: {reason}") from error
        raise AssertionError("unreachable")

    def _answer(self, body: bytes, rows: int) -> Vectors:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/octet-stream",
            "User-Agent": f"dropgate-trainer/{__version__}",
        }
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(self._url, body, headers)
        with urllib.request.urlopen(asked, timeout=SECONDS) as response:
            said, read = response.headers.get("X-Embedding-Shape", ""), response.read()
        shape = [int(part) for part in said.split(",") if part.strip().isdigit()]
        if len(shape) != 2 or shape[0] != rows or len(read) != 4 * shape[0] * shape[1]:
            raise ValueError("no vectors came, so this is no gateway of ours")
        return np.frombuffer(read, dtype="<f4").reshape(shape).astype(np.float32)

    def _refused(self, error: urllib.error.HTTPError) -> TrainerError:
        try:
            told = json.loads(error.read())["error"]
            reason = f"{told['code']}: {told['message']}"
        except (OSError, ValueError, KeyError, TypeError):
            reason = str(error.reason)
        kind = InvalidInput if error.code < 500 and error.code not in BUSY else TrainerError
        return kind(f"{self._url}: {error.code} {reason}")


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or 1), 0.1), LONGEST_WAIT)
    except ValueError:  # a date
        return 1.0
