"""A dry run counts the network calls that the run makes."""

from pathlib import Path

import pytest

from ppod_data.generation.sampling_settings import SamplingSettings
from ppod_train.library.plans import plan_online
from ppod_train.online.settings import OnlineSettings
from ppod_train.settings import TrainSettings


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
