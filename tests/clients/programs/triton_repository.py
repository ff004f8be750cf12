"""tritonclient over HTTP: health, and the repository of models."""

from __future__ import annotations

from typing import Any

import tritonclient.http
from telling import Target, tell


def client(target: Target) -> tritonclient.http.InferenceServerClient:
    return tritonclient.http.InferenceServerClient(url=target.url.removeprefix("http://"))


def headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.key}"}


def health(target: Target, _: None) -> list[bool]:
    here = client(target)
    return [here.is_server_live(headers=headers(target)), here.is_server_ready(headers=headers(target))]


def index(target: Target, _: None) -> Any:
    return client(target).get_model_repository_index(headers=headers(target))


def load(target: Target, _: None) -> bool:
    """Whether the model is ready then."""
    client(target).load_model(target.model, headers=headers(target))
    return client(target).is_model_ready(target.model, headers=headers(target))


def unload(target: Target, _: None) -> None:
    client(target).unload_model(target.model, headers=headers(target))


tell(health, index, load, unload)
