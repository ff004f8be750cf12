"""What a language model is trained on: what is said to it, and what it is to answer.

Three shapes of rows: `prompt` and `completion`, `messages` with roles, and the earlier trainer's `instruction`, `input`
and `output`. They come as JSON lines or as one array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from trainer.data.fault import Broken, only
from trainer.data.read import Form
from trainer.data.shapes import group_of, text_of

PROMPT, MESSAGES, INSTRUCTION = "prompt/completion", "messages", "instruction/output"
KEYS: Final = {PROMPT: ("prompt", "completion"), MESSAGES: ("messages",), INSTRUCTION: ("instruction", "output")}
ORGANISATIONS: Final = ("organization_id", "organisation", "organization", "org")
ROLES: Final = ("system", "user", "assistant")
ASSISTANT: Final = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One row: `turns` end with the assistant's, and what the assistant says in any of them is learnt.

    `instruction` is the whole prompt of an earlier trainer's row, in words of its own, where the base has no template.
    """

    turns: tuple[Turn, ...]
    shape: str
    instruction: str = ""
    group: str | None = None
    organisation: str | None = None
    file: str
    line: int

    @property
    def query(self) -> str:
        """What is said before the last answer, in one text."""
        return "\n".join(turn.text for turn in self.turns[:-1])

    @property
    def answer(self) -> str:
        return self.turns[-1].text


def shape_of(row: dict[str, Any]) -> str:
    """The name of a row's shape. Raises Broken where there is none, or more than one."""
    found = [shape for shape, keys in KEYS.items() if all(key in row for key in keys)]
    return only(found, row, f"neither {', '.join(KEYS)}")


def dialogue(row: dict[str, Any], shape: str, file: str, line: int) -> Dialogue:
    """Raises Broken with what is wrong with the row."""
    instruction = ""
    if shape == MESSAGES:
        turns = _messages(row["messages"])
    elif shape == PROMPT:
        turns = _pair(row, _whole(row["prompt"], "prompt"), _whole(row["completion"], "completion"))
    else:
        given = text_of(row.get("input") or "", "input")
        said, answer = text_of(row["instruction"], "instruction"), text_of(row["output"], "output")
        turns = _pair(row, "\n\n".join(filter(None, (said, given))), answer)
        instruction = _instruction(said, given)
    return Dialogue(
        turns=turns,
        shape=shape,
        instruction=instruction,
        group=group_of(row),
        organisation=_organisation(row),
        file=file,
        line=line,
    )


DIALOGUES: Final = Form(shape_of, dialogue)


def _whole(value: Any, key: str) -> str:
    """With the space at its ends: in plain text it is a part of what is continued."""
    text_of(value, key)
    return str(value)


def _pair(row: dict[str, Any], said: str, answer: str) -> tuple[Turn, ...]:
    if not said.strip():
        raise Broken("blank_query", "the prompt is blank")
    if not answer.strip():
        raise Broken("no_answer", "the answer is blank")
    system = text_of(row.get("system") or "", "system")
    first = (Turn("system", system),) if system else ()
    return (*first, Turn("user", said), Turn(ASSISTANT, answer))


def _messages(value: Any) -> tuple[Turn, ...]:
    """What comes after the last answer teaches nothing, and is left away."""
    if not isinstance(value, list):
        raise Broken("not_text", f"`messages` is {type(value).__name__}, expected a list of turns")
    turns = [_turn(each) for each in value]
    while turns and turns[-1].role != ASSISTANT:
        turns.pop()
    if not turns:
        raise Broken("no_answer", "the assistant says nothing")
    if len(turns) == 1:
        raise Broken("blank_query", "nothing is said before the assistant's turn")
    return tuple(turns)


def _turn(value: Any) -> Turn:
    if not isinstance(value, dict) or "role" not in value or "content" not in value:
        raise Broken("missing_keys", "a turn is an object with `role` and `content`")
    role = value["role"]
    if role not in ROLES:
        raise Broken("unknown_role", f"`role` is {str(role)[:40]!r}, expected {', '.join(ROLES)}")
    text = text_of(value["content"], "content")
    if not text:
        raise Broken("no_answer" if role == ASSISTANT else "blank_query", f"a turn of the {role} is blank")
    return Turn(role, text)


def _instruction(said: str, given: str) -> str:
    """As the earlier trainer wrote it, up to the answer."""
    middle = f"\n\n### Input:\n{given}" if given else ""
    return f"### Instruction:\n{said}{middle}\n\n### Response:\n"


def _organisation(row: dict[str, Any]) -> str | None:
    found = next((row[key] for key in ORGANISATIONS if row.get(key) not in (None, "")), None)
    return str(found) if isinstance(found, str | int) else None
