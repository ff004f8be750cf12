"""A conversation to the text that a language model was trained to continue: its own chat template, in a sandbox.

The template is a program of the volume's; jinja's immutable sandbox lets it read what it is given and nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from gateway.errors import InvalidInput, LoadFailed
from gateway.host import library, panic
from gateway.host.wire import Turn
from gateway.model import Generation
from gateway.volume.conversation import TEMPLATE


class Template:
    """`known`: there is one."""

    def __init__(self, generation: Generation) -> None:
        """Raises LoadFailed."""
        lora, base = generation.manifest.lora, generation.base
        whose = base if base is not None and not (lora and lora.own_tokenizer) else generation
        path = os.path.join(whose.path, whose.manifest.tokenizer_path)
        try:
            with panic.caught():
                tokenizer = library.transformers().AutoTokenizer.from_pretrained(path, **library.LOCAL)
        except Exception as error:  # the library has no list of what it raises
            message = f"the tokenizer could not be read: {error}"
            raise LoadFailed(message, reason="tokenizer_unreadable", generation=generation.short) from error
        self._tokenizer: Any = tokenizer
        if lora and lora.own_template:
            with open(os.path.join(generation.path, TEMPLATE), encoding="utf-8") as stream:
                tokenizer.chat_template = stream.read()
        self.known = bool(tokenizer.chat_template)
        if self.known:  # one that never ends is found out in the load, before anybody converses
            with contextlib.suppress(InvalidInput):  # what it refuses is its own affair
                self.render([Turn("user", "hello")])

    def render(self, turns: Sequence[Turn]) -> str:
        """Raises InvalidInput, with what the template says of the conversation."""
        if not self.known:
            raise InvalidInput("the model has no chat template: ask it to complete a text instead")
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template raises what it likes
            raise InvalidInput(f"the model's chat template refuses the conversation: {error}") from error
        return str(text)
