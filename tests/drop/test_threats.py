"""What must be refused, row by row, and where each row is tested; what no other module tests is tested here.

FIFO, socket, device, /dev/zero
    tests/volume/test_files.py::test_a_fifo_is_refused_without_waiting_for_a_writer
    tests/volume/test_files.py::test_a_directory_a_socket_and_a_device_are_refused
    tests/volume/test_source.py::test_a_fifo_is_seen_and_never_opened
    tests/drop/test_threats.py::test_whatever_stands_in_a_files_place_is_refused_at_once
symlink out of the volume
    tests/volume/test_files.py::test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed
    tests/volume/test_source.py::test_a_model_may_be_a_link_inside_the_volume_and_never_one_out_of_it
    tests/volume/test_generations.py::test_a_file_that_leads_out_of_the_volume_is_refused_and_leaves_nothing
    tests/drop/test_threats.py::test_a_link_that_is_put_in_place_at_the_last_moment_brings_nothing_from_outside
directory loops
    tests/volume/test_source.py::test_links_that_lead_round_in_circles_are_not_followed
    tests/volume/test_source.py::test_directories_too_deep_or_too_full_are_refused_and_not_read_to_the_end
header bombs, JSON bombs
    tests/volume/test_weights.py::test_a_header_over_its_cap_is_refused_unread
    tests/volume/test_weights.py::test_a_header_of_very_many_tensors_is_refused_unparsed
    tests/volume/test_files.py::test_json_that_a_parser_stumbles_over_is_invalid
    tests/volume/test_files.py::test_a_file_over_the_cap_is_refused_before_a_byte_is_read
    tests/drop/test_threats.py::test_a_file_that_claims_a_terabyte_is_never_read
names
    tests/volume/test_source.py::test_names_that_are_no_models_are_left_out_and_odd_ones_are_listed
    tests/volume/test_source.py::test_a_file_name_that_is_not_utf8_is_part_of_the_fingerprint_and_crashes_nothing
    tests/volume/test_files.py::test_a_name_that_is_not_utf8_can_still_be_told
    tests/drop/test_threats.py::test_no_name_on_the_volume_reaches_a_reader_raw
auto_map, custom classes, odd activation functions
    tests/volume/test_manifest.py::test_a_wrong_value_is_told_under_its_own_code
    tests/volume/test_manifest.py::test_code_beside_a_known_model_type_is_ignored_and_told
    tests/volume/test_manifest.py::test_every_activation_exists_in_torch_and_has_no_parameters
    tests/drop/test_threats.py::test_python_on_the_volume_is_neither_stored_nor_run
pickle
    tests/volume/test_manifest.py::test_pickles_count_only_when_the_operator_allows_them
    tests/volume/test_weights.py::test_a_pickle_is_refused_unless_the_operator_allows_it
    tests/volume/test_weights.py::test_a_bare_pickle_of_old_torch_is_refused_though_pickles_are_allowed
    tests/drop/test_threats.py::test_a_pickle_that_calls_something_calls_nothing_though_pickles_are_allowed
zip bombs
    tests/volume/test_weights.py::test_a_zip_bomb_is_not_weights
    tests/volume/test_weights.py::test_members_larger_than_their_file_are_not_weights
chat templates (none is rendered: language models are not served yet)
    tests/drop/test_threats.py::test_a_chat_template_is_never_rendered_for_an_encoder
unreadable files
    tests/volume/test_files.py::test_an_unreadable_file_is_told_with_owner_uid_mode_and_the_chmod
    tests/volume/test_source.py::test_one_unreadable_directory_does_not_hide_the_others_and_says_what_heals_it
    tests/drop/test_hostile_disk.py::test_weights_that_nobody_may_read_are_said_with_their_chmod_and_the_old_generation_serves
a full disk
    tests/volume/test_generations.py::test_a_disk_without_room_is_told_with_its_bytes_before_anything_is_copied
    tests/volume/test_generations.py::test_a_disk_that_becomes_full_in_the_middle_is_told_and_leaves_nothing
    tests/drop/test_hostile_disk.py::test_a_full_disk_is_said_with_its_bytes_and_the_old_generation_serves
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import LoadFailed
from gateway.model import Generation, ModelId, Reason, Rejected
from gateway.volume import generations
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Store
from gateway.volume.manifest import judge
from gateway.volume.source import scan
from tests import making

REPO = Path(__file__).parents[2]
PATIENCE = 300  # seconds after which a call that blocks in the kernel is broken off, and fails its test
FILES = [
    "config.json",
    "model.safetensors",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
]
BESIDE = ["README.md", "model_metadata.json", "SHA256SUMS"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    making.encoder(tmp_path / "models/finetuned/m", layers=1, dim=16, heads=2)
    return tmp_path / "models"


@pytest.fixture
def model(root: Path) -> Path:
    return root / "finetuned/m"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _breaks_off() -> Iterator[None]:
    """A test that waits in the kernel ends with an exception, and the run goes on."""

    def late(*_: object) -> None:
        raise AssertionError(f"it blocked for {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def look(root: Path) -> Directory:
    return scan(str(root)).directories[ModelId("finetuned", "m")]


def taken_or_not(store: Store, root: Path) -> Generation | tuple[Reason, ...]:
    try:
        return store.accept(look(root), str(root))
    except Refused as refused:
        return refused.reasons


def reasons(store: Store, root: Path) -> tuple[Reason, ...]:
    refused = taken_or_not(store, root)
    assert isinstance(refused, tuple)
    assert list((root.parent / "state").rglob("generations/*")) == []
    return refused


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


STANDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": as_socket,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "folder": lambda path: path.mkdir(),
    "itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", STANDS)
def test_whatever_stands_in_a_files_place_is_refused_at_once(
    root: Path, model: Path, store: Store, name: str, kind: str
) -> None:
    (model / name).unlink()
    STANDS[kind](model / name)
    found = reasons(store, root)
    assert name in {reason.file for reason in found}
    assert {reason.code for reason in found} <= {"not_a_file", "outside_volume", "weights_missing", "file_missing"}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("kind", STANDS)
def test_what_stands_beside_a_model_never_blocks_and_is_never_stored(
    root: Path, model: Path, store: Store, name: str, kind: str
) -> None:
    (model / name).unlink(missing_ok=True)
    STANDS[kind](model / name)
    found = taken_or_not(store, root)
    if isinstance(found, Generation):
        assert name not in os.listdir(found.path)
    else:
        assert name == "SHA256SUMS"  # which is believed, or nothing is
        assert found[0].file == name


def test_a_link_that_is_put_in_place_at_the_last_moment_brings_nothing_from_outside(
    root: Path, model: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    shutil.copy(model / "tokenizer.json", secret)
    real, exchanged = generations.copy, []

    def exchange_then_copy(source: str, *rest: Any) -> Any:
        if source.endswith("/tokenizer.json"):  # it was looked at and judged: now it is another
            os.remove(source)
            os.symlink(secret, source)
            exchanged.append(source)
        return real(source, *rest)

    monkeypatch.setattr(generations, "copy", exchange_then_copy)
    with pytest.raises((Refused, Changed)):
        store.accept(look(root), str(root))
    assert exchanged
    assert store.digests() == set()


@pytest.mark.parametrize("name", [*FILES, *BESIDE])
def test_a_file_that_claims_a_terabyte_is_never_read(root: Path, model: Path, store: Store, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    with open(model / name, "wb") as stream:
        stream.truncate(2**40)  # a hole: reading it would take hours, and parsing it all memory
    if name in {"README.md", "model_metadata.json"}:
        assert name not in os.listdir(store.accept(look(root), str(root)).path)
        return
    assert name in {reason.file for reason in reasons(store, root)}


HOSTILE = b"\x1b[31mred\x07\r\nINFO accepted\xff"


def test_no_name_on_the_volume_reaches_a_reader_raw(root: Path, model: Path) -> None:
    base = os.fsencode(root)
    os.mkdir(base + b"/" + HOSTILE)
    os.mkdir(base + b"/finetuned/" + HOSTILE)
    os.symlink("/", base + b"/finetuned/link" + HOSTILE)
    os.mkdir(os.fsencode(model) + b"/" + HOSTILE)
    (model / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": os.fsdecode(HOSTILE), "b": "../../" + os.fsdecode(HOSTILE)}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    shards = judge(str(model), root=str(root))
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = modules[1]["path"] = HOSTILE.decode(errors="replace")
    (model / "modules.json").write_text(json.dumps(modules))
    found = scan(str(root))
    verdict = judge(str(model), root=str(root))
    assert isinstance(verdict, Rejected)
    assert isinstance(shards, Rejected)
    assert len(found.ignored) == 3
    told = [text for each in found.ignored for text in (each.name, each.why)]
    told += [
        text for each in (*verdict.reasons, *shards.reasons) for text in (each.message, each.remedy, each.file or "")
    ]
    assert [text for text in told if not (text.isprintable() and text.isascii())] == []
    assert "[31m" in "".join(told)


def test_python_on_the_volume_is_neither_stored_nor_run(root: Path, model: Path, store: Store, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in ("modeling_evil.py", "sitecustomize.py", "1_Pooling/__init__.py", "transformers.py"):
        (model / name).write_text(f"open({str(ran)!r}, 'w')")
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Config"}
    (model / "config.json").write_text(json.dumps(config))
    taken = store.accept(look(root), str(root))
    assert [name for name in stored_files(Path(taken.path)) if name.endswith(".py")] == []
    loaded(taken)
    assert not ran.exists()


def stored_files(path: Path) -> list[str]:
    return [str(file.relative_to(path)) for file in path.rglob("*")]


def loaded(taken: Any) -> None:
    from gateway.host import encoder
    from gateway.host.tokenize import Tokenizer

    tokenizer = Tokenizer(taken)
    runtime = encoder.load(taken, "cpu")
    encoder.probe(runtime, tokenizer, taken.manifest)
    runtime.close()


class Calls:
    """What a pickle does when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_calls_something_calls_nothing_though_pickles_are_allowed(tmp_path: Path) -> None:
    import torch

    root, ran = tmp_path / "models", tmp_path / "ran"
    model = Path(making.encoder(root / "finetuned/m", weights="bin", layers=1, dim=16, heads=2))
    tensors = torch.load(model / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "evil": Calls(ran)}, model / "pytorch_model.bin")
    with zipfile.ZipFile(model / "pytorch_model.bin") as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        assert b"mkdir" in archive.read(pickled)
    store = Store(str(tmp_path / "state"), allow_pickle=True)
    taken = store.accept(look(root), str(root))  # its weights are whole; what its pickle would do shows in a load
    with pytest.raises(LoadFailed):
        loaded(taken)
    assert not ran.exists()


def test_a_chat_template_is_never_rendered_for_an_encoder(root: Path, model: Path, store: Store) -> None:
    template = "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    loaded(store.accept(look(root), str(root)))


def test_every_row_names_tests_that_are_there() -> None:
    listed = re.findall(r"^    (tests/\S+\.py)::(\w+)$", str(__doc__), re.MULTILINE)
    assert len(listed) > 30
    missing = [
        (file, name)
        for file, name in listed
        if not re.search(rf"^(async )?def {name}\(", (REPO / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []
