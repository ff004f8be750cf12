"""A query and some texts as the token ids that a reranker takes: those that sentence-transformers' CrossEncoder makes.

The query is tokenized once, and put together with each text by their ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import InvalidInput
from gateway.host.frame import Row, TokenIds
from gateway.host.tokenize import Tokenizer, too_long
from gateway.host.wire import Side


def encode(
    tokenizer: Tokenizer, query: str, texts: Sequence[str], *, truncate: bool = True, side: Side | None = None
) -> list[TokenIds]:
    """One row for each text; of a pair that is too long the longer one is cut first, on this side.

    Raises InvalidInput for what is outside Unicode, and InputTooLong, unless `truncate`, for a pair over `max_tokens`.
    """
    side = side or tokenizer.side
    frame, most = tokenizer.pair_frame, tokenizer.max_tokens
    asked, bodies = _asked(tokenizer, query, side), tokenizer.bodies(texts, side)
    if not truncate:
        for index, body in enumerate(bodies):
            tokens = len(asked) + len(body) + len(frame)
            if tokens > most:
                raise too_long(index, tokens, most)
    return [frame.around(asked, body, most, side) for body in bodies]


def _asked(tokenizer: Tokenizer, query: str, side: Side) -> Row:
    try:
        (ids,) = tokenizer.bodies([query], side)
    except InvalidInput as error:
        raise InvalidInput(error.message.replace("input 0", "the query")) from error
    return ids
