"""A published data set is read by strangers' tools: mlcroissant, `datasets` in streams and shares, webdataset."""

import json
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.inspect.card import write_card
from ppod_data.inspect.croissant import croissant_text
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import make_dataset, make_sample, make_spec


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two shards, two score tables, two pair tables, a card."""
    dataset = make_dataset(tmp_path / "data", latent_dtype="bf16")
    add_scores(dataset, "a", [0, 1, 2, 3, 4, None])
    add_scores(dataset, "b.2", [5, 4, 3, 2, 1, 0])
    add_pairs(dataset, "best-worst", [(2, 0), (4, 3)])
    add_pairs(dataset, "people", [(1, 0)], margin=None, votes=3)
    write_card(dataset.root)
    return dataset


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return str(tmp_path / "cache")


def ids(dataset: Dataset) -> list[str]:
    return [make_sample(dataset.spec, n).sample_id for n in range(dataset.spec.num_samples)]


def test_every_config_of_the_card_loads(dataset: Dataset, offline: str) -> None:
    from datasets import get_dataset_config_names, load_dataset

    names = get_dataset_config_names(str(dataset.root))
    assert names == ["samples", "scores-a", "scores-b.2", "pairs-best-worst", "pairs-people"]
    rows = {
        name: load_dataset(str(dataset.root), name, split="train", cache_dir=offline).num_rows
        for name in names
    }
    assert rows == dict(zip(names, [6, 6, 6, 2, 1], strict=True))


def test_streaming_gives_the_samples_in_order(dataset: Dataset, offline: str) -> None:
    from datasets import load_dataset

    stream = load_dataset(str(dataset.root), "samples", split="train", streaming=True)
    assert [row["sample_id"] for row in stream] == ids(dataset)
    assert next(iter(stream))["image"].size == (24, 16)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("streaming", [False, True])
def test_nodes_share_the_samples(dataset: Dataset, offline: str, world_size: int, streaming: bool) -> None:
    """Also where the shards do not divide among the nodes: each sample is on one node."""
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node

    options: dict[str, Any] = {} if streaming else {"cache_dir": offline}
    rows = load_dataset(str(dataset.root), "samples", split="train", streaming=streaming, **options)
    parts = [
        [row["sample_id"] for row in split_dataset_by_node(rows, rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]
    assert sorted(name for part in parts for name in part) == sorted(ids(dataset)) and all(parts)


def test_a_streamed_tar_resumes_where_it_was(dataset: Dataset) -> None:
    from datasets import load_dataset

    pattern = str(dataset.root / "trajectories" / "*.tar")
    stream = load_dataset("webdataset", data_files=pattern, split="train", streaming=True)
    keys = []
    for row in stream:
        keys.append(row["__key__"])
        if len(keys) == 3:
            state = stream.state_dict()
            break
    stream.load_state_dict(state)
    assert keys + [row["__key__"] for row in stream] == ids(dataset)


def test_webdataset_splits_the_tars_by_node(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset
    from safetensors.torch import load

    tars = sorted(str(path) for path in (dataset.root / "trajectories").iterdir())
    parts = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        stream = webdataset.WebDataset(tars, shardshuffle=False, nodesplitter=webdataset.split_by_node)
        part = list(stream)
        parts += [row["__key__"] for row in part]
        assert part and all(load(row["safetensors"])["latents"].shape == (5, 4, 2, 3) for row in part)
    assert sorted(parts) == sorted(ids(dataset))


def test_mlcroissant_finds_no_error(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    croissant = pytest.importorskip("mlcroissant")
    found = croissant.Dataset(jsonld=str(dataset.root / "croissant.json"))
    assert not found.metadata.ctx.issues.errors
    assert [record.id for record in found.metadata.record_sets] == [
        "samples",
        "scores-a",
        "scores-b.2",
        "pairs-best-worst",
        "pairs-people",
    ]


def test_mlcroissant_reads_the_records(dataset: Dataset) -> None:
    croissant = pytest.importorskip("mlcroissant")
    found = croissant.Dataset(jsonld=str(dataset.root / "croissant.json"))
    samples = list(found.records("samples"))
    assert [row["samples/sample_id"].decode() for row in samples] == ids(dataset)
    assert samples[0]["samples/image"].size == (24, 16)
    scores = list(found.records("scores-b.2"))
    assert [row["scores-b.2/score"] for row in scores] == [5, 4, 3, 2, 1, 0]
    [pair] = found.records("pairs-people")
    assert pair["pairs-people/chosen_id"].decode() == ids(dataset)[1]


def test_croissant_of_an_empty_and_of_a_licensed_data_set(tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    value = json.loads(croissant_text(create(tmp_path / "data", make_spec(), "cc-by-4.0")))
    assert value["license"] == "https://spdx.org/licenses/cc-by-4.0.html"
    assert value["recordSet"] == value["distribution"] == []
    assert not croissant.Dataset(jsonld=value).metadata.ctx.issues.errors
    odd = json.loads(croissant_text(create(tmp_path / "odd", make_spec(model='"<'), 'my "licence')))
    assert "license" not in odd
