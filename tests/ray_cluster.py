"""A Ray cluster on this machine, each node with processes of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


def patiently(call: Callable[[], Any]) -> Any:
    """What starts a node: Ray waits half a minute for it, too short on a busy machine."""
    for _ in range(4):
        with contextlib.suppress(Exception):
            return call()
    return call()


def start_cluster() -> Any:
    """A head that runs nothing, and two nodes of one processor; they import what this process does."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        head = {**NODE, "num_cpus": 0, "include_dashboard": False}
        cluster = patiently(lambda: Cluster(True, head_node_args=head))
        for _ in range(2):
            add_node(cluster)
        cluster.wait_for_nodes()
        return cluster
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def add_node(cluster: Any) -> None:
    """Another node of one processor."""
    patiently(lambda: cluster.add_node(wait=False, **NODE))
