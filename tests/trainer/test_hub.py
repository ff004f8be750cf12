"""`trainer push` and `trainer pull`, with huggingface-hub's own client, against a hub of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import making
from tests.hub import Mishap, Repository, environment
from tests.uploads import READER, WRITER, UploadHub
from trainer.contents import model_files
from trainer.errors import InvalidInput, NotAModel, TrainerError
from trainer.hub import Hub, parse_name
from trainer.pull import Pulled, pull
from trainer.staging import held, sweep


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two shards of more than the hub keeps in git, and all that never leaves the machine."""
    directory = Path(making.encoder(tmp_path / "model", dim=64, layers=3, shards=2))
    (directory / "README.md").write_text("# a model\n")
    for name in ("optimizer.pt", "training_args.bin", "pytorch_model.bin", "evil.py", "SHA256SUMS"):
        (directory / name).write_bytes(b"x")
    (directory / "checkpoint-10").mkdir()
    (directory / "checkpoint-10" / "model.safetensors").write_bytes(b"old")
    return directory


async def push(hub: UploadHub, model: Path, name: str = "acme/physics", token: str = WRITER, **options: Any) -> Any:
    return await asyncio.to_thread(Hub(hub.url, token).push, model, name, **options)


async def pull_from(
    hub: UploadHub, target: Path, name: str = "acme/physics", token: str = WRITER, **options: Any
) -> Pulled:
    return await asyncio.to_thread(pull, Hub(hub.url, token), name, "main", target, **options)


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_only_what_belongs_to_the_model_is_pushed_in_one_commit_to_a_private_repository(model: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        done = await push(hub, model, message="the second try")
        files = hub.repositories["acme/physics"].files
        assert set(files) == {str(path) for path in model_files(model)}
        assert all(files[path] == (model / path).read_bytes() for path in files)
        assert not {"optimizer.pt", "pytorch_model.bin", "evil.py", "SHA256SUMS"} & files.keys()
        assert hub.messages == ["the second try"]
        assert hub.public == set()
        assert (done.commit, done.files) == (hub.repositories["acme/physics"].commit, len(files))


async def test_what_was_pushed_comes_back_equal_and_readable(model: Path, tmp_path: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        await push(hub, model)
        done = await pull_from(hub, tmp_path / "again")
    assert content(tmp_path / "again") == {str(path): (model / path).read_bytes() for path in model_files(model)}
    assert done.files == len(model_files(model))
    umask = os.umask(0)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "again").rglob("*.safetensors")}
    assert modes == {0o666 & ~umask}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "model"]


