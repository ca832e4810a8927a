"""The engine `--engine tests.ray_nodes:RayNodes`. It is registered on import, so nothing else imports this module."""

from __future__ import annotations

import os

from reproducer.queue.engines import register
from reproducer.queue.engines.ray import Ray
from tests.own_stores import OwnStores


@register("ray-nodes")
class RayNodes(OwnStores):
    """Nodes of the cluster at $RAY_ADDRESS, each with a store of its own, although they share a machine."""

    elsewhere = True

    def __init__(self, slots: int, device: str) -> None:
        engine = Ray(slots, device)
        super().__init__(engine, os.getppid)  # a worker's parent is its node
        self.devices = engine.devices
