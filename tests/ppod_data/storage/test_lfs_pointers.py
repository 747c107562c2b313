"""A Git LFS pointer in place of any file is called one: nobody is told to remove it."""

from pathlib import Path

import pytest

from ppod_data import Dataset
from ppod_data.dataset.merge import expand
from ppod_data.diffusion.models.model import adapter_file
from ppod_data.errors import DamagedError
from ppod_data.integrity.verify import verify
from ppod_data.labels.files.records import label_files
from ppod_data.storage.files import data_path
from tests.ppod_data.format.test_prompt_files import POINTER
from tests.support.toy import make_dataset

NAMED = r"a Git LFS pointer, not the file itself: run git lfs pull"


@pytest.mark.parametrize("folder", ["samples", "trajectories"])
def test_a_shard(tmp_path: Path, folder: str) -> None:
    dataset = make_dataset(tmp_path / "data")
    sample_id = dataset.samples(["sample_id"])["sample_id"][0].as_py()
    next((tmp_path / "data" / folder).iterdir()).write_bytes(POINTER)
    with pytest.raises(DamagedError, match=NAMED):
        for shard in range(dataset.spec.num_shards):
            for row in Dataset.open(tmp_path / "data").sample_part(shard).to_pylist():
                dataset.read_trajectory(row)
    with pytest.raises(DamagedError, match=NAMED):
        for row in dataset.samples(["sample_id"]).to_pylist():
            dataset.trajectory(row["sample_id"])
    assert sample_id
    findings = verify(tmp_path / "data", read_data=1).findings
    assert any("git lfs pull" in str(finding) for finding in findings)


def test_the_manifest(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    (tmp_path / "data" / "ppod.json").write_bytes(POINTER)
    with pytest.raises(DamagedError, match=NAMED):
        Dataset.open(tmp_path / "data")


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet"])
def test_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(DamagedError, match=NAMED):
            label_files(path)


def test_a_merge_file(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_bytes(POINTER)
    with pytest.raises(DamagedError, match=NAMED):
        expand([data_path(str(tmp_path / "all.json"))])


def test_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(POINTER)
    with pytest.raises(DamagedError, match=NAMED):
        adapter_file(str(tmp_path))