async def test_a_push_that_was_cut_sends_the_large_files_that_came_no_second_time(model: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        hub.cut_after = 1
        with pytest.raises(TrainerError):
            await push(hub, model)
        assert len(hub.sent) == 1
        assert hub.repositories["acme/physics"].files == {}  # no half of a model is ever to be seen
        hub.cut_after = None
        await push(hub, model)
        assert len(hub.sent) == len(set(hub.sent)) == 2


async def test_another_model_replaces_the_first_and_leaves_nothing_of_it(model: Path, tmp_path: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        await push(hub, model)
        hub.repositories["acme/physics"].files |= {".gitattributes": b"x", "notes.pdf": b"x"}
        other = Path(making.encoder(tmp_path / "other", seed=1))
        await push(hub, other)
        files = hub.repositories["acme/physics"].files
    mine = {str(path) for path in model_files(other)}
    assert set(files) == mine | {".gitattributes", "notes.pdf", "README.md"}


async def test_a_pushed_model_that_is_the_same_is_no_new_transfer(model: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        await push(hub, model)
        await push(hub, model)
        assert len(hub.sent) == 2


async def test_progress_tells_the_bytes_and_ends_with_all_of_them(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    total = sum((model / path).stat().st_size for path in model_files(model))
    async with UploadHub({"acme"}) as hub:
        for act in (push(hub, model, progress=lambda *now: seen.append(now)), pull_from_counting(hub, tmp_path, seen)):
            seen.clear()
            await act
            assert seen == sorted(seen)
            assert seen[-1] == (total, total)


async def pull_from_counting(hub: UploadHub, folder: Path, seen: list[tuple[int, int]]) -> None:
    await pull_from(hub, folder / "counted", progress=lambda *now: seen.append(now))


async def test_pickles_are_pushed_in_no_case(tmp_path: Path) -> None:
    pickled = Path(making.encoder(tmp_path / "pickled", weights="bin"))
    async with UploadHub({"acme"}) as hub:
        with pytest.raises(InvalidInput, match=r"pytorch_model\.bin: a pickle is never pushed"):
            await push(hub, pickled)
        assert hub.repositories == {}


async def test_a_damaged_model_is_not_pushed(model: Path) -> None:
    shard = next(model.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    async with UploadHub({"acme"}) as hub:
        with pytest.raises(NotAModel, match="truncated"):
            await push(hub, model)


async def test_a_public_repository_gets_a_model_only_when_it_is_said(model: Path) -> None:
    async with UploadHub({"acme"}, {"acme/physics": Repository({}, "0" * 40)}) as hub:
        hub.public.add("acme/physics")
        with pytest.raises(InvalidInput, match="public repository: --public"):
            await push(hub, model)
        assert hub.repositories["acme/physics"].files == {}
        await push(hub, model, public=True)
        assert hub.repositories["acme/physics"].files


@pytest.mark.parametrize(
    ("token", "name", "status", "message"),
    [
        ("", "acme/physics", 2, r"refuses access to acme/physics \(401\); no token was given: set HF_TOKEN"),
        ("wrong", "acme/physics", 2, r"the token in HF_TOKEN has no access"),
        (READER, "acme/physics", 2, r"refuses access to acme/physics \(403\)"),
        (WRITER, "other/physics", 2, r"refuses access to other/physics \(403\)"),
    ],
)
async def test_a_push_that_is_not_allowed_says_who_may(
    token: str, name: str, status: int, message: str, model: Path
) -> None:
    async with UploadHub({"acme"}) as hub:
        with pytest.raises(TrainerError, match=message) as raised:
            await push(hub, model, name, token)
        assert raised.value.exit_status == status


@pytest.mark.parametrize(
    ("step", "status", "exit_status", "message"),
    [
        ("create", 404, 2, "has no model acme/physics"),
        ("bytes", 413, 2, r"takes no files of that size for acme/physics \(413\)"),
        ("commit", 413, 2, r"\(413\)"),
        ("commit", 409, 1, r"somebody else changed acme/physics meanwhile \(409\)"),
        ("commit", 418, 1, "the hub answered 418 for acme/physics"),
    ],
)
async def test_what_a_hub_refuses_is_told_with_its_reason(
    step: str, status: int, exit_status: int, message: str, model: Path
) -> None:
    async with UploadHub({"acme"}) as hub:
        hub.refuse[step] = status
        with pytest.raises(TrainerError, match=message) as raised:
            await push(hub, model)
        assert raised.value.exit_status == exit_status
        assert all(not repository.files for repository in hub.repositories.values())


async def test_two_pushes_at_once_never_mix(model: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        hub.interfere = True
        with pytest.raises(TrainerError, match="somebody else changed"):
            await push(hub, model)


async def test_a_hub_that_cannot_be_reached_is_told(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        hub = Hub(f"http://127.0.0.1:{taken.getsockname()[1]}", WRITER)
        with pytest.raises(TrainerError, match="cannot be reached") as raised:
            await asyncio.to_thread(hub.push, model, "acme/physics")
        assert raised.value.exit_status == 1


def test_offline_no_hub_is_asked() -> None:
    with pytest.raises(InvalidInput, match="HF_HUB_OFFLINE"):
        Hub.of({"HF_HUB_OFFLINE": "1"})


@pytest.mark.parametrize("text", ["physics", "a/b/c", "../etc/x", "acme/..", "acme/x@", "acme/x@../y", "acme/x y"])
def test_a_name_that_no_hub_has_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_name(text)


def test_a_revision_is_a_branch_a_tag_or_a_commit() -> None:
    assert parse_name("acme/x") == ("acme/x", "main")
    assert parse_name("acme/x@refs/pr/1") == ("acme/x", "refs/pr/1")


async def test_a_pull_that_was_cut_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    async with UploadHub({"acme"}, {"acme/physics": Repository.of(model)}) as hub:
        large = next(path.name for path in model.glob("model-*.safetensors") if path.stat().st_size > 150_000)
        hub.mishaps[large] = [Mishap(90_000, "reset")] + [Mishap(0, "reset")] * 5
        with pytest.raises(TrainerError, match="cannot be reached"):
            await pull_from(hub, tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()
        hub.asked.clear()
        await pull_from(hub, tmp_path / "pulled")
        assert hub.ranges(large) == ["bytes=65536-"]  # whole blocks are kept
        assert "config.json" not in [path for path, _ in hub.asked]
    assert (tmp_path / "pulled" / large).read_bytes() == (model / large).read_bytes()


async def test_bytes_other_than_those_that_the_hub_lists_become_no_model(model: Path, tmp_path: Path) -> None:
    large = next(path.name for path in model.glob("model-*.safetensors"))
    for spoiled in (large, "config.json"):
        repository = Repository.of(model)
        repository.corrupt.add(spoiled)
        async with UploadHub({"acme"}, {"acme/physics": repository}) as hub:
            with pytest.raises(TrainerError, match="not those that the hub lists"):
                await pull_from(hub, tmp_path / "pulled")
            assert not (tmp_path / "pulled").exists()
            repository.corrupt.clear()
            await pull_from(hub, tmp_path / "pulled", overwrite=True)
        assert (tmp_path / "pulled" / spoiled).read_bytes() == (model / spoiled).read_bytes()
        (tmp_path / "pulled").rename(tmp_path / f"done-{spoiled}")


async def test_of_a_repository_only_the_model_is_pulled(model: Path, tmp_path: Path) -> None:
    async with UploadHub({"acme"}, {"acme/physics": Repository.of(model)}) as hub:
        await pull_from(hub, tmp_path / "pulled")
        asked = {path for path, _ in hub.asked}
    assert asked == {str(path) for path in model_files(model)}


async def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    pickled = Path(making.encoder(tmp_path / "pickled", weights="bin"))
    async with UploadHub({"acme"}, {"acme/physics": Repository.of(pickled)}) as hub:
        with pytest.raises(NotAModel, match="pickles are never pulled"):
            await pull_from(hub, tmp_path / "pulled")
        assert hub.asked == []


@pytest.mark.parametrize("killed", [False, True], ids=["there", "taken away by a pull that was killed"])
async def test_what_lies_there_is_replaced_only_when_it_is_said(model: Path, tmp_path: Path, killed: bool) -> None:
    there = tmp_path / (".there.pull.old" if killed else "there")
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    if killed:
        (tmp_path / ".there.pull").mkdir()
        (tmp_path / ".there.pull.lock").touch()
    async with UploadHub({"acme"}, {"acme/physics": Repository.of(model)}) as hub:
        with pytest.raises(InvalidInput, match="--overwrite replaces it"):
            await pull_from(hub, tmp_path / "there")
        assert content(tmp_path / "there") == {"mine.txt": b"mine"}
        await pull_from(hub, tmp_path / "there", overwrite=True)
    assert "mine.txt" not in content(tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "there"]


async def test_what_a_pull_that_was_cut_has_fetched_outlives_what_is_published_beside_it(
    model: Path, tmp_path: Path
) -> None:
    async with UploadHub({"acme"}, {"acme/physics": Repository.of(model)}) as hub:
        large = next(path.name for path in model.glob("model-*.safetensors") if path.stat().st_size > 150_000)
        hub.mishaps[large] = [Mishap(90_000, "reset")] + [Mishap(0, "reset")] * 5
        with pytest.raises(TrainerError, match="cannot be reached"):
            await pull_from(hub, tmp_path / "pulled")
        sweep(tmp_path)
        hub.asked.clear()
        await pull_from(hub, tmp_path / "pulled")
        assert hub.ranges(large) == ["bytes=65536-"]


async def test_two_pulls_to_one_place_are_never_under_way_at_once(model: Path, tmp_path: Path) -> None:
    async with UploadHub({"acme"}, {"acme/physics": Repository.of(model)}) as hub:
        with held(tmp_path / ".pulled.pull"), pytest.raises(TrainerError, match="another pull to this place"):
            await pull_from(hub, tmp_path / "pulled")
        await pull_from(hub, tmp_path / "pulled")


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        (None, WRITER, "has no model acme/physics, or it is a private one"),
        (Repository({}, "0" * 40, token="hf_other"), "", "set HF_TOKEN"),
        (Repository({}, "0" * 40, token="hf_other", gated=True), WRITER, "is gated"),
    ],
)
async def test_a_pull_that_is_not_allowed_says_why(
    repository: Repository | None, token: str, message: str, tmp_path: Path
) -> None:
    async with UploadHub(set(), {"acme/physics": repository} if repository else {}) as hub:
        with pytest.raises(InvalidInput, match=message):
            await pull_from(hub, tmp_path / "pulled", token=token)
    with pytest.raises(InvalidInput, match="no revision 'v2'"):
        async with UploadHub(set(), {"acme/physics": Repository({}, "0" * 40)}) as hub:
            await asyncio.to_thread(pull, Hub(hub.url, ""), "acme/physics", "v2", tmp_path / "pulled")


async def test_the_commands_push_and_pull_with_the_environments_hub_and_token(model: Path, tmp_path: Path) -> None:
    async with UploadHub({"acme"}) as hub:
        env = environment(HF_ENDPOINT=hub.url, HF_TOKEN=WRITER)
        for arguments in (["push", str(model), "acme/physics"], ["pull", "acme/physics", str(tmp_path / "pulled")]):
            command = [sys.executable, "-m", "trainer", *arguments, "--json"]
            process = await asyncio.create_subprocess_exec(
                *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
            assert json.loads(out)["commit"] == hub.repositories["acme/physics"].commit
    assert (tmp_path / "pulled" / "config.json").read_bytes() == (model / "config.json").read_bytes()
