"""No cut of a copy is taken for the model, in any order of copying.

`python -m bench.drop.truncation` is the long form.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.drop import truncation
from bench.drop.contents import content, every_file
from tests import making


def no_matter(count: int) -> None:
    pass


def test_the_real_model_is_accepted_when_it_is_whole_and_at_no_cut_before(minilm: str) -> None:
    whole = content(Path(minilm))
    found = truncation.replay(whole, "lexical", every_file(whole.path), 4096, no_matter)
    assert found.states > 500
    assert (found.partial, found.without) == ([], {})
    assert found.accepted >= 1


ORDERS = ["lexical (kubectl cp)", "readdir (cp -r)", "rsync", "weights first"]


@pytest.mark.parametrize("order", ORDERS)
def test_no_cut_is_accepted_in_any_order_of_copying(tmp_path: Path, order: str) -> None:
    made = making.encoder(tmp_path / "m", dense=16, layer_norm=True, dim=16, heads=2, prompts={"query": "query: "})
    whole = content(Path(made))
    orders = truncation.orders(whole.path)
    assert list(orders) == ORDERS
    assert sorted(orders[order]) == every_file(whole.path)
    found = truncation.replay(whole, order, orders[order], 211, no_matter)
    assert found.states > 300
    assert found.partial == []
    assert found.accepted >= 1


def test_a_judge_that_does_not_look_at_sizes_would_be_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(making.encoder(tmp_path / "m", layers=1))
    whole = content(made)
    accepted = truncation.judge(str(made))
    monkeypatch.setattr(truncation, "judge", lambda path: accepted)
    found = truncation.replay(whole, "lexical", every_file(made), 4096, no_matter)
    assert ("model.safetensors", 0) in found.partial
    assert "tokenizer.json" in found.without
