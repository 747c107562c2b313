"""Online training: stages are ordinary data sets and runs, a killed run resumes, one stage is offline training."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.log_probs import compute_log_probs, policy_of, steps_of
from ppod_data.storage.files import sha256_file
from ppod_data.support.progress import SILENT, Progress, Silent
from ppod_train.data.training_data import DataSource
from ppod_train.objectives import OBJECTIVES
from ppod_train.online.online import train_online
from ppod_train.online.records import OnlineSummary, StageRecord
from ppod_train.online.settings import OnlineSettings
from ppod_train.run.exclusive import only_run
from ppod_train.run.prepare import TrainingPart
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from tests.support.models import load_again
from tests.support.network_rows import network_rows

TRAIN = TrainSettings(
    num_train_steps=2,
    pairs_per_step=2,
    lora_rank=2,
    eval_every=0,
    checkpoint_every=1,
    learning_rate=1e-2,
    lr_scheduler="constant",
)
SETTINGS = OnlineSettings(num_stages=2, eval_images_per_prompt=4, num_pairs_per_prompt=8, train=TRAIN)


def settings_of(train: TrainSettings, **changes: Any) -> OnlineSettings:
    """Return SETTINGS for an objective; one of single trajectories refuses the options of pairs."""
    if not OBJECTIVES[train.objective].on_pairs:
        changes["num_pairs_per_prompt"] = OnlineSettings.num_pairs_per_prompt
    return replace(SETTINGS, eval_images_per_prompt=0, train=train, **changes)


class Killed(Exception):
    """Stands for the end of a process."""


class KillIn(Silent):
    """Ends a run when a phase has advanced for the second time."""

    def __init__(self, phase: str) -> None:
        self._phase, self._left = phase, 2
        self._current = ""

    def note(self, text: str) -> None:
        self._current = text

    def advance(self, count: int) -> None:
        if self._current == self._phase:
            self._left -= 1
            if self._left == 0:
                raise Killed


class Phases(Silent):
    """Records the phases of a run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self, text: str) -> None:
        self.names.append(text)


def load(source: ModelSource) -> DiffusionModel:
    return load_again(source.model, adapter=source.adapter)


def run(
    out: Path,
    pipeline: Path,
    reward: Any,
    settings: OnlineSettings = SETTINGS,
    progress: Progress = SILENT,
    **generation: Any,
) -> OnlineSummary:
    """Run as a fresh process would."""
    options = {
        "prompts": ("a cat", "two dogs"),
        "num_images_per_prompt": 4,
        "num_inference_steps": 4,
        "batch_size": 4,
        "images_per_shard": 4,
        "guidance_scale": 1.0,
    }
    return train_online(
        out,
        settings,
        reference=ModelSource(model=str(pipeline)),
        build_spec=partial(build_spec, **(options | generation)),
        load=load,
        reward=reward,
        progress=progress,
    )


def compared(out: Path) -> dict[str, str]:
    """What must be the same for a resumed run: all but times, places and the tracker's event files."""
    skipped = ("tensorboard", "environment")
    names = ("metrics.jsonl", "stage.json", "ppod.json", "README.md", "run.json", "online.json", "eval.json")
    return {
        path.relative_to(out).as_posix(): sha256_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and not set(skipped) & set(path.parts) and path.name not in names
    }


