"""The reward of a command that names none."""

from ppod_data.errors import ConfigError
from ppod_data.rewards import BUILDERS


def usual_reward_of(model: str, what: str) -> str:
    """Return the reward of the model `scenes`, which reads its prompts.

    Raises:
        ConfigError: another model, whose images no reward is assumed to suit. `what` is judged, for the message.
    """
    if model == "scenes":
        return "scenes"
    known = ", ".join(name for name in sorted(BUILDERS) if not name.startswith("scenes"))
    raise ConfigError(
        f"which reward judges {what} of {model}? give --reward NAME: {known}; MODULE:FUNCTION is one of yours, "
        "http://HOST:PORT one that ppod-score --serve serves"
    )
