"""`--engine ray` without the extra is told before anything else happens."""

from __future__ import annotations

import sys

import pytest

from gateway import settings
from gateway.cluster import extra


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("gateway.cluster.fleet", "gateway.cluster.router"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(settings.SettingsError, match=r"--engine ray is an extra: pip install 'dropgate\[ray\]' \(ray"):
        extra.demand()


def test_an_engine_that_there_is_not_is_refused() -> None:
    with pytest.raises(settings.SettingsError, match="--engine='cloud': expected one of process, ray"):
        settings.load({"engine": "cloud"}, {})
