"""A Ray cluster of several nodes on this one machine, to try `gateway serve --engine ray` and to test it.

    python scripts/ray_local.py --nodes 3

Each node has an address of its own in 127.0.0.0/8 and one `device`, a resource that stands in for a GPU. The head has
none: gateways and Serve's controller are there. A line of JSON says where it is; then it takes orders on its standard
input and answers each with such a line, until it is interrupted:

    add [RESOURCE]    one more node, with one of that resource in place of a device
    kill ADDRESS      that node goes at once, as a machine does that loses its power

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

        head = {"num_cpus": 4, "node_ip_address": HEAD, "include_dashboard": False, "object_store_memory": STORE}
        self._cluster = _tried(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._nodes: dict[str, Any] = {}
        self._last = int(HEAD.rpartition(".")[2])
        self.address: str = self._cluster.address

    def add(self, resource: str = RESOURCE) -> str:
        """-> the address of a node that has just joined."""
        self._last += 1
        address = f"127.0.0.{self._last}"
        options = {"num_cpus": 2, "node_ip_address": address, "resources": {resource: 1}, "object_store_memory": STORE}
        self._nodes[address] = _tried(lambda: self._cluster.add_node(**options))
        return address

    def kill(self, address: str) -> str:
        self._cluster.remove_node(self._nodes.pop(address), allow_graceful=False)
        return address

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


def _obey(nodes: Nodes, order: str) -> dict[str, str]:
    match order.split():
        case ["add", *resource]:
            return {"added": nodes.add(*resource)}
        case ["kill", address]:
            return {"killed": nodes.kill(address)}
        case _:
            return {"error": f"not an order: {order.strip()}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    count = parser.parse_args().nodes
    nodes = Nodes()
    try:
        addresses = [nodes.add() for _ in range(count)]
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        serve = f"gateway serve --engine ray --ray-address {nodes.address} --ray-resource {RESOURCE}"
        print(json.dumps({"address": nodes.address, "nodes": addresses, "serve": serve}), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            for order in sys.stdin:
                print(json.dumps(_obey(nodes, order)), flush=True)
            signal.pause()
    finally:
        nodes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
