"""What a policy's images are worth: sample on fixed noise, score, compare with the same seeds before.

Images stream through: they are scored in batches, reduced to a few numbers each and dropped, except the
first few of a prompt, which are kept for the grids. The noise has the purpose "eval": whatever the seed, no
image is made from noise that a data set was generated from.

Shapes: K images of a prompt, D = 192 numbers that describe an image.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError, RewardError
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.sampler import sample_images
from ppod_data.rewards import FactChecker, RewardModel
from ppod_data.rewards.each import Trial, correct_each, score_each
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.evaluation.metrics import (
    BoolArray,
    EvalResult,
    PromptMeasurement,
    Scorer,
    summarise,
)
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.evaluation.statistics import FloatArray, mean_pairwise_distance

OnBatch = Callable[[int], None]

POOLED_SIDE = 8
NUM_KEPT_IMAGES = 8


def evaluate(
    model: DiffusionModel,
    reward: RewardModel,
    settings: EvalSettings,
    *,
    baseline: EvalResult | None = None,
    check_reward: RewardModel | None = None,
    on_batch: OnBatch = lambda num_images: None,
    workers: Workers = SINGLE_PROCESS,
) -> EvalResult:
    """Sample every prompt's images on the evaluation noise and measure them.

    Args:
        baseline: another policy's evaluation with the same settings, for win rate and gain.
        check_reward: a second scorer, reported beside the first.
        on_batch: called with the number of images of each batch that this process scored.
        workers: the processes that share the images; all of them get the result.

    Raises:
        ConfigError: impossible settings, or a baseline evaluated on other images.
        RewardError: a reward that is wrong whatever the image, or has no score for any. An image without a score is
            left out and counted.
    """
    spec = eval_spec(model, settings)
    filled = filled_settings(model, settings)
    if baseline is not None:
        check_same_images(baseline.settings, filled)
    places = images_of(spec, workers)
    scored = score_images(
        images_at(spec, model, places),
        reward,
        check_reward=check_reward,
        batch_size=spec.batch_size,
        on_batch=on_batch,
    )
    measurements = by_prompt(gathered(scored, spec, places.start, workers))
    overall, prompts = summarise(measurements, baseline.measurements if baseline else None)
    if overall.reward_mean is None:
        raise RewardError(
            f"{reward.name} could score none of {overall.num_images} images ({scored.first_failure}): choose a reward "
            "that knows these prompts, or correct it"
        )
    return EvalResult(
        model=model.name,
        adapter=model.adapter,
        policy_fingerprint=model.fingerprint,
        settings=filled,
        scorer=Scorer(name=reward.name, revision=reward.revision),
        check_scorer=Scorer(name=check_reward.name, revision=check_reward.revision) if check_reward else None,
        overall=overall,
        prompts=prompts,
        measurements=measurements,
        first_failure=scored.first_failure,
    )


def eval_spec(model: DiffusionModel, settings: EvalSettings) -> GenerationSpec:
    """The generation spec of an evaluation's images: its purpose keeps its noise apart from all other."""
    return build_spec(
        model,
        prompts=settings.prompts,
        height=settings.height,
        width=settings.width,
        negative_prompt=settings.negative_prompt,
        num_images_per_prompt=settings.num_images_per_prompt,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        ddim_eta=settings.ddim_eta,
        seed=settings.seed,
        purpose="validation" if settings.validation else "eval",
        batch_size=settings.batch_size,
    )


def filled_settings(model: DiffusionModel, settings: EvalSettings) -> EvalSettings:
    """Return the settings with what the model decides filled in."""
    spec = eval_spec(model, settings)
    return replace(
        settings,
        guidance_scale=spec.guidance_scale,
        ddim_eta=spec.ddim_eta,
        batch_size=spec.batch_size,
    )


