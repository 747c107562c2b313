"""The check scorer: a second reward model that training never uses."""

from ppod_data.errors import ConfigError
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


def load_check(given: str | None, reward: RewardModel | None, device: str) -> RewardModel | None:
    """Load the check scorer of a training run; None for no check.

    Args:
        reward: the reward that judges; None if the run is not evaluated.

    Raises:
        ConfigError: as `check_name`, or a check without evaluations.
    """
    if reward is None:
        if given not in (None, NO_CHECK):
            raise ConfigError(f"check_reward {given} scores evaluations, and there are none: leave it out")
        return None
    name = check_name(given, reward.name)
    return load_reward(name, device) if name else None
