"""Scores: one row an image, resumable shard by shard, failures kept apart, one revision a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ppod_data.dataset.dataset import Dataset, create
from ppod_data.errors import ConfigError, DamagedError, PpodError, RewardUnavailableError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.tables import SAMPLES, SCORES, read_table, write_table
from ppod_data.rewards import load_reward
from ppod_data.scoring.score import score, score_all
from tests.support.damage import spoil_image
from tests.support.toy import files, make_dataset, make_spec, write_shard


@dataclass
class Brightness:
    """The mean pixel value; some images raise, and some get no finite number."""

    name: str = "brightness"
    revision: str = "1"
    raises: frozenset[str] = frozenset()
    """Pixel hashes."""
    gives_nan: frozenset[str] = frozenset()
    batches: list[int] = field(default_factory=list)
    """The size of every call."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        assert len(prompts) == len(images)
        self.batches.append(len(images))
        hashes = [pixels_sha256(image) for image in images]
        if not self.raises.isdisjoint(hashes):
            raise ValueError("no idea what\nthis is")
        values = [float(np.asarray(image).mean()) for image in images]
        return [float("nan") if h in self.gives_nan else v for h, v in zip(hashes, values, strict=True)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six images in shards of four and two."""
    return make_dataset(tmp_path / "data")


def hashes(dataset: Dataset) -> list[str]:
    values: list[str] = dataset.samples(["image_pixels_sha256"])["image_pixels_sha256"].to_pylist()
    return values


def test_every_image_gets_the_score_of_its_own_pixels(dataset: Dataset) -> None:
    summary = score(dataset, Brightness(), name="mean", batch_size=3)
    table = dataset.scores("mean")
    samples = dataset.samples(["sample_id", "image", "image_pixels_sha256"])
    for row, sample in zip(table.to_pylist(), samples.to_pylist(), strict=True):
        assert row["sample_id"] == sample["sample_id"]
        assert row["image_pixels_sha256"] == sample["image_pixels_sha256"]
        assert (row["scorer"], row["revision"], row["status"]) == ("brightness", "1", "ok")
    values = table["score"].to_pylist()
    assert len(set(values)) == 6
    assert (summary.num_scored, summary.num_failed, summary.num_skipped) == (6, 0, 0)
    assert (summary.low, summary.high) == (min(values), max(values))
    assert summary.mean == pytest.approx(sum(values) / 6)


def test_batches_never_cross_a_shard(dataset: Dataset) -> None:
    reward = Brightness()
    score(dataset, reward, name="mean", batch_size=3)
    assert reward.batches == [3, 1, 2]


def test_a_second_call_scores_nothing_again(dataset: Dataset) -> None:
    score(dataset, Brightness(), name="mean")
    before = files(dataset.root)
    reward = Brightness()
    summary = score(dataset, reward, name="mean")
    assert reward.batches == []
    assert (summary.num_scored, summary.num_skipped, summary.num_scores) == (0, 6, 6)
    assert files(dataset.root) == before


def test_resume_and_ranks_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = make_dataset(tmp_path / "one"), create(tmp_path / "other", make_spec())
    score(one, Brightness(), name="mean", batch_size=3)
    for shard in (1, 0):  # the second shard is made, and scored, first
        write_shard(other.root, other.spec, shard)
        for rank in (1, 0):
            score(other, Brightness(), name="mean", batch_size=3, rank=rank, world_size=2)
    assert files(one.root) == files(other.root)


def test_an_image_that_raises_spoils_no_other(dataset: Dataset) -> None:
    bad = hashes(dataset)[1]
    summary = score(dataset, Brightness(raises=frozenset({bad})), name="mean")
    table = dataset.scores("mean").to_pylist()
    assert [row["status"] for row in table].count("ok") == 5
    assert (table[1]["score"], table[1]["status"]) == (None, "failed: ValueError: no idea what this is")
    assert (summary.num_scored, summary.num_failed) == (5, 1)
    assert summary.first_failure == table[1]["status"]


def test_a_score_that_is_not_finite_is_a_failure(dataset: Dataset) -> None:
    score(dataset, Brightness(gives_nan=frozenset({hashes(dataset)[5]})), name="mean")
    row = dataset.scores("mean").to_pylist()[5]
    assert (row["score"], row["status"]) == (None, "failed: the score is nan")


def test_retry_scores_failed_rows_alone(dataset: Dataset) -> None:
    bad = hashes(dataset)[1]
    score(dataset, Brightness(raises=frozenset({bad})), name="mean")
    kept = dataset.scores("mean").to_pylist()
    reward = Brightness()
    summary = score(dataset, reward, name="mean", retry_failed=True)
    assert reward.batches == [1]
    assert (summary.num_scored, summary.num_skipped) == (1, 5)
    after = dataset.scores("mean").to_pylist()
    assert after[1]["status"] == "ok"
    assert after[:1] + after[2:] == kept[:1] + kept[2:]


def test_nothing_is_written_when_no_image_can_be_scored(dataset: Dataset) -> None:
    everything = frozenset(hashes(dataset))
    with pytest.raises(ConfigError, match=r"none of 6 images .*no idea what this is.*nothing was written"):
        score(dataset, Brightness(raises=everything), name="mean")
    assert not (dataset.root / "scores").exists()


def test_a_shard_of_failures_is_written_once_another_image_has_a_score(dataset: Dataset) -> None:
    first_shard = frozenset(hashes(dataset)[:4])
    score(dataset, Brightness(raises=first_shard), name="mean")
    assert dataset.scores("mean")["score"].null_count == 4


def test_another_revision_needs_another_name(dataset: Dataset) -> None:
    score(dataset, Brightness(), name="mean")
    before = files(dataset.root)
    with pytest.raises(ConfigError, match=r"revision '1'.* revision '2'.*--as"):
        score(dataset, Brightness(revision="2"), name="mean")
    with pytest.raises(ConfigError, match=r"scorer 'brightness'.* scorer 'other'"):
        score(dataset, Brightness(name="other"), name="mean")
    assert files(dataset.root) == before
    score(dataset, Brightness(revision="2"), name="mean-2")
    assert dataset.score_names() == ["mean", "mean-2"]


def test_scores_of_other_images_are_refused(dataset: Dataset) -> None:
    score(dataset, Brightness(), name="mean")
    part = dataset.root / "scores" / "mean" / "000001.parquet"
    table = read_table(part, SCORES)
    column = table.schema.get_field_index("image_pixels_sha256")
    write_table(part, table.set_column(column, "image_pixels_sha256", pa.array(["0" * 64] * 2)))
    with pytest.raises(ConfigError, match="other images"):
        score(dataset, Brightness(), name="mean")


def test_an_image_that_is_not_its_row_s_is_damage(dataset: Dataset) -> None:
    part = dataset.root / "samples" / "000000.parquet"
    table = read_table(part, SAMPLES)
    column = table.schema.get_field_index("image")
    images = table["image"].to_pylist()
    swapped = pa.array([images[1], images[0], *images[2:]], type=SAMPLES.field("image").type)
    write_table(part, table.set_column(column, SAMPLES.field("image"), swapped))
    with pytest.raises(DamagedError, match="not the one that was committed"):
        score(dataset, Brightness(), name="mean")
    assert not (dataset.root / "scores").exists()


def test_running_out_of_memory_is_no_failed_image(dataset: Dataset) -> None:
    class Hungry(Brightness):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
            )

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        score(dataset, Hungry(), name="mean")
    assert not (dataset.root / "scores").exists()


def test_a_scorer_that_forgets_an_image_is_an_error(dataset: Dataset) -> None:
    class Forgetful(Brightness):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
            return [1.0]

    with pytest.raises(PpodError, match="brightness returned 1 values for 4 images"):
        score(dataset, Forgetful(), name="mean")


def test_how_scores_were_computed_is_in_the_metadata(dataset: Dataset) -> None:
    """Not which of a machine's GPUs it was: workers share the shards, and the bytes are those of one."""
    score(dataset, Brightness(), name="mean", batch_size=3, device="cuda:1")
    metadata = dataset.scores("mean").schema.metadata[b"ppod"]
    assert metadata == b'{"batch_size":3,"device":"cuda","dtype":"fp32"}'


def test_unknown_rewards_are_named_with_the_closest() -> None:
    with pytest.raises(
        ConfigError, match=r"'scene': did you mean 'scenes'\? known ones are .*scenes, scenes-check; "
    ):
        load_reward("scene")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_names_that_are_no_folder_are_refused(dataset: Dataset, name: str) -> None:
    with pytest.raises(ConfigError):
        score(dataset, Brightness(), name=name)
    assert not (dataset.root / "scores").exists()


def test_several_rewards_decode_every_image_once(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = decode_image
    monkeypatch.setattr(
        "ppod_data.scoring.score.decode_image", lambda data: decoded.append(data) or decode(data)
    )
    first, second = Brightness(), Brightness(name="other")
    done = score_all(dataset, {"a": first, "b": second}, batch_size=3)
    assert len(decoded) == 6
    assert first.batches == second.batches == [3, 1, 2]
    assert [(one.name, one.num_scored) for one in done] == [("a", 6), ("b", 6)]


def test_together_and_alone_rewards_make_the_same_bytes(tmp_path: Path) -> None:
    together, alone = make_dataset(tmp_path / "one"), make_dataset(tmp_path / "other")
    bad = frozenset({hashes(together)[1]})
    rewards = {"a": Brightness(raises=bad), "b": Brightness(name="other", gives_nan=bad)}
    score_all(together, {"a": rewards["a"]}, batch_size=3)  # the second comes later
    score_all(together, rewards, batch_size=3)
    for name, reward in rewards.items():
        score(alone, reward, name=name, batch_size=3)
    assert files(together.root) == files(alone.root)


def test_a_reward_that_fails_everywhere_does_not_lose_the_others(dataset: Dataset) -> None:
    blind = Brightness(name="blind", raises=frozenset(hashes(dataset)))
    with pytest.raises(ConfigError, match="blind could score none of 6 images"):
        score_all(dataset, {"blind": blind, "good": Brightness()})
    assert dataset.score_names() == ["good"]


def test_a_worker_that_can_score_none_of_its_images_writes_why(tmp_path: Path) -> None:
    whole, shared = make_dataset(tmp_path / "one"), make_dataset(tmp_path / "other")
    others = {"rank": 1, "world_size": 2}
    blind = frozenset(
        row["image_pixels_sha256"]
        for row in shared.samples(["sample_id", "image_pixels_sha256"]).to_pylist()
        if row["sample_id"] in shared.spec.shard_sample_ids(1)
    )
    done = score(shared, Brightness(raises=blind), name="mean", **others)
    assert (done.num_scored, done.num_failed) == (0, len(blind)) and done.first_failure is not None
    score(shared, Brightness(raises=blind), name="mean", **(others | {"rank": 0}))
    score(whole, Brightness(raises=blind), name="mean")
    assert files(whole.root) == files(shared.root)


def test_a_reward_that_is_gone_marks_nothing_and_keeps_finished_shards(dataset: Dataset) -> None:
    class Leaving(Brightness):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
            if self.batches:
                raise RewardUnavailableError("the server is gone")
            return super().score(prompts, images)

    with pytest.raises(RewardUnavailableError):
        score(dataset, Leaving(), name="mean")
    assert dataset.scores("mean")["status"].to_pylist() == ["ok"] * 4
    assert score(dataset, Brightness(), name="mean").num_scored == 2


@pytest.mark.parametrize("name", ["scenes", "scenes-check"])
def test_the_number_of_threads_does_not_matter(name: str, tmp_path: Path) -> None:
    """The embedded scorer's last bits do depend on it in small batches; scoring uses one thread."""
    dataset = make_dataset(tmp_path / "data", prompts=("a cat and a dog",), num_images_per_prompt=4)
    reward, before = load_reward(name), torch.get_num_threads()
    parts = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            score(dataset, reward, name=f"by-{threads}", batch_size=3)
            assert torch.get_num_threads() == threads
            parts.append((dataset.root / "scores" / f"by-{threads}" / "000000.parquet").read_bytes())
    finally:
        torch.set_num_threads(before)
    assert parts[0] == parts[1] == parts[2]


def test_an_image_that_cannot_be_decoded_is_a_failed_row_and_the_others_are_scored(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    name = spoil_image(tmp_path / "data" / "samples" / "000000.parquet")
    done = score(dataset, Brightness(), name="red", batch_size=1)
    assert (done.num_failed, done.num_scored) == (1, dataset.num_samples - 1)
    rows = {row["sample_id"]: row for row in dataset.scores("red").to_pylist()}
    assert rows[name]["score"] is None and "cannot decode this image" in rows[name]["status"]
