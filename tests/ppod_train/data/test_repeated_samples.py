"""The same sample in two data sets is trained on once, and said; the same data set twice is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.merge import merge
from ppod_data.dataset.same_samples import count_repeats
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError, SpecMismatchError
from ppod_data.format.spec_difference import check_same_spec
from ppod_train.data.training_data import TrainingData, open_training_data
from ppod_train.objectives import OBJECTIVES
from tests.ppod_train.conftest import source_of
from tests.support.toy import make_spec

RecordDataset = Callable[..., Dataset]


def opened(model: DiffusionModel, *roots: Path, objective: str = "ppod") -> TrainingData:
    return open_training_data(
        source_of(*roots), OBJECTIVES[objective], policy_fingerprint=model.fingerprint, best_of=4
    )


def test_the_same_data_set_twice_is_refused(
    recorded: Path, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    shutil.copytree(recorded, tmp_path / "copy")
    merge(tmp_path / "both.json", [recorded])
    for roots in ([recorded, recorded], [recorded, tmp_path / "copy"], [tmp_path / "both.json", recorded]):
        with pytest.raises(ConfigError, match=r"is the same data set as .*same 16 samples: name it once"):
            opened(tiny_model, *roots)


@pytest.mark.parametrize("objective", ["ppod", "ddpo"])
def test_samples_of_the_same_seed_are_trained_on_once(
    recorded: Path, tiny_model: DiffusionModel, record_dataset: RecordDataset, tmp_path: Path, objective: str
) -> None:
    """Twelve images a prompt begin with the eight of the first data set, in another batch size: other last bits."""
    more = record_dataset(tmp_path / "more", tiny_model, num_images_per_prompt=12, batch_size=4)
    assert count_repeats([Dataset.open(recorded).spec, more.spec]) == [0, 16]
    data = opened(tiny_model, recorded, more.root, objective=objective)
    alone = opened(tiny_model, recorded, objective=objective)
    assert data.num_repeated > 0
    keys = {
        (row["prompt_id"], data.datasets[row["dataset"]].spec.place(number)[1])
        for row in data.rows.to_pylist()
        for number in data.datasets[row["dataset"]].numbers.find([row["sample_id"]]).tolist()
    }
    assert len(keys) == len(data.rows)
    assert data.rows.slice(0, len(alone.rows)).equals(alone.rows)
    if objective == "ddpo":
        assert (len(data.rows), data.num_repeated) == (24, 16)
        return
    assert data.num_repeated_pairs + len(data.chosen) == 24
    ends = [tuple(sorted(pair)) for pair in zip(data.chosen.tolist(), data.rejected.tolist(), strict=True)]
    assert set(ends[:12]).isdisjoint(ends[12:])
    assert max(map(max, ends)) == len(data.rows) - 1


def test_a_pair_of_the_same_two_samples_is_kept_once(
    recorded: Path, tiny_model: DiffusionModel, record_dataset: RecordDataset, tmp_path: Path
) -> None:
    """Another shard size is another data set with the same images, and so with the same pairs."""
    other = record_dataset(tmp_path / "other", tiny_model, images_per_shard=8)
    data, alone = opened(tiny_model, recorded, other.root), opened(tiny_model, recorded)
    assert (data.num_repeated, data.num_repeated_pairs) == (len(alone.rows), 12)
    assert data.fingerprint == alone.fingerprint


def test_another_seed_repeats_nothing(
    recorded: Path, tiny_model: DiffusionModel, record_dataset: RecordDataset, tmp_path: Path
) -> None:
    other = record_dataset(tmp_path / "other", tiny_model, seed=1)
    data = opened(tiny_model, recorded, other.root)
    assert (data.num_repeated, data.num_repeated_pairs, len(data.chosen)) == (0, 0, 24)


def test_repeats_are_counted_from_specs() -> None:
    spec = make_spec()
    assert count_repeats([spec, replace(spec, seed=1), replace(spec, stage=1)]) == [0, 0, 0]
    assert count_repeats([spec, replace(spec, policy_fingerprint="a" * 64)]) == [0, 0]
    more = replace(spec, prompts=(*spec.prompts, "a fox"), num_images_per_prompt=5)
    assert count_repeats([spec, more, more]) == [0, 6, 15]
    assert count_repeats([more, spec]) == [0, 6]
    given = replace(
        spec,
        origin="forward-process",
        purpose="forward",
        images=(("a" * 64, "b" * 64), ("a" * 64,)),
        num_images_per_prompt=2,
    )
    again = replace(given, images=(("b" * 64,), ("c" * 64,)), num_images_per_prompt=1)
    assert count_repeats([given, again, spec]) == [0, 1, 0]


def test_more_images_or_prompts_of_a_data_set_say_what_to_do() -> None:
    spec = make_spec()
    with pytest.raises(SpecMismatchError, match=r"give 3 again; .*another folder with --seed 1.*merge"):
        check_same_spec(spec, replace(spec, num_images_per_prompt=6))
    with pytest.raises(SpecMismatchError, match="give the old value again"):
        check_same_spec(spec, replace(spec, num_images_per_prompt=2))
    with pytest.raises(SpecMismatchError, match=r"generate the 1 new ones alone into another folder"):
        check_same_spec(spec, replace(spec, prompts=(*spec.prompts, "a fox")))
    with pytest.raises(SpecMismatchError, match="give the old value again"):
        check_same_spec(spec, replace(spec, prompts=("a fox",)))
