"""Rows as tokens: what is shown is never learnt, what the assistant says is, to the token that ends its turn."""

from __future__ import annotations

from typing import Any

import pytest

from tests import speaking
from trainer.data.dialogue import Dialogue, Turn
from trainer.errors import InvalidInput
from trainer.language.encoding import UNLEARNT, Encoder, encode

WORDS = speaking.tokenizer()
END = int(WORDS.eos_token_id)
CHAT = Encoder(WORDS, frozenset({END}), True)
PLAIN = Encoder(speaking.tokenizer(template=None), frozenset({END}), False)
FORGETFUL = (  # shows the last answer alone with what was thought before it, as some real templates do
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}hm. {% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def row(*turns: tuple[str, str], shape: str = "prompt/completion", instruction: str = "") -> Dialogue:
    said = tuple(Turn(role, text) for role, text in turns)
    return Dialogue(turns=said, shape=shape, instruction=instruction, file="rows.jsonl", line=7)


def shown_and_learnt(sample: Any) -> tuple[str, str]:
    shown = [token for token, label in zip(sample.ids, sample.labels, strict=True) if label == UNLEARNT]
    learnt = [token for token, label in zip(sample.ids, sample.labels, strict=True) if label != UNLEARNT]
    assert [label for label in sample.labels if label != UNLEARNT] == learnt
    return WORDS.decode(shown), WORDS.decode(learnt)


def test_a_prompt_is_shown_as_a_server_shows_it_and_the_answer_is_learnt_with_its_end() -> None:
    (sample,) = CHAT.encoded(row(("user", "who?"), ("assistant", " the porter ")))
    said = [{"role": "user", "content": "who?"}]
    prompt = WORDS.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert shown_and_learnt(sample) == (prompt, "the porter<|im_end|>")
    assert list(sample.ids[: -sample.learnt]) == WORDS(prompt, add_special_tokens=False)["input_ids"]


def test_of_a_conversation_every_answer_is_learnt_and_nothing_between() -> None:
    turns = [("system", "be short"), ("user", "who?"), ("assistant", "he"), ("user", "why?"), ("assistant", "so")]
    (sample,) = CHAT.encoded(row(*turns, shape="messages"))
    shown, learnt = shown_and_learnt(sample)
    assert learnt == "he<|im_end|>so<|im_end|>"
    assert "be short" in shown
    assert "why?" in shown


def test_a_template_that_shows_earlier_turns_otherwise_gives_a_sample_for_each_answer() -> None:
    encoder = Encoder(speaking.tokenizer(template=FORGETFUL), frozenset({END}), True)
    turns = [("user", "who?"), ("assistant", "he"), ("user", "why?"), ("assistant", "so")]
    first, second = (shown_and_learnt(sample) for sample in encoder.encoded(row(*turns, shape="messages")))
    assert (first[1], second[1]) == ("hm. he<|im_end|>", "hm. so<|im_end|>")
    assert "assistant\nhe<|im_end|>" in second[0]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", r"rows\.jsonl:7: the chat template refuses .*must alternate"),
        (
            "{% if add_generation_prompt %}ask{% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}",
            r"rows\.jsonl:7: the chat template does not show an answer where it asks for one",
        ),
        ("{{ messages[0]['content'] }}", r"rows\.jsonl:7: the chat template does not show an answer"),
    ],
)
def test_a_template_that_cannot_show_a_row_is_told_with_the_row(template: str, message: str) -> None:
    encoder = Encoder(speaking.tokenizer(template=template), frozenset({END}), True)
    with pytest.raises(InvalidInput, match=message):
        encoder.encoded(row(("user", "who?"), ("assistant", "he")))


def test_without_a_template_a_completion_follows_its_prompt_and_ends() -> None:
    (sample,) = PLAIN.encoded(row(("user", "Q: who? A:"), ("assistant", " he")))
    assert shown_and_learnt(sample) == ("Q: who? A:", " he<|im_end|>")
    instruction = "### Instruction:\nSing.\n\n### Response:\n"
    (sample,) = PLAIN.encoded(row(("user", "Sing."), ("assistant", "la"), instruction=instruction))
    assert shown_and_learnt(sample) == (instruction, "la<|im_end|>")
    with pytest.raises(InvalidInput, match=r"rows\.jsonl:7: messages, and the base has no chat template"):
        PLAIN.encoded(row(("user", "who?"), ("assistant", "he"), shape="messages"))


def test_without_a_token_that_ends_texts_an_answer_ends_as_the_model_says_or_is_left_open() -> None:
    words = speaking.tokenizer(template=None)
    words.eos_token = None
    asked = row(("user", "Q:"), ("assistant", " he"))
    (sample,) = Encoder(words, frozenset({7}), False).encoded(asked)
    assert sample.labels[-1] == 7
    (sample,) = Encoder(words, frozenset(), False).encoded(asked)
    assert words.decode(sample.ids) == "Q: he"


def test_rows_that_are_too_long_are_refused_left_out_or_cut_as_asked() -> None:
    short = row(("user", "who?"), ("assistant", "he"))
    long = row(("user", "who?"), ("assistant", "he and " * 40))
    buried = row(("user", "who? " * 80), ("assistant", "he"))
    lines: list[str] = []
    limit = 40
    with pytest.raises(InvalidInput, match=r"2 rows have more than 40 tokens.*\nrows\.jsonl:7: \d+ tokens"):
        encode([short, long, buried], CHAT, limit, "refuse", lines.append)
    (kept,) = encode([short, long, buried], CHAT, limit, "skip", lines.append)
    assert kept == CHAT.encoded(short)[0]
    whole, cut = encode([short, long, buried], CHAT, limit, "cut", lines.append)
    assert whole == kept
    assert cut.ids == CHAT.encoded(long)[0].ids[:limit]
    assert cut.labels[-1] != END
    assert lines == [
        "2 rows have more than 40 tokens: 0 are cut, the others left out",
        "2 rows have more than 40 tokens: 1 are cut, the others left out",
    ]
