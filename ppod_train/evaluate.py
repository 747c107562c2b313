"""What a policy's images are worth: sample on fixed noise, score, compare with the same seeds before.

Images stream through: they are scored in batches, reduced to a few numbers each and dropped, except the
first few of a prompt, which are kept for the grids. The noise has the purpose "eval": whatever the seed, no
image is made from noise that a data set was generated from.

Shapes: K images of a prompt, D = 192 numbers that describe an image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from itertools import chain, groupby, islice
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ppod_data.diffusion.model import DiffusionModel
from ppod_data.errors import ConfigError, NonFiniteError
from ppod_data.generate import build_spec, sample_images
from ppod_data.rewards import FactChecker, RewardModel
from ppod_data.spec import GenerationSpec
from ppod_train.figures import BoolArray, EvalResult, EvalSettings, PromptMeasurement, Scorer, summarise
from ppod_train.statistics import FloatArray, mean_pairwise_distance

OnBatch = Callable[[int], None]
Number = TypeVar("Number", np.float64, np.bool_)

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
) -> EvalResult:
    """Sample every prompt's images on the evaluation noise and measure them.

    Args:
        baseline: another policy's evaluation with the same settings, for win rate and gain.
        check_reward: a second scorer, reported beside the first.
        on_batch: called with the number of images of each scored batch.

    Raises:
        ConfigError: impossible settings, or a baseline evaluated on other images.
        NonFiniteError: a score that is NaN or infinite.
    """
    spec = eval_spec(model, settings)
    filled = replace(
        settings,
        guidance_scale=spec.guidance_scale,
        ddim_eta=spec.ddim_eta,
        batch_size=spec.batch_size,
    )
    if baseline is not None:
        check_same_images(baseline.settings, filled)
    measurements = measure(
        chain.from_iterable(sample_images(spec, model)),
        reward,
        check_reward=check_reward,
        batch_size=spec.batch_size,
        on_batch=on_batch,
    )
    overall, prompts = summarise(measurements, baseline.measurements if baseline else None)
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
    )


def eval_spec(model: DiffusionModel, settings: EvalSettings) -> GenerationSpec:
    """The generation spec of an evaluation's images: its purpose keeps its noise apart from all other."""
    return build_spec(
        model,
        prompts=settings.prompts,
        negative_prompt=settings.negative_prompt,
        num_images_per_prompt=settings.num_images_per_prompt,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        ddim_eta=settings.ddim_eta,
        seed=settings.seed,
        purpose="validation" if settings.validation else "eval",
        batch_size=settings.batch_size,
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


def measure(
    images: Iterable[tuple[str, int, Image.Image]],
    reward: RewardModel,
    *,
    check_reward: RewardModel | None = None,
    batch_size: int = 64,
    num_kept_images: int = NUM_KEPT_IMAGES,
    on_batch: OnBatch = lambda num_images: None,
) -> dict[str, PromptMeasurement]:
    """Score a stream of (prompt, image index, image), the images of a prompt in a row, a batch at a time.

    Raises:
        NonFiniteError: a score that is NaN or infinite.
    """
    measured: dict[str, PromptMeasurement] = {}
    for prompt, group in groupby(images, key=lambda item: item[0]):
        assert prompt not in measured, "the images of a prompt come in a row"
        rows: list[_Batch] = []
        kept: list[Image.Image] = []
        while batch := [image for _, _, image in islice(group, batch_size)]:
            kept += batch[: num_kept_images - len(kept)]
            rows.append(_measure_batch(prompt, batch, reward, check_reward))
            on_batch(len(batch))
        measured[prompt] = PromptMeasurement(
            rewards=np.concatenate([row.rewards for row in rows]),
            correct=_joined([row.correct for row in rows]),
            check_rewards=_joined([row.check_rewards for row in rows]),
            check_correct=_joined([row.check_correct for row in rows]),
            diversity=mean_pairwise_distance(np.concatenate([row.features for row in rows])),
            images=tuple(kept),
        )
    return measured


class _Batch(NamedTuple):
    rewards: FloatArray
    correct: BoolArray | None
    check_rewards: FloatArray | None
    check_correct: BoolArray | None
    features: npt.NDArray[np.float32]


def _measure_batch(
    prompt: str, images: list[Image.Image], reward: RewardModel, check_reward: RewardModel | None
) -> _Batch:
    return _Batch(
        rewards=_scores(reward, prompt, images),
        correct=_correct(reward, prompt, images),
        check_rewards=_scores(check_reward, prompt, images) if check_reward else None,
        check_correct=_correct(check_reward, prompt, images) if check_reward else None,
        features=np.stack([pooled_pixels(image) for image in images]),
    )


def _scores(scorer: RewardModel, prompt: str, images: list[Image.Image]) -> FloatArray:
    scores = np.array(scorer.score([prompt] * len(images), images), dtype=np.float64)
    if not np.isfinite(scores).all():
        raise NonFiniteError(
            f"reward {scorer.name} is NaN or infinite for an image of {prompt!r}: leave that prompt out, "
            "or evaluate with another reward"
        )
    return scores


def _correct(scorer: RewardModel, prompt: str, images: list[Image.Image]) -> BoolArray | None:
    if not isinstance(scorer, FactChecker):
        return None
    return np.array(scorer.correct([prompt] * len(images), images), dtype=np.bool_)


def _joined(parts: Sequence[npt.NDArray[Number] | None]) -> npt.NDArray[Number] | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def pooled_pixels(image: Image.Image) -> npt.NDArray[np.float32]:
    """The image as an 8x8 grid of box averages (rounded to 8 bits), RGB in [0, 1]: float32 [D]."""
    pooled = image.convert("RGB").resize((POOLED_SIDE, POOLED_SIDE), Image.Resampling.BOX)
    pixels: npt.NDArray[np.float32] = np.asarray(pooled, dtype=np.float32).reshape(-1) / np.float32(255)
    return pixels
