"""Moving a model changes where its numbers lie and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gateway.host import encoder, memory
from gateway.host.arena import Arena
from gateway.host.cuda import Pinned
from gateway.host.tokenize import Tokenizer
from tests import making


def a_network() -> nn.Sequential:
    """Tied weights, a buffer, half precision, odd sizes."""
    network = nn.Sequential(nn.Linear(5, 7), nn.Linear(5, 7), nn.Embedding(3, 5).half(), nn.BatchNorm1d(9))
    network[1].weight = network[0].weight
    return network.requires_grad_(False)


def tensors_of(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def copies(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_numbers_shapes_and_types_survive_every_move(moves: int) -> None:
    network = a_network()
    found, wanted = tensors_of(network), copies(tensors_of(network))
    arena = Arena(found)
    for _ in range(moves):
        arena.move("cpu")
    for tensor, before in zip(found, wanted, strict=True):
        assert tensor.dtype == before.dtype
        assert torch.equal(tensor, before)


def test_after_a_move_all_tensors_lie_in_one_piece() -> None:
    network = a_network()
    arena = Arena(tensors_of(network))
    arena.move("cpu")
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors_of(network)}) == 1
    assert memory.tensor_bytes(network) == arena.bytes


def test_tensors_that_shared_memory_go_on_sharing_it() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    turned, part = whole.T, whole[1:]
    Arena([whole, turned, part]).move("cpu")
    whole.mul_(2)
    assert torch.equal(turned, torch.arange(0.0, 24.0, 2).reshape(3, 4).T)
    assert torch.equal(part, torch.arange(8.0, 24.0, 2).reshape(2, 4))


def test_shared_memory_is_taken_once() -> None:
    tied = a_network()
    apart = a_network()
    apart[1].weight = nn.Parameter(tied[0].weight.clone(), requires_grad=False)
    assert Arena(tensors_of(tied)).bytes < Arena(tensors_of(apart)).bytes


def test_a_piece_is_hardly_larger_than_what_it_holds() -> None:
    tensors = [torch.ones(1 << 10) for _ in range(8)]
    assert Arena(tensors).bytes == 8 * 4 << 10


def test_pieces_begin_where_every_kernel_can_read_them() -> None:
    tensors = [torch.ones(size) for size in (1, 3, 65)]
    Arena(tensors).move("cpu")
    offsets = [tensor.data_ptr() - tensors[0].data_ptr() for tensor in tensors]
    assert all(offset % 64 == 0 for offset in offsets)


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert", "qwen3", "t5"])
def test_a_model_whose_weights_have_moved_gives_the_same_vectors(family: str, tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", family=family))
    loaded = encoder.read(generation, "cuda")  # its weights as a GPU wants them, in host memory as yet
    rows = Tokenizer(generation).encode(["the beam", "x-ray laser light source"])
    before, size = loaded.embed(rows), loaded.bytes
    arena = Arena(tensors_of(loaded._network))
    arena.move("cpu")
    arena.move("cpu")
    np.testing.assert_array_equal(loaded.embed(rows), before)
    assert size <= arena.bytes < 1.01 * size


def test_a_freed_arena_holds_nothing_and_its_tensors_are_empty() -> None:
    network = a_network()
    arena = Arena(tensors_of(network))
    arena.move("cpu")
    arena.free()
    assert arena.bytes == 0
    assert memory.tensor_bytes(network) == 0


def test_memory_is_given_back_when_it_is_freed() -> None:
    held = torch.ones(32 << 18)  # 32 MiB
    arena = Arena([held])
    arena.move("cpu")
    memory.release("cpu")
    before = memory.resident()
    arena.free()
    memory.release("cpu")
    assert before - memory.resident() > 30 << 20


def test_a_move_that_finds_no_memory_moves_nothing() -> None:
    tensor = torch.ones(4)
    arena = Arena([tensor])
    arena.bytes = 1 << 60
    with pytest.raises(memory.OutOfMemory), memory.guarded():
        arena.move("cpu")
    assert torch.equal(tensor, torch.ones(4))


def test_pinned_bytes_are_as_many_as_were_asked_for_and_go_back() -> None:
    before = memory.resident()
    pages = Pinned(16 << 20)
    pages.tensor.fill_(1)
    assert pages.tensor.numel() == 16 << 20
    pages.close()
    assert memory.resident() - before < 4 << 20


def test_host_memory_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(MemoryError, match="of host memory"):
        Pinned(1 << 60)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_a_model_goes_to_the_device_and_back_unchanged() -> None:
    network = a_network()
    found, wanted = tensors_of(network), copies(tensors_of(network))
    arena = Arena(found)
    for device in ("cuda", "cpu", "cuda", "cpu"):
        arena.move(device)
        assert {tensor.device.type for tensor in found} == {device}
    for tensor, before in zip(found, wanted, strict=True):
        assert torch.equal(tensor, before)
    for first, second in itertools.pairwise(network[:2]):
        assert first.weight.data_ptr() == second.weight.data_ptr()


@pytest.mark.gpu
@needs_gpu
def test_what_has_left_the_device_lies_in_pinned_memory_and_frees_its_bytes_there() -> None:
    before = torch.cuda.memory_allocated()
    tensor = torch.ones(16 << 18)
    arena = Arena([tensor])
    arena.move("cuda")
    assert torch.cuda.memory_allocated() - before == arena.bytes
    arena.move("cpu")
    assert torch.cuda.memory_allocated() == before
    assert tensor.is_pinned()
    arena.free()


@pytest.mark.gpu
@needs_gpu
def test_page_locking_that_the_driver_refuses_leaves_the_device_usable() -> None:
    whole = Pinned(1 << 20)
    from gateway.host.cuda import _lock

    assert whole.locked
    assert not _lock(whole.tensor)  # it is locked already
    assert torch.ones(1, device="cuda").item() == 1
    whole.close()
