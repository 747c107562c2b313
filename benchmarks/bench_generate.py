"""Claim: recording costs next to nothing.

(1) Generating a data set, with noise, log-probabilities, PNG, tar, Parquet and fsync, takes at most 1.05 times the
bare UNet and VAE calls that it needs. (2) It takes at most 1.0 times `StableDiffusionPipeline.__call__` with the same
prompts, batch, steps, eta and guidance, which records nothing. Both at guidance 1 and 5, with the embedded model, on
one thread. Clock: processor time; the ratios of wall time, which include waiting for the disk, are shown beside it.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.diffusion.models.model import DiffusionModel, embed_prompts, load_model
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate

PROMPTS = ("a green colored rabbit", "a cat and a dog")
BATCH = 64


def generating(spec: GenerationSpec, model: DiffusionModel, folder: Path) -> Callable[[], None]:
    """Return a run of `generate` into a new folder."""

    def run() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        generate(folder, spec, model, shards=range(spec.num_shards))

    return run


def bare_calls(spec: GenerationSpec, model: DiffusionModel) -> Callable[[], None]:
    """Return T calls of the UNet and one of the VAE for each batch, on existing tensors."""
    embeds = embed_prompts(model, [spec.prompts[0]], "", 1.0).of([0])["prompt_embeds"]
    halves = 2 if spec.guidance_scale > 1 else 1
    latents = torch.randn(halves * BATCH, *spec.latent_shape)
    timesteps = torch.full((halves * BATCH,), 500)
    embeds = embeds.expand(halves * BATCH, -1, -1).contiguous()

    @torch.no_grad()
    def run() -> None:
        for _ in range(spec.num_samples // BATCH):
            for _ in range(spec.num_inference_steps):
                model.pipeline.unet(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)
            model.pipeline.vae.decode(latents[:BATCH], return_dict=False)

    return run


def pipeline_calls(spec: GenerationSpec, model: DiffusionModel) -> Callable[[], None]:
    """Return calls of diffusers' own pipeline for the same images."""

    def run() -> None:
        for prompt in spec.prompts:
            for _ in range(spec.num_images_per_prompt // BATCH):
                model.pipeline(
                    prompt,
                    num_images_per_prompt=BATCH,
                    num_inference_steps=spec.num_inference_steps,
                    guidance_scale=spec.guidance_scale,
                    eta=spec.ddim_eta,
                )

    return run


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    model = load_model("scenes")
    with tempfile.TemporaryDirectory() as folder:
        for guidance in (1.0, 5.0):
            spec = build_spec(
                model,
                prompts=PROMPTS,
                num_images_per_prompt=BATCH if quick else 2 * BATCH,
                num_inference_steps=2 if quick else 20,
                guidance_scale=guidance,
                batch_size=BATCH,
            )
            ways = {
                "generate": generating(spec, model, Path(folder) / "data"),
                "bare": bare_calls(spec, model),
                "pipeline": pipeline_calls(spec, model),
            }
            seconds = measure(ways, rounds=1 if quick else 5)
            for clock, of in seconds.items():
                judged = clock == "processor"
                for other, what, bound in (
                    ("bare", "bare UNet and VAE calls", 1.05),
                    ("pipeline", "the pipeline's __call__, no recording", 1.0),
                ):
                    report.add(
                        f"generate / {what}; guidance {guidance:g}, {clock} time",
                        ratios(of["generate"], of[other]),
                        bound=bound if judged else None,
                    )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
