"""No key is parsed that takes memory with the square of its parts, wherever it hides, and every other file is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gateway.catalog.alias_edit import Pointer, edited
from gateway.catalog.aliases import AliasFault, parse
from gateway.volume.bases import find_base
from gateway.volume.tables import CAP, MOST_PARTS, read_table

LONG = "a." * MOST_PARTS + "a"
THREE, LITERAL = '"""', "'''"
FINE = [
    f"# Don't write \"{LONG}",
    "[aliases]",
    rf"""'a.b' . "c\".d" = {{ to = "{LONG}", canary = 'b', share = 0.5 }} # it's""",
    '"prod/x" = "base/y"',
    f"literal = {LITERAL}\n{LONG} = '1'\n{LONG}{LITERAL}''",
    rf'basic = {THREE}a""b \{THREE} {LONG}' + f'\n{LONG}{THREE}""',
    "many = { " + ", ".join(f"k{number} = 0.{number}" for number in range(50)) + " }",
    "listed = [" + ", ".join(f"0.{number}" for number in range(50)) + "]",
    "a.b.c.d.e.f.g.h = 1",
]


def test_what_is_no_long_key_is_read_as_it_stands() -> None:
    text = "\n".join(FINE)
    assert read_table(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} = 1",
        f"[{LONG}]",
        f"[[ {LONG} ]]",
        f"[aliases]\nx = {{ {LONG} = 1 }}",
        f'x = ["it\'s", {{ {LONG} = 1 }}]',
        f"x = 'a\"' # '\n{LONG} = 1",
        f'x = "\\""\n{LONG} = 1',
        f"x = [{LITERAL}\n' # \\{LITERAL}, {{ {LONG} = 1 }}]",
        f"x = [{LITERAL}'a{LITERAL}'', {{ {LONG} = 1 }}]",
        f'x = [{THREE}\n \\{THREE} {THREE}", {{ {LONG} = 1 }}]',
        " \t.\t ".join(["'a'", '"."', "a"] * MOST_PARTS) + " = 1",
        *("\n".join([*FINE[:number], f"z.{LONG} = 1"]) for number in range(len(FINE) + 1)),
    ],
)
def test_a_long_key_is_refused_wherever_it_stands(text: str) -> None:
    tomllib.loads(text)
    with pytest.raises(ValueError, match="a key of more than"):
        read_table(text)


@pytest.mark.parametrize("mark", ['"', "'", THREE, LITERAL, "#", '"\\"', "[", "."])
def test_what_has_no_end_is_the_parsers_to_refuse(mark: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        read_table("x = " + mark * 99_999)


def test_aliases_and_bases_have_no_such_keys(tmp_path: Path) -> None:
    (tmp_path / "base/y").mkdir(parents=True)
    (tmp_path / "base/y/config.json").write_text("{}")
    file = tmp_path / "aliases.toml"
    fine = '[bases]\n"org/x" = "base/y"\n'
    file.write_text(fine)
    assert find_base(["org/x"], str(tmp_path))
    file.write_text(fine + f"[aliases]\n{LONG} = 'base/y'\n")
    assert find_base(["org/x"], str(tmp_path)) is None
    with pytest.raises(AliasFault, match=r"aliases\.toml: a key of more than"):
        parse(file.read_bytes(), str(tmp_path))
    with pytest.raises(AliasFault, match=r"aliases\.toml: a key of more than"):
        edited(file.read_text(), "prod/x", Pointer("base/y"))
    file.write_text(fine + "#" * CAP)  # whoever serves aliases does not take it either
    assert find_base(["org/x"], str(tmp_path)) is None
