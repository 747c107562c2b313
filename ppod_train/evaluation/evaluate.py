"""Evaluation of a policy: sample on fixed noise, score, and compare with a baseline on the same seeds.

Images are processed as a stream: each batch is scored, reduced to a few numbers per image and dropped. Only the first
few images of a prompt are kept, for the grids. The noise has the purpose "eval", so with any seed it differs from the
noise of every generated data set.

Shapes: K images of a prompt.
"""

from collections.abc import Iterable, Iterator, Mapping
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
from ppod_data.generation.sampling import sample_images
from ppod_data.rewards import RewardModel, load_reward
from ppod_data.rewards.each import Trial
from ppod_data.rewards.usage import total_usage
from ppod_data.support.progress import SILENT, Progress
from ppod_train.distributed import SINGLE_PROCESS, Workers
from ppod_train.evaluation.batch import empty_columns, measure_batch
from ppod_train.evaluation.image_changes import ImageSamples, image_changes
from ppod_train.evaluation.image_statistics import features
from ppod_train.evaluation.metrics import EvalResult, PromptMeasurement, Scorer, summarise
from ppod_train.evaluation.settings import EvalSettings, guidance_mode_of
from ppod_train.evaluation.statistics import mean_pairwise_distance
from ppod_train.evaluation.usage import usage_since

NUM_KEPT_IMAGES = 8


def evaluate(
    model: DiffusionModel,
    reward: str | RewardModel,
    settings: EvalSettings,
    *,
    baseline: EvalResult | None = None,
    check_reward: RewardModel | None = None,
    progress: Progress = SILENT,
    workers: Workers = SINGLE_PROCESS,
) -> EvalResult:
    """Sample every prompt's images on the evaluation noise, and measure them. Nothing is written.

    An image without a score is left out of the reward and counted.

    >>> from ppod_data import load_model
    >>> from ppod_train import EvalSettings, evaluate
    >>> settings = EvalSettings(prompts=("a cat and a dog",), num_images_per_prompt=2, num_inference_steps=2)
    >>> evaluate(load_model("scenes"), "scenes", settings).overall.num_images
    2

    Args:
        model: the policy, which is not changed.
        reward: a reward model, or what `ppod_data.load_reward` takes.
        settings: the images.
        baseline: another policy's evaluation with the same settings, for win rate and gain.
        check_reward: a second scorer, reported alongside the first.
        progress: counts the images of this process.
        workers: the processes that share the images; every process gets the result.

    Raises:
        ConfigError: impossible settings, or a baseline evaluated on different images.
        RewardError: a reward that fails on every image, or that scores no image.
    """
    reward = load_reward(reward, model.device) if isinstance(reward, str) else reward
    spec = eval_spec(model, settings)
    filled = filled_settings(model, settings)
    if baseline is not None:
        check_same_images(baseline.settings, filled)
    indices = images_of(spec, workers)
    progress.start(len(indices), "images")
    scorers = [reward] if check_reward is None else [reward, check_reward]
    earlier = total_usage(scorers)
    scored = score_images(
        images_at(spec, model, indices),
        reward,
        check_reward=check_reward,
        batch_size=spec.batch_size,
        progress=progress,
    )
    measurements = by_prompt(gathered(scored, spec, indices.start, workers))
    check_scorer = Scorer.of(check_reward) if check_reward else None
    before = None if baseline is None else _comparable(baseline, check_scorer)
    overall, prompts = summarise(measurements, before)
    if overall.reward_mean is None:
        raise RewardError(
            f"{reward.name} could score none of {overall.num_images} images ({scored.first_failure}): choose a reward "
            "that supports these prompts, or correct the reward"
        )
    return EvalResult(
        model=model.name,
        adapter=model.adapter,
        policy_fingerprint=model.fingerprint,
        settings=filled,
        scorer=Scorer.of(reward),
        check_scorer=check_scorer,
        overall=overall,
        prompts=prompts,
        measurements=measurements,
        images=image_changes(_samples(measurements), None if before is None else _samples(before)),
        first_failure=scored.first_failure,
        usage=usage_since(earlier, total_usage(scorers), workers),
    )


def _comparable(baseline: EvalResult, check_scorer: Scorer | None) -> Mapping[str, PromptMeasurement]:
    """Return the baseline's measurements, without the check scorer's if it was another one."""
    if baseline.check_scorer == check_scorer:
        return baseline.measurements
    return {
        prompt: replace(item, check_rewards=None, check_correct=None)
        for prompt, item in baseline.measurements.items()
    }


def _samples(measurements: Mapping[str, PromptMeasurement]) -> list[ImageSamples] | None:
    """Return the images' statistics of each prompt; None if an evaluation did not measure them."""
    samples = []
    for item in measurements.values():
        if item.statistics is None or item.thumbnails is None:
            return None
        samples.append(ImageSamples(item.statistics, item.thumbnails))
    return samples


def eval_spec(model: DiffusionModel, settings: EvalSettings) -> GenerationSpec:
    """Return the generation spec of an evaluation's images; its purpose separates its noise from all other noise."""
    return build_spec(
        model,
        prompts=settings.prompts,
        height=settings.height,
        width=settings.width,
        negative_prompt=settings.negative_prompt,
        num_images_per_prompt=settings.num_images_per_prompt,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        guidance_mode=guidance_mode_of(settings),
        ddim_eta=settings.ddim_eta,
        noisy_steps=settings.noisy_steps,
        seed=settings.seed,
        purpose="validation" if settings.validation else "eval",
        batch_size=settings.batch_size,
    )


