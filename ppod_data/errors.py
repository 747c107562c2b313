"""Errors that users see: one line each, with the next step.

Every error has the command line's exit code: 2 for bad options or contradictory input, 1 for an external
failure, 3 for damage. Each also inherits a standard exception, so that library users can catch either.
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
    """An invalid option, prompt file or name. Nothing was written."""

    exit_code = 2


class SpecMismatchError(ConfigError):
    """A data set folder made with another generation spec."""


class NothingToLearnError(ConfigError):
    """Rewards that distinguish no two images of a prompt: there is no pair, or every advantage is zero."""


class DamagedError(PpodError, RuntimeError):
    """A stored file whose bytes differ from those committed, or that ppod did not write."""

    exit_code = 3


class HubError(PpodError, RuntimeError):
    """A request that the Hugging Face Hub refused or did not answer."""


class StoreError(PpodError, RuntimeError):
    """A request that an object store refused or did not answer."""


class RewardError(ConfigError):
    """A reward model that returns no usable scores for any image, or always fails."""


class RewardUnavailableError(PpodError, RuntimeError):
    """A remote reward model that does not respond, whatever the images."""


class DriftError(PpodError, RuntimeError):
    """Replayed log-probabilities that differ from the stored ones by more than training tolerates."""


class NonFiniteError(PpodError, RuntimeError):
    """A loss, log-probability or gradient that is NaN or infinite."""


class WorkersError(PpodError, RuntimeError):
    """Training processes that lost their connection, or that hold different numbers."""
