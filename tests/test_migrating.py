"""What docs/migrating has works: requests are sent to a gateway, command lines parsed by the program they are for."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from gateway import cli, settings
from tests import making
from tests.running import RunningGateway
from trainer import cli as trainer_cli

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted((ROOT / "docs" / "migrating").glob("*.md"))
SHELL: Final = re.compile(r"^( *)```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
FLAG: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
THERE: Final = {"--concurrency", "--batch-size", "--use-lora"}  # of the earlier system, in running text
RING: Final = {"documents": [{"name": "ring.md", "content": "The beam was lost twice in March."}]}


def commands() -> Iterator[tuple[str, str]]:
    """Page and line of every command in a block of shell."""
    for path in PAGES:
        for _, block in SHELL.findall(path.read_text(encoding="utf-8")):
            yield from ((path.stem, line.strip()) for line in block.splitlines() if line.strip())


def of(program: str) -> list[tuple[str, str]]:
    """Those of one program; variables may be set before it."""
    return [(page, line) for page, line in commands() if re.match(rf"(?:[A-Z_]+=\S+ )*{program} ", line)]


def words(line: str) -> list[str]:
    """What stands behind the program's name."""
    return shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )*\w+ ", "", line))


def options(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):  # argparse has no public way to ask for its verbs
            found |= set().union(*(options(choice) for choice in action.choices.values()))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    base = tmp_path_factory.mktemp("migrating")
    making.encoder(base / "models" / "finetuned" / "physics")
    making.reranker(base / "models" / "finetuned" / "judge")
    settled = ("--device=cpu", "--compute-threads=1", "--default-model=finetuned/physics")
    async with RunningGateway(base / "models", base / "state", *settled) as running:
        for name in ("physics", "judge"):
            await running.wait_for(f"huggingface:finetuned/{name}", "ready")
        async with running.session.post("/kb/ring/documents", json=RING) as answer:
            assert answer.status == 200, await answer.text()
        yield running


async def test_every_command_is_of_a_program_that_is_checked() -> None:
    known = [line for program in ("curl", "gateway", "trainer", "make", "cp") for _, line in of(program)]
    assert sorted(known) == sorted(line for _, line in commands())
    assert len(known) > 50


async def test_every_page_is_listed() -> None:
    listed = (ROOT / "docs" / "migrating" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PAGES if path.stem != "README" and f"({path.name})" not in listed] == []


@pytest.mark.parametrize(("page", "line"), of("curl"), ids=lambda text: text[:60])
async def test_a_request_is_answered(gateway: RunningGateway, page: str, line: str) -> None:
    here = gateway.url.removeprefix("http://")
    command = [word.replace("localhost:8001", here) for word in shlex.split(line)]
    ran = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await ran.communicate()
    assert ran.returncode == 0, said  # -f: a refusal is none
    assert b'"type":"error"' not in said.replace(b" ", b"")


@pytest.mark.parametrize(("page", "line"), of("gateway"), ids=lambda text: text[:60])
async def test_a_command_of_the_gateway_is_understood(page: str, line: str) -> None:
    chosen = vars(cli.parser().parse_args(words(line)))
    given = {name: value for name, value in chosen.items() if name in settings.Settings.__slots__ and value}
    environment = dict(each.split("=", 1) for each in line.partition("gateway")[0].split())
    settings.load(given, environment=environment)


@pytest.mark.parametrize(("page", "line"), of("trainer"), ids=lambda text: text[:60])
async def test_a_command_of_the_trainer_is_understood(page: str, line: str) -> None:
    assert trainer_cli.parser().parse_args(words(line)).run


@pytest.mark.parametrize(("page", "line"), of("make"), ids=lambda text: text[:60])
async def test_a_target_of_make_is_there_with_its_variables(page: str, line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target, *variables = words(line)
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for variable in variables:
        assert f"$({variable.partition('=')[0]})" in makefile


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
async def test_every_flag_that_is_ours_exists(path: Path) -> None:
    """Of tables only the last column is ours."""
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    ours = [
        line.rstrip("| ").rpartition(" | ")[2] if line.lstrip().startswith("|") else line for line in text.splitlines()
    ]
    known = options(cli.parser()) | options(trainer_cli.parser()) | THERE
    assert sorted(set(FLAG.findall("\n".join(ours))) - known) == []
