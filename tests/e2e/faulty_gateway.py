"""`python -m tests.e2e.faulty_gateway serve ...`: the gateway's own command line over hosts that do what they are told
to do wrong (`tests.engine.faulty_host`). The text `please err` meets a bug of the gateway's own."""

from __future__ import annotations

import functools
import sys
from typing import Any

from gateway import cli, life
from gateway.requests import EmbedRequest
from gateway.service import Service

HOST_COMMAND = (sys.executable, "-m", "tests.engine.faulty_host")
right_embed = Service.embed


async def embed(self: Service, request: EmbedRequest, *rest: Any) -> Any:
    if "please err" in request.texts:
        raise RuntimeError("a bug, as somebody asked for it")
    return await right_embed(self, request, *rest)


if __name__ == "__main__":
    Service.embed = embed  # type: ignore[method-assign]  # the fault is the point
    life.run = functools.partial(life.run, host_command=HOST_COMMAND)
    sys.exit(cli.main())
