"""The prompts that options name."""

from pathlib import Path

from ppod_cli.app.output import say_notes
from ppod_data.format.prompt_settings import PromptSettings
from ppod_data.storage.files import local_path


def local_only(path: Path | None) -> Path | None:
    """Return the path of an option that names a local file or folder. Raises ConfigError for a URL."""
    return None if path is None else local_path(path)


def listed_prompts(file: Path | None) -> tuple[str, ...] | None:
    """Return the prompts of a file; None without one. Raises ConfigError as `prompts_of`."""
    return None if file is None else prompts_of(PromptSettings(prompts=file))


def prompts_of(settings: PromptSettings) -> tuple[str, ...]:
    """Return the prompts that the options name; print on stderr how many repeats were left out.

    Raises:
        ConfigError: as `ppod_data.format.prompts.read_prompt_list`.
    """
    found = settings.read()
    if found.num_repeats:
        were = "repeated prompt was" if found.num_repeats == 1 else "repeated prompts were"
        say_notes([f"{found.num_repeats:,} {were} left out"])
    return found.prompts
