"""What to try first, printed once the gateway is ready: `gateway serve --examples`, which `make run` uses."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.app import Gateway

TEXT = """
Dropgate is ready at {url}
It watches {models_dir} and serves what is dropped there. Try:

  curl -s {url}/models

  curl -s {url}/embed -H 'Content-Type: application/json' \\
    -d '{{"inputs": ["how is a beam stored?", "the ring holds the beam"]}}'

Drop a model: copy any sentence-transformers directory, and ask for it by its name. No restart.

  mkdir -p {models}/finetuned
  cp -r {models}/{example} {models}/finetuned/my-model
  curl -s {url}/embed -H 'Content-Type: application/json' \\
    -d '{{"model": "huggingface:finetuned/my-model", "inputs": "hello"}}'

Every directory, its state and what would heal it; what happens, as it happens; and Prometheus:

  {gateway} models --url {url} list
  curl -sN {url}/events
  curl -s {url}/metrics

Ctrl-C stops it.
"""


async def show(gateway: Gateway, url: str) -> None:
    """Waits until requests can be answered, then prints the calls to try."""
    await gateway.catalog.looked.wait()
    await gateway.hosts[0].wait_until_up()
    models = gateway.settings.models_dir
    listing = gateway.catalog.listing()
    example = next((model["id"].partition(":")[2] for model in listing if model["generation"]), "namespace/name")
    text = TEXT.format(
        url=url,
        models_dir=models,
        models=_shown(models),
        example=example,
        gateway=_shown(os.path.join(os.path.dirname(sys.executable), "gateway")),
    )
    print(text, flush=True)


def _shown(path: str) -> str:
    """A path as it can be typed here."""
    return shlex.quote(path.removeprefix(os.getcwd() + "/"))
