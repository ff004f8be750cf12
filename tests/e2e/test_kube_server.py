"""The ground under the end-to-end tests: the real kubectl against our small API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kube import NAMESPACE, POD, KubeServer, pod_path, require_kubectl

MEGABYTE = 1024**2


@pytest.fixture(autouse=True)
def _kubectl() -> None:
    require_kubectl()


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with KubeServer(tmp_path) as server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "source" / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "source" / "a.safetensors").write_bytes(bytes(range(256)) * (8 * MEGABYTE // 256))
    (tmp_path / "source" / "vocab.txt").write_text("a\n")
    return tmp_path / "source"


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_a_copied_directory_arrives_identical(kube: KubeServer, source: Path, tmp_path: Path) -> None:
    done = await kube.kubectl("cp", source, pod_path(tmp_path / "copy"))
    assert (done.status, done.err) == (0, "")
    assert tree(tmp_path / "copy") == tree(source)


async def test_a_throttled_copy_arrives_identical(source: Path, tmp_path: Path) -> None:
    async with KubeServer(tmp_path, bytes_per_second=100 * MEGABYTE) as kube:
        assert (await kube.kubectl("cp", source, pod_path(tmp_path / "copy"))).status == 0
    assert tree(tmp_path / "copy") == tree(source)


async def test_a_second_identical_copy_nests_and_a_copy_to_the_parent_does_not(
    kube: KubeServer, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "volume").mkdir()
    for _ in range(2):
        assert (await kube.kubectl("cp", source, pod_path(tmp_path / "volume" / "nested"))).status == 0
        assert (await kube.kubectl("cp", source, pod_path(tmp_path / "volume") + "/")).status == 0
    assert tree(tmp_path / "volume" / "nested" / "source") == tree(source)
    assert tree(tmp_path / "volume" / "source") == tree(source)


async def test_the_exit_status_of_a_command_comes_back(kube: KubeServer) -> None:
    done = await kube.kubectl("exec", "-n", NAMESPACE, POD, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.status, done.out) == (3, "out\n")
    assert done.err.startswith("err\n")


async def test_a_command_that_is_not_there_is_a_failure(kube: KubeServer) -> None:
    done = await kube.kubectl("exec", "-n", NAMESPACE, POD, "--", "/no/such/command")
    assert done.status != 0
    assert "/no/such/command" in done.err


async def test_a_missing_parent_fails_as_it_does_in_a_container(kube: KubeServer, source: Path, tmp_path: Path) -> None:
    assert (await kube.kubectl("cp", source, pod_path(tmp_path / "absent" / "copy"))).status == 2


async def test_a_stalled_copy_goes_on_when_it_is_released(source: Path, tmp_path: Path) -> None:
    async with KubeServer(tmp_path, stall_after=3 * MEGABYTE) as kube:
        client = await kube.start_kubectl("cp", source, pod_path(tmp_path / "copy"))
        await kube.until_stalled()
        assert tree(tmp_path / "copy") != tree(source)
        kube.release()
        await client.communicate()
    assert client.returncode == 0
    assert tree(tmp_path / "copy") == tree(source)


async def test_a_killed_client_leaves_a_part_of_the_tree(source: Path, tmp_path: Path) -> None:
    async with KubeServer(tmp_path, stall_after=3 * MEGABYTE) as kube:
        client = await kube.start_kubectl("cp", source, pod_path(tmp_path / "copy"))
        await kube.until_stalled()
        await kube.kill(client)
        assert client.returncode == -9
        left = tree(tmp_path / "copy")
        assert left["1_Pooling/config.json"] == b"{}"
        assert 0 < len(left["a.safetensors"]) < 3 * MEGABYTE
        assert "vocab.txt" not in left
        assert (await kube.kubectl("cp", f"{source}/.", pod_path(tmp_path / "copy"))).status == 0
    assert tree(tmp_path / "copy") == tree(source)
