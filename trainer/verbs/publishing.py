"""What every verb that makes a model has in common: `--publish NAMESPACE/NAME --models-dir DIR`, and what it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainer.console import progress, say
from trainer.errors import InvalidInput

if TYPE_CHECKING:
    from trainer.publish import Describe, Published, Version


class Asked(Protocol):
    """Parsed options, or a Config: both have these."""

    @property
    def publish(self) -> str: ...

    @property
    def models_dir(self) -> Path | None: ...


def add(parser: argparse.ArgumentParser) -> None:
    """For verbs whose flags do not come from the table of settings, which has both."""
    group = parser.add_argument_group("publishing")
    group.add_argument("--publish", default="", metavar="NAMESPACE/NAME", help="publish the model, once it is made")
    group.add_argument("--models-dir", type=Path, metavar="DIR", help="the volume that the gateway watches")


def version_number(text: str) -> Version:
    """An argument's type: a whole number from 1, or `next`."""
    if text == "next":
        return "next"
    if not text.isascii() or not text.isdigit() or text.startswith("0") or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1, or 'next'")
    return int(text)


def check(asked: Asked) -> None:
    """Raises InvalidInput for what could not be published: before a model is made, and not after."""
    from trainer.publish import parse_name  # noqa: PLC0415  keeps `--help` instant

    if not asked.publish:
        return
    parse_name(asked.publish)
    if asked.models_dir is None:
        raise InvalidInput("--publish needs --models-dir, the volume that the gateway watches")
    if not asked.models_dir.is_dir():
        raise InvalidInput(f"{asked.models_dir}: no such models directory; is the volume mounted?")


def publish_if_asked(
    asked: Asked, directory: Path, metadata: Mapping[str, Any] | None = None, *, base: Path | None = None
) -> Published | None:
    """Proves the model in `directory` and publishes it, where `--publish` was given. `metadata` is added to what the
    directory's own file says, `base` is that of an adapter. Raises as `trainer.publish` and `trainer.proof` do."""
    check(asked)
    if not asked.publish or asked.models_dir is None:
        return None
    from trainer.proof import describing  # noqa: PLC0415

    describe = describing(directory, metadata or {}, base=base, tell=say)
    done = publish_showing(directory, asked.publish, asked.models_dir, describe=describe)
    tell(done, say)  # the verb's own result has stdout for itself
    return done


def publish_showing(
    source: Path,
    model: str,
    models_dir: Path,
    *,
    version: Version = None,
    replace: bool = True,
    describe: Describe | None = None,
) -> Published:
    """Publishes with a bar."""
    from trainer.publish import publish  # noqa: PLC0415

    with progress("copying", "bytes") as advance:
        return publish(source, model, models_dir, version=version, replace=replace, describe=describe, progress=advance)


def tell(done: Published, show: Callable[[str], None] = print) -> None:
    """What is there now, and how to ask for it."""
    verb = "replaced" if done.replaced else "published"
    show(f"{verb} {done.model}: {done.files} files, {done.bytes / 1e6:.1f} MB, in {done.path}")
    path, body = _request(done)
    asked = f"curl -s http://127.0.0.1:8001{path} -H 'content-type: application/json' -d '{json.dumps(body)}'"
    show(f"ask for it: {asked}")
    if done.leftover:
        say(f"trainer: the replaced model could not be removed: {done.leftover}")


def _request(done: Published) -> tuple[str, dict[str, Any]]:
    from trainer.proof import speaks  # noqa: PLC0415

    model = f"huggingface:{done.model}"
    if speaks(done.path):
        return "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "a question"}]}
    return "/embed", {"model": model, "inputs": ["a sentence"]}
