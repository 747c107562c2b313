"""Options that name prompts, declared once for commands and configuration files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppod_data.support.options import option

if TYPE_CHECKING:
    from ppod_data.format.prompts import PromptList

_PANEL = "What to sample"


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Prompts as texts and as a file.

    >>> PromptSettings(prompt=("a cat", "a dog")).read().prompts
    ('a cat', 'a dog')
    """

    prompt: tuple[str, ...] = option(
        (), "A prompt; repeat the option for more.", panel=_PANEL, metavar="TEXT"
    )
    prompts: Path | None = option(
        None,
        "One prompt a line, or the prompt column of a .csv, .tsv, .json, .jsonl or .parquet file; UTF-8.",
        panel=_PANEL,
        metavar="FILE",
    )
    prompt_column: str | None = option(
        None,
        "Column or key of the prompts in the file.",
        panel=_PANEL,
        metavar="NAME",
        shown_default="prompt, or the only one of caption, captions, text and prompts",
    )
    drop_duplicates: bool = option(
        False, "Leave repeated prompts out.", panel=_PANEL, flag="--drop-duplicates"
    )

    @property
    def is_given(self) -> bool:
        """Whether an option names prompts."""
        return bool(self.prompt) or self.prompts is not None or self.prompt_column is not None

    def read(self) -> "PromptList":
        """Read the prompts. Raises ConfigError as `ppod_data.format.prompts.read_prompt_list`."""
        from ppod_data.format.prompts import read_prompt_list

        return read_prompt_list(
            self.prompt, self.prompts, column=self.prompt_column, drop_duplicates=self.drop_duplicates
        )
