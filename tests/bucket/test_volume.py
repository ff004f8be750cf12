"""The bucket as a volume, without a gateway around it: what is fetched when, what is refused, and what starts over."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import events
from gateway.catalog.disk import Disk
from gateway.errors import ModelLoading
from gateway.model import ModelId
from gateway.settings import Settings
from gateway.volume import bucket
from gateway.volume.bucket import BucketVolume
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Store
from gateway.volume.source import VolumeUnreadable, scan
from gateway.volume.thin import Thin
from tests import making
from tests.bucket.test_gateway import sums
from tests.buckets import Cloud, files

M = ModelId("finetuned", "m")
KEY = "all/finetuned/m"


@pytest.fixture(scope="module")
def server() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


@pytest.fixture
def cloud(server: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    for key in server.keys():  # noqa: SIM118  # no mapping
        server.client.delete_object(Bucket=server.bucket, Key=key)
    return server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed, dim=64) for seed in range(2)]


class Node:
    """One node's view of the bucket, and its store."""

    def __init__(self, state: Path, url: str = "s3://models/all", **settings: object) -> None:
        self.told: list[events.Event] = []
        chosen = Settings(models_dir=url, state_dir=str(state), **settings)  # type: ignore[arg-type]
        self.volume = BucketVolume(chosen, self.told.append)
        self.volume.begin()
        self.store = Store(str(state), elsewhere=self.volume, allow_pickle=chosen.allow_pickle)
        self.store.sweep()

    def find(self, model: ModelId = M) -> Directory:
        return self.volume.scan().directories[model]

    def accept(self, model: ModelId = M) -> str:
        directory = self.volume.open(self.find(model))
        try:
            return self.store.accept(directory, self.volume.root).digest
        finally:
            self.volume.shut(directory)

    def refusal(self, model: ModelId = M) -> str:
        with pytest.raises(Refused) as refused:
            self.accept(model)
        return refused.value.reasons[0].code

    def fetched(self) -> int:
        folder = Path(self.volume.root) / ".parts"
        return sum(path.stat().st_size for path in folder.iterdir())


def truth(folder: str, base: Path) -> str:
    """The digest that a gateway over a directory gives the same content."""
    shutil.copytree(folder, base / "root/finetuned/m")
    return Store(str(base / "state")).accept(scan(str(base / "root")).directories[M], str(base / "root")).digest


