"""The errors that users see: one clear line each that says what to do next.

Every error carries the exit code of the command line: 2 for bad options or input that contradicts itself,
1 for a failure of the world, 3 for damage. Each also inherits the standard error it specialises, so library users can
catch either.
"""


class PpodError(Exception):
    """Base of every error that ppod raises on purpose.

    >>> from ppod_data import Dataset, PpodError
    >>> try:
    ...     Dataset.open("nowhere")
    ... except PpodError as error:
    ...     error.exit_code
    2
    """

    exit_code = 1


class ConfigError(PpodError, ValueError):
    """An option, a prompt file or a name that cannot be right: nothing was written."""

    exit_code = 2


class SpecMismatchError(ConfigError):
    """The data set folder was made with another generation spec."""


class NothingToLearnError(ConfigError):
    """The rewards tell no two images of a prompt apart: there is no pair, or every advantage is zero."""


class DamagedError(PpodError, RuntimeError):
    """A stored file does not hold the bytes that were committed, or none that ppod wrote."""

    exit_code = 3


class HubError(PpodError, RuntimeError):
    """The Hugging Face Hub cannot be reached, or refuses."""


class StoreError(PpodError, RuntimeError):
    """A store of data sets cannot be reached, or refuses."""


class RewardError(ConfigError):
    """A reward model that gives no usable scores, whatever the images: what it returns is wrong, or it always fails."""


class RewardUnavailableError(PpodError, RuntimeError):
    """A reward model that is served elsewhere does not answer: not the fault of the images in hand."""


class DriftError(PpodError, RuntimeError):
    """Replayed log-probabilities differ from the stored ones by more than training can bear."""


class NonFiniteError(PpodError, RuntimeError):
    """A loss, log-probability or gradient is NaN or infinite."""


class WorkersError(PpodError, RuntimeError):
    """Processes that train together lost each other, or do not hold the same numbers."""
