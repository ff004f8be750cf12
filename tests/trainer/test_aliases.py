"""aliases.toml, edited: one line at a time, all else as it was, and always a table that the gateway takes."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import pytest

from gateway.catalog import aliases as gateway_aliases
from gateway.model import ModelId
from trainer.aliases import (
    FILE,
    Alias,
    change,
    edited,
    parse_share,
    pointed,
    promoted,
    read,
    rolled_back,
    with_canary,
)
from trainer.cli import main
from trainer.errors import InvalidInput, TrainerError

TEXT = """\
# who answers for what
[aliases]
# the physicists
"prod/physics" = "finetuned/physics/3"  # since March # really
'prod/chemistry' = { to = "finetuned/chemistry", canary = "finetuned/chemistry-v2", share = 0.1 } # slow
odd = "prod/physics"

[bases]
"prod/physics" = "base/qwen"
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    for path in ("finetuned/physics/3", "finetuned/physics/4", "finetuned/chemistry", "finetuned/chemistry-v2"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / FILE).write_text(TEXT)
    return tmp_path


def table(volume: Path) -> dict[ModelId, gateway_aliases.Alias]:
    """What the gateway makes of the file."""
    return gateway_aliases.parse((volume / FILE).read_bytes(), str(volume))


def test_one_line_is_changed_and_all_else_stays_as_it_was(volume: Path) -> None:
    change(volume, "prod/physics", lambda alias: pointed(alias, "finetuned/physics/4"))
    before, after = TEXT.splitlines(), (volume / FILE).read_text().splitlines()
    assert [number for number, lines in enumerate(zip(before, after, strict=True)) if lines[0] != lines[1]] == [3]
    assert after[3] == (
        '"prod/physics" = { to = "finetuned/physics/4", canary = "finetuned/physics/3", share = 0 }'
        "  # since March # really"
    )


def test_the_gateway_reads_what_was_meant(volume: Path) -> None:
    change(volume, "prod/physics", lambda alias: with_canary(alias or Alias(""), "finetuned/physics/4", 0.25))
    found = table(volume)[ModelId.of("prod/physics")]
    assert (found.to.spelling, found.share) == ("finetuned/physics/3", 0.25)
    assert found.canary is not None
    assert found.canary.spelling == "finetuned/physics/4"


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", '[bases]\n"a/b" = "c"\n', "[aliases]\n", "[aliases] # mine\n\n[bases]\n"]
)
def test_a_new_alias_comes_into_its_table_wherever_that_is(text: str) -> None:
    made = edited(text, "prod/x", Alias("finetuned/x"))
    assert tomllib.loads(made)["aliases"] == {"prod/x": "finetuned/x"}
    assert {key: value for key, value in tomllib.loads(made).items() if key != "aliases"} == {
        key: value for key, value in tomllib.loads(text).items() if key != "aliases"
    }
    assert all(line in made.splitlines() for line in text.splitlines())


def test_an_alias_is_found_however_it_is_spelled(volume: Path) -> None:
    (volume / FILE).write_text('[aliases]\n"huggingface:prod/x" = "finetuned/physics/3"\n')
    change(volume, "prod/x", lambda alias: pointed(alias, "finetuned/physics/4"))
    assert list(tomllib.loads((volume / FILE).read_text())["aliases"]) == ["huggingface:prod/x"]


def test_what_is_written_in_an_unusual_way_is_left_alone(volume: Path) -> None:
    text = '[aliases."prod/x"]\nto = "finetuned/physics/3"\n'
    (volume / FILE).write_text(text)
    with pytest.raises(TrainerError, match="change it by hand"):
        change(volume, "prod/x", lambda alias: pointed(alias, "finetuned/physics/4"))
    assert (volume / FILE).read_text() == text
    assert [path.name for path in volume.iterdir() if path.name.startswith(".")] == []


