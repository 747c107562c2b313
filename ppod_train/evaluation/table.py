"""The table that `ppod-train eval` prints. It fits every terminal without cutting a number.

All numbers of a column have one precision. A wide terminal shows the prompts in a column, a narrow one above their
numbers. The narrowest layout has one figure per line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ppod_data.support.formatting import UNKNOWN, Precision, between_percent, counted, percent, precision

if TYPE_CHECKING:
    from ppod_train.evaluation.metrics import EvalResult, Metrics

_HEADINGS = ("reward", "correct", "check", "diversity")
_PROMPT_WIDTH = 11
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class _Line:
    """Figures of a policy, or their gain."""

    name: str
    """before, after or gain; empty for a single policy."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _Block:
    """Lines of one prompt, or of all prompts."""

    title: str
    is_total: bool
    lines: tuple[_Line, ...]


@dataclass(frozen=True)
class EvalTable:
    """Blocks of lines: one for each prompt and one for all, with before, after and gain and 95 % intervals."""

    title: str
    headings: tuple[str, ...]
    blocks: tuple[_Block, ...]

    @classmethod
    def of(cls, after: "EvalResult", before: "EvalResult | None" = None) -> "EvalTable":
        """Lay out an evaluation, and that of its baseline on the same seeds."""
        rows = [
            (prompt, before.prompts[prompt] if before else None, figures)
            for prompt, figures in after.prompts.items()
        ]
        rows.append(("all prompts", before.overall if before else None, after.overall))
        formats = _formats([one for _, old, new in rows for one in (old, new) if one is not None])
        blocks = [
            _Block(" ".join(title.split()), place == len(rows) - 1, _lines(old, new, formats))
            for place, (title, old, new) in enumerate(rows)
        ]
        kept = [
            column
            for column in range(len(_HEADINGS))
            if any(line.cells[column] not in ("", UNKNOWN) for block in blocks for line in block.lines)
        ]
        headings = [_HEADINGS[column] for column in kept]
        if "correct" in headings and after.overall.correct is None:
            headings[headings.index("correct")] = "wins"
        return cls(_title(after), tuple(headings), tuple(_keep(block, kept) for block in blocks))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the widest layout that fits without cutting a number."""
        yield Text(self.title, style="italic")
        numbers = self._table()
        needed = Measurement.get(console, options.update(width=_UNBOUNDED), numbers).minimum
        room = options.max_width - needed - 2
        height = max(len(block.lines) for block in self.blocks)
        longest = max(cell_len(block.title) for block in self.blocks)
        if room >= _PROMPT_WIDTH and longest <= max(2, height) * (room - 2):
            yield self._table(prompts=True)
        elif needed <= options.max_width:
            for place, block in enumerate(self.blocks):
                yield Text(block.title, style="bold" if block.is_total else "")
                yield self._table([block], show_header=place == 0)
        else:
            yield from self._one_figure_a_line()

    def _table(
        self, blocks: Sequence[_Block] | None = None, *, prompts: bool = False, show_header: bool = True
    ) -> Table:
        table = Table(box=None, pad_edge=False, show_header=show_header, padding=(0, 2, 0, 0))
        if prompts:
            table.add_column("prompt", min_width=_PROMPT_WIDTH)
        table.add_column("", no_wrap=True, min_width=self._width(-1))
        for column, heading in enumerate(self.headings):
            table.add_column(heading, justify="right", no_wrap=True, min_width=self._width(column))
        for block in self.blocks if blocks is None else blocks:
            style = "bold" if block.is_total else ""
            cells = [Text("\n").join(_styled(block, column)) for column in range(-1, len(self.headings))]
            table.add_row(*([Text(block.title, style=style)] if prompts else []), *cells)
            if not prompts or len(block.lines) > 1:
                table.add_row()
        return table

    def _width(self, column: int) -> int:
        """Return the width of a column of numbers, or of the lines' names for -1."""
        cells = [_cell(line, column) for block in self.blocks for line in block.lines]
        return max(map(cell_len, [*cells, self.headings[column] if column >= 0 else ""]))

    def _one_figure_a_line(self) -> Iterator[Text]:
        for block in self.blocks:
            yield Text(block.title, style="bold" if block.is_total else "")
            for line in block.lines:
                for heading, cell in zip(self.headings, line.cells, strict=True):
                    if cell not in ("", UNKNOWN):
                        heading = "" if cell.startswith("wins") else f"{heading} "
                        yield Text(f"  {line.name} {heading}{cell}".replace("   ", "  "))


def _title(after: "EvalResult") -> str:
    figures = after.overall
    failed = [
        f"{count:,} without a score{whose}"
        for count, whose in ((figures.num_failed, ""), (figures.num_check_failed, " by the check scorer"))
        if count
    ]
    parts = [f"reward {after.scorer.name}", f"{counted(figures.num_images, 'image')}", *failed]
    return ", ".join([*parts, "95 % intervals"])


def _formats(figures: "Sequence[Metrics]") -> dict[str, Precision]:
    """Return the precision of each column. The gain has that of the reward."""
    ends = [(one.reward_low, one.reward_high) for one in figures]
    ends += [(one.gain_low, one.gain_high) for one in figures]
    return {
        "reward": precision([value for one in figures for value in (one.reward_mean, one.gain)], ends),
        "check": precision([one.check_reward_mean for one in figures]),
        "diversity": precision([one.diversity for one in figures]),
    }


def _lines(before: "Metrics | None", after: "Metrics", formats: dict[str, Precision]) -> tuple[_Line, ...]:
    if before is None:
        return (_Line("", _cells(after, formats)),)
    gain = formats["reward"].with_interval(after.gain, after.gain_low, after.gain_high, sign=True)
    wins = "" if after.win_rate is None else f"wins {percent(after.win_rate)}"
    return (
        _Line("before", _cells(before, formats)),
        _Line("after", _cells(after, formats)),
        _Line("gain", (gain, wins, "", "")),
    )


def _cells(figures: "Metrics", formats: dict[str, Precision]) -> tuple[str, ...]:
    correct = percent(figures.correct)
    if interval := between_percent(figures.correct_low, figures.correct_high):
        correct += f" ({interval})"
    return (
        formats["reward"].with_interval(figures.reward_mean, figures.reward_low, figures.reward_high),
        correct,
        formats["check"].number(figures.check_reward_mean),
        formats["diversity"].number(figures.diversity),
    )


def _keep(block: _Block, columns: Sequence[int]) -> _Block:
    lines = [_Line(line.name, tuple(line.cells[column] for column in columns)) for line in block.lines]
    return _Block(block.title, block.is_total, tuple(lines))


def _cell(line: _Line, column: int) -> str:
    return line.name if column < 0 else line.cells[column]


def _styled(block: _Block, column: int) -> list[Text]:
    return [Text(_cell(line, column), style="bold" if line.name == "after" else "") for line in block.lines]
