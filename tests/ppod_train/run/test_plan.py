"""Dry runs: figures counted on skeletons are those of the real thing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.guidance import Guidance, guided_prediction
from ppod_data.diffusion.models.model import embed_prompts, load_model, network
from ppod_data.diffusion.models.model_folder import has_weights
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.cost import call_bytes, embed_first, measure_seconds, plan_generation
from ppod_data.storage.files import sha256_file
from ppod_data.support.tensor_memory import LiveBytes
from ppod_train.objectives import OBJECTIVES
from ppod_train.policy.policy import trainable_parameters
from ppod_train.run.cost import plan_training
from ppod_train.settings import TrainSettings
from tests.support.full_size import (
    save_chroma,
    save_flux_1_dev,
    save_flux_2_dev,
    save_flux_2_klein,
    save_lumina_2,
    save_pixart_sigma,
    save_qwen_image,
    save_sana,
    save_stable_diffusion_3,
    save_stable_diffusion_15,
    save_stable_diffusion_35_medium,
    save_stable_diffusion_xl,
    save_z_image_turbo,
)
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
    save_tiny_xl_pipeline,
)
from tests.support.training import SETTINGS, run


def test_live_bytes_are_those_that_are_alive() -> None:
    weight = torch.zeros(256)
    with LiveBytes([weight]) as live:
        first = weight + 1  # 1 KiB
        assert (live.now, live.peak) == (1024, 1024)
        view, second = first.view(2, 128), first * 2
        weight.view(16, 16)
        weight.add_(1)
        assert (live.now, live.peak) == (2048, 2048)
        del first, second
        assert (live.now, live.peak) == (1024, 2048)
        del view
        assert (live.now, live.peak) == (0, 2048)


def test_live_bytes_without_values_are_those_with_values() -> None:
    """The second block of a network takes the layouts of the first one, except for views and tensors with values."""
    totals = []
    for device in ("cpu", "meta"):
        x = torch.zeros(8, 16, device=device)
        with LiveBytes([x]) as live:
            kept = []
            for _ in range(3):
                flat = (x + 1).view(-1)
                ones = torch.ones(4)
                assert ones.device.type == "cpu" and float(ones.sum()) == 4
                kept += [flat, flat[:4], x.t().contiguous(), *x.max(dim=0), ones, x.expand(2, 8, 16) * 2]
                kept += [*torch.native_layer_norm(x, [16], None, None, 1e-5), torch.cat([x, x.half()])]
            totals.append((live.now, live.peak, [(t.shape, t.stride(), t.dtype) for t in kept]))
    assert totals[0] == totals[1]


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(
    "save", [save_tiny_pipeline, save_tiny_xl_pipeline, save_tiny_sd3_pipeline, save_tiny_flux_pipeline]
)
def test_a_skeleton_keeps_as_much_as_the_model(
    tmp_path: Path, save: Any, gradient_checkpointing: bool
) -> None:
    """Graph, peak of the backward pass, and weights: within what the CPU's attention kernel keeps beside its output."""
    folder = str(save(tmp_path / "model"))
    model, skeleton = load_model(folder), load_skeleton(folder)
    spec = build_spec(model, prompts=["a cat"], num_images_per_prompt=4, num_inference_steps=4, batch_size=4)
    assert build_spec(skeleton, prompts=["a cat"]).latent_shape == spec.latent_shape
    assert skeleton.scheduler_config == model.scheduler_config
    for loaded in (model, skeleton):
        with torch.device(loaded.device):
            trainable_parameters(loaded, lora_rank=4, seed=0, gradient_checkpointing=gradient_checkpointing)
    conditioning = embed_prompts(model, ["a cat"], "", spec.guidance_scale)
    conditioning.of([0])  # embedded and kept
    latents, index = torch.randn(4, *model.latent_shape), torch.zeros(4, dtype=torch.int64)
    with LiveBytes([*model.denoiser.parameters(), latents, index]) as live:
        prediction = guided_prediction(
            network(model),
            latents,
            index,
            conditioning.of(index),
            conditioning.negative,
            Guidance(spec.guidance_scale, spec.guidance_mode),
        )
        kept = live.now
        prediction.sum().backward()
    planned_kept, planned_peak = call_bytes(skeleton, spec, embed_first(skeleton, spec), 4, with_graph=True)
    assert planned_kept == pytest.approx(kept, rel=0.03)
    assert planned_peak == pytest.approx(live.peak, rel=0.1)


def test_a_generation_writes_what_its_plan_says(tiny_pipeline: Path, recorded: Path) -> None:
    dataset = Dataset.open(recorded)
    plan = plan_generation(load_skeleton(str(tiny_pipeline)), dataset.spec)
    rows = dataset.samples(["sample_id"]).to_pylist()
    assert plan.latent_bytes == sum(dataset.trajectory(row["sample_id"]).latents.nbytes for row in rows)
    assert (plan.num_samples, plan.num_shards, plan.network_calls) == (16, 1, 16 * 4)
    assert measure_seconds(dataset.spec, load_model(str(tiny_pipeline))) > 0


