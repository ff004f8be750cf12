"""Rows as tokens. What is said to the model is shown to it and never learnt: its labels are -100. What the assistant
says is learnt, up to the token that ends its turn.

A prompt is cut into tokens by itself, as a server does with it, and the answer behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainer.data.dialogue import ASSISTANT, MESSAGES, Dialogue, Turn
from trainer.errors import InvalidInput

UNLEARNT: Final = -100
SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """What is computed in one pass: `labels` are the ids that are learnt, and -100 elsewhere."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def learnt(self) -> int:
        """Tokens that are predicted and learnt; before the first one stands nothing that could predict it."""
        return sum(label != UNLEARNT for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Encoder:
    """`endings` are the tokens that end an answer when the model says them."""

    tokenizer: Any
    endings: frozenset[int]
    templated: bool

    def encoded(self, row: Dialogue) -> list[Sample]:
        """One sample; one for each answer where the template shows a turn otherwise once others follow it. Raises
        InvalidInput where the base's template cannot show the row."""
        if not self.templated:
            return [self._plain(row)]
        pieces = self._pieces(row)
        joined: list[tuple[str, str]] = []
        for shown, said in pieces:
            before = "".join(part for pair in joined for part in pair)
            if not shown.startswith(before):
                return [self._sample([pair]) for pair in pieces]
            joined.append((shown.removeprefix(before), said))
        return [self._sample(joined)]

    def _plain(self, row: Dialogue) -> Sample:
        if row.shape == MESSAGES:
            raise InvalidInput(
                f"{row.file}:{row.line}: messages, and the base has no chat template: "
                "--chat-template names a file with one"
            )
        system = "".join(f"{turn.text}\n\n" for turn in row.turns if turn.role == "system")
        prompt = system + (row.instruction or row.turns[-2].text)
        end = self.tokenizer.eos_token_id
        answer = [*self._tokens(row.answer), *([int(end)] if end is not None else sorted(self.endings)[:1])]
        shown = [int(token) for token in self.tokenizer(prompt, verbose=False)["input_ids"]]
        return Sample(tuple(shown + answer), tuple([UNLEARNT] * len(shown) + answer))

    def _pieces(self, row: Dialogue) -> list[tuple[str, str]]:
        """For each answer, all that is shown before it, and what is said."""
        found = []
        for place, turn in enumerate(row.turns):
            if turn.role == ASSISTANT:
                shown, whole = (
                    self._shown(row, row.turns[:place], True),
                    self._shown(row, row.turns[: place + 1], False),
                )
                if not whole.startswith(shown) or whole == shown:
                    raise InvalidInput(
                        f"{row.file}:{row.line}: the chat template does not show an answer where it asks for one, so "
                        "what would be learnt cannot be told apart; --chat-template names a file with another"
                    )
                found.append((shown, whole.removeprefix(shown)))
        return found

    def _shown(self, row: Dialogue, turns: Sequence[Turn], asking: bool) -> str:
        said = [{"role": turn.role, "content": turn.text.strip()} for turn in turns]
        try:
            return str(self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=asking))
        except Exception as error:  # a template raises what it likes
            raise InvalidInput(f"{row.file}:{row.line}: the chat template refuses the row: {error}") from error

    def _sample(self, pieces: Sequence[tuple[str, str]]) -> Sample:
        """What stands behind the end of an answer, such as a new line, is shown and not learnt; behind the last one it
        is left away."""
        ids: list[int] = []
        labels: list[int] = []
        for shown, said in pieces:
            before, answer = self._tokens(shown), self._tokens(said)
            learnt = _until_the_end(answer, self.endings)
            ids += before + answer
            labels += [UNLEARNT] * len(before) + answer[:learnt] + [UNLEARNT] * (len(answer) - learnt)
        last = max(place for place, label in enumerate(labels) if label != UNLEARNT) + 1
        return Sample(tuple(ids[:last]), tuple(labels[:last]))

    def _tokens(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def _until_the_end(answer: Sequence[int], endings: Collection[int]) -> int:
    """How many tokens there are up to the last that ends a turn; all where none does."""
    return next((place + 1 for place in reversed(range(len(answer))) if answer[place] in endings), len(answer))


def encode(
    rows: Sequence[Dialogue], encoder: Encoder, limit: int, too_long: str, tell: Callable[[str], None]
) -> list[Sample]:
    """Raises InvalidInput where rows are longer than `limit` tokens and `too_long` says `refuse`.

    With `skip` they are left out; with `cut` their end is left away, and what has lost its whole answer is left out.
    """
    found: list[Sample] = []
    beyond: list[tuple[Dialogue, int]] = []
    for row in rows:
        for sample in encoder.encoded(row):
            if len(sample.ids) > limit:
                beyond.append((row, len(sample.ids)))
                sample = Sample(sample.ids[:limit], sample.labels[:limit])  # noqa: PLW2901  what is kept of it
                if too_long == "skip" or not sample.learnt:
                    continue
            found.append(sample)
    if beyond and too_long == "refuse":
        raise InvalidInput(_refusal(beyond, limit))
    if beyond:
        kept = len(found) - (len(rows) - len(beyond)) if too_long == "cut" else 0
        tell(f"{len(beyond)} rows have more than {limit} tokens: {max(0, kept)} are cut, the others left out")
    return found


def _refusal(beyond: Sequence[tuple[Dialogue, int]], limit: int) -> str:
    lines = [f"{row.file}:{row.line}: {tokens} tokens" for row, tokens in beyond[:SHOWN]]
    if len(beyond) > SHOWN:
        lines.append(f"and {len(beyond) - SHOWN} more")
    return "\n".join(
        [f"{len(beyond)} rows have more than {limit} tokens; --too-long skip leaves them out, cut their ends", *lines]
    )
