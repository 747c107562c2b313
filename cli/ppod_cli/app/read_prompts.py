"""The prompts that options name."""

from pathlib import Path

from ppod_cli.app.output import say_notes


def listed_prompts(file: Path | None) -> tuple[str, ...] | None:
    """Return the prompts of a file; None without one. Raises ConfigError as `prompts_of`."""
    return None if file is None else prompts_of(None, file, None, drop_duplicates=False)


def prompts_of(
    prompt: list[str] | None, prompts: Path | None, column: str | None, drop_duplicates: bool
) -> tuple[str, ...]:
    """Return the prompts that the options name; print on stderr how many repeats were left out.

    Raises:
        ConfigError: as `ppod_data.format.prompts.read_prompt_list`.
    """
    from ppod_data.format.prompts import read_prompt_list

    found = read_prompt_list(prompt or [], prompts, column=column, drop_duplicates=drop_duplicates)
    if found.num_repeats:
        were = "repeated prompt was" if found.num_repeats == 1 else "repeated prompts were"
        say_notes([f"{found.num_repeats:,} {were} left out"])
    return found.prompts
