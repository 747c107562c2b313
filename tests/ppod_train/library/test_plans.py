"""A dry run counts the network calls that the run makes."""

from pathlib import Path

import pytest

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_train.library.plans import plan_offline, plan_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.settings import TrainSettings
from tests.ppod_train.conftest import PROMPTS, write_pairs


@pytest.mark.parametrize(
    ("objective", "trained_steps", "num_steps"),
    [("ppod", None, 3), ("ppod", "1:3", 2), ("diffusion-nft", "1:3", 2), ("diffusion-nft", "3:4", 3)],
)
def test_the_reference_is_called_for_the_steps_that_a_stage_reads(
    tiny_pipeline: Path, objective: str, trained_steps: str | None, num_steps: int
) -> None:
    """Of a window of three steps. With none of them trained, the replay checks all."""
    train = TrainSettings(objective=objective, trained_steps=trained_steps, num_train_steps=1, lora_rank=2)
    plan = plan_online(
        ["a cat"],
        OnlineSettings(num_stages=3, eval_images_per_prompt=0, train=train),
        sampling=SamplingSettings(
            num_images_per_prompt=4, num_inference_steps=4, guidance_scale=1.0, noisy_steps="0:3"
        ),
        model=str(tiny_pipeline),
        device="cpu",
    )
    assert plan.reference_calls == 4 * num_steps * 2


def test_the_prompts_of_all_data_sets_are_evaluated(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """A run evaluates the prompts of all its data, each once, unless others are given."""
    model, other = load_model(str(tiny_pipeline)), tmp_path / "other"
    spec = build_spec(
        model,
        prompts=(PROMPTS[1], "a bird"),
        num_images_per_prompt=4,
        num_inference_steps=4,
        guidance_scale=1.0,
    )
    generate(other, spec, model, shards=range(spec.num_shards))
    write_pairs(Dataset.open(other))
    for data, prompts, count in (
        ([recorded], None, 2),
        ([recorded, other], None, 3),
        ([recorded, other], ("a fox",), 1),
    ):
        settings = TrainSettings(
            num_train_steps=1, lora_rank=2, eval_every=1, eval_images_per_prompt=5, eval_prompts=prompts
        )
        plan = plan_offline(data, settings, model=ModelSource(model=str(tiny_pipeline)), device="cpu")
        assert plan.training.eval_calls == 2 * count * 5 * 4  # before and after, images, steps
