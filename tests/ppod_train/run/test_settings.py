"""The settings of a training run: what is refused by name, what an objective's own defaults are."""

import dataclasses
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import ConfigError
from ppod_train.objectives import OBJECTIVES
from ppod_train.objectives.targets import LossOptions
from ppod_train.settings import TrainSettings

# A value of each option of a loss that is not the default.
CHANGED: dict[str, Any] = {
    "dpo_beta": 7.0,
    "log_ratio_clip": 0.5,
    "clip_anchor": "stage",
    "clip_mode": "pessimistic-step",
    "pull_back": 0.5,
    "reward_temperature": 3.0,
    "nft_beta": 0.3,
    "best_of": 3,
}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"objective": "dpo"}, "objective dpo"),
        ({"log_ratio_clip": 0.0}, "log_ratio_clip"),
        ({"log_ratio_clip": float("nan")}, "log_ratio_clip"),
        ({"dpo_beta": float("inf")}, "dpo_beta"),
        ({"clip_mode": "max"}, "clip_mode max"),
        ({"clip_anchor": "old"}, "clip_anchor old"),
        ({"pull_back": -1.0}, "pull_back"),
        ({"kl_weight": -0.1}, "kl_weight"),
        ({"kl_weight": float("nan")}, "kl_weight"),
        ({"pull_back": float("inf")}, "pull_back"),
        ({"objective": "sft", "reward_temperature": 0.0}, "reward_temperature"),
        ({"objective": "sft-best", "best_of": 1}, "best_of"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"num_train_steps": 0}, "num_train_steps"),
        ({"timesteps_per_update": 0}, "timesteps_per_update"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"trained_steps": "3"}, "trained_steps is '3': write A:B"),
        ({"trained_steps": "5:5"}, "trained_steps"),
        ({"trained_steps": "-1:3"}, "trained_steps"),
        ({"lr_scheduler": "polynomial"}, "lr_scheduler polynomial is unknown: constant, linear, cosine"),
        ({"lr_warmup_steps": -1}, "lr_warmup_steps"),
        ({"gradient": "three-pass"}, "three-pass"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainSettings(**options).validate()


def test_the_clip_may_be_infinite() -> None:
    settings = TrainSettings(log_ratio_clip=float("inf"))
    settings.validate()
    assert settings.clip == float("inf")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_option_that_the_objective_does_not_read_is_refused_by_name(objective: str) -> None:
    """Every option of a loss: read, or refused, never ignored."""
    assert CHANGED.keys() == {field.name for field in fields(LossOptions)} - {"timestep_scale"} | {"best_of"}
    settings = TrainSettings(objective=objective)
    settings.validate()
    for name, value in CHANGED.items():
        changed = replace(settings, **{name: value})
        if name in OBJECTIVES[objective].reads:
            changed.validate()
        else:
            with pytest.raises(ConfigError, match=f"{objective} does not read {name}"):
                changed.validate()


def test_an_objective_that_is_relative_to_the_reference_takes_no_kl() -> None:
    with pytest.raises(ConfigError, match="diffusion-dpo does not read kl_weight"):
        TrainSettings(objective="diffusion-dpo", kl_weight=0.1).validate()
    TrainSettings(objective="diffusion-nft", kl_weight=0.1).validate()
    TrainSettings(objective="awm", kl_weight=0.1).validate()


def test_an_objective_brings_its_own_defaults_and_what_is_given_wins() -> None:
    assert TrainSettings(objective="ppod") == TrainSettings()
    prdp = TrainSettings(objective="prdp")
    assert (prdp.objective, prdp.clip_anchor, prdp.clip_mode) == ("prdp", "stage", "pessimistic-pair")
    assert TrainSettings(objective="prdp", clip_anchor="reference").clip_anchor == "reference"
    assert TrainSettings(objective="dpok").kl_weight > 0
    assert TrainSettings(objective="dpok", kl_weight=0.0).kl_weight == 0
    assert TrainSettings(objective="diffusion-dpo").dpo_beta == 2000
    with pytest.raises(ConfigError, match=r"objective dpo is unknown: ppod, .*sft-best are known"):
        TrainSettings(objective="dpo")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_defaults_are_settings_that_the_objective_reads(objective: str) -> None:
    loss_options = {field.name for field in fields(LossOptions)} | {"best_of"}
    fixed = {field.name: field.default for field in fields(TrainSettings)}
    for name in OBJECTIVES[objective].defaults:
        assert fixed[name] is None
        assert name not in loss_options or name in OBJECTIVES[objective].reads


def test_the_loss_is_given_every_option_as_it_was_set() -> None:
    options = {name: value for name, value in CHANGED.items() if name != "best_of"}
    assert TrainSettings(**options).loss_options(timestep_scale=4.0) == LossOptions(
        **options, timestep_scale=4.0
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_figures_of_a_policy_gradient_are_of_the_band_that_it_clips_at(objective: str) -> None:
    """Its ratio is to the policy that made the data: the share in the band is of that band."""
    anchor = TrainSettings(objective=objective).loss_options().clip_anchor
    assert anchor == ("stage" if objective in ("ddpo", "dpok", "prdp") else "reference")


def test_every_setting_is_read() -> None:
    """A field that nothing reads is a dead knob."""
    import ppod_train

    folder = Path(next(iter(ppod_train.__path__)))
    source = "".join(path.read_text() for path in folder.rglob("*.py") if path.name != "settings.py")
    loss_options = {field.name for field in fields(LossOptions)}
    for field in dataclasses.fields(TrainSettings):
        prefix = "options" if field.name in loss_options else "settings"
        assert f"{prefix}.{field.name}" in source, f"nothing reads {field.name}"
