"""Claim: a window of noisy steps costs its share of the chain, and shared steps are computed once a prompt.

(1) A training step on data whose noise is in w steps takes at most 1.05·w/T of one on the whole chain, whose noise is
in T = 19 of 20 steps; w 4 and 10, LoRA of rank 8, two passes, nothing clipped. (2) Sampling K = 64 images of a prompt
from one x_T, with noise in the steps 10 to 13, takes at most 1.05 times the shared steps of one latent and the other
steps of 64, in batches of 64 and of 16. The time beside that of images that share no step is shown. The embedded
model, one thread. Clock: processor time; wall time is shown beside it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from side_by_side import Report, is_quick, measure, ratios
from small_group import make_group, make_state

from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.sampling import batch_noise, build_policy, sample_batch
from ppod_data.generation.shared_steps import SharedLatents
from ppod_train.step.train_step import train_step

STEPS, NOISY_STEPS, WINDOWS = 20, 19, (4, 10)
IMAGES, SHARED, NOISY = 64, 10, "10:14"


def training(folder: Path, group: int, window: int) -> Callable[[], None]:
    """Return a training step on a group of images whose noise is in the first `window` steps."""
    root = folder / str(window)
    make_group(root, group, STEPS, noisy_steps=f"0:{window}")
    state = make_state(root, log_ratio_clip=float("inf"), gradient="two-pass")
    assert len(state.data.steps) == window

    def run() -> None:
        train_step(state, step=0, gradient_share=1.0)

    return run


def sampling(spec: GenerationSpec, model: DiffusionModel) -> Callable[[], None]:
    """All images of a spec, batch by batch, as `generate` samples them."""
    policy = build_policy(spec, model)

    def run() -> None:
        kept = SharedLatents()
        for first in range(0, spec.num_samples, spec.batch_size):
            sample_batch(spec, policy, range(first, first + spec.batch_size), record=True, kept=kept)

    return run


def parts(spec: GenerationSpec, model: DiffusionModel) -> Callable[[], None]:
    """Return bare chains on existing tensors: the shared steps of one latent, and the other steps of every batch."""
    policy = build_policy(spec, model)
    batch = range(spec.batch_size)
    initial, noise = batch_noise(spec, batch, policy.device)
    one, all_rows = policy.prompts.of([0]), policy.prompts.of([0] * len(batch))

    def run() -> None:
        policy.sample(initial[:1], noise[:, :1], one, steps=range(SHARED))
        for _ in range(spec.num_samples // spec.batch_size):
            policy.sample(initial, noise, all_rows, steps=range(SHARED, spec.num_inference_steps))

    return run


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    model = load_model("scenes")
    spec = build_spec(
        model,
        ["a cat and a dog"],
        num_images_per_prompt=IMAGES,
        num_inference_steps=STEPS,
        initial_noise="per-prompt",
        noisy_steps=NOISY,
    )
    small = replace(spec, batch_size=16)
    with tempfile.TemporaryDirectory() as folder:
        group = 8 if quick else 32
        ways = {f"train {w}": training(Path(folder), group, w) for w in (*WINDOWS, NOISY_STEPS)}
        ways |= {"shared": sampling(spec, model), "parts": parts(spec, model)}
        ways |= {"shared 16": sampling(small, model), "parts 16": parts(small, model)}
        ways |= {"apart": sampling(replace(spec, initial_noise="per-image"), model)}
        seconds = measure(ways, rounds=1 if quick else 8)
    for clock, of in seconds.items():
        for w in WINDOWS:
            share = [
                ratio * NOISY_STEPS / w for ratio in ratios(of[f"train {w}"], of[f"train {NOISY_STEPS}"])
            ]
            claim = (
                f"training step on {w} noisy steps / ({w}/{NOISY_STEPS} of the whole chain's), {clock} time"
            )
            report.add(claim, share, bound=1.05 if clock == "processor" else None)
        for name in ("", " 16"):
            batches = f"{IMAGES} images of one x_T in batches of{name or ' 64'}"
            claim = f"{batches} / (shared + {IMAGES}·other steps), {clock} time"
            shared = ratios(of[f"shared{name}"], of[f"parts{name}"])
            report.add(claim, shared, bound=1.05 if clock == "processor" else None)
        report.add(
            f"the same / without shared steps, {clock} time", ratios(of["shared"], of["apart"]), bound=None
        )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