@pytest.fixture(scope="module")
def whole(tiny_pipeline: Path, redness: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that nothing interrupted."""
    out = tmp_path_factory.mktemp("online") / "run"
    run(out, tiny_pipeline, redness)
    return out


@pytest.fixture(scope="module")
def alone(tiny_pipeline: Path, redness: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second stage trains on its own data alone."""
    out = tmp_path_factory.mktemp("online") / "run"
    run(out, tiny_pipeline, redness, replace(SETTINGS, replay_stages=0))
    return out


def test_every_stage_is_an_ordinary_data_set_and_run(whole: Path, tiny_model: DiffusionModel) -> None:
    first, second = (Dataset.open(whole / f"stage-0{stage}" / "data") for stage in (1, 2))
    assert (first.spec.stage, second.spec.stage) == (1, 2)
    assert first.spec.policy_fingerprint == tiny_model.fingerprint
    assert second.spec.adapter == str(whole / "stage-01" / "run" / "policy")
    assert second.spec.policy_fingerprint != tiny_model.fingerprint
    for dataset in (first, second):
        assert dataset.missing_shards() == [] and dataset.pairs("redness").num_rows > 0
        assert (dataset.root / "README.md").is_file()
    assert first.log_prob_names() == []
    assert policy_of(second.log_probs("reference")) == tiny_model.fingerprint
    assert (whole / "stage-02" / "run" / "run.json").is_file()


def test_a_later_stage_starts_as_the_policy_that_made_its_data(alone: Path) -> None:
    """The log-ratios of its first update are log π_stage − log π_ref, not 0, and the loss is no longer ln 2."""
    lines = (alone / "stage-02" / "run" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["log_ratio_max"] > 0
    dataset = Dataset.open(alone / "stage-02" / "data")
    table = dataset.log_probs("reference")
    reference = dict(zip(table["sample_id"].to_pylist(), table["log_probs"].to_pylist(), strict=True))
    rows = dataset.samples(["sample_id", "log_probs"]).to_pylist()
    anchors = [
        abs(new - old)
        for row in rows
        for new, old in zip(row["log_probs"], reference[row["sample_id"]], strict=True)
        if new is not None
    ]
    assert min(abs(first["log_ratio_max"] - anchor) for anchor in anchors) < 1e-6 < max(anchors)


def test_records_count_queries_and_say_where_the_time_went(whole: Path) -> None:
    records = [
        StageRecord(**json.loads((whole / f"stage-0{stage}" / "stage.json").read_text())) for stage in (1, 2)
    ]
    assert [record.reward_queries for record in records] == [16, 16]
    assert records[0].outside_band_at_start == 0.0
    assert set(records[1].seconds) == {"generate", "score", "pair", "log_probs", "train", "evaluate"}
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["reward_queries"] == 16 + 16 + 8  # and the reference's evaluation
    lines = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [0, 1, 2]
    assert max(line["reward_mean"] for line in lines[1:]) == summary["reward_best"]


@pytest.mark.long
@pytest.mark.parametrize("moment", ["generate", "score", "log-probs", "train", "evaluate"])
def test_a_run_killed_in_any_phase_of_the_second_stage_resumes_to_the_same_files(
    whole: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path, moment: str
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", tiny_pipeline, redness, progress=KillIn(f"stage 2/2 {moment}"))
    run(tmp_path / "run", tiny_pipeline, redness)
    # An adapter's path is in the later stage's manifest, nowhere else
    assert compared(tmp_path / "run") == compared(whole)


def test_one_stage_is_offline_training_to_the_bit(
    whole: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    train_offline(
        DataSource(roots=[whole / "stage-01" / "data"], pairs="redness", scores="redness"),
        tmp_path / "offline",
        TRAIN,
        model=load_again(tiny_pipeline),
        reward=None,
    )
    name = "policy/pytorch_lora_weights.safetensors"
    assert sha256_file(tmp_path / "offline" / name) == sha256_file(whole / "stage-01" / "run" / name)


def test_old_stages_are_offline_data_together(
    whole: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """The reference's log-probabilities of the second stage are found without being named."""
    done = train_offline(
        DataSource(
            roots=[whole / f"stage-0{stage}" / "data" for stage in (1, 2)], pairs="redness", scores="redness"
        ),
        tmp_path / "offline",
        TRAIN,
        model=load_again(tiny_pipeline),
        reward=None,
    )
    assert done.steps == 2


def test_a_stage_trains_on_the_data_of_all_stages_so_far(whole: Path, alone: Path) -> None:
    """Each data set keeps its own pairs and its own reference log-probabilities."""
    first, second = (
        json.loads((whole / f"stage-0{stage}" / "run" / "run.json").read_text()) for stage in (1, 2)
    )
    data = [str(whole / f"stage-0{stage}" / "data") for stage in (1, 2)]
    assert (first["datasets"], second["datasets"]) == (data[:1], data)
    tables = [Dataset.open(root).pairs("redness").num_rows for root in data]
    assert second["num_pairs"] == sum(tables)
    own = json.loads((alone / "stage-02" / "run" / "run.json").read_text())
    assert own["num_pairs"] == tables[1]
    assert own["identity"]["data_fingerprint"] != second["identity"]["data_fingerprint"]


def test_the_number_of_replayed_stages_is_a_choice() -> None:
    replayed = [list(replace(SETTINGS, replay_stages=count).replayed(4)) for count in (None, 0, 2, 9)]
    assert replayed == [[1, 2, 3], [], [2, 3], [1, 2, 3]]
    for objective in ("ddpo", "dpok", "sft"):
        settings = settings_of(TrainSettings(objective=objective))
        assert list(settings.replayed(4)) == []
        replace(settings, replay_stages=0).validate()
        with pytest.raises(ConfigError, match="leave --replay-stages out"):
            replace(settings, replay_stages=1).validate()


def test_a_run_from_before_replay_continues_without_it(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, num_stages=1, eval_images_per_prompt=0, replay_stages=0)
    run(tmp_path, tiny_pipeline, redness, settings)
    record = json.loads((tmp_path / "online.json").read_text())
    del record["identity"]["replay_stages"]
    (tmp_path / "online.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="started with replay_stages 0, not 'all'"):
        run(tmp_path, tiny_pipeline, redness, replace(settings, replay_stages=None))
    assert run(tmp_path, tiny_pipeline, redness, replace(settings, num_stages=2)).stages == 2


def test_stages_share_one_schedule_of_the_learning_rate(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = settings_of(replace(TRAIN, lr_scheduler=None))
    run(tmp_path, tiny_pipeline, redness, settings)
    rates = [
        json.loads(line)["learning_rate"]
        for stage in (1, 2)
        for line in (tmp_path / f"stage-0{stage}/run/metrics.jsonl").read_text().splitlines()
    ]
    assert rates == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    with pytest.raises(ConfigError, match=r"at the end of stage 2 .*: give --stages 2"):
        run(tmp_path, tiny_pipeline, redness, replace(settings, num_stages=3))


def test_a_run_on_some_steps_asks_the_reference_for_those_alone(
    whole: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    train = replace(TRAIN, trained_steps="1:3")
    run(tmp_path, tiny_pipeline, redness, replace(SETTINGS, eval_images_per_prompt=0, train=train))
    data = Dataset.open(tmp_path / "stage-02" / "data")
    table = data.log_probs("reference")
    assert (
        steps_of(table) == range(1, 3)
        and steps_of(Dataset.open(whole / "stage-02/data").log_probs("reference")) is None
    )
    for values in table["log_probs"].to_pylist():
        assert [value is not None for value in values] == [False, True, True, False]
    record = json.loads((tmp_path / "stage-02" / "run" / "run.json").read_text())
    assert record["num_trained_steps"] == 2 and record["drift"]["steps"] == [1, 2]
    assert record["drift"]["share_exact"] == 1
    source = DataSource(roots=[data.root], pairs="redness", scores="redness")
    model = load_again(tiny_pipeline)
    with pytest.raises(ConfigError, match=r"has in log_probs/reference the steps 1:3 alone"):
        train_offline(source, tmp_path / "all", TRAIN, model=model, reward=None)
    compute_log_probs(data, load_again(tiny_pipeline), name="whole")
    assert train_offline(source, tmp_path / "all", TRAIN, model=model, reward=None).steps == 2
    with pytest.raises(ConfigError, match="was computed with steps"):
        compute_log_probs(data, load_again(tiny_pipeline), name="reference")
    with pytest.raises(
        ConfigError, match=r"trained_steps 7:9 has no trainable step of .*: give a range within 0:"
    ):
        train_offline(
            source, tmp_path / "none", replace(TRAIN, trained_steps="7:9"), model=model, reward=None
        )


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("objective", [name for name, one in OBJECTIVES.items() if one.on_final_latents])
def test_an_objective_of_x_0_may_train_outside_the_noisy_window(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, objective: str
) -> None:
    """The replay checks the recorded step, which the reference's table holds although it is not trained."""
    train = replace(TRAIN, objective=objective, trained_steps="2:4", num_train_steps=1)
    settings = settings_of(train)
    assert run(tmp_path, tiny_pipeline, redness, settings, noisy_steps="0:1").stages == 2
    record = json.loads((tmp_path / "stage-02" / "run" / "run.json").read_text())
    assert record["drift"]["steps"] == [0] and record["drift"]["share_exact"] == 1
    (line,) = (tmp_path / "stage-02" / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["per_timestep"]["steps"] == [2, 3]


def test_a_run_that_ended_at_a_table_of_other_steps_goes_on(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """Earlier versions computed the trained steps, of which none is recorded, and ended in training."""
    train = replace(TRAIN, objective="diffusion-nft", trained_steps="2:4", num_train_steps=1)
    settings = settings_of(train)
    run(tmp_path, tiny_pipeline, redness, settings, noisy_steps="0:1")
    stage = tmp_path / "stage-02"
    policy = (tmp_path / "policy" / "pytorch_lora_weights.safetensors").read_bytes()
    for path in (stage / "run", stage / "data/log_probs/reference"):
        shutil.rmtree(path)
    (stage / "stage.json").unlink()
    data = Dataset.open(stage / "data")
    compute_log_probs(data, load_again(tiny_pipeline), name="reference", steps=range(2, 4))
    assert run(tmp_path, tiny_pipeline, redness, settings, noisy_steps="0:1").stages == 2
    assert steps_of(data.log_probs("reference")) is None
    assert (tmp_path / "policy" / "pytorch_lora_weights.safetensors").read_bytes() == policy


def test_every_phase_of_a_run_keeps_the_guidance_mode(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """Evaluations fill a batch of 4; both halves of guidance in one call would be 8 rows."""
    options = {"guidance_scale": 3.0, "guidance_mode": "sequential"}
    with network_rows() as rows:
        run(tmp_path, tiny_pipeline, redness, replace(SETTINGS, num_stages=1), **options)
    assert max(rows) == 4
    generation = json.loads((tmp_path / "online.json").read_text())["generation"]
    assert generation["guidance_mode"] == "sequential"


def test_two_online_runs_in_one_folder_are_refused(tiny_pipeline: Path, redness: Any, tmp_path: Path) -> None:
    with only_run(tmp_path), pytest.raises(ConfigError, match="another ppod-train is running in this folder"):
        run(tmp_path, tiny_pipeline, redness)
    assert list(tmp_path.iterdir()) == []


def test_stages_can_be_added_and_other_options_are_refused(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    one = replace(SETTINGS, num_stages=1, eval_images_per_prompt=0)
    run(out, tiny_pipeline, redness, one)
    policy = (out / "stage-01" / "run" / "policy" / "pytorch_lora_weights.safetensors").read_bytes()
    summary = run(out, tiny_pipeline, redness, replace(one, num_stages=2))
    assert (summary.stages, summary.best_stage) == (2, 2)
    assert (out / "stage-01" / "run" / "policy" / "pytorch_lora_weights.safetensors").read_bytes() == policy
    with pytest.raises(ConfigError, match=r"min_margin 0\.0, not 0\.1"):
        run(out, tiny_pipeline, redness, replace(one, min_margin=0.1))
    with pytest.raises(ConfigError, match=r"train\.dpo_beta 10\.0, not 3\.0"):
        run(out, tiny_pipeline, redness, replace(one, train=replace(TRAIN, dpo_beta=3.0)))
    with pytest.raises(ConfigError, match="generation"):
        run(out, tiny_pipeline, redness, one, seed=7)


def one_step(objective: str) -> TrainSettings:
    """One step of an objective, so large that the policy changes."""
    return TrainSettings(
        objective=objective,
        num_train_steps=1,
        pairs_per_step=2,
        lora_rank=2,
        eval_every=0,
        learning_rate=1e-2,
    )


@pytest.mark.parametrize("objective", ["dpok", "sft", "prdp"])
def test_other_objectives_run_online(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, objective: str
) -> None:
    summary = run(tmp_path, tiny_pipeline, redness, settings_of(one_step(objective)))
    assert summary.best_stage == 2 and (tmp_path / "policy").is_dir()


@pytest.mark.parametrize("lora_rank", [2, 0])
def test_a_clip_around_the_policies_of_all_stages_is_checked_for_each(
    tiny_pipeline: Path, redness: Any, tmp_path: Path, lora_rank: int
) -> None:
    """The third stage trains on data of the reference, of the first stage's policy, and of its own start."""
    train = replace(TRAIN, objective="prdp", clip_anchor="stage", clip_mode="pessimistic-pair")
    train = replace(train, lora_rank=lora_rank, learning_rate=1e-2 if lora_rank else 1e-4)
    run(
        tmp_path,
        tiny_pipeline,
        redness,
        replace(SETTINGS, num_stages=3, eval_images_per_prompt=0, train=train),
    )
    record = json.loads((tmp_path / "stage-03" / "run" / "run.json").read_text())
    assert len(record["datasets"]) == 3
    assert record["drift"]["unchecked"] is False and record["drift"]["share_exact"] == 1


def test_all_weights_train_online(tiny_pipeline: Path, redness: Any, tmp_path: Path) -> None:
    """The second stage's data are made by a whole pipeline, and training starts from its weights."""
    train = replace(TRAIN, lora_rank=0, learning_rate=1e-4)
    run(tmp_path, tiny_pipeline, redness, replace(SETTINGS, eval_images_per_prompt=0, train=train))
    spec = Dataset.open(tmp_path / "stage-02" / "data").spec
    assert spec.adapter is None and spec.model == str(tmp_path / "stage-01" / "run" / "policy")
    record = json.loads((tmp_path / "stage-02" / "run" / "run.json").read_text())
    assert record["identity"]["start_fingerprint"] == spec.policy_fingerprint


def test_a_half_precision_policy_samples_with_the_weights_that_were_trained(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """diffusers rounds loaded LoRA weights to the pipeline's precision: the second stage's data would be those of
    another policy than the one that is trained."""
    from safetensors.torch import load_file

    run(tmp_path, tiny_pipeline, redness, replace(SETTINGS, eval_images_per_prompt=0, num_stages=1))
    folder = tmp_path / "policy"
    exact = load_file(folder / "pytorch_lora_weights.safetensors")
    model = load_again(tiny_pipeline, adapter=str(folder), compute_dtype="bf16")
    loaded = {name: value for name, value in model.pipeline.unet.named_parameters() if "lora_" in name}
    assert loaded and {value.dtype.__str__() for value in loaded.values()} == {"torch.float32"}
    sums = sorted(float(value.double().abs().sum()) for value in loaded.values())
    assert sums == sorted(float(value.double().abs().sum()) for value in exact.values())


def test_phases_are_told_in_order(tiny_pipeline: Path, redness: Any, tmp_path: Path) -> None:
    phases = Phases()
    run(tmp_path, tiny_pipeline, redness, progress=phases)
    assert phases.names == [
        "before: evaluate",
        *(f"stage 1/2 {name}" for name in ("generate", "score", "train", "evaluate")),
        *(f"stage 2/2 {name}" for name in ("generate", "score", "log-probs", "train", "evaluate")),
    ]
    phases.names.clear()
    run(tmp_path, tiny_pipeline, redness, progress=phases)
    assert phases.names == []


def test_the_optimizer_goes_on_over_the_stages(whole: Path, recorded: Path, tiny_pipeline: Path) -> None:
    """Fresh moments would make the first updates of a stage as large as the learning rate, whatever the gradient."""
    from safetensors.torch import load_file

    for stage in (1, 2):
        moments = load_file(
            whole / f"stage-0{stage}" / "run" / "checkpoints" / "step-000002" / "optimizer.safetensors"
        )
        counts = {float(value) for name, value in moments.items() if name.endswith("/step")}
        assert counts == {2.0 * stage}
    with pytest.raises(ConfigError, match="no checkpoint"):
        train_offline(
            DataSource(roots=[recorded], pairs="pairs", scores="scenes"),
            whole / "other",
            TRAIN,
            model=load_again(tiny_pipeline),
            reward=None,
            part=TrainingPart(previous=recorded, first_step=0, num_steps=2),
        )
