"""A language model elsewhere, behind the protocol of OpenAI's chat completions: one question in, one text out.

What passes is tried again: no connection, a deadline, 408, 409, 429 and 5xx. `Retry-After` is kept; else the pause
doubles. Redirects are not followed, since the key would go with them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final, NoReturn

import aiohttp

from trainer.errors import InvalidInput, TrainerError

AGAIN: Final = frozenset({408, 409, 429, *range(500, 600)})
FIRST: Final = 0.5  # seconds between two tries
LONGEST: Final = 120.0
LARGEST: Final = 4 << 20  # bytes of an answer
WORDS: Final = 300  # characters of a refusal that are told


class Unanswered(TrainerError):
    """No answer after all tries; another question may have one."""


class Endpoint:
    """`url` ends before `/chat/completions`, or with it. `sleep` and `chance` are for tests."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        model: str,
        *,
        key: str = "",
        seconds: float = 120.0,
        tries: int = 5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"{url}: expected an address such as http://127.0.0.1:8001/v1")
        self._session, self._model, self._seconds, self._tries = session, model, seconds, tries
        self._sleep, self._chance = sleep, chance
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(self, system: str, question: str) -> str:
        """The answer's text. Raises Unanswered after the last try, InvalidInput where no try can help."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": self._model, "messages": messages}
        for tried in range(1, self._tries + 1):
            asked: float | None = None
            try:
                async with asyncio.timeout(self._seconds):
                    status, headers, raw = await self._post(body)
            except TimeoutError:
                reason = f"no answer within {self._seconds:g} s"
            except aiohttp.ClientError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return content(raw)
                reason, asked = f"{status}: {_words(raw)}", wait(headers)
                if status not in AGAIN:
                    self._refuse(reason)
            if tried < self._tries:
                await self._sleep(self._pause(tried, asked))
        raise Unanswered(f"{self._url}: {reason}, after {self._tries} tries")

    async def _post(self, body: Any) -> tuple[int, Mapping[str, str], bytes]:
        request = self._session.post(self._url, json=body, headers=self._headers, allow_redirects=False)
        async with request as response:
            raw = await response.content.read(LARGEST)
            while len(raw) < LARGEST and (more := await response.content.read(LARGEST - len(raw))):
                raw += more
            return response.status, response.headers, raw

    def _refuse(self, reason: str) -> NoReturn:
        raise InvalidInput(f"{self._url}: refused with {reason}")

    def _pause(self, tried: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, LONGEST)
        return float(min(LONGEST, FIRST * 2 ** (tried - 1)) * (0.5 + self._chance() / 2))


def content(raw: bytes) -> str:
    """The text of a completion. Raises Unanswered where the body is none."""
    try:
        text = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise Unanswered(f"no chat completion: {_words(raw)}") from error
    if not isinstance(text, str):
        raise Unanswered("a chat completion without text")
    return text


def wait(headers: Mapping[str, str], now: Callable[[], float] = time) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or a date."""
    text = headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError, OverflowError):
        return None


def _words(raw: bytes) -> str:
    return " ".join(raw[: WORDS * 4].decode("utf-8", "replace").split())[:WORDS] or "an empty body"
