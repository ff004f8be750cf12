"""What a request costs is judged by what device calls and loads took."""

from __future__ import annotations

import pytest

from gateway.engine.costs import FIRST_COST, FULL, Costs
from gateway.host import wire
from gateway.host.pace import FIRST_RATE
from gateway.model import Generation
from tests import making

BYTES = 1000


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return making.generation(making.encoder(tmp_path_factory.mktemp("made") / "m", max_tokens=64))


def call(digest: str, tokens: int, seconds: float) -> wire.Batch:
    return wire.Batch(digest, 1, tokens, tokens, seconds)


def other(generation: Generation, digest: str, base: Generation | None = None) -> Generation:
    return Generation(digest * 64, generation.path, generation.manifest, base=base)


def test_before_anything_was_computed_it_goes_by_the_bytes(generation: Generation) -> None:
    costs = Costs()
    assert costs.computing(generation, BYTES, [[1] * 10] * 2) == pytest.approx(20 * BYTES * FIRST_COST)
    assert costs.computing(generation, BYTES, ["x" * 40] * 2) == pytest.approx(20 * BYTES * FIRST_COST)
    assert costs.computing(generation, BYTES, ()) == 0.0


def test_then_by_its_own_calls_and_by_those_of_others_for_each_byte(generation: Generation) -> None:
    costs, larger = Costs(), other(generation, "b")
    costs.computing(generation, BYTES, [[1]])
    costs.called(call(generation.digest, 1000, 2.0))
    assert costs.computing(generation, BYTES, [[1] * 10]) == pytest.approx(0.02)
    assert costs.computing(larger, 3 * BYTES, [[1] * 10]) == pytest.approx(0.06)
    costs.called(call(larger.digest, 1000, 1.0))
    assert costs.computing(larger, 3 * BYTES, [[1] * 10]) == pytest.approx(0.01)
    assert costs.computing(generation, BYTES, [[1] * 10]) == pytest.approx(0.02)


def test_the_last_calls_weigh_most(generation: Generation) -> None:
    costs = Costs()
    costs.computing(generation, BYTES, [[1]])
    for seconds in [9.0] * 50 + [1.0] * 50:
        costs.called(call(generation.digest, 1000, seconds))
    assert costs.computing(generation, BYTES, [[1] * 10]) == pytest.approx(0.01, rel=0.1)


def test_a_short_call_says_nothing_of_what_a_token_costs(generation: Generation) -> None:
    """It takes as long as it begins and ends; a long text would seem to take minutes."""
    costs = Costs()
    costs.computing(generation, BYTES, [[1]])
    costs.called(call(generation.digest, 4, 0.016))
    assert costs.computing(generation, BYTES, [[1] * 60] * 100) <= 6000 * 0.016 / FULL


def test_texts_that_are_cut_off_cost_what_is_left_of_them(generation: Generation) -> None:
    costs = Costs()
    long, cut = costs.computing(generation, BYTES, ["x" * 10**6]), costs.computing(generation, BYTES, [[1] * 64])
    assert long == cut


def test_an_adapter_computes_as_its_base_does_and_its_loads_say_nothing(generation: Generation) -> None:
    costs, adapter = Costs(), other(generation, "c", generation)
    costs.computing(adapter, BYTES, [[1]])
    costs.called(call(adapter.digest, 1000, 2.0))
    assert costs.computing(generation, BYTES, [[1] * 10]) == pytest.approx(0.02)
    costs.loaded(wire.Loaded(adapter.digest, 10, 5.0))
    assert costs.loading(generation, int(FIRST_RATE)) == pytest.approx(1.0)


def test_a_load_takes_as_long_as_the_last_one_from_the_disk(generation: Generation) -> None:
    costs = Costs()
    costs.computing(generation, BYTES, [[1]])
    costs.loaded(wire.Loaded(generation.digest, BYTES, 3.0))
    costs.loaded(wire.Loaded(generation.digest, BYTES, 0.001, returned=True))
    assert costs.loading(generation, BYTES) == 3.0


def test_what_is_not_live_is_forgotten_and_what_was_never_asked_for_is_not_counted(generation: Generation) -> None:
    costs = Costs()
    costs.called(call(generation.digest, 1000, 2.0))
    costs.computing(generation, BYTES, [[1]])
    costs.called(call(generation.digest, 1000, 4.0))
    assert costs.computing(generation, BYTES, [[1]]) == pytest.approx(0.004)
    costs.keep({generation.digest})
    assert costs.computing(generation, BYTES, [[1]]) == pytest.approx(0.004)
    costs.keep(set())
    assert not costs._own
    assert not costs._asked
