"""Settings and fixtures of all tests."""

import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings

from tests.support.pipelines import save_tiny_pipeline

if TYPE_CHECKING:
    from ppod_data.diffusion.models.model import DiffusionModel
    from tests.support.store_server import Server

_LONGEST = (
    # of `make test`
    "tests/ppod_train/run/test_train.py",
    "tests/e2e/test_bytes_unchanged.py",
    "tests/ppod_train/online/test_online.py",
    "tests/ppod_train/run/test_families.py",
    "tests/cli/test_recipes.py",
    "tests/cli/test_next_lines.py",
    "tests/cli/test_online.py",
    "tests/ppod_data/labels/test_labels_import.py",
    "tests/ppod_train/run/test_x0_objectives.py",
    "tests/ppod_train/policy/test_adapters.py",
    "tests/ppod_train/run/test_start.py",
    "tests/ppod_train/run/test_longer_runs.py",
    # of `make test-long`
    "tests/ppod_train/run/test_distributed.py",
    "tests/ppod_train/run/test_learning.py",
    "tests/cli/test_num_processes.py",
    "tests/cli/test_families.py",
    "tests/cli/test_label_page.py",
    "tests/ppod_data/storage/test_durability.py",
    "tests/cli/test_reward_servers.py",
    "tests/cli/test_stores.py",
    "tests/ppod_data/cluster/test_ray_engine.py",
    "tests/contracts/test_docs_site.py",
)
"""Files of 20 seconds or more: they start first."""

torch.set_num_threads(1)
settings.register_profile("ppod", deadline=None)  # shared machines: no test depends on an absolute time
settings.load_profile("ppod")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="module", autouse=True)
def small_collections() -> None:
    """Keep what is imported by now out of later garbage collections, which would visit a million objects each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own folder of fixtures that several tests share; the real one is never written to."""
    folder = tmp_path_factory.mktemp("ppod-user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def fsync_without_a_disk() -> Iterator[None]:
    """Let os.fsync return at once: it takes milliseconds, thousands of times, and only a power cut would show it.

    Tests of the order of system calls, and of disks that are full, replace os.fsync themselves, or count its calls.
    """

    def fsync(file: int | IO[Any]) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of what was read from stores: each test has its own."""
    monkeypatch.setenv("PPOD_CACHE", str(tmp_path / "ppod-cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "ppod-user"))
    return tmp_path / "ppod-cache"


@pytest.fixture(scope="session")
def s3_server() -> "Iterator[Server]":
    """A real S3 server on the loopback; every test takes a place of its own in its bucket."""
    from tests.support.store_server import serve

    with serve() as server:
        yield server


@pytest.fixture
def s3(s3_server: "Server", monkeypatch: pytest.MonkeyPatch) -> "tuple[Server, str]":
    """The server, and a new place in its bucket, as a URL. Who fails there waits less before the next try."""
    from ppod_data.storage import object_store

    monkeypatch.setattr(object_store, "_WAITS", (0.01, 20.0))
    return s3_server, f"s3://bucket/{uuid.uuid4().hex}/data"


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random StableDiffusionPipeline."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline: Path) -> "DiffusionModel":
    """The tiny pipeline, loaded."""
    from ppod_data.diffusion.models.model import load_model

    return load_model(str(tiny_pipeline))
