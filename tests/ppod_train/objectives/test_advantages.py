"""From rewards to advantages: by hand, within prompts, and a value baseline that does not leak."""

from typing import Any

import numpy as np
import pytest
import torch

from ppod_train.objectives.advantages import (
    Rated,
    above_value_baseline,
    best_of_k,
    reward_weights,
    standardised,
)

STEPS = 3


def rated(
    rewards: Any,
    prompt_index: Any = None,
    *,
    latents: torch.Tensor | None = None,
    temperature: float = 1.0,
    best_of: int = 2,
) -> Rated:
    """Rewards with latents [T, M, C, H, W]; of one prompt, and latents of 0, unless given."""
    count = len(rewards)
    chains = torch.zeros(STEPS, count, 1, 2, 2) if latents is None else latents
    return Rated(
        rewards=np.array(rewards, dtype=np.float64),
        prompt_index=np.array([0] * count if prompt_index is None else prompt_index),
        num_steps=STEPS,
        read_latents=lambda rows: chains[:, torch.from_numpy(rows)],
        temperature=temperature,
        best_of=best_of,
    )


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rewards_are_standardised_within_each_prompt() -> None:
    """Prompt 0: mean 2, standard deviation 1; prompt 1: mean 20, standard deviation 10; the prompts may mix."""
    found = standardised(rated([1.0, 10.0, 3.0, 30.0], [0, 1, 0, 1]))
    assert found.shape == (4, STEPS)
    assert found.tolist() == [[-1.0] * STEPS, [-1.0] * STEPS, [1.0] * STEPS, [1.0] * STEPS]


def test_equal_rewards_are_worth_nothing() -> None:
    """Not a division by 0, and no image beats another by its place in the list."""
    assert standardised(rated([0.3, 0.3, 0.3])).tolist() == [[0.0] * STEPS] * 3
    assert above_value_baseline(rated([0.3, 0.3, 0.3])).tolist() == [[0.0] * STEPS] * 3
    assert reward_weights(rated([0.3, 0.3, 0.3])).tolist() == [[1.0] * STEPS] * 3


@pytest.mark.parametrize("count", [3, 10, 24, 64])
def test_a_tie_at_a_reward_whose_mean_is_rounded_is_worth_nothing(count: int) -> None:
    """The mean of 64 times 0.7 is not 0.7, and the standard deviation not 0."""
    rewards = [-0.35, 0.1, 0.3, 0.7, 2.2]
    ties = rated(np.repeat(rewards, count), np.repeat(np.arange(len(rewards)), count))
    assert any(np.full(count, reward).std() > 0 for reward in rewards)
    assert not standardised(ties).any() and not above_value_baseline(ties).any()
    assert (reward_weights(ties) == 1.0).all()


def test_a_spread_too_small_for_its_square_is_worth_nothing() -> None:
    assert standardised(rated([1e-200, 2e-200])).tolist() == [[0.0] * STEPS] * 2


def test_advantages_stay_within_five_standard_deviations() -> None:
    """One of 100 images is far better: 99 / √99 = 9.9 standard deviations above the mean."""
    rewards = [0.0] * 99 + [1.0]
    assert standardised(rated(rewards)).max() == 5.0
    assert above_value_baseline(rated(rewards)).max() == 5.0


def test_reward_weights_have_a_mean_of_1_and_the_ratio_of_their_exponents() -> None:
    found = reward_weights(rated([1.0, 3.0, 5.0, 9.0], [0, 0, 1, 1], temperature=0.5))
    for rows in (found[:2], found[2:]):
        assert rows.mean() == pytest.approx(1.0)
        assert rows[1, 0] / rows[0, 0] == pytest.approx(np.exp(2 / 0.5))
    assert (found == found[:, :1]).all()


def test_a_higher_temperature_weighs_more_evenly() -> None:
    even = reward_weights(rated([1.0, 2.0, 4.0], temperature=100.0))
    assert even == pytest.approx(np.ones((3, STEPS)), abs=0.03)


def test_best_of_k_keeps_the_best_of_every_k() -> None:
    found = best_of_k(rated([1.0, 5.0, 2.0, 0.0, 9.0, 7.0, 8.0, 6.0], [0, 0, 0, 0, 1, 1, 1, 1]))
    assert found[:, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert (found == found[:, :1]).all()
    found = best_of_k(rated([1.0, 5.0, 2.0, 0.0], best_of=4))
    assert found[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_fewer_images_than_k_have_one_best() -> None:
    assert best_of_k(rated([1.0, 5.0, 2.0], best_of=8))[:, 0].tolist() == [0.0, 1.0, 0.0]


def test_the_value_baseline_takes_away_what_the_latent_predicts() -> None:
    """The reward is linear in the latent from the second step on: there the baseline explains it, before it nothing."""
    chains = noise(STEPS, 200, 1, 2, 2, seed=0)
    rewards = chains[1].flatten(1).double() @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    chains[2] = chains[1]
    found = above_value_baseline(rated(rewards.tolist(), latents=chains))
    assert np.abs(found[:, 1:]).max() < 0.1
    assert np.corrcoef(found[:, 0], rewards)[0, 1] > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_the_value_baseline_does_not_leak(seed: int) -> None:
    """On pure noise, with 256 features for 200 images of a half, a fit on its own targets would explain all of the
    reward. Predicted from the other half, by chance alone it may explain a share of up to (4·√(2/400))² = 0.08."""
    count = 400
    chains, rewards = noise(STEPS, count, 4, 8, 8, seed=seed), noise(count, seed=100 + seed).double().numpy()
    case = rated(rewards, latents=chains)
    found, plain = above_value_baseline(case), standardised(case)
    chance = 16 * 2 / count
    for step in range(STEPS):
        assert np.corrcoef(found[:, step], rewards)[0, 1] > np.sqrt(1 - chance)
        assert found[:, step].var() > (1 - chance) * plain[:, step].var()


def test_the_value_baseline_reads_large_latents_pooled() -> None:
    """A 32×32 latent is pooled to 8×8: a reward of its coarse content is explained."""
    coarse = noise(STEPS, 300, 1, 2, 2, seed=1)
    chains = torch.nn.functional.interpolate(coarse.flatten(0, 1), scale_factor=16).unflatten(0, (STEPS, 300))
    rewards = coarse[0, :, 0, 0, 0].tolist()
    found = above_value_baseline(rated(rewards, latents=chains))
    assert np.abs(found[:, 0]).mean() < 0.1
