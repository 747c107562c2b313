"""What a run is trained on: which pairs and rewards in which step, and what is refused before a step is done."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, embed_prompts
from ppod_data.errors import ConfigError, DamagedError, DriftError
from ppod_data.format.tables import PAIRS, SAMPLES, read_table, write_table
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.support.canonical_json import canonical_json
from ppod_train.data.batches import load_batch, timesteps_of_step, units_of_step
from ppod_train.data.fingerprint import _json_pieces
from ppod_train.data.pairs import read_pairs
from ppod_train.data.training_data import TrainingData, open_training_data
from ppod_train.objectives import OBJECTIVES
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from ppod_train.step.drift import Drift, check_drift
from tests.ppod_train.conftest import source_of
from tests.support.models import load_again
from tests.support.training import SETTINGS, run


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded data set, to be changed."""
    shutil.copytree(recorded, tmp_path / "copy")
    return tmp_path / "copy"


def opened(root: Path, model: DiffusionModel, objective: str = "ppod") -> TrainingData:
    return open_training_data(
        source_of(root), OBJECTIVES[objective], policy_fingerprint=model.fingerprint, best_of=4
    )


def test_pairs_of_an_epoch_are_each_seen_once(recorded: Path, tiny_model: DiffusionModel) -> None:
    data = opened(recorded, tiny_model)
    seen = [int(i) for step in range(3) for i in units_of_step(data, step=step, pairs_per_step=4, seed=0)]
    assert sorted(seen) == list(range(12))
    other = [int(i) for step in range(3) for i in units_of_step(data, step=step, pairs_per_step=4, seed=1)]
    assert other != seen and sorted(other) == sorted(seen)


def test_an_objective_of_single_trajectories_takes_two_for_a_pair(
    recorded: Path, tiny_model: DiffusionModel
) -> None:
    """16 rated trajectories: two steps of 4 pairs' worth are an epoch."""
    data = opened(recorded, tiny_model, "ddpo")
    steps = [units_of_step(data, step=step, pairs_per_step=4, seed=0) for step in range(2)]
    assert [len(units) for units in steps] == [8, 8]
    assert sorted(np.concatenate(steps)) == list(range(16))
    prompts = embed_prompts(tiny_model, data.prompts, "", 1.0)
    assert load_batch(data, steps[0], data.steps, prompts).latents.shape == (5, 8, 4, 8, 8)


def test_best_of_k_trains_on_the_best_alone(recorded: Path, tiny_model: DiffusionModel) -> None:
    """Best of 4: 2 of the 8 images of each prompt, with a weight of 1."""
    data = opened(recorded, tiny_model, "sft-best")
    scores = {row["sample_id"]: row["score"] for row in Dataset.open(recorded).scores("redness").to_pylist()}
    ids = [str(row["sample_id"]) for row in data.rows.to_pylist()]
    expected = [max(ids[i : i + 4], key=scores.__getitem__) for i in range(0, 16, 4)]
    assert [ids[i] for i in data.units] == expected
    assert (data.advantages[data.units][:, list(data.steps)] == 1.0).all()


def test_trajectories_that_pairs_share_are_in_a_batch_once(
    recorded: Path, tiny_model: DiffusionModel
) -> None:
    data = opened(recorded, tiny_model)
    batch = load_batch(data, data.units, data.steps, embed_prompts(tiny_model, data.prompts, "", 1.0))
    assert batch.latents.shape[1] == len(data.rows) < 2 * len(data.units)
    assert data.chosen.tolist() == batch.targets.chosen.tolist()
    assert data.margins.tolist() == batch.targets.margins.tolist() and (data.margins > 0).all()


def test_a_subset_of_timesteps_is_ascending_and_changes(recorded: Path, tiny_model: DiffusionModel) -> None:
    data = opened(recorded, tiny_model)
    subsets = [timesteps_of_step(data, step=i, timesteps_per_update=2, seed=0) for i in range(20)]
    assert all(len(set(subset)) == 2 and subset == sorted(subset) for subset in subsets)
    assert {step for subset in subsets for step in subset} == set(data.steps)
    assert timesteps_of_step(data, step=0, timesteps_per_update=None, seed=0) == list(data.steps)


def test_a_data_set_of_another_model_is_refused(recorded: Path, tiny_model: DiffusionModel) -> None:
    with pytest.raises(ConfigError, match="another model"):
        open_training_data(source_of(recorded), OBJECTIVES["ppod"], policy_fingerprint="0" * 64)
    with pytest.raises(ConfigError, match="no pairs named 'best'"):
        open_training_data(
            source_of(recorded, pairs="best"),
            OBJECTIVES["ppod"],
            policy_fingerprint=tiny_model.fingerprint,
        )


