"""Default settings that depend on the model, with their reasons.

A change d (rms) of the guided prediction lowers the log-ratio of step t by (k_t·d)²/2, independently of N, the
number of latent dimensions, and adds a random shift of k_t·d/√N (`ppod_train.step.step_weight`). On `scenes` (N =
256) both terms are of equal size at the clip, and its settings were found by experiment. At N = 16,384 the clip
bounds d alone, and an update with the same learning rate changes a larger network several times as much. Therefore
larger models have defaults of their own.

| model | learning_rate | log_ratio_clip | step_weight |
|---|---|---|---|
| N ≤ 1,024 (`scenes`) | 3e-3 | 0.01 | none: Eq. 10 |
| Stable Diffusion 1.x, 2.x at 512 pixels, guidance ≤ 5 | 2e-4: d = 0.01 per update, as on `scenes` | d = 0.2 | k2 |
| the same with more guidance, and all others | 1e-4: guidance multiplies d; larger networks | d = 0.2 | k2 |

The defaults also hold for d3po and the policy gradients. None of these values has been tried on a real model.

The clip is (0.2·k_med)²/2: 0.0099 for Stable Diffusion 1.5 with 20 steps, 0.0035 with 50. A change of 0.2 is about
the change from guidance 5 to 8. If all weights of a larger model train, the learning
rate is a hundredth.
"""

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch

from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec
from ppod_train.objectives import OBJECTIVES
from ppod_train.settings import TrainSettings
from ppod_train.step.step_weight import chain_sensitivity

_SMALL = 1024
_STABLE_DIFFUSION = 4 * 64 * 64
_LARGEST_CHANGE = 0.2
_TUNED = ("learning_rate", "log_ratio_clip", "step_weight")


def resolve(settings: TrainSettings, spec: GenerationSpec) -> TrainSettings:
    """Replace the settings that were not given by the defaults for the model that made a data set."""
    defaults = _defaults(spec)
    rate = defaults.learning_rate / (100 if settings.rank == 0 and not _is_small(spec) else 1)
    weight: Literal["none", "k2"] = (
        defaults.step_weight if "step_weight" in OBJECTIVES[settings.objective].reads else "none"
    )
    return replace(
        settings,
        lora_rank=settings.rank,
        lr_scheduler=settings.lr_scheduler or "constant",
        learning_rate=rate if settings.learning_rate is None else settings.learning_rate,
        log_ratio_clip=defaults.log_ratio_clip
        if settings.log_ratio_clip is None
        else settings.log_ratio_clip,
        step_weight=weight if settings.step_weight is None else settings.step_weight,
    )


def limit_graph(settings: TrainSettings, device: str) -> TrainSettings:
    """Limit the memory of a graph to a third of the GPU's memory if no limit was given.

    More memory brings little speed: on an H200, Stable Diffusion 1.5 took twice as long under 4 GiB as under 18
    GiB.
    """
    if settings.max_graph_gib is not None or torch.device(device).type != "cuda":
        return settings
    memory = torch.cuda.get_device_properties(device).total_memory
    return replace(settings, max_graph_gib=round(memory / 3 / 2**30, 1))


def check_subset(settings: TrainSettings, num_steps: int) -> None:
    """Raise ConfigError if a subset of the timesteps would bias the gradient beyond use.

    The weight σ(−D) of a pair is convex in D, so its mean over subsets is too close to 1/2, and pairs count too
    equally. The bias is 8 to 18 % with 5 of 19 steps at dpo_beta 10 and clip 0.01, and a factor of 27 at dpo_beta
    100.
    """
    subset = settings.timesteps_per_update
    strength = settings.dpo_beta * min(settings.clip, 0.01)
    of_the_sum = "clip_mode" in OBJECTIVES[settings.objective].reads
    if of_the_sum and subset is not None and subset < num_steps and strength >= 1:
        raise ConfigError(
            f"timesteps_per_update {subset} of {num_steps} with dpo_beta {settings.dpo_beta:g} and log_ratio_clip "
            f"{settings.clip:g}: the sum over a subset is far from the sum that the sigmoid needs; leave "
            f"--timesteps-per-update out, or give --dpo-beta below {1 / min(settings.clip, 0.01):g}"
        )


def explain(settings: TrainSettings, spec: GenerationSpec) -> str:
    """Return one line with the defaults that `resolve` chooses and the reason; "" if every setting was given."""
    names = [name for name in _TUNED if getattr(settings, name) is None]
    if not names:
        return ""
    resolved = resolve(settings, spec)
    values = ", ".join(f"{name} {_word(getattr(resolved, name))}" for name in names)
    size = f"N = {math.prod(spec.latent_shape):,}"
    if _is_small(spec):
        return f"defaults: {values} (as tuned on scenes; {size})"
    return (
        f"defaults: {values} (for {size}, {spec.num_inference_steps} steps, guidance {spec.guidance_scale:g}: a step "
        f"is clipped where the prediction has changed by {_LARGEST_CHANGE})"
    )


def explain_choices(settings: TrainSettings, spec: GenerationSpec) -> list[str]:
    """Return the lines of a dry run about a training: its defaults, and the meaning of its clip."""
    lines = [explain(settings, spec)]
    objective = OBJECTIVES[settings.objective]
    if "log_ratio_clip" in objective.reads and not objective.on_final_latents:
        lines.append(explain_sensitivity(resolve(settings, spec), spec))
    return [line for line in lines if line]


def explain_sensitivity(settings: TrainSettings, spec: GenerationSpec) -> str:
    """Return one line with the sensitivity of each step's log-ratio to the prediction, and the meaning of the clip."""
    k = chain_sensitivity(spec)
    steps = [step for step in spec.stored_steps() if k[step] > 0]
    sensitivities, clip = k[steps], settings.clip
    summary = (
        f"k_t {sensitivities.min():.2g} … {sensitivities.max():.2g}, median {np.median(sensitivities):.2g}"
    )
    if not math.isfinite(clip):
        return (
            f"sensitivity: a change d of the prediction moves a log-ratio by -(k_t·d)²/2; {summary}; no clip"
        )
    power = {"none": 0, "k": 1, "k2": 2}[settings.step_weight or "none"]
    weights = (np.median(sensitivities) / sensitivities) ** power
    edges = np.sqrt(2 * clip / weights) / sensitivities
    narrow = int(np.argmin(edges))
    return (
        f"sensitivity: a change d of the prediction moves a log-ratio by -(k_t·d)²/2; {summary}; the clip {clip:g} is "
        f"d = {np.median(edges):.2g} at the median step, {edges[narrow]:.2g} at step {steps[narrow]}"
    )


class _Defaults(NamedTuple):
    learning_rate: float
    log_ratio_clip: float
    step_weight: Literal["none", "k2"]


def _defaults(spec: GenerationSpec) -> _Defaults:
    if _is_small(spec):
        return _Defaults(3e-3, 0.01, "none")
    k = chain_sensitivity(spec)
    clip = (_LARGEST_CHANGE * np.median(k[[step for step in spec.stored_steps() if k[step] > 0]])) ** 2 / 2
    usual = not spec.is_flow_matching and math.prod(spec.latent_shape) <= _STABLE_DIFFUSION
    rate = 2e-4 if usual and spec.guidance_scale <= 5 else 1e-4
    return _Defaults(rate, float(f"{clip:.2g}"), "k2")


def _is_small(spec: GenerationSpec) -> bool:
    return math.prod(spec.latent_shape) <= _SMALL


def _word(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
