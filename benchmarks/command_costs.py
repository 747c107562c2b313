"""What each command costs a data set, a shard and a sample, without any model.

The work is that of the commands; generation gets its chains and images ready-made, and the reward is the size of a
small JPEG. Ten steps, latents 4×8×8 in fp32 and images of 64 × 64: what larger ones add is their bytes.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import load_model
from ppod_data.format.images import encode_png, pixels_sha256
from ppod_data.format.shards import Sample
from ppod_data.format.spec import GenerationSpec
from ppod_data.format.trajectory import encode_latents
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import Records, generate
from ppod_data.inspect.card import write_card
from ppod_data.inspect.overview import overview
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import verify
from ppod_data.pairs.rank import rank
from ppod_data.publish.export_images import export
from ppod_data.rewards.jpeg import JpegReward
from ppod_data.scoring.score import score
from ppod_train.data.training_data import DataSource, open_training_data
from ppod_train.objectives import OBJECTIVES

IMAGES_PER_PROMPT = 100
STEPS = 10
IMAGES = 16
"""Different ones, used in turn."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One data set, and what each command took."""

    num_samples: int
    num_shards: int
    seconds: Mapping[str, float]
    """Processor time of each command."""
    wall: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """seconds ≈ fixed + shard · shards + sample · samples, none of them negative."""

    fixed: float
    shard: float
    sample: float
    worst: float
    """The largest error of a point, as a part of what it took."""


def measure_commands(root: Path, num_samples: int, images_per_shard: int) -> Point:
    """Run every command once, in the order in which a user would, on a new data set in `root`."""
    model = load_model("scenes")
    spec = build_spec(
        model,
        prompts=[f"picture {n} of a dog" for n in range(-(-num_samples // IMAGES_PER_PROMPT))],
        num_images_per_prompt=min(IMAGES_PER_PROMPT, num_samples),
        num_inference_steps=STEPS,
        images_per_shard=images_per_shard,
        batch_size=min(64, images_per_shard),
    )
    data, records = root / "data", ready_made(spec)
    source = DataSource(roots=[data], pairs="p", scores="jpeg")
    commands: dict[str, Callable[[], object]] = {
        "gen": lambda: generate(data, spec, model, shards=range(spec.num_shards), records=records),
        "score": lambda: score(Dataset.open(data), JpegReward("jpeg", -1), name="jpeg"),
        "pair rank": lambda: rank(
            Dataset.open(data), reward="jpeg", name="p", num_pairs_per_prompt=IMAGES_PER_PROMPT
        ),
        "train: open the data": lambda: open_training_data(
            source, OBJECTIVES["ppod"], policy_fingerprint=spec.policy_fingerprint
        ),
        "verify": lambda: verify(data),
        "seal": lambda: seal(data),
        "verify --read-data": lambda: verify(data, read_data=1),
        "info": lambda: overview(Dataset.open(data)),
        "card": lambda: write_card(data),
        "export": lambda: export(Dataset.open(data), root / "images"),
    }
    seconds, wall = {}, {}
    for name, run in commands.items():
        clock, start = time.perf_counter(), time.process_time()
        run()
        seconds[name], wall[name] = time.process_time() - start, time.perf_counter() - clock
    return Point(num_samples=spec.num_samples, num_shards=spec.num_shards, seconds=seconds, wall=wall)


def ready_made(spec: GenerationSpec) -> Records:
    """Yield the records of `ppod_data.generation.generate.generate` without sampling."""
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    contents = []
    for _ in range(IMAGES):
        small = random.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((spec.width, spec.height), Image.Resampling.BICUBIC)
        latents = encode_latents(
            torch.randn(STEPS + 1, *spec.latent_shape, generator=generator), range(STEPS + 1)
        )
        contents.append((encode_png(image), pixels_sha256(image), latents))
    turn = itertools.cycle(contents)

    def sample(number: int) -> Sample:
        prompt, k = spec.place(number)
        image, pixels, latents = next(turn)
        return Sample(
            sample_id=spec.sample_id(spec.prompt_ids[prompt], k),
            prompt_id=spec.prompt_ids[prompt],
            prompt=spec.prompts[prompt],
            image_index=k,
            seed=spec.seed,
            image_bytes=image,
            image_pixels_sha256=pixels,
            timesteps=[1000 - 100 * step for step in range(STEPS)],
            stochastic=[True] * STEPS,
            log_probs=[-1.4] * STEPS,
            step_index=list(range(STEPS)),
            latents_safetensors=latents,
        )

    return lambda spec, model, policy, indices: [sample(number) for number in indices]


def fit(points: Sequence[Point], command: str) -> Fit:
    """Return the three costs of a command that fit its points best by relative error."""
    counts = np.array([[1.0, point.num_shards, point.num_samples] for point in points])
    took = np.array([point.seconds[command] for point in points])
    prices = _not_negative(counts / took[:, None], np.ones(len(points)))
    errors = np.abs(counts @ prices / took - 1)
    return Fit(fixed=prices[0], shard=prices[1], sample=prices[2], worst=float(errors.max()))


def _not_negative(rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best x >= 0 of rows · x ≈ wanted, by trying all eight choices of zeros."""
    best, least = np.zeros(rows.shape[1]), float("inf")
    for used in itertools.product((False, True), repeat=rows.shape[1]):
        x = np.zeros(rows.shape[1])
        x[list(used)] = np.linalg.lstsq(rows[:, list(used)], wanted)[0]
        error = float(np.square(rows @ x - wanted).sum())
        if (x >= 0).all() and error < least:
            best, least = x, error
    return best


def table(points: Sequence[Point]) -> Iterator[str]:
    """Yield the lines of a Markdown table, one for each command."""
    largest = max(points, key=lambda point: (point.num_samples, -point.num_shards))
    yield "| command | fixed, ms | a shard, ms | a sample, µs | fit within | clock / processor |"
    yield "|---|---:|---:|---:|---:|---:|"
    for command in largest.seconds:
        found = fit(points, command)
        waited = largest.wall[command] / largest.seconds[command]
        yield (
            f"| {command} | {found.fixed * 1e3:.0f} | {found.shard * 1e3:.2f} | {found.sample * 1e6:.0f} "
            f"| {found.worst:.0%} | {waited:.1f} |"
        )