def check_same_images(before: EvalSettings, after: EvalSettings) -> None:
    """Raise `ConfigError` naming the first setting in which two evaluations differ."""
    for field in fields(EvalSettings):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new:
            raise ConfigError(
                f"the baseline was evaluated with {field.name} {_short(old)}, not {_short(new)}: "
                "seeds can be compared only between the same settings"
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def images_of(spec: GenerationSpec, workers: Workers) -> range:
    """The images that this process samples and scores: those of some batches in a row.

    Batches of the sampler run over prompts, batches of the scorer do not. Each of the latter goes, whole, to the
    process that samples its first image, so that sampler and scorer see the batches that one process would give them.
    """
    total, size, each = spec.num_samples, spec.batch_size, spec.num_images_per_prompt
    own = workers.shard(-(-total // size))

    def first_scored_from(image: int) -> int:
        """The first image of the first scoring batch that starts at `image` or later."""
        if image >= total:
            return total
        prompt, k = divmod(image, each)
        return min(prompt * each + -(-k // size) * size, (prompt + 1) * each)

    return range(first_scored_from(own.start * size), first_scored_from(own.stop * size))


def images_at(
    spec: GenerationSpec, model: DiffusionModel, places: range
) -> Iterator[tuple[str, int, Image.Image]]:
    """The images at `places` of the spec, as (prompt, image index, image), sampled in the spec's batches."""
    size = spec.batch_size
    batches = range(places.start // size, -(-places.stop // size) if places else 0)
    images = chain.from_iterable(sample_images(spec, model, batches))
    skipped = places.start - batches.start * size
    return islice(images, skipped, skipped + len(places))


class Scored(NamedTuple):
    """What was measured of N images, in their order."""

    prompts: list[str]
    """[N]"""
    columns: dict[str, npt.NDArray[Any]]
    """[N, ...] each: "rewards", "features", and "correct", "check_rewards", "check_correct" where known."""
    kept: dict[int, Image.Image]
    """The first images of each prompt, by their place."""
    first_failure: str | None = None
    """Why the first image without a score, by either scorer, has none."""


def measure(
    images: Iterable[tuple[str, int, Image.Image]], reward: RewardModel, **options: Any
) -> dict[str, PromptMeasurement]:
    """Score a stream of images by `score_images`, with its options and errors, and put them together by prompt."""
    return by_prompt(score_images(images, reward, **options))


def score_images(
    images: Iterable[tuple[str, int, Image.Image]],
    reward: RewardModel,
    *,
    check_reward: RewardModel | None = None,
    batch_size: int = 64,
    num_kept_images: int = NUM_KEPT_IMAGES,
    on_batch: OnBatch = lambda num_images: None,
) -> Scored:
    """Score a stream of (prompt, image index, image), the images of a prompt in a row, a batch at a time.

    An image that cannot be scored has the reward NaN.

    Raises:
        RewardError: a reward that is wrong whatever the image.
    """
    prompts: list[str] = []
    trials = (Trial(), Trial())
    parts = {name: [column] for name, column in _no_images(reward, check_reward).items()}
    kept: dict[int, Image.Image] = {}
    for prompt, group in groupby(images, key=lambda item: item[0]):
        while batch := list(islice(group, batch_size)):
            kept |= {
                len(prompts) + row: image for row, (_, k, image) in enumerate(batch) if k < num_kept_images
            }
            pictures = [image for _, _, image in batch]
            for name, values in _measure_batch(prompt, pictures, reward, check_reward, trials).items():
                parts[name].append(values)
            prompts += [prompt] * len(batch)
            on_batch(len(batch))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return Scored(prompts, columns, kept, trials[0].first_failure or trials[1].first_failure)


def gathered(scored: Scored, spec: GenerationSpec, first: int, workers: Workers) -> Scored:
    """What all processes measured, from what this one did of the images from `first` on."""
    if workers.world_size == 1:
        return scored
    total, each = spec.num_samples, spec.num_images_per_prompt
    columns = {name: workers.gather(rows, first, total) for name, rows in scored.columns.items()}
    own = {first + place: image for place, image in scored.kept.items()}
    kept: dict[int, Image.Image] = {}
    for start in range(0, total, each):
        places = range(start, start + min(each, NUM_KEPT_IMAGES))
        pixels = np.zeros((len(places), spec.height, spec.width, 3), np.uint8)
        for row, place in enumerate(places):
            if place in own:
                pixels[row] = np.asarray(own[place].convert("RGB"))
        workers.sum(torch.from_numpy(pixels))
        kept |= {place: Image.fromarray(pixels[row]) for row, place in enumerate(places)}
    prompts = [spec.prompts[place // each] for place in range(total)]
    return Scored(prompts, columns, kept, scored.first_failure)


def by_prompt(scored: Scored) -> dict[str, PromptMeasurement]:
    """The measurements of each prompt."""
    measured: dict[str, PromptMeasurement] = {}
    first = 0
    for prompt, group in groupby(scored.prompts):
        assert prompt not in measured, "the images of a prompt come in a row"
        rows = slice(first, first + len(list(group)))
        of_prompt = {name: values[rows] for name, values in scored.columns.items()}
        measured[prompt] = PromptMeasurement(
            diversity=mean_pairwise_distance(of_prompt.pop("features")),
            images=tuple(image for place, image in scored.kept.items() if rows.start <= place < rows.stop),
            **of_prompt,
        )
        first = rows.stop
    return measured


def _no_images(reward: RewardModel, check_reward: RewardModel | None) -> dict[str, npt.NDArray[Any]]:
    """The columns of no images: also a process without a share knows which there are."""
    columns: dict[str, npt.NDArray[Any]] = {
        "rewards": np.empty(0, np.float64),
        "features": np.empty((0, 3 * POOLED_SIDE**2), np.float32),
    }
    if isinstance(reward, FactChecker):
        columns["correct"] = np.empty(0, np.bool_)
    if check_reward is not None:
        columns["check_rewards"] = np.empty(0, np.float64)
        if isinstance(check_reward, FactChecker):
            columns["check_correct"] = np.empty(0, np.bool_)
    return columns


def _measure_batch(
    prompt: str,
    images: list[Image.Image],
    reward: RewardModel,
    check_reward: RewardModel | None,
    trials: tuple[Trial, Trial],
) -> dict[str, npt.NDArray[Any]]:
    rewards = _scores(reward, prompt, images, trials[0])
    columns: dict[str, npt.NDArray[Any]] = {
        "rewards": rewards,
        "features": np.stack([pooled_pixels(image) for image in images]),
    }
    if isinstance(reward, FactChecker):
        columns["correct"] = _correct(reward, prompt, images, rewards)
    if check_reward is not None:
        rewards = _scores(check_reward, prompt, images, trials[1])
        columns["check_rewards"] = rewards
        if isinstance(check_reward, FactChecker):
            columns["check_correct"] = _correct(check_reward, prompt, images, rewards)
    return columns


def _scores(scorer: RewardModel, prompt: str, images: list[Image.Image], trial: Trial) -> FloatArray:
    """[K], NaN for an image that has no score."""
    results = score_each(scorer, [prompt] * len(images), images, trial)
    return np.array([math.nan if isinstance(one, str) else one for one in results], dtype=np.float64)


def _correct(scorer: FactChecker, prompt: str, images: list[Image.Image], rewards: FloatArray) -> BoolArray:
    """[K], False for an image that has no score, of which nothing is asked."""
    correct = np.zeros(len(images), np.bool_)
    known = np.flatnonzero(np.isfinite(rewards))
    correct[known] = (
        correct_each(scorer, [prompt] * len(known), [images[row] for row in known]) if len(known) else []
    )
    return correct


def pooled_pixels(image: Image.Image) -> npt.NDArray[np.float32]:
    """The image as an 8x8 grid of box averages (rounded to 8 bits), RGB in [0, 1]: float32 [D]."""
    pooled = image.convert("RGB").resize((POOLED_SIDE, POOLED_SIDE), Image.Resampling.BOX)
    pixels: npt.NDArray[np.float32] = np.asarray(pooled, dtype=np.float32).reshape(-1) / np.float32(255)
    return pixels
