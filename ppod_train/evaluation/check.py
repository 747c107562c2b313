"""The check scorer: a second reward model that training never uses."""

from collections.abc import Sequence
from typing import NamedTuple

from ppod_data.errors import ConfigError
from ppod_data.inspect.judge import check_prompts
from ppod_data.rewards import RewardModel, check_reward_name, load_reward

NO_CHECK = "none"


def check_name(given: str | None, reward: str) -> str | None:
    """Return the name of the check scorer to load; None for no check.

    Args:
        given: the option; None for the default, scenes-check for the reward scenes.
        reward: name of the reward that judges.

    Raises:
        ConfigError: an unknown reward, or the reward itself.
    """
    if given is None:
        return "scenes-check" if reward == "scenes" else None
    if given == NO_CHECK:
        return None
    if check_reward_name(given) == reward:
        raise ConfigError(f"check_reward {given} is the reward that judges: name another one, or none")
    return given


class Judges(NamedTuple):
    """Reward models that score the evaluations of a run."""

    reward: RewardModel | None
    """Chooses the policy; None if the run is not evaluated."""
    check: RewardModel | None


def load_judges(reward: RewardModel | None, check: str | None, prompts: Sequence[str], device: str) -> Judges:
    """Load the check scorer and let both scorers check the prompts.

    Args:
        reward: the loaded reward that chooses the policy; None if the run is not evaluated.
        check: the option check_reward.

    Raises:
        ConfigError: as `check_name`, a check without evaluations, or a scorer that cannot read the prompts.
    """
    if reward is None:
        if check not in (None, NO_CHECK):
            raise ConfigError(f"check_reward {check} scores evaluations, and there are none: leave it out")
        return Judges(None, None)
    name = check_name(check, reward.name)
    judges = Judges(reward, load_reward(name, device) if name else None)
    for scorer in judges:
        if scorer is not None:
            check_prompts(scorer, prompts)
    return judges
