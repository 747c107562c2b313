"""Engines by what the user named: a Ray cluster, or processes of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from ppod_data.cluster import local_engine, ray_engine
from ppod_data.cluster.job import MapShards
from ppod_data.cluster.local_processes import Choice
from ppod_data.cluster.ray_engine import RayCluster

Cluster: TypeAlias = RayCluster | Choice
"""A Ray cluster, or processes of this machine."""


@dataclass(frozen=True, kw_only=True)
class StartedEngine:
    """An engine that is ready for jobs."""

    device: str
    """The workers' device, for example "cpu"."""
    map_shards: MapShards


@contextmanager
def started_engine(cluster: Cluster) -> Iterator[StartedEngine]:
    """Connect to a cluster, or use processes of this machine, which start with the first job.

    Raises:
        ConfigError: the cluster cannot be used.
    """
    if isinstance(cluster, Choice):
        map_shards = partial(local_engine.map_shards, devices=cluster.devices)
        yield StartedEngine(device=cluster.devices[0], map_shards=map_shards)
        return
    with ray_engine.connected(cluster) as device:
        yield StartedEngine(device=device, map_shards=partial(ray_engine.map_shards, device=device))
