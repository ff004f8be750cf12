"""How many replicas there are: one for each device that the cluster has, as it comes and goes. Serve's controller asks;
so nobody has to be told of a new node, and no gateway decides it."""

from __future__ import annotations

from typing import Any

import ray


class OnePerDevice:
    """`resource` is what Ray counts devices as."""

    def __init__(self, resource: str) -> None:
        self._resource = resource

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        return max(1, int(ray.cluster_resources().get(self._resource, 0))), {}