def test_content_has_the_same_name_as_in_a_directory_and_lies_on_the_disk_once(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    digest = node.accept()
    assert digest == truth(made[0], tmp_path / "other")
    generation = node.store.open(digest)
    assert generation is not None
    for name in generation.manifest.files:
        stored = Path(generation.path, name)
        assert stored.read_bytes() == Path(made[0], name).read_bytes()
        assert stored.stat().st_nlink >= 2
    node.volume.scan()
    assert not list((Path(node.volume.root) / ".opened").iterdir())


def test_a_directory_that_is_refused_costs_no_weights(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    cloud.upload(made[0], KEY)
    weights = Path(made[0], "model.safetensors").read_bytes()
    cloud.put(f"{KEY}/model.safetensors", weights[:-100])
    node = Node(tmp_path / "state")
    assert len(weights) > 100_000
    assert node.refusal() == "weights_truncated"
    cloud.put(f"{KEY}/model.safetensors", weights)
    cloud.put(f"{KEY}/config.json", b'{"model_type": "whatever"}')
    assert node.refusal() == "architecture_not_served"
    assert node.fetched() < len(weights)


def test_an_update_of_one_file_fetches_that_file(cloud: Cloud, tmp_path: Path) -> None:
    model = making.encoder(tmp_path / "made", dim=64, layers=4, shards=3)
    cloud.upload(model, KEY)
    node = Node(tmp_path / "state")
    first = node.accept()
    begin = len(node.told)
    shard = sorted(Path(model).glob("model-*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    cloud.put(f"{KEY}/{shard.name}", bytes(content))
    assert node.accept() != first
    fetching = [event for event in node.told[begin:] if isinstance(event, events.ModelFetching)]
    assert fetching[0].total == len(content)


def test_what_changes_while_it_is_judged_starts_over(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    opened = node.volume.open(node.find())
    cloud.put(f"{KEY}/model.safetensors", Path(made[1], "model.safetensors").read_bytes())
    with pytest.raises(Changed):  # before the next look: the object is not the one that was listed
        node.store.accept(opened, node.volume.root)
    node.volume.scan()
    with pytest.raises(Changed):  # and after it: the directory is not
        node.store.accept(opened, node.volume.root)
    node.volume.shut(opened)
    assert node.store.digests() == set()
    node.accept()


def test_a_proof_that_came_last_spares_the_wait_and_is_held_to(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    proven = sums(made[0], tmp_path / "proven")
    cloud.upload(proven, KEY, last=("SHA256SUMS",))
    node = Node(tmp_path / "state")
    evidence = node.volume.evidence()
    assert evidence.checked(node.find()).verified
    node.accept()
    cloud.client.delete_object(Bucket=cloud.bucket, Key=f"{KEY}/modules.json")
    assert not evidence.checked(node.find()).verified  # one that is listed is not there
    cloud.upload(proven, KEY, last=("SHA256SUMS",))
    cloud.put(f"{KEY}/added_tokens.json", b"{}")
    assert not evidence.checked(node.find()).verified  # one that is there is not listed
    cloud.client.delete_object(Bucket=cloud.bucket, Key=f"{KEY}/added_tokens.json")
    cloud.put(f"{KEY}/model.safetensors", Path(made[1], "model.safetensors").read_bytes())
    assert node.refusal() == "checksum_mismatch"


def test_a_restart_fetches_nothing_again_and_knows_the_directory_as_it_was(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    digest, before = node.accept(), node.find().fingerprint
    node.volume.close()
    again = Node(tmp_path / "state")
    assert again.find().fingerprint == before
    assert again.accept() == digest
    assert not any(isinstance(event, events.ModelFetching) for event in again.told)


def test_another_bucket_in_the_same_state_directory_begins_from_nothing(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    Node(tmp_path / "state").accept()
    other = Node(tmp_path / "state", "s3://models/other")
    assert other.volume.scan().directories == {}
    assert os.listdir(tmp_path / "state/bucket") == [os.path.basename(other.volume.root)]


def test_versions_and_nested_copies_are_those_of_a_directory(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    cloud.upload(made[0], f"{KEY}/1")
    cloud.upload(made[1], f"{KEY}/2")
    cloud.upload(made[0], "all/finetuned/n")
    cloud.upload(made[1], "all/finetuned/n/n")  # later
    node = Node(tmp_path / "state")
    found = node.volume.scan().directories
    assert found.keys() == {ModelId("finetuned", "m", 1), ModelId("finetuned", "m", 2), ModelId("finetuned", "n")}
    second = node.accept(ModelId("finetuned", "m", 2))
    assert node.accept(ModelId("finetuned", "m", 1)) != second
    assert node.accept(ModelId("finetuned", "n")) == second


def test_pickles_are_read_whole_where_they_are_allowed_and_refused_unread_where_not(
    cloud: Cloud, tmp_path: Path
) -> None:
    cloud.upload(making.encoder(tmp_path / "made", weights="bin", dim=64), KEY)
    careful = Node(tmp_path / "careful")
    assert careful.refusal() == "pickle_weights"
    assert careful.fetched() < 100_000
    assert Node(tmp_path / "lenient", allow_pickle=True).accept()


def test_a_bucket_that_is_not_there_or_does_not_answer_is_unknown_and_never_empty(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VolumeUnreadable, match="NoSuchBucket"):
        Node(tmp_path / "one", "s3://nowhere").volume.scan()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(VolumeUnreadable, match=r"127\.0\.0\.1:9"):
        Node(tmp_path / "two").volume.scan()


def test_credentials_that_the_bucket_does_not_know_are_said_to_be_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    names = list(files(made[0]))
    free = len(names) + 2  # with the making of the bucket, and one listing; after these the server asks who comes
    with Cloud(INITIAL_NO_AUTH_ACTION_COUNT=str(free)) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        cloud.upload(made[0], KEY)
        node = Node(tmp_path / "state")
        directory = node.find()
        with pytest.raises(Refused) as refused:
            node.volume.open(directory)
        assert [reason.code for reason in refused.value.reasons] == ["bucket_forbids"]
        with pytest.raises(VolumeUnreadable, match="InvalidAccessKeyId"):
            node.volume.scan()


def test_weights_that_were_let_go_are_fetched_again_and_are_the_ones_that_they_were(
    cloud: Cloud, tmp_path: Path, made: list[str]
) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    digest = node.accept()
    thin = Thin(node.store)
    generation = node.store.open(digest)
    assert generation is not None
    weights = Path(generation.path, "model.safetensors")
    thin.cut(digest)
    node.volume.let_go({file.sha256 for file in thin.weights(digest)})
    assert not weights.exists()
    assert node.fetched() < 100_000 < Path(made[0], "model.safetensors").stat().st_size
    again = Node(tmp_path / "state")  # as a start finds it
    assert Thin(again.store).digests() == {digest}
    assert again.store.open(digest) == generation
    opened = again.volume.open(again.find())
    thin.fill(digest, lambda name, target: again.volume.take(opened, name, target))
    assert weights.read_bytes() == Path(made[0], "model.safetensors").read_bytes()
    assert Thin(again.store).digests() == set()
    assert weights.parent.stat().st_mode & 0o777 == 0o555


def test_weights_of_other_content_are_never_put_in_their_place(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    digest = node.accept()
    thin = Thin(node.store)
    thin.cut(digest)
    cloud.put(f"{KEY}/model.safetensors", Path(made[1], "model.safetensors").read_bytes())
    opened = node.volume.open(node.find())
    with pytest.raises(Changed):
        thin.fill(digest, lambda name, target: node.volume.take(opened, name, target))
    assert thin.digests() == {digest}
    generation = node.store.open(digest)
    assert generation is not None
    assert not Path(generation.path, "model.safetensors").exists()


def test_content_that_is_taken_in_again_has_its_weights_again(cloud: Cloud, tmp_path: Path, made: list[str]) -> None:
    cloud.upload(made[0], KEY)
    cloud.upload(made[0], "all/finetuned/n")
    node = Node(tmp_path / "state")
    digest = node.accept()
    Thin(node.store).cut(digest)
    assert node.accept(ModelId("finetuned", "n")) == digest
    assert Thin(node.store).digests() == set()


def test_directories_are_opened_and_shut_while_another_is_looked_up(
    cloud: Cloud, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    first, second = (node.volume.open(node.find()) for _ in range(2))
    is_in = bucket._is_in

    def meanwhile(path: str, place: str) -> bool:
        """As a thread does that has its turn right then."""
        node.volume.shut(first)
        return is_in(path, place)

    monkeypatch.setattr(bucket, "_is_in", meanwhile)
    assert node.volume.look(second) is not None


async def test_a_bug_in_a_fetch_ends_nothing_and_the_next_one_brings_the_weights(
    cloud: Cloud, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    digest, directory = node.accept(), node.find()
    Thin(node.store).cut(digest)
    generation = node.store.open(digest)
    assert generation is not None
    told: list[events.Event] = []
    tell = events.Events()
    tell.subscribe(told.append)

    def fail(_: Directory) -> Directory:
        raise RuntimeError("nobody thought of this")

    async with asyncio.TaskGroup() as group:
        disk = Disk(
            node.volume,
            node.store,
            tell,
            budget=2**40,
            sources=lambda: {digest: directory},
            needed=lambda: (),
            names=lambda _: (),
            spawn=group.create_task,
        )
        disk.begin()
        with monkeypatch.context() as patched:
            patched.setattr(node.volume, "open", fail)
            with pytest.raises(ModelLoading):
                await disk.holding(generation).__aenter__()
        (notice,) = told
        assert isinstance(notice, events.Notice)
        assert notice.code == "weights_not_fetched"
        assert "nobody thought of this" in notice.message
        async with disk.holding(generation):
            assert Path(generation.path, "model.safetensors").exists()


def test_what_is_opened_while_a_look_tidies_up_is_not_taken_for_what_is_shut(
    cloud: Cloud, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.upload(made[0], KEY)
    node = Node(tmp_path / "state")
    directory = node.find()
    node.volume.shut(node.volume.open(directory))
    opened: list[Directory] = []
    listdir = os.listdir

    def meanwhile(path: str) -> list[str]:
        """As a thread does that has its turn right before."""
        if path.endswith(bucket.OPENED) and not opened:
            opened.append(node.volume.open(directory))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", meanwhile)
    node.volume.scan()
    (left,) = listdir(Path(node.volume.root) / bucket.OPENED)
    assert Path(opened[0].path).parent.name == left
    assert Path(opened[0].path, "config.json").exists()