def test_data_sets_of_another_sampler_are_refused_together(
    recorded: Path, tiny_model: DiffusionModel, record_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    other = record_dataset(tmp_path, tiny_model, guidance_scale=2.0)
    with pytest.raises(ConfigError, match=r"guidance_scale 2\.0.*1\.0"):
        open_training_data(
            source_of(recorded, other.root), OBJECTIVES["ppod"], policy_fingerprint=tiny_model.fingerprint
        )


def test_labels_of_people_have_no_margin_for_prdp(copied: Path, tiny_model: DiffusionModel) -> None:
    """Cross-entropy needs none."""
    rows = [row | {"margin": None} for row in Dataset.open(copied).pairs("pairs").to_pylist()]
    write_table(copied / "pairs" / "pairs.parquet", pa.Table.from_pylist(rows, schema=PAIRS))
    assert np.isnan(opened(copied, tiny_model).margins).all()
    with pytest.raises(ConfigError, match="without a reward difference: rank by a reward"):
        opened(copied, tiny_model, "prdp")


@pytest.mark.parametrize("reward", [0.5, 0.3])
def test_equal_rewards_are_nothing_to_learn(
    tiny_model: DiffusionModel, record_dataset: Callable[..., Dataset], tmp_path: Path, reward: float
) -> None:
    """The mean of ten times 0.3 is rounded."""
    root = record_dataset(tmp_path / "data", tiny_model, num_images_per_prompt=10, batch_size=10).root
    for part in (root / "scores" / "redness").glob("*.parquet"):
        table = pa.parquet.read_table(part)
        column = pa.array([reward] * len(table), type=table.schema.field("score").type)
        place = table.schema.get_field_index("score")
        write_table(part, table.set_column(place, table.schema.field("score"), column))
    with pytest.raises(ConfigError, match="nothing to learn"):
        opened(root, tiny_model, "ddpo")


def test_noise_predictions_need_the_final_latents(
    tiny_model: DiffusionModel, record_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = record_dataset(tmp_path, tiny_model, store_steps="every:2")
    assert 3 not in dataset.spec.stored_steps()
    assert opened(dataset.root, tiny_model).steps == dataset.spec.stored_steps()
    with pytest.raises(ConfigError, match="--store-steps all"):
        opened(dataset.root, tiny_model, "diffusion-dpo")


def test_drift_over_a_tenth_of_the_clip_is_refused(
    tiny_pipeline: Path, record_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    """Data made in bf16 and replayed in fp32: the way out is named."""
    dataset = record_dataset(tmp_path / "data", load_again(tiny_pipeline, compute_dtype="bf16"))
    settings = replace(SETTINGS, log_ratio_clip=1e-5, eval_every=0)
    with pytest.raises(DriftError, match="ppod-data log-probs"):
        run(dataset.root, tmp_path / "run", tiny_pipeline, None, settings)
    assert not (tmp_path / "run").exists()


def test_recomputed_log_probs_are_the_way_out_of_drift(
    fresh_model: DiffusionModel,
    tiny_pipeline: Path,
    record_dataset: Callable[..., Dataset],
    tmp_path: Path,
) -> None:
    """The data of a bf16 sampler, trained in fp32 on log-probabilities recomputed in fp32: no drift at all."""
    dataset = record_dataset(tmp_path / "data", load_again(tiny_pipeline, compute_dtype="bf16"))
    summary = compute_log_probs(dataset, fresh_model, name="fp32")
    assert summary.num_computed == 16 and summary.max_difference is not None
    assert 1e-6 < summary.max_difference < 0.1
    assert compute_log_probs(dataset, fresh_model, name="fp32").num_computed == 0
    settings = replace(SETTINGS, log_ratio_clip=1e-5, eval_every=0)
    run(dataset.root, tmp_path / "run", tiny_pipeline, None, settings, reference_log_probs="fp32")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["drift"]["overall_p99"] < 1e-6
    with pytest.raises(ConfigError, match="another --name"):
        compute_log_probs(dataset, fresh_model, name="fp32", batch_size=3)


def test_drift_of_the_second_data_set_is_seen(
    copied: Path,
    tiny_pipeline: Path,
    fresh_model: DiffusionModel,
    record_dataset: Callable[..., Dataset],
    tmp_path: Path,
) -> None:
    """The first data set replays exactly; the second one's log-probabilities are another precision's."""
    other = record_dataset(tmp_path / "other", fresh_model, seed=1)
    compute_log_probs(Dataset.open(copied), fresh_model, name="mixed")
    compute_log_probs(other, load_again(tiny_pipeline, compute_dtype="bf16"), name="mixed")
    settings = replace(SETTINGS, log_ratio_clip=1e-5, eval_every=0)
    with pytest.raises(DriftError, match="worst"):
        run(
            [copied, other.root],
            tmp_path / "run",
            tiny_pipeline,
            None,
            settings,
            reference_log_probs="mixed",
        )


def test_a_damaged_trajectory_stops_training(copied: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    tar = next((copied / "trajectories").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    dataset = Dataset.open(copied)
    row = dataset.trajectory_index([dataset.pairs("pairs")["chosen_id"][0].as_py()]).to_pylist()[0]
    data[row["traj_offset"] + row["traj_nbytes"] // 2] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(DamagedError, match=row["sample_id"]):
        run(copied, tmp_path / "run", tiny_pipeline, None, replace(SETTINGS, pairs_per_step=12, eval_every=0))


@pytest.mark.parametrize(("objective", "refused"), [("ppod", True), ("sft", False)])
def test_drift_is_refused_only_where_a_band_could_not_tell_it_from_training(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path, objective: str, refused: bool
) -> None:
    """Log-probabilities of another precision: a clip of 1e-5 drowns in them, a likelihood has no clip."""
    options = {"log_ratio_clip": 1e-5} if refused else {}
    settings = TrainSettings(objective=objective, num_train_steps=1, lora_rank=2, eval_every=0, **options)
    half = load_again(tiny_pipeline, compute_dtype="bf16")
    source = source_of(recorded)
    if refused:
        with pytest.raises(DriftError, match="tenth of the clip"):
            train_offline(source, tmp_path, settings, model=half, reward=None)
    else:
        assert train_offline(source, tmp_path, settings, model=half, reward=None).steps == 1


def test_trajectories_are_in_the_order_in_which_pairs_name_them(recorded: Path) -> None:
    """All chosen ones, then the rejected ones that were not chosen: the order that a run's fingerprint has."""
    dataset = Dataset.open(recorded)
    name = source_of(recorded).pairs
    table = dataset.pairs(name)
    chosen, rejected = table["chosen_id"].to_pylist(), table["rejected_id"].to_pylist()
    ids, pairs = read_pairs(dataset, name)
    assert ids == list(dict.fromkeys(chosen + rejected))
    assert [ids[row] for row in pairs.chosen] == chosen
    assert [ids[row] for row in pairs.rejected] == rejected
    assert pairs.labels.tolist() == table["label"].to_pylist()


def test_the_fingerprint_of_many_pairs_is_that_of_their_json() -> None:
    numbers = np.arange(3000)
    margins = np.where(numbers % 7 == 0, np.nan, np.sqrt(numbers))
    columns = (numbers, numbers.astype(np.float32) / 3, margins, np.empty(0))
    plain = [[None if value != value else value for value in column.tolist()] for column in columns]
    assert "".join(_json_pieces(columns)) == canonical_json(plain)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_recorded_log_probability_that_is_no_number_is_damage_wherever_it_stands(
    value: float | None, copied: Path, tiny_model: DiffusionModel
) -> None:
    record_value(copied, value)
    with pytest.raises(DamagedError, match="log-probability"):
        opened(copied, tiny_model)


@pytest.mark.parametrize("value", [-1e300, 3.0])
def test_one_recorded_log_probability_that_is_far_off_is_found_without_replaying_all(
    value: float, copied: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """The drift check replays two of twelve pairs here, the one with the wrong number among them."""
    record_value(copied, value)
    with pytest.raises(DriftError):
        run(copied, tmp_path / "run", tiny_pipeline, None, replace(SETTINGS, drift_samples=2, eval_every=0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("p99", [(math.nan, 0.0, 0.0), (0.0, math.nan, 0.0), (0.0, 0.0, math.nan)])
def test_a_drift_that_is_no_number_is_refused_at_every_step(p99: tuple[float, ...]) -> None:
    drift = Drift(steps=(0, 1, 2), median=(0.0, 0.0, 0.0), p99=p99, overall_p99=0.0, share_exact=1.0)
    with pytest.raises(DriftError):
        check_drift(drift, 0.01)
    check_drift(replace(drift, p99=(0.0, 0.0, 0.0)), 0.01)


def record_value(root: Path, value: float | None) -> None:
    """Write another log-probability of the second step of one sample, which is in a pair."""
    wanted = Dataset.open(root).pairs("pairs")["chosen_id"][5].as_py()
    for part in sorted((root / "samples").glob("*.parquet")):
        table = read_table(part, SAMPLES)
        rows = table.to_pylist()
        for row in rows:
            if row["sample_id"] == wanted:
                row["log_probs"][1] = value
        write_table(part, pa.Table.from_pylist(rows, schema=table.schema), 64)
