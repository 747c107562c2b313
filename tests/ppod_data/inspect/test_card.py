"""The card lists every table under a name that `datasets` loads, and says the same for the same folder."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from ppod_data import Dataset
from ppod_data.dataset.dataset import create
from ppod_data.format.tables import PAIRS, SCORES, write_table
from ppod_data.inspect.card import card_text, write_card
from tests.support.toy import files, make_dataset, make_sample, make_spec, write_shard


def add_tables(dataset: Dataset) -> None:
    """One score table, with a failed row, and one table of two pairs."""
    samples = [make_sample(dataset.spec, n) for n in range(dataset.spec.num_samples)]
    for shard in range(dataset.spec.num_shards):
        rows = [
            {
                "sample_id": samples[n].sample_id,
                "score": None if n == 5 else float(n),
                "scorer": "scenes",
                "revision": "1",
                "image_pixels_sha256": samples[n].image_pixels_sha256,
                "status": "failed: no" if n == 5 else "ok",
            }
            for n in dataset.spec.shard_range(shard)
        ]
        table = pa.Table.from_pylist(rows, schema=SCORES)
        table = table.replace_schema_metadata(
            {**table.schema.metadata, b"ppod": f'{{"shard":{shard}}}'.encode()}
        )
        write_table(dataset.root / "scores" / "scenes" / f"{shard:06d}.parquet", table)
    pairs: list[dict[str, Any]] = [
        {
            "pair_id": f"{n}" * 32,
            "prompt_id": samples[n].prompt_id,
            "chosen_id": samples[n].sample_id,
            "rejected_id": samples[0].sample_id,
            "label": 1.0,
            "margin": float(n),
            "source": "reward:scenes",
            "votes": None,
        }
        for n in (1, 2)
    ]
    write_table(dataset.root / "pairs" / "best-worst.parquet", pa.Table.from_pylist(pairs, schema=PAIRS))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A complete data set with scores, pairs and a card."""
    dataset = make_dataset(tmp_path / "data")
    add_tables(dataset)
    write_card(dataset.root)
    return dataset