FULL_SIZE: Mapping[str, tuple[Any, dict[str, int]]] = {
    "sd-1.5": (
        save_stable_diffusion_15,
        {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    ),
    "sd-xl": (
        save_stable_diffusion_xl,
        {
            "unet": 2_567_463_684,
            "vae": 83_653_863,
            "text_encoder": 123_060_480,
            "text_encoder_2": 694_659_840,
        },
    ),
    "sd-3": (save_stable_diffusion_3, {"transformer": 2_028_328_000, "text_encoder_2": 694_659_840}),
    "sd-3.5": (
        save_stable_diffusion_35_medium,
        {"transformer": 2_243_171_520, "text_encoder_3": 4_762_310_656},
    ),
    "flux": (save_flux_1_dev, {"transformer": 11_901_408_320, "text_encoder_2": 4_762_310_656}),
    "chroma": (save_chroma, {"transformer": 8_899_983_424, "text_encoder": 4_762_310_656}),
    "z-image": (save_z_image_turbo, {"transformer": 6_154_908_736, "text_encoder": 4_022_468_096}),
    "qwen-image": (save_qwen_image, {"transformer": 20_430_401_088, "text_encoder": 8_292_166_656}),
    "pixart-sigma": (save_pixart_sigma, {"transformer": 610_856_096, "text_encoder": 4_762_310_656}),
    "sana": (save_sana, {"transformer": 1_604_462_752, "text_encoder": 2_614_341_888}),
    "flux-2-dev": (save_flux_2_dev, {"transformer": 32_223_281_152, "text_encoder": 24_011_361_280}),
    "lumina-2": (save_lumina_2, {"transformer": 2_609_769_152, "text_encoder": 2_614_341_888}),
    "flux-2-klein": (save_flux_2_klein, {"transformer": 3_875_544_576, "text_encoder": 4_022_468_096}),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_models_are_those_of_their_cards(name: str, tmp_path: Path) -> None:
    """The published numbers of weights, from the configurations alone."""
    save, weights = FULL_SIZE[name]
    model = load_skeleton(str(save(tmp_path / name)))
    assert not has_weights(str(tmp_path / name))
    for part, count in weights.items():
        assert sum(p.numel() for p in getattr(model.pipeline, part).parameters()) == count


def test_stable_diffusion_trains_in_less_than_8_gb(tmp_path: Path) -> None:
    """LoRA in fp32 over fp16 weights at 512 × 512, one pair, guidance, 50 steps; checkpointing takes a fraction."""
    folder = str(save_stable_diffusion_15(tmp_path / "sd"))
    settings = TrainSettings(pairs_per_step=1, num_train_steps=10)
    plans = []
    for gradient_checkpointing in (False, True):
        skeleton = load_skeleton(folder, compute_dtype="fp16")
        spec = build_spec(
            skeleton, prompts=["a cat"], num_inference_steps=50, batch_size=1, latent_dtype="fp16"
        )
        plans.append(
            plan_training(skeleton, spec, replace(settings, gradient_checkpointing=gradient_checkpointing))
        )
    plain, checkpointed = plans
    assert (spec.height, spec.width, spec.guidance_scale) == (512, 512, 5.0)
    assert checkpointed.peak_bytes < plain.peak_bytes < 8e9
    assert checkpointed.update_bytes < plain.update_bytes / 3
    assert plain.one_pass and plain.network_calls_per_step == 2 * 50 * 2  # trajectories, steps, halves


@pytest.mark.parametrize(("steps", "every", "evaluations"), [(6, 3, 3), (5, 3, 3), (2, 3, 2), (4, 0, 0)])
def test_a_plan_counts_the_evaluation_after_the_last_step(
    tiny_pipeline: Path, steps: int, every: int, evaluations: int
) -> None:
    model = load_skeleton(str(tiny_pipeline))
    spec = build_spec(model, prompts=["a cat", "two dogs"], num_inference_steps=4, guidance_scale=5.0)
    settings = replace(SETTINGS, num_train_steps=steps, eval_every=every, eval_images_per_prompt=3)
    plan = plan_training(model, spec, settings)
    assert plan.eval_calls == evaluations * 2 * 3 * 4 * 2  # prompts, images, steps, halves of guidance
    longer = plan_training(
        load_skeleton(str(tiny_pipeline)), spec, replace(settings, eval_images_per_prompt=6)
    )
    assert longer.seconds(1.0) - plan.seconds(1.0) == pytest.approx(
        plan.eval_calls / plan.generation.network_calls
    )


def test_a_run_evaluates_as_many_images_as_its_plan_says(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, num_train_steps=4, eval_every=3)
    summary, _ = run(recorded, tmp_path / "run", tiny_pipeline, redness, settings)
    spec = Dataset.open(recorded).spec
    plan = plan_training(load_skeleton(str(tiny_pipeline)), spec, settings)
    assert plan.eval_calls == summary.reward_queries * spec.num_inference_steps


def test_gradient_checkpointing_gives_the_same_policy(
    recorded: Path, tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    """To the last bit; and the choice between one pass and two sees the smaller graph."""
    policies, graphs = [], []
    for on in (False, True):
        settings = replace(SETTINGS, gradient="two-pass", num_train_steps=3, gradient_checkpointing=on)
        run(recorded, tmp_path / str(on), tiny_pipeline, redness, settings)
        policies.append(sha256_file(tmp_path / str(on) / "policy" / "pytorch_lora_weights.safetensors"))
        record = (tmp_path / str(on) / "run.json").read_text()
        graphs.append(int(record.split('"graph_bytes_per_evaluation": ')[1].split(",")[0]))
    assert policies[0] == policies[1]
    assert graphs[1] < graphs[0] / 2
    assert "gradient_checkpointing" not in OBJECTIVES["ppod"].reads