def filled_settings(model: DiffusionModel, settings: EvalSettings) -> EvalSettings:
    """Return the settings with the model's defaults in place of None."""
    spec = eval_spec(model, settings)
    return replace(
        settings,
        guidance_scale=spec.guidance_scale,
        ddim_eta=spec.ddim_eta,
        noisy_steps=spec.noisy_steps,
        batch_size=spec.batch_size,
    )


def check_same_images(before: EvalSettings, after: EvalSettings) -> None:
    """Raise `ConfigError` naming the first setting in which two evaluations differ."""
    for field in fields(EvalSettings):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new:
            raise ConfigError(
                f"the baseline was evaluated with {field.name} {_short(old)}, not {_short(new)}: "
                "evaluate both with the same settings, so that their seeds can be compared"
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def images_of(spec: GenerationSpec, workers: Workers) -> range:
    """Return the indices of the images that this process samples and scores.

    The indices cover consecutive batches. Batches of the sampler span prompts; batches of the scorer do not. Every
    scorer batch goes whole to the process that samples its first image, so sampler and scorer see the same batches as
    in a single process.
    """
    total, size, each = spec.num_samples, spec.batch_size, spec.num_images_per_prompt
    own = workers.shard(-(-total // size))

    def first_scored_from(image: int) -> int:
        """Return the first image of the first scorer batch that starts at `image` or later."""
        if image >= total:
            return total
        prompt, k = divmod(image, each)
        return min(prompt * each + -(-k // size) * size, (prompt + 1) * each)

    return range(first_scored_from(own.start * size), first_scored_from(own.stop * size))


def images_at(
    spec: GenerationSpec, model: DiffusionModel, indices: range
) -> Iterator[tuple[str, int, Image.Image]]:
    """Yield the images at `indices` of the spec as (prompt, image index, image), sampled in the spec's batches."""
    size = spec.batch_size
    batches = range(indices.start // size, -(-indices.stop // size) if indices else 0)
    images = chain.from_iterable(sample_images(spec, model, batches))
    skipped = indices.start - batches.start * size
    return islice(images, skipped, skipped + len(indices))


class Scored(NamedTuple):
    """Measurements of N images, in order."""

    prompts: list[str]
    """[N]"""
    columns: dict[str, npt.NDArray[Any]]
    """[N, ...] each: "rewards", "statistics" and "thumbnails"; if available "correct", "check_rewards" and
    "check_correct"."""
    kept: dict[int, Image.Image]
    """The first images of each prompt, by index."""
    first_failure: str | None = None
    """Reason why the first image without a score, by either scorer, has none."""


def measure(
    images: Iterable[tuple[str, int, Image.Image]], reward: RewardModel, **options: Any
) -> dict[str, PromptMeasurement]:
    """Score a stream of images with `score_images`, and group the measurements by prompt."""
    return by_prompt(score_images(images, reward, **options))


def score_images(
    images: Iterable[tuple[str, int, Image.Image]],
    reward: RewardModel,
    *,
    check_reward: RewardModel | None = None,
    batch_size: int = 64,
    num_kept_images: int = NUM_KEPT_IMAGES,
    progress: Progress = SILENT,
) -> Scored:
    """Score a stream of (prompt, image index, image) in batches; images of a prompt are consecutive.

    An image that cannot be scored has the reward NaN.

    Raises:
        RewardError: a reward that fails on every image.
    """
    prompts: list[str] = []
    trials = (Trial(), Trial())
    parts = {name: [column] for name, column in empty_columns(reward, check_reward).items()}
    kept: dict[int, Image.Image] = {}
    for prompt, group in groupby(images, key=lambda item: item[0]):
        while batch := list(islice(group, batch_size)):
            kept |= {
                len(prompts) + row: image for row, (_, k, image) in enumerate(batch) if k < num_kept_images
            }
            pictures = [image for _, _, image in batch]
            for name, values in measure_batch(prompt, pictures, reward, check_reward, trials).items():
                parts[name].append(values)
            prompts += [prompt] * len(batch)
            progress.advance(len(batch))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return Scored(prompts, columns, kept, trials[0].first_failure or trials[1].first_failure)


def gathered(scored: Scored, spec: GenerationSpec, first: int, workers: Workers) -> Scored:
    """Combine the measurements of all processes; `first` is the index of this process's first image."""
    if workers.world_size == 1:
        return scored
    total, each = spec.num_samples, spec.num_images_per_prompt
    columns = {name: workers.gather(rows, first, total) for name, rows in scored.columns.items()}
    own = {first + index: image for index, image in scored.kept.items()}
    kept: dict[int, Image.Image] = {}
    for start in range(0, total, each):
        indices = range(start, start + min(each, NUM_KEPT_IMAGES))
        pixels = np.zeros((len(indices), spec.height, spec.width, 3), np.uint8)
        for row, index in enumerate(indices):
            if index in own:
                pixels[row] = np.asarray(own[index].convert("RGB"))
        workers.sum(torch.from_numpy(pixels))
        kept |= {index: Image.fromarray(pixels[row]) for row, index in enumerate(indices)}
    prompts = [spec.prompts[index // each] for index in range(total)]
    return Scored(prompts, columns, kept, scored.first_failure)


def by_prompt(scored: Scored) -> dict[str, PromptMeasurement]:
    """Group the measurements by prompt."""
    measurements: dict[str, PromptMeasurement] = {}
    first = 0
    for prompt, group in groupby(scored.prompts):
        assert prompt not in measurements, "the images of a prompt are consecutive"
        rows = slice(first, first + len(list(group)))
        of_prompt = {name: values[rows] for name, values in scored.columns.items()}
        measurements[prompt] = PromptMeasurement(
            diversity=mean_pairwise_distance(features(of_prompt["thumbnails"])),
            images=tuple(image for index, image in scored.kept.items() if rows.start <= index < rows.stop),
            **of_prompt,
        )
        first = rows.stop
    return measurements