def front_matter(root: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((root / "README.md").read_text().split("---\n")[1])
    return values


def test_configs_list_the_parquet_tables_and_nothing_else(dataset: Dataset) -> None:
    values = front_matter(dataset.root)
    assert values["configs"] == [
        {"config_name": "samples", "data_files": "samples/*.parquet", "default": True},
        {"config_name": "scores-scenes", "data_files": "scores/scenes/*.parquet"},
        {"config_name": "pairs-best-worst", "data_files": "pairs/best-worst.parquet"},
    ]
    assert values["license"] == "unknown" and values["size_categories"] == ["n<1K"]


def test_every_file_that_a_config_names_is_there(dataset: Dataset) -> None:
    for config in front_matter(dataset.root)["configs"]:
        assert list(dataset.root.glob(config["data_files"]))


def test_counts(dataset: Dataset) -> None:
    text = (dataset.root / "README.md").read_text()
    assert "6 images of 2 prompts, 3 a prompt" in text
    assert "| `samples` | 6 |" in text
    assert "| `scores-scenes` | 6 | scores by scenes (1), 1 failed |" in text
    assert "| `pairs-best-worst` | 2 | pairs: 2 from reward:scenes |" in text
    assert "to be made" not in text
    assert "    zwölf grüne Hasen 🐇\n" in text


def test_the_card_of_an_unfinished_data_set(tmp_path: Path) -> None:
    dataset = create(tmp_path / "data", make_spec(), "cc-by-4.0")
    write_card(dataset.root)
    assert "configs" not in front_matter(dataset.root), "datasets would find no file"
    assert front_matter(dataset.root)["license"] == "cc-by-4.0"
    write_shard(dataset.root, dataset.spec, 1)
    assert "2 images of 2 prompts" in card_text(dataset) and "Still to be made: 4 images" in card_text(
        dataset
    )


def test_the_card_is_a_function_of_the_folder(dataset: Dataset, tmp_path: Path) -> None:
    """Written again, and of the same data set in another place: the same bytes."""
    other = make_dataset(tmp_path / "elsewhere")
    add_tables(other)
    write_card(other.root)
    write_card(other.root)
    assert files(other.root) == files(dataset.root)


def test_text_from_options_cannot_break_the_card(tmp_path: Path) -> None:
    spec = make_spec(negative_prompt="a | b ` c", prompts=("---", "# <b>x</b>", 'q: "y"'))
    write_card(create(tmp_path / "data", spec, 'a"b: c').root)
    values = front_matter(tmp_path / "data")
    assert values["license"] == 'a"b: c'
    assert "| negative prompt | `a \\| b ' c` |" in (tmp_path / "data" / "README.md").read_text()


def test_the_examples_of_the_card_run(dataset: Dataset) -> None:
    blocks = (dataset.root / "README.md").read_text().split("```python\n")[1:]
    code = blocks[1].split("```")[0].replace('"DATASET"', repr(str(dataset.root)))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["before"].shape == names["after"].shape == (4, 2, 3)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A cache of its own, and no network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return str(tmp_path / "cache")


def test_datasets_loads_every_table_and_decodes_the_images(dataset: Dataset, offline: str) -> None:
    from datasets import load_dataset

    from ppod_data.format.images import pixels_sha256

    samples = load_dataset(str(dataset.root), "samples", split="train", cache_dir=offline)
    assert samples.num_rows == 6
    for number, row in enumerate(samples):
        sample = make_sample(dataset.spec, number)
        assert pixels_sha256(row["image"]) == row["image_pixels_sha256"] == sample.image_pixels_sha256
        assert (row["prompt"], row["log_probs"]) == (sample.prompt, sample.log_probs)
    scores = load_dataset(str(dataset.root), "scores-scenes", split="train", cache_dir=offline)
    assert scores["score"][:] == [0.0, 1.0, 2.0, 3.0, 4.0, None]
    pairs = load_dataset(str(dataset.root), "pairs-best-worst", split="train", cache_dir=offline)
    assert pairs["margin"][:] == [1.0, 2.0]


def test_samples_are_the_default_table(dataset: Dataset, offline: str) -> None:
    from datasets import load_dataset

    assert load_dataset(str(dataset.root), split="train", cache_dir=offline).num_rows == 6


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_datasets_reads_the_tars_with_all_latents_as_bytes(tmp_path: Path, offline: str, dtype: str) -> None:
    from datasets import load_dataset

    dataset = make_dataset(tmp_path / "tars", latent_dtype=dtype)
    pattern = str(dataset.root / "trajectories" / "*.tar")
    rows = load_dataset("webdataset", data_files=pattern, split="train", cache_dir=offline)
    assert rows.num_rows == 6
    for number, row in enumerate(rows):
        sample = make_sample(dataset.spec, number)
        assert row["__key__"] == sample.sample_id and row["safetensors"] == sample.latents_safetensors
        assert row["json"]["log_probs"] == sample.log_probs and row["json"]["prompt"] == sample.prompt


def test_webdataset_reads_the_tars_plain_and_decoded(dataset: Dataset) -> None:
    import webdataset
    from safetensors.torch import load

    tars = sorted(str(path) for path in (dataset.root / "trajectories").iterdir())
    plain = list(webdataset.WebDataset(tars, shardshuffle=False))
    decoded = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert len(plain) == len(decoded) == 6
    for number, (row, values) in enumerate(zip(plain, decoded, strict=True)):
        sample = make_sample(dataset.spec, number)
        assert row["__key__"] == sample.sample_id
        assert row["safetensors"] == values["safetensors"] == sample.latents_safetensors
        assert load(row["safetensors"])["latents"].shape == (5, 4, 2, 3)
        assert values["json"]["timesteps"] == sample.timesteps
