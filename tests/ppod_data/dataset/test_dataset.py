"""A data set folder reads back as it was made, and damage, other specs and wrong names are refused in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ppod_data.dataset.dataset
from ppod_data import Dataset
from ppod_data.dataset.dataset import create
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.shards import ShardWriter
from ppod_data.format.tables import LOG_PROBS, PAIRS, SAMPLES, SCORES, write_table
from ppod_data.format.trajectory import encode_latents, latent_rows
from tests.support.toy import TORCH_DTYPES, files, flip, make_dataset, make_sample, make_spec, write_shard


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two shards of four and two samples."""
    return make_dataset(tmp_path / "data")


def ids(dataset: Dataset) -> list[str]:
    found: list[str] = dataset.samples(["sample_id"])["sample_id"].to_pylist()
    return found


def test_importing_the_package_and_its_tables_loads_no_torch() -> None:
    code = (
        "import sys, ppod_data, ppod_data.dataset.dataset, ppod_data.inspect.card\n"
        "import ppod_data.format.shards, ppod_data.format.spec\n"
        "assert ppod_data.Dataset is ppod_data.dataset.dataset.Dataset\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_package_has_two_names() -> None:
    assert ppod_data.Trajectory is ppod_data.dataset.dataset.Trajectory
    with pytest.raises(AttributeError, match="no attribute 'Sample'"):
        _ = ppod_data.Sample


def test_samples_are_those_of_the_spec_in_its_order(dataset: Dataset) -> None:
    spec = dataset.spec
    table = dataset.samples()
    assert table.schema.names == SAMPLES.names
    rows = table.drop_columns(["image"]).to_pylist()
    assert [row["image_index"] for row in rows] == [0, 1, 2, 0, 1, 2]
    assert [row["prompt"] for row in rows] == [spec.prompts[n // 3] for n in range(6)]
    assert [row["sample_id"] for row in rows] == [
        spec.sample_id(prompt_id, k) for prompt_id in spec.prompt_ids for k in range(3)
    ]
    assert [table.num_rows for table in dataset.iter_samples(["seed"])] == [4, 2]


def test_two_data_sets_of_one_spec_have_the_same_bytes(tmp_path: Path, dataset: Dataset) -> None:
    """Made in another order, and by two workers."""
    other = tmp_path / "other"
    create(other, make_spec())
    for shard in (1, 0, 1):
        write_shard(other, make_spec(), shard)
    assert files(other) == files(dataset.root)


def test_missing_shards_are_told(tmp_path: Path) -> None:
    dataset = create(tmp_path / "data", make_spec())
    assert dataset.missing_shards() == [0, 1]
    assert dataset.samples().num_rows == 0 and dataset.samples().schema.names == SAMPLES.names
    write_shard(dataset.root, dataset.spec, 1)
    assert dataset.missing_shards() == [0]
    assert ids(dataset) == [make_sample(dataset.spec, n).sample_id for n in (4, 5)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("store_steps", "rows"),
    [("all", [0, 1, 2, 3, 4]), ("last:1", [3, 4]), ("every:2", [0, 1, 2, 3]), ("every:3", [0, 1, 3, 4])],
)
def test_a_trajectory_reads_back(tmp_path: Path, dtype: str, store_steps: str, rows: list[int]) -> None:
    dataset = make_dataset(tmp_path / "data", latent_dtype=dtype, store_steps=store_steps)
    sample = make_sample(dataset.spec, 4)
    chain = dataset.trajectory(sample.sample_id)
    for name in ("sample_id", "prompt_id", "prompt", "timesteps", "stochastic", "log_probs", "step_index"):
        assert getattr(chain, name) == getattr(sample, name)
    assert chain.latent_index == rows
    assert chain.latents.dtype == TORCH_DTYPES[dtype] and chain.latents.shape == (len(rows), 4, 2, 3)
    assert encode_latents(chain.latents, chain.latent_index) == sample.latents_safetensors
    for step in chain.step_index:
        before, after = chain.step(step)
        assert torch.equal(before, chain.latents[rows.index(step)])
        assert torch.equal(after, chain.latents[rows.index(step + 1)])


def test_a_step_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", store_steps="every:3")
    chain = dataset.trajectory(ids(dataset)[0])
    for step in (1, 2, 4, -1):
        with pytest.raises(ConfigError, match=rf"step {step} is not stored.*\[0, 3\]"):
            chain.step(step)


def test_the_index_comes_in_the_order_asked_for(dataset: Dataset) -> None:
    names = ids(dataset)
    asked = [names[5], names[0], names[3], names[0]]
    index = dataset.trajectory_index(asked)
    assert index["sample_id"].to_pylist() == asked
    assert {"prompt_id", "log_probs", "traj_file", "traj_offset", "traj_nbytes", "traj_sha256"} <= {
        *index.column_names
    }
    for row in index.to_pylist():
        assert torch.equal(dataset.read_trajectory(row).latents, dataset.trajectory(row["sample_id"]).latents)
    assert dataset.trajectory_index([]).num_rows == 0


def test_the_index_reads_no_image_and_no_other_shard(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, tuple[str, ...]]] = []
    real = ppod_data.dataset.dataset.read_table

    def spy(path: Path, schema: Any, columns: Any = None) -> Any:
        read.append((path.name, tuple(columns)))
        return real(path, schema, columns)

    names = ids(dataset)
    monkeypatch.setattr(ppod_data.dataset.dataset, "read_table", spy)
    dataset.trajectory_index(names[4:])
    [(part, columns)] = read
    assert part == "000001.parquet" and "image" not in columns


def test_a_row_of_samples_points_at_its_trajectory_too(dataset: Dataset) -> None:
    row = dataset.samples().to_pylist()[2]
    assert dataset.read_trajectory(row).prompt == row["prompt"]


def test_unknown_and_unmade_samples_are_named(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sample " + "0" * 32):
        dataset.trajectory("0" * 32)
    unmade = create(tmp_path / "unmade", make_spec())
    with pytest.raises(ConfigError, match=r"is not generated yet \(shard 1\): run ppod-gen again"):
        unmade.trajectory_index([ids(dataset)[5]])


def test_a_flipped_bit_of_a_trajectory_is_found_with_file_and_sample(dataset: Dataset) -> None:
    row = dataset.samples().to_pylist()[1]
    tar = dataset.root / "trajectories" / row["traj_file"]
    flip(tar, row["traj_offset"] + row["traj_nbytes"] // 2)
    with pytest.raises(DamagedError) as error:
        dataset.trajectory(row["sample_id"])
    assert str(tar) in str(error.value) and row["sample_id"] in str(error.value)
    assert dataset.trajectory(ids(dataset)[0]).sample_id == ids(dataset)[0], "the neighbours are whole"


def test_a_flipped_bit_of_a_table_is_found_with_its_file(dataset: Dataset) -> None:
    path = dataset.root / "samples" / "000001.parquet"
    image = dataset.samples()["image"][4].as_py()["bytes"]
    flip(path, path.read_bytes().index(image) + 20)
    with pytest.raises(DamagedError, match=str(path)):
        dataset.samples()


def test_a_short_part_is_found(dataset: Dataset) -> None:
    path = dataset.root / "samples" / "000000.parquet"
    write_table(path, next(dataset.iter_samples()).slice(0, 3))
    with pytest.raises(DamagedError, match=rf"{path}: 3 rows, not 4"):
        dataset.samples(["seed"])


def test_a_part_of_another_data_set_is_found(dataset: Dataset, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", seed=1)
    name = ids(dataset)[0]
    (other.root / "samples" / "000000.parquet").replace(dataset.root / "samples" / "000000.parquet")
    with pytest.raises(DamagedError, match="its sample_ids are not those of the spec"):
        dataset.trajectory(name)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not safetensors",
        (2**63).to_bytes(8, "little"),
        encode_latents(torch.zeros(5, 4, 2, 2), range(5)),
        encode_latents(torch.zeros(4, 4, 2, 3), range(4)),
        encode_latents(torch.zeros(5, 4, 2, 3, dtype=torch.float16), range(5)),
        encode_latents(torch.zeros(5, 4, 2, 3), [0, 1, 2, 4, 3]),
    ],
)
def test_latents_that_are_not_the_specs_are_refused(tmp_path: Path, payload: bytes) -> None:
    """Committed by a faulty writer: the hash is right, the content is not."""
    from dataclasses import replace

    dataset = create(tmp_path / "data", make_spec(images_per_shard=1))
    sample = replace(make_sample(dataset.spec, 0), latents_safetensors=payload)
    with ShardWriter(dataset.root, 0) as writer:
        writer.add(sample)
    with pytest.raises(DamagedError, match=sample.sample_id) as error:
        dataset.trajectory(sample.sample_id)
    assert "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_flipped_bit_of_a_tar_is_found_or_is_outside_every_latent(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    dataset = make_dataset(tmp_path_factory.mktemp("flips") / "data", num_images_per_prompt=1)
    [tar] = (dataset.root / "trajectories").iterdir()
    place = data.draw(st.integers(0, tar.stat().st_size - 1))
    rows = dataset.samples(["sample_id", "traj_offset", "traj_nbytes"]).to_pylist()
    hit = [row["sample_id"] for row in rows if 0 <= place - row["traj_offset"] < row["traj_nbytes"]]
    flip(tar, place)
    for row in rows:
        if row["sample_id"] in hit:
            with pytest.raises(DamagedError):
                dataset.trajectory(row["sample_id"])
        else:
            dataset.trajectory(row["sample_id"])


@given(st.sets(st.integers(0, 30), min_size=1))
def test_latent_rows_hold_both_ends_of_every_step(steps: set[int]) -> None:
    rows = latent_rows(sorted(steps))
    assert rows == sorted(set(rows))
    assert all(rows[rows.index(step) + 1] == step + 1 for step in steps)


def test_scores_pairs_and_log_probs_are_found_by_name(dataset: Dataset) -> None:
    names = ids(dataset)
    for shard, part in enumerate((names[:4], names[4:])):
        scores = [
            {"sample_id": name, "score": 0.5, "scorer": "s", "revision": "1", "status": "ok"} for name in part
        ]
        table = pa.Table.from_pylist(scores, schema=SCORES)
        write_table(dataset.root / "scores" / "s" / f"{shard:06d}.parquet", table)
        log_probs = pa.table({"sample_id": part, "log_probs": [[-1.0, None]] * len(part)}, schema=LOG_PROBS)
        write_table(dataset.root / "log_probs" / "stage-1" / f"{shard:06d}.parquet", log_probs)
    pair = {"pair_id": "p", "chosen_id": names[0], "rejected_id": names[1], "label": 1.0}
    pair["source"] = "reward:s"
    write_table(dataset.root / "pairs" / "v1.0.parquet", pa.Table.from_pylist([pair], schema=PAIRS))
    assert dataset.score_names() == ["s"] and dataset.pair_names() == ["v1.0"]
    assert dataset.scores("s")["sample_id"].to_pylist() == names
    assert dataset.log_probs("stage-1")["sample_id"].to_pylist() == names
    assert dataset.pairs("v1.0").to_pylist()[0]["chosen_id"] == names[0]


def test_unknown_tables_are_refused_with_the_known_names(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"no scores named 'x': there are none yet"):
        dataset.scores("x")
    write_table(dataset.root / "pairs" / "a.parquet", PAIRS.empty_table())
    with pytest.raises(ConfigError, match=r"no pairs named 'b': give a, or make them"):
        dataset.pairs("b")
    with pytest.raises(ConfigError, match="cannot name"):
        dataset.pairs("../samples/000000")


def test_leftovers_of_killed_writers_are_no_tables(dataset: Dataset) -> None:
    for name in (
        "samples/.000001.parquet.tmp-1-aa",
        "pairs/.a.parquet.tmp-1-aa",
        "scores/s/.000000.parquet.tmp-1-a",
    ):
        path = dataset.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert dataset.samples(["seed"]).num_rows == 6
    assert dataset.pair_names() == dataset.score_names() == []


def test_a_data_set_reads_like_a_list_of_samples(dataset: Dataset) -> None:
    rows = dataset.samples(["sample_id", "prompt"]).to_pylist()
    assert len(dataset) == len(list(dataset)) == 6
    for place, row in enumerate(rows):
        for index in (place, place - 6):
            found = dataset[index]
            assert (found["sample_id"], found["prompt"]) == (row["sample_id"], row["prompt"])
            assert found["image"].size == (dataset.spec.width, dataset.spec.height)
        assert found["image"].tobytes() == dataset.image(row["sample_id"]).tobytes()
    for index in (6, -7):
        with pytest.raises(IndexError, match="has 6 samples: index"):
            dataset[index]
    with pytest.raises(ConfigError, match="no sample 'nobody':"):
        dataset.image("nobody")


def test_objects_print_as_one_line(dataset: Dataset) -> None:
    trajectory = dataset.trajectory(ids(dataset)[0])
    for value in (dataset, trajectory):
        assert "\n" not in repr(value) and len(repr(value)) < 300
    assert "6 samples of 2 prompts, 2 shards" in repr(dataset)


def test_an_empty_data_set_is_still_one(tmp_path: Path) -> None:
    empty = create(tmp_path / "empty", make_spec())
    assert len(empty) == 0 and bool(empty)
    assert "0 of 2 shards" in repr(empty)


def test_a_notebook_shows_tables_and_escaped_prompts(tmp_path: Path) -> None:
    prompts = ("<script>alert(1)</script>", "a cat & a dog")
    dataset = make_dataset(tmp_path / "<i>data", prompts=prompts)
    shown = dataset._repr_html_()
    assert "<script>" not in shown and "<i>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown and "a cat &amp; a dog" in shown
    assert "6 samples of 2 prompts" in shown
    assert shown.count("<img ") == shown.count("data:image/png;base64,") == 2


def test_a_notebook_shows_an_empty_data_set(tmp_path: Path) -> None:
    shown = create(tmp_path / "data", make_spec())._repr_html_()
    assert "0 of 2 shards" in shown and "<img" not in shown