def test_a_model_goes_through_an_alias_in_three_steps_and_back_in_one(volume: Path) -> None:
    steps = [
        lambda alias: with_canary(alias, "finetuned/physics/4", 0.1),
        lambda alias: with_canary(alias, None, 0.5),
        promoted,
        rolled_back,
        rolled_back,  # and forward again
    ]
    told = [str(change(volume, "prod/physics", step)) for step in steps]
    assert told == [
        "finetuned/physics/3, and 0.1 of the clients get finetuned/physics/4",
        "finetuned/physics/3, and 0.5 of the clients get finetuned/physics/4",
        "finetuned/physics/4 (before: finetuned/physics/3)",
        "finetuned/physics/3 (before: finetuned/physics/4)",
        "finetuned/physics/4 (before: finetuned/physics/3)",
    ]


def test_a_canary_that_is_rolled_back_is_gone(volume: Path) -> None:
    change(volume, "prod/physics", lambda alias: with_canary(alias or Alias(""), "finetuned/physics/4", 0.1))
    assert change(volume, "prod/physics", rolled_back) == Alias("finetuned/physics/3")
    with pytest.raises(InvalidInput, match="nothing to go back to"):
        change(volume, "prod/physics", rolled_back)


def test_naming_the_same_model_again_forgets_the_one_before() -> None:
    assert pointed(Alias("a/b", "a/c", 0.0), "a/b") == Alias("a/b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "prod/physics", "finetuned/absent"], "neither on the volume nor an alias"),
        (["set", "prod/physics", "../etc"], "expected NAMESPACE/NAME"),
        (["set", "prod physics", "finetuned/chemistry"], "expected NAMESPACE/NAME"),
        (["canary", "prod/absent", "finetuned/chemistry", "--share=10%"], "there is no alias"),
        (["canary", "prod/physics", "--share=10%"], "there is no canary yet"),
        (["canary", "prod/physics", "finetuned/physics/3", "--share=10%"], "leads to already"),
        (["promote", "prod/physics"], "no canary to promote"),
        (["rollback", "prod/physics"], "nothing to go back to"),
    ],
)
def test_a_step_that_cannot_be_taken_says_why_and_changes_nothing(
    arguments: list[str], message: str, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alias", *arguments, "--models-dir", str(volume)]) == 2
    assert message in capsys.readouterr().err
    assert (volume / FILE).read_text() == TEXT


def test_an_alias_may_lead_to_an_alias_and_to_a_generation(volume: Path) -> None:
    change(volume, "beta", lambda alias: pointed(alias, "prod/physics"))
    change(volume, "old", lambda alias: pointed(alias, "finetuned/chemistry@b07c48456b11"))
    assert {name.path for name in table(volume)} >= {"beta", "old"}


def test_show_tells_every_alias(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alias", "show", "--models-dir", str(volume)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "prod/physics -> finetuned/physics/3",
        "prod/chemistry -> finetuned/chemistry, and 0.1 of the clients get finetuned/chemistry-v2",
        "odd -> prod/physics",
    ]


@pytest.mark.parametrize("broken", ["[aliases\n", 'aliases = "x"\n', '[aliases]\n"a/b" = 3\n'])
def test_a_file_that_the_gateway_would_not_take_is_not_edited(broken: str, volume: Path) -> None:
    (volume / FILE).write_text(broken)
    with pytest.raises(InvalidInput, match=r"aliases\.toml"):
        change(volume, "prod/physics", lambda alias: pointed(alias, "finetuned/physics/4"))
    assert (volume / FILE).read_text() == broken


def test_of_two_who_edit_at_once_neither_is_lost(volume: Path) -> None:
    def edit(number: int) -> None:
        change(volume, f"prod/n{number}", lambda alias: pointed(alias, "finetuned/physics/3"))

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"prod/n{number}" for number in range(16)} <= read(volume).keys()


def test_a_share_is_a_part_or_a_percentage() -> None:
    assert (parse_share("10%"), parse_share("0.1"), parse_share("100%")) == (0.1, 0.1, 1.0)
    for text in ("0", "-1", "101%", "1.5", "x", "nan"):
        with pytest.raises(ValueError, match=r"share|float"):
            parse_share(text)
