"""Whatever bytes come: every body is either taken or refused in words, by every handler that takes one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidBody, InvalidHeader, InvalidJson, InvalidModelId
from gateway.model import ModelRef
from gateway.web import ollama
from gateway.web.body import DURATION, decode, inputs
from tests.protocols.test_openapi import OPERATIONS

BODIES: Final = {each.contract.body: each.contract.example for each in OPERATIONS if each.contract.body is not None}
MANY: Final = settings(derandomize=True, max_examples=60, deadline=None, database=None)
SCALARS: Final = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
INPUTS: Final = st.text(max_size=5) | st.lists(
    st.text(max_size=5) | st.integers(0, 2**32 - 1) | st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=5
)


def taken_or_refused(kind: type[msgspec.Struct], raw: bytes) -> None:
    with suppress(InvalidBody, InvalidJson):
        assert isinstance(decode(msgspec.json.Decoder(kind), raw), kind)


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@MANY
@given(raw=st.binary(max_size=60))
def test_any_bytes_are_taken_or_refused(kind: type[msgspec.Struct], raw: bytes) -> None:
    taken_or_refused(kind, raw)


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@MANY
@given(data=st.data())
def test_a_body_with_any_values_is_taken_or_refused(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    fields = st.sampled_from([field.encode_name for field in msgspec.structs.fields(kind)])
    body = data.draw(st.dictionaries(fields, VALUES, max_size=6))
    taken_or_refused(kind, json.dumps({**BODIES[kind], **body}).encode())
    taken_or_refused(kind, json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass"))


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"', b"1e999", b"-0", b"\xef\xbb\xbf{}"])
def test_what_breaks_parsers_is_refused(kind: type[msgspec.Struct], raw: bytes) -> None:
    with pytest.raises((InvalidBody, InvalidJson)):
        decode(msgspec.json.Decoder(kind), raw)


@MANY
@given(given_inputs=INPUTS)
def test_inputs_are_one_for_each_vector(given_inputs: Any) -> None:
    try:
        found = inputs(given_inputs, "inputs")
    except InvalidBody:
        kinds = set(map(type, given_inputs))
        assert int in kinds
        assert len(kinds) > 1
        return
    if isinstance(given_inputs, str) or (given_inputs and isinstance(given_inputs[0], int)):
        assert found == [given_inputs]
    else:
        assert found == given_inputs


@MANY
@given(text=st.text(max_size=40) | st.from_regex(ollama.DURATION, fullmatch=True))
def test_any_keep_alive_is_a_duration_or_refused(text: str) -> None:
    try:
        assert ollama.leaves(text) in {True, False}
    except InvalidBody:
        assert not ollama.DURATION.fullmatch(text)


@MANY
@given(text=st.text(max_size=60) | st.from_regex(r"[a-z0-9:@/._-]{1,40}", fullmatch=True))
def test_any_spelling_is_parsed_or_refused(text: str) -> None:
    with suppress(InvalidModelId):
        assert ModelRef.parse(text, "/app/models").candidates


@MANY
@given(text=st.text(max_size=20) | st.from_regex(DURATION, fullmatch=True))
def test_any_timeout_is_seconds_or_refused(text: str) -> None:
    from aiohttp.test_utils import make_mocked_request

    from gateway.web.body import TIMEOUT, timeout

    if not text.isascii() or not text.isprintable():
        return  # no such header arrives
    with suppress(InvalidHeader):
        seconds = timeout(make_mocked_request("POST", "/embed", headers={TIMEOUT: text}))
        assert seconds is not None
        assert seconds > 0
