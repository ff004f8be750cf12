"""Reordered weights give the numbers of plain ones, are held once, and stay plain where that would not be so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gateway.host import linear, memory
from gateway.host.linear import Activation, Linear

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
ORDERABLE = [dtype for dtype in TOLERANCE if linear.can_reorder(dtype)]
needs_onednn = pytest.mark.skipif(not ORDERABLE, reason="oneDNN has no kernel on this processor")


def layer(dtype: torch.dtype = torch.float32, activation: Activation = "none", bias: bool = True) -> Linear:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(192, 64, generator=generator) / 8
    return Linear(weight.to(dtype), torch.randn(192, generator=generator).to(dtype) if bias else None, activation)


def reordered(made: Linear) -> Linear:
    made.reorder()
    assert made.weight.is_mkldnn
    return made


def plain(activation: Activation, x: torch.Tensor) -> torch.Tensor:
    return {
        "none": lambda: x,
        "gelu": lambda: nn.functional.gelu(x),
        "gelu_tanh": lambda: nn.functional.gelu(x, approximate="tanh"),
        "relu": lambda: nn.functional.relu(x),
    }[activation]()


@needs_onednn
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 128, 130, 1000])
@pytest.mark.parametrize("activation", linear.FUSED)
@pytest.mark.parametrize("dtype", ORDERABLE)
def test_a_reordered_layer_gives_the_numbers_of_a_plain_one(
    dtype: torch.dtype, activation: Activation, rows: int
) -> None:
    made = layer(dtype, activation)
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)).to(dtype)
    wanted = plain(activation, nn.functional.linear(x, made.weight, made.bias))
    torch.testing.assert_close(made(x), wanted)
    torch.testing.assert_close(reordered(made)(x), wanted, rtol=0, atol=TOLERANCE[dtype])


@needs_onednn
@pytest.mark.parametrize("rows", [1, 7, 8, 100, 1001])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_added_to_a_product_is_added_once(bias: bool, rows: int) -> None:
    made = layer(bias=bias)
    generator = torch.Generator().manual_seed(1)
    x, other = torch.randn(rows, 64, generator=generator), torch.randn(rows, 192, generator=generator)
    wanted = other + nn.functional.linear(x, made.weight, made.bias)
    torch.testing.assert_close(made.added(x, other), wanted)
    torch.testing.assert_close(reordered(made).added(x, other), wanted, rtol=0, atol=1e-5)


@needs_onednn
def test_a_reordered_layer_takes_inputs_of_any_number_of_axes() -> None:
    made = layer()
    x = torch.randn(3, 5, 64)
    wanted = made(x)
    torch.testing.assert_close(reordered(made)(x), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(made(x.transpose(0, 1)), wanted.transpose(0, 1), rtol=0, atol=1e-5)


@needs_onednn
def test_a_reordered_layer_holds_its_weights_once_and_they_are_counted() -> None:
    network = nn.Sequential(layer())
    before = memory.tensor_bytes(network)
    network[0].reorder()
    assert memory.tensor_bytes(network) + linear.reordered_bytes(network) == before
    assert linear.reordered_bytes(network) == 192 * 64 * 4
    linear.empty(network)
    assert linear.reordered_bytes(network) == 0


@needs_onednn
def test_a_layer_is_not_reordered_where_that_would_take_more_bytes() -> None:
    narrow = Linear(torch.randn(5, 3), torch.randn(5))
    x = torch.randn(2, 3)
    wanted = narrow(x)
    narrow.reorder()
    assert memory.tensor_bytes(narrow) + linear.reordered_bytes(narrow) <= (15 + 5) * 4
    torch.testing.assert_close(narrow(x), wanted)


@needs_onednn
def test_restored_weights_are_exactly_those_that_were_reordered() -> None:
    network = nn.Sequential(layer())
    before = network[0].weight.detach().clone()
    network[0].reorder()
    linear.restore(network)
    assert torch.equal(network[0].weight, before)
    assert [name for name, _ in network.named_parameters()] == ["0.bias", "0.weight"]


@needs_onednn
def test_layers_of_torch_are_replaced_and_give_the_same_numbers() -> None:
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64, bias=False))
    x = torch.randn(3, 9, 64)
    with torch.inference_mode():
        wanted = network(x)
        linear.replace(network)
        torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-5)
    assert linear.reordered_bytes(network) == 2 * 128 * 64 * 4
    assert memory.tensor_bytes(network) == 128 * 4


@needs_onednn
def test_weights_that_something_else_holds_too_stay_as_they_are() -> None:
    network = nn.ModuleDict({"words": nn.Embedding(128, 64), "head": nn.Linear(64, 128), "own": nn.Linear(64, 64)})
    network["head"].weight = network["words"].weight
    linear.replace(network)
    assert type(network["head"]) is nn.Linear
    assert network["head"].weight is network["words"].weight
    assert isinstance(network["own"], Linear)


def test_few_numbers_of_rows_are_computed_and_little_more_than_is_asked() -> None:
    computed = [linear.rounded(rows) for rows in range(1, 4097)]
    assert all(rows <= found <= max(rows + 3, rows * 17 / 16) for rows, found in enumerate(computed, start=1))
    assert all(linear.rounded(rows) == rows for rows in computed)
    assert len(set(computed)) < 120  # four layers each: below the 1,024 kernels that oneDNN keeps


def test_reordering_pays_where_the_plain_product_is_slow() -> None:
    assert not linear.pays(torch.float32, vendor="GenuineIntel")
    assert linear.pays(torch.float32, vendor="AuthenticAMD") == linear.can_reorder(torch.float32)
    assert linear.pays(torch.bfloat16, vendor="GenuineIntel") == linear.can_reorder(torch.bfloat16)
    assert not linear.pays(torch.float64, vendor="AuthenticAMD")
