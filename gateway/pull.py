"""`gateway pull`: a model of a hub onto the volume, with a bar on a terminal; by this process, or by a gateway."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError, HubOffline
from gateway.settings import Settings
from gateway.volume.order import MAIN, Looked, Order, Progress, Pulled, Report, demand_directory, parse_repository

BAR: Final = 30  # characters
GLANCE: Final = 0.5  # seconds between two looks at what a gateway pulls


def run(model: str, settings: Settings, *, as_json: bool) -> int:
    """Straight into the models directory; no gateway need run. Exit status: 0 it is there, 1 it is not."""
    bar = Bar(model)
    try:
        done = _pull(model, settings, bar.hear)
    except GatewayError as error:
        bar.end()
        print(f"gateway: {error.message} ({error.code})", file=sys.stderr)
        return 1
    bar.end()
    _tell(done, as_json=as_json)
    return 0


def _pull(model: str, settings: Settings, hear: Callable[[Report], None]) -> Pulled:
    name, revision = parse_repository(model)
    demand_directory(settings.models_dir)
    if settings.hub_offline:
        raise HubOffline(f"{name} cannot be pulled: HF_HUB_OFFLINE is set", model=str(name))
    from gateway.volume.pull import pull  # noqa: PLC0415  # the hub's library, which a wrong id need not wait for

    order = Order(
        model=name.path,
        revision=revision or MAIN,
        models_dir=settings.models_dir,
        endpoint=settings.hub_endpoint,
        token=settings.hub_token,
        allow_pickle=settings.allow_pickle,
    )
    return pull(order, hear)


def _tell(done: Pulled, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(done).decode())
        return
    what = "pulled" if done.fresh else "there already"
    print(f"{what}: {done.path}, {done.bytes / 1e6:.1f} MB in {done.files} files, commit {done.commit}")


def follow(model: str, ask: Callable[[str, dict[str, Any] | None], Any], *, as_json: bool) -> int:
    """Has a gateway pull, and shows how far it is. `ask` is given a path, and a body to post."""
    name, revision = parse_repository(model)
    bar = Bar(model)
    state = ask("/models/pull", {"model": name.path, "revision": revision})
    while state["state"] in {"waiting", "pulling"}:
        if state["total"] is not None:
            bar.hear(Looked(state["commit"], state["total"], state["files"]))
            bar.hear(Progress(state["bytes"]))
        time.sleep(GLANCE)
        state = ask(state["progress"], None)
    bar.end()
    if as_json:
        print(msgspec.json.encode(state).decode())
    elif error := state["error"]:
        print(f"gateway: {error['message']} ({error['code']})", file=sys.stderr)
    else:
        print(
            f"pulled: {state['id']}, {state['bytes'] / 1e6:.1f} MB in {state['files']} files, commit {state['commit']}"
        )
    return 0 if state["state"] == "pulled" else 1


class Bar:
    """How far a pull is, on one line of standard error; nothing where that is no terminal."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._total = 0
        self._first: tuple[float, int] | None = None
        self._shown = False
        self._terminal = sys.stderr.isatty()

    def hear(self, report: Report) -> None:
        if isinstance(report, Looked):
            self._total = report.total
        elif isinstance(report, Progress) and self._terminal:
            self._show(report.bytes)

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)

    def _show(self, done: int) -> None:
        now = time.monotonic()
        began, before = self._first = self._first or (now, done)
        rate = (done - before) / (now - began) if now > began else 0.0
        print("\r" + line(self._model, done, self._total, rate), end="\x1b[K", file=sys.stderr, flush=True)
        self._shown = True


def line(model: str, done: int, total: int, rate: float) -> str:
    """`rate` is in bytes each second, 0 where it is not known yet."""
    if not total:
        return f"{model}  {done / 1e6:.1f} MB"
    filled = min(BAR, done * BAR // total)
    speed = f"  {rate / 1e6:.1f} MB/s" if rate else ""
    return f"{model} [{'#' * filled}{'.' * (BAR - filled)}] {done / 1e6:.1f} of {total / 1e6:.1f} MB{speed}"
