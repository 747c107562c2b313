"""The reward that judges if none is named."""

from ppod_data.errors import ConfigError
from ppod_data.rewards import BUILDERS


def usual_reward(model: str, what: str = "the images") -> str:
    """Return the reward of the model `scenes`, which reads its prompts.

    Args:
        model: name of the model that made the images.
        what: the judged things, for the message.

    Raises:
        ConfigError: another model, because no reward suits every model's images.
    """
    if model == "scenes":
        return "scenes"
    known = ", ".join(name for name in sorted(BUILDERS) if not name.startswith("scenes"))
    raise ConfigError(
        f"which reward judges {what} of {model}? give --reward NAME: {known}; MODULE:FUNCTION is one of yours, "
        "http://HOST:PORT one that ppod-score --serve serves"
    )
