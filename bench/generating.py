"""A language model and its adapters: our rows against transformers' ways of continuing many texts, adapters in mixed
batches against the base alone and against one adapter at a time, and the first token through HTTP under load.

    python -m bench --parts generating

The model has random weights of a realistic small shape (see `spoken`). All sides compute in one process with one
thread, since how its threads share a busy machine says nothing of a side.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench import spoken
from bench.rounds import Figures, Measure, interleaved, told
from bench.servers import Gateway, ask
from bench.setting import Setting

SHAPE: Final[dict[str, Any]] = {}  # beside that of `spoken`
TOKENS: Final = {True: 8, False: 48}  # of an answer
ROWS: Final = {True: (16,), False: (1, 8, 32)}
VOICES: Final = {True: (32,), False: (1, 4, 16, 32)}
OURS: Final = "Dropgate's rows"
ONE: Final = "`generate`, one at a time"
PADDED: Final = "`generate`, one padded batch"
PAGED: Final = "`generate_batch`"
BASE: Final = "base alone"
MIXED: Final = "mixed batches"
SWAPPING: Final = "peft, one adapter at a time"
NAMED: Final = "peft, `adapter_names`"
LEAST_ALONE: Final = 4  # texts that `generate` continues one at a time where there are more


def run(setting: Setting) -> dict[str, Any]:
    """`cells` of rows and of adapters; `http` has first-token seconds; bytes of an adapter."""
    import torch

    volume = setting.own("generating") / "models"
    most = max(VOICES[setting.quick])
    base, voices = spoken.make(volume, most, SHAPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    missing: dict[str, str] = {}
    try:
        rows = spoken.Rows(volume, base, voices)
        cells = _rows(setting, rows, spoken.Library(base, []), missing)
        cells |= _adapters(setting, rows, spoken.Library(base, voices))
        measured = interleaved(cells, setting.rounds, warm_up=not setting.quick)
    finally:
        torch.set_num_threads(threads)
    return {
        "cells": measured,
        "missing": missing,
        "voices": VOICES[setting.quick],
        "tokens": TOKENS[setting.quick],
        "voice_bytes": rows.branches[0].bytes,
        "voice_file_bytes": spoken.tensor_bytes(voices[0]),
        "http": _through_http(setting, volume, most),
    }


def _rows(
    setting: Setting, rows: spoken.Rows, library: spoken.Library, missing: dict[str, str]
) -> dict[str, dict[str, Measure]]:
    tokens = TOKENS[setting.quick]
    cells: dict[str, dict[str, Measure]] = {}
    paged = _works(library, missing)
    for count in ROWS[setting.quick]:
        asked = spoken.asked(count, tokens)
        sides: dict[str, Measure] = {OURS: partial(rows.run, asked)}
        sides[ONE] = partial(library.one_at_a_time, asked[:LEAST_ALONE])
        if count > 1:
            sides[PADDED] = partial(library.padded, asked)
        if paged:
            sides[PAGED] = partial(library.paged, asked)
        cells[f"{count} texts" if count > 1 else "1 text"] = sides
    uneven = spoken.asked(count, tokens, mixed=True)
    cells[f"{count} texts, answers of {max(1, tokens // 8)} to {tokens} tokens"] = {
        OURS: partial(rows.run, uneven),
        PADDED: partial(library.padded, uneven),
    }
    return cells


def _works(library: spoken.Library, missing: dict[str, str]) -> bool:
    try:
        library.paged(spoken.asked(2, 2))
    except Exception as error:  # another version of the library may have it no more; that is a finding
        missing[PAGED] = f"{type(error).__name__}: {error}".splitlines()[0]
        return False
    return True


def _adapters(setting: Setting, rows: spoken.Rows, library: spoken.Library) -> dict[str, dict[str, Measure]]:
    """As many texts each time, of ever more adapters."""
    tokens, most = TOKENS[setting.quick], max(VOICES[setting.quick])
    return {
        adapters(count): {
            BASE: partial(rows.run, spoken.asked(most, tokens)),
            MIXED: partial(rows.run, spoken.asked(most, tokens, count)),
            SWAPPING: partial(library.swapping, spoken.asked(most, tokens, count)),
            NAMED: partial(library.named, spoken.asked(most, tokens, count)),
        }
        for count in VOICES[setting.quick]
    }


def adapters(count: int) -> str:
    """Name of a cell."""
    return f"{count} adapters" if count > 1 else "1 adapter"


def _through_http(setting: Setting, volume: Path, most: int) -> dict[str, Figures]:
    """As many clients as there are adapters, of the base alone and of an adapter each: they stream."""
    folder = setting.own("generating")
    names = {"base alone": [spoken.BASE], adapters(most): [f"voices/{number}" for number in range(most)]}
    served = Gateway(volume, folder / "state", folder / "gateway.log", "--device=cpu", "--compute-threads=1")
    try:
        served.wait_until_listening()
        for name in [*names["base alone"], *names[adapters(most)]]:
            served.wait_until_answered("/v1/completions", {"model": name, "prompt": "warm", "max_tokens": 1})
        found = {f"{most} clients, {name}": _streamed(served, models, most, setting) for name, models in names.items()}
        told("through HTTP")
        _, listing = ask(served.url, "/models")
        assert all(not entry["reasons"] for entry in listing["models"]), "every adapter was accepted"
        return found
    finally:
        served.stop()


def _streamed(served: Gateway, models: Sequence[str], clients: int, setting: Setting) -> Figures:
    return asyncio.run(_at_once(served.url, [models[number % len(models)] for number in range(clients)], setting))


async def _at_once(url: str, models: Sequence[str], setting: Setting) -> Figures:
    """Every client asks again as soon as it is answered, `rounds` times."""
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        began = time.perf_counter()
        told_by = await asyncio.gather(*(_client(session, name, setting) for name in models))
        seconds = time.perf_counter() - began
    firsts = sorted(first for each in told_by for first, _ in each if first)
    tokens = sum(count for each in told_by for _, count in each)
    return {
        spoken.TOKENS: tokens / seconds,
        "first_p50": firsts[len(firsts) // 2],
        "first_p99": firsts[int(0.99 * (len(firsts) - 1))],
        "broken": float(sum(not first for each in told_by for first, _ in each)),
    }


async def _client(session: aiohttp.ClientSession, model: str, setting: Setting) -> list[tuple[float, int]]:
    """Seconds until the first text, and tokens, of each answer."""
    told_here = []
    for number in range(setting.rounds):
        body: Mapping[str, Any] = {
            "model": model,
            "prompt": f"{number} how is a beam stored, and by what?",
            "max_tokens": TOKENS[setting.quick],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, first, tokens = time.perf_counter(), 0.0, 0
        async with session.post("/v1/completions", json=body) as answer:
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                document = json.loads(line[6:])
                first = first or time.perf_counter() - began
                tokens = document.get("usage", {}).get("completion_tokens", tokens)
        told_here.append((first, tokens))
    return told_here
