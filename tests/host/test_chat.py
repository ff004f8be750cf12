"""Chat templates: programs of the volume's, tried before anybody converses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.errors import InvalidInput
from gateway.host.chat import Template
from gateway.host.wire import Turn
from tests import making, speaking

TURNS = [Turn("user", "hello")]


def test_a_template_is_rendered_once_while_its_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never ends does not end there, where it is watched."""
    rendered: list[Sequence[Turn]] = []
    monkeypatch.setattr(Template, "render", lambda self, turns: rendered.append(turns))
    Template(making.generation(speaking.language_model(tmp_path / "m")))
    assert rendered == [TURNS]


def test_a_template_that_refuses_what_it_is_tried_with_is_no_failed_load(tmp_path: Path) -> None:
    refusing = "{{ raise_exception('begin with the system') }}"
    template = Template(making.generation(speaking.language_model(tmp_path / "m", template=refusing)))
    assert template.known
    with pytest.raises(InvalidInput, match="begin with the system"):
        template.render(TURNS)
