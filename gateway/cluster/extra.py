"""What `dropgate[ray]` brings, imported when a gateway is started with it: 450 MB of packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from gateway import events
from gateway.cluster.engine import RayEngine
from gateway.cluster.replica import NODE, TEMPORARY, Config
from gateway.engine.supervisor import HOST_COMMAND
from gateway.model import Generation
from gateway.settings import Settings, SettingsError
from gateway.wish import Wish


def demand() -> None:
    """Raises SettingsError without the extra."""
    try:
        from gateway.cluster import fleet  # noqa: F401, PLC0415  # an extra
    except ImportError as error:
        message = f"--engine ray is an extra: pip install 'dropgate[ray]' ({error.name or error} is missing)"
        raise SettingsError(message) from error


def engine(
    settings: Settings,
    tell: events.Events,
    host: dict[str, Any],
    command: Sequence[str],
    *,
    names: Callable[[str], tuple[str, ...]],
    sources: Callable[[str], tuple[str, ...]],
    predict: Callable[[Generation], int],
    wish: Callable[[Generation], Wish],
    weight: Callable[[str], float],
) -> RayEngine:
    """The engine of a cluster, which is joined later. `host` is the configuration of hosts without their device, and
    `command` what starts one. To be called where `demand` has raised nothing."""
    from gateway.cluster.fleet import RayFleet, Shape  # noqa: PLC0415  # an extra

    shape = Shape(
        app=settings.ray_app,
        address=settings.ray_address,
        resource=settings.ray_resource,
        replicas=settings.ray_replicas,
        ongoing=settings.ray_ongoing,
        queued=settings.ray_queue,
    )
    config = Config(
        host=host,
        device=settings.device,
        models_dir=settings.ray_models_dir or settings.models_dir,
        state_dir=settings.ray_state_dir or os.path.join(TEMPORARY, f"dropgate-{settings.ray_app}-{NODE}"),
        allow_pickle=settings.allow_pickle,
        copy_budget=settings.copy_budget,
        in_place=settings.serve_in_place,
        hang_timeout=settings.hang_timeout,
        load_timeout=settings.load_timeout,
        command=() if tuple(command) == HOST_COMMAND else tuple(command),
    )
    return RayEngine(
        RayFleet(shape, config),
        tell,
        names=names,
        sources=sources,
        predict=predict,
        wish=wish,
        weight=weight,
        patience=settings.load_timeout,
    )
