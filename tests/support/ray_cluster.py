"""A Ray cluster of a few small nodes on this machine, which ends with the block: nothing of it stays behind."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ppod_data.errors import NonFiniteError
from ppod_data.support.progress import Progress

_REPOSITORY = Path(__file__).parents[2]
_STORE_BYTES = 80 << 20


@dataclass(frozen=True)
class SmallCluster:
    """A head without room for work, and nodes with room for one worker each."""

    address: str
    """HOST:PORT."""
    nodes: Any
    """Ray's own handle."""

    def add_node(self) -> Any:
        """One more node: a raylet and its workers, processes of their own."""
        return self.nodes.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)

    def kill_node(self, node: Any) -> None:
        """SIGKILL to all that makes the node up, without a word to the others."""
        self.nodes.remove_node(node, allow_graceful=False)


@contextmanager
def small_cluster(num_nodes: int) -> Iterator[SmallCluster]:
    """Start one without dashboard and usage statistics, in a folder of its own with a short name: sockets need it."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    paths = os.pathsep.join(map(str, (_REPOSITORY, _REPOSITORY / "cli")))
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    variables["RAY_TMPDIR"] = (
        folder  # for the file with the cluster's address, which two clusters must not share
    )
    os.makedirs(f"{folder}/ray")
    with mock.patch.dict(os.environ, variables):
        nodes = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
                "temp_dir": folder,
            },
        )
        try:
            cluster = SmallCluster(nodes.address, nodes)
            for _ in range(num_nodes):
                cluster.add_node()
            yield cluster
        finally:
            nodes.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Squares:
    """A job without a model: the square of a shard's number, and what its workers go through on the way."""

    folder: Path
    """Says what has happened already."""
    together: int = 1
    """No shard is done before so many workers are there."""
    deadly: tuple[int, ...] = ()
    """Shards that kill the first worker that has them, as a machine that is taken away does."""
    poisoned: tuple[int, ...] = ()
    """Shards that kill every worker."""
    refused: tuple[int, ...] = ()
    """Shards that raise an error of ours."""

    def prepare(self, device: str, progress: Progress) -> Callable[[int], tuple[int, int]]:
        """Leaves a file for every process that was prepared."""
        assert device == "cpu"
        (self.folder / f"prepared-{os.getpid()}").touch()

        def work(shard: int) -> tuple[int, int]:
            first = not (self.folder / f"met-{shard}").exists()
            (self.folder / f"met-{shard}").touch()
            if shard in self.poisoned or (first and shard in self.deadly):
                os.kill(os.getpid(), signal.SIGKILL)
            while len(list(self.folder.glob("prepared-*"))) < self.together:
                time.sleep(0.01)
            if shard in self.refused:
                raise NonFiniteError(f"shard {shard} holds NaN: give --compute-dtype fp32")
            progress.advance(1)
            return shard**2, os.getpid()

        return work

    def units(self, shard: int, result: tuple[int, int]) -> int:
        return 1
