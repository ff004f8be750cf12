"""Texts to the tokens that a person can look at, and token ids back to texts."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Token


def tokens(
    tokenizer: Tokenizer, texts: Sequence[str], *, prompt: str = "", add_special_tokens: bool = True
) -> list[list[Token]]:
    """All tokens of each text, the prompt before it. Raises InvalidInput for what is outside Unicode."""
    whole = [prompt + text for text in texts] if prompt else list(texts)
    frame = tokenizer.frame
    head, tail = ([_special(tokenizer, id) for id in ids] for ids in (frame.head, frame.tail))
    found = []
    for text, encoding in zip(whole, tokenizer.spelled(whole), strict=True):
        spelled = [
            Token(id, text[start:stop], False, start, stop)
            for part in tokenizer.parts(encoding)
            for id, (start, stop) in zip(part.ids, part.offsets, strict=True)
        ]
        found.append([*head, *spelled, *tail] if add_special_tokens else spelled)
    return found


def _special(tokenizer: Tokenizer, id: int) -> Token:
    return Token(id, tokenizer.name(id), True, None, None)
