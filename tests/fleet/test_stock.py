"""A node's own store: it holds what has the digest that was asked for, and nothing that is only called so."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from gateway.cluster.messages import Offered
from gateway.cluster.stock import SPARED, Stock
from gateway.errors import NodeStale
from gateway.model import Generation, ModelId
from gateway.volume import source
from gateway.volume.bases import Base
from gateway.volume.generations import Store
from gateway.wish import Wish
from tests import making

M = ModelId("finetuned", "m")
VOICE = ModelId("finetuned", "voice")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    making.encoder(tmp_path / "models/finetuned/m", seed=1)
    return tmp_path / "models"


@pytest.fixture
def gateway(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "gateway"))
    store.sweep()
    return store


def accept(store: Store, root: Path, model: ModelId = M, base: Base | None = None) -> Generation:
    found = source.find(str(root), model)
    assert found is not None
    return store.accept(found, str(root), base)


def stock(root: Path, tmp_path: Path, name: str = "node") -> Stock:
    return Stock(str(root), str(tmp_path / name), name, allow_pickle=False, copy_budget=0, in_place=False)


def offered(generation: Generation, *sources: str, seen: bool = False) -> Offered:
    """As a node gets it that does not see the gateway's disk, unless it has `seen` it."""
    away = generation if seen else msgspec.structs.replace(generation, path="/nowhere/files")
    return Offered(away, Wish(), sources)


def test_it_copies_from_the_volume_and_verifies(root: Path, gateway: Store, tmp_path: Path) -> None:
    wanted = accept(gateway, root)
    found = stock(root, tmp_path).open([offered(wanted, "finetuned/m")])
    assert found.digest == wanted.digest
    assert found.path.startswith(str(tmp_path / "node"))
    shutil.rmtree(root)
    assert stock(root, tmp_path).open([offered(wanted, "finetuned/m")]) == found, "what is here needs no volume"


def test_a_stale_view_is_told_and_not_served(root: Path, gateway: Store, tmp_path: Path) -> None:
    view = tmp_path / "view"
    shutil.copytree(root, view)
    making.encoder(root / "finetuned/m", seed=2)
    wanted = accept(gateway, root)
    node = stock(view, tmp_path)
    with pytest.raises(NodeStale, match=r"node node does not have generation \w{12}: it finds \w{12}$"):
        node.open([offered(wanted, "finetuned/m")])
    assert list((tmp_path / "node/generations").iterdir()) == [], "other content was not copied"
    making.encoder(view / "finetuned/m", seed=2)
    assert node.open([offered(wanted, "finetuned/m")]).digest == wanted.digest


def test_half_a_model_is_not_there(root: Path, gateway: Store, tmp_path: Path) -> None:
    wanted = accept(gateway, root)
    with open(root / "finetuned/m/model.safetensors", "r+b") as weights:
        weights.truncate(1000)
    node = stock(root, tmp_path)
    with pytest.raises(NodeStale, match=r"it finds model.safetensors has") as stale:
        node.open([offered(wanted, "finetuned/m")])
    assert stale.value.details["node"] == "node"
    with pytest.raises(NodeStale, match="it does not find the model"):
        node.open([offered(wanted)])


def test_an_earlier_generation_comes_from_a_disk_that_the_gateway_shares(
    root: Path, gateway: Store, tmp_path: Path
) -> None:
    earlier = accept(gateway, root)
    making.encoder(root / "finetuned/m", seed=2)
    node = stock(root, tmp_path)
    with pytest.raises(NodeStale):
        node.open([offered(earlier, "finetuned/m")])
    assert node.open([offered(earlier, "finetuned/m", seen=True)]).digest == earlier.digest


def test_what_another_store_calls_so_is_verified_too(root: Path, gateway: Store, tmp_path: Path) -> None:
    wanted = accept(gateway, root)
    weights = os.path.join(wanted.path, "model.safetensors")
    os.chmod(weights, 0o644)
    with open(weights, "r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\1\2\3\4")
    shutil.rmtree(root / "finetuned/m")
    node = stock(root, tmp_path)
    with pytest.raises(NodeStale):
        node.open([offered(wanted, "finetuned/m", seen=True)])


def test_an_adapter_is_opened_over_its_base(root: Path, gateway: Store, tmp_path: Path) -> None:
    making.adapter(root / "finetuned/voice", base="finetuned/m")
    base = accept(gateway, root)
    wanted = accept(gateway, root, VOICE, Base(M, base))
    found = stock(root, tmp_path).open([offered(base, "finetuned/m"), offered(wanted, "finetuned/voice")])
    assert found.digest == wanted.digest
    assert found.base is not None
    assert found.base.digest == base.digest
    assert found.base.path.startswith(str(tmp_path / "node"))


def test_what_nobody_wants_goes_after_a_while(root: Path, gateway: Store, tmp_path: Path) -> None:
    node = stock(root, tmp_path)
    found = node.open([offered(accept(gateway, root), "finetuned/m")])
    folder = Path(found.path).parent
    assert node.prune(()) == set()
    long_ago = time.time() - SPARED - 1
    os.utime(folder, (long_ago, long_ago))
    assert node.prune({found.digest}) == set(), "and being wanted makes it new"
    assert node.prune(()) == set()
    os.utime(folder, (long_ago, long_ago))
    assert node.prune(()) == {found.digest}
    assert not folder.exists()


def test_replicas_of_a_node_share_it(root: Path, gateway: Store, tmp_path: Path) -> None:
    wanted = accept(gateway, root)
    first, second = stock(root, tmp_path), stock(root, tmp_path)
    half = tmp_path / "node/generations/.half"
    half.mkdir()
    third = stock(root, tmp_path)
    assert half.exists(), "somebody may be making it"
    paths = {each.open([offered(wanted, "finetuned/m")]).path for each in (first, second, third)}
    assert len(paths) == 1
