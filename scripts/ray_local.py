"""A Ray cluster of several nodes on this one machine, to try `gateway serve --engine ray` and to test it.

    python scripts/ray_local.py --nodes 3

Each node has an address of its own in 127.0.0.0/8 and one `device`, a resource that stands in for a GPU. The head has
none: gateways and Serve's controller are there. It runs until it is interrupted; a line of JSON says where it is.
Needs `pip install 'dropgate[ray]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

RESOURCE = "device"
HEAD = "127.0.0.10"
STORE = 80 * 1024**2  # bytes of each node's object store: answers of ours are small
TRIES = 3  # a node has 30 seconds to start, which a busy machine may not grant


class Nodes:
    """A head, and nodes that come and go."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster  # noqa: PLC0415  # an extra

        self._next = 11
        head = {"num_cpus": 4, "node_ip_address": HEAD, "include_dashboard": False, "object_store_memory": STORE}
        self._cluster = _tried(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.address: str = self._cluster.address
        self.nodes: dict[str, Any] = {}

    def add(self, address: str | None = None, resource: str = RESOURCE) -> str:
        """-> the address of a node that has just joined, with one of the resource."""
        if address is None:
            address, self._next = f"127.0.0.{self._next}", self._next + 1
        options = {"num_cpus": 2, "node_ip_address": address, "resources": {resource: 1}, "object_store_memory": STORE}
        self.nodes[address] = _tried(lambda: self._cluster.add_node(**options))
        return address

    def kill(self, address: str) -> None:
        """At once, as a machine that loses its power."""
        self._cluster.remove_node(self.nodes.pop(address), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


def _tried(start: Any) -> Any:
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception:
            if not left:
                raise
            time.sleep(5.0)
    raise AssertionError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    nodes = Nodes()
    try:
        for _ in range(parser.parse_args().nodes):
            nodes.add()
        serve = f"gateway serve --engine ray --ray-address {nodes.address} --ray-resource {RESOURCE}"
        print(json.dumps({"address": nodes.address, "nodes": list(nodes.nodes), "serve": serve}), flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    finally:
        nodes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
