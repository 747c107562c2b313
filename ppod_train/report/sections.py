"""The report's words and tables: headline figures, rewards by prompt, comparison of runs, settings."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from ppod_train.report.charts import Dot, Series, interval_chart, legend
from ppod_train.report.curves import over_training
from ppod_train.report.runs import Evaluation, Record, Run, finite
from ppod_train.wording import UNKNOWN, number, percent

_BEFORE_COLOUR, _AFTER_COLOUR = 7, 0
_MAX_ROWS = 30

Format = Callable[[float | None], str]


def _two(value: float | None) -> str:
    return number(value, digits=2)


_HEADLINES: tuple[tuple[str, str, Format], ...] = (
    ("Mean reward", "reward_mean", _two),
    ("Fully correct", "correct", percent),
    ("Wins, same seeds", "win_rate", percent),
    ("Check reward", "check_reward_mean", _two),
    ("Diversity", "diversity", number),
)


def headline(run: Run) -> str:
    """The figures that a reader asks for first, before and after."""
    shown = run.best or run.before
    tiles = []
    if shown is not None:
        tiles += [_tile(name, *_change(run, key, show)) for name, key, show in _HEADLINES]
    if run.metrics:
        minutes = sum(finite(record.get("seconds")) or 0.0 for record in run.metrics) / 60
        tiles.append(
            _tile("Training steps", str(run.metrics[-1]["step"]), f"{minutes:.1f} minutes" if minutes else "")
        )
    return f'<div class="figures">{"".join(tiles)}</div>{_provenance(run)}'


def _tile(name: str, value: str, note: str) -> str:
    """A figure with its name; nothing where it was not measured."""
    if value == UNKNOWN:
        return ""
    parts = f"<span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small>"
    return f'<div class="figure">{parts}</div>'


def _change(run: Run, key: str, show: Format) -> tuple[str, str]:
    """An overall figure after; and what it was before, with its interval. `UNKNOWN` where not measured."""
    shown, before = run.best or run.before, run.before
    if shown is None:
        return UNKNOWN, ""
    figures = shown.record["overall"]
    name = key.removesuffix("_mean")
    low, high = finite(figures.get(f"{name}_low")), finite(figures.get(f"{name}_high"))
    notes = [] if low is None or high is None else [f"{show(low)} … {show(high)}"]
    old = finite(before.record["overall"].get(key)) if before is not None and before is not shown else None
    notes = ([f"was {show(old)}"] if old is not None else []) + notes
    return show(finite(figures.get(key))), "\n".join(notes)


def _provenance(run: Run) -> str:
    """What the figures above rest on."""
    shown = run.best or run.before
    if shown is None:
        return '<p class="note">No evaluation yet.</p>'
    record = shown.record
    scorer = escape(str(record.get("scorer", {}).get("name", "?")))
    count, num_prompts = record["overall"].get("num_images", "?"), len(record.get("prompts", {}))
    text = f"{escape(shown.label).capitalize()}, 95 % intervals. Reward <b>{scorer}</b> on {count} images"
    text += f" of {num_prompts} prompts." if num_prompts != 1 else " of one prompt."
    if run.is_training and run.best is not None:
        text += (
            f" The best of {len(run.evaluations) - 1} evaluations while training, chosen on these very seeds:"
            " that flatters a little. <code>ppod-train eval</code> measures on others."
        )
    return f'<p class="note">{text}</p>'


def by_prompt(run: Run) -> str:
    """Dots with intervals: mean reward and correct images of each prompt, before and after."""
    shown = run.best or run.before
    if shown is None:
        return ""
    prompts = list(shown.record.get("prompts", {}))
    rows = [(prompt, prompt) for prompt in prompts[:_MAX_ROWS]]
    rows += [("all prompts", None)] if len(prompts) > 1 else []
    charts = []
    for name, title, show in (("reward", "Mean reward", _two), ("correct", "Fully correct images", percent)):
        dots = [(label, _dots(run, prompt, name)) for label, prompt in rows]
        if any(marks for _, marks in dots):
            charts.append(interval_chart(dots, title=title, note="95 % intervals", y_format=show))
    key = _before_after_key(run)
    left_out = len(prompts) - _MAX_ROWS
    note = f'<p class="note">{left_out} more prompts are in eval.json.</p>' if left_out > 0 else ""
    return f'{key}<div class="wide-charts">{"".join(charts)}</div>{note}'


def _before_after_key(run: Run) -> str:
    ends = ((run.before, _BEFORE_COLOUR), (run.best, _AFTER_COLOUR))
    return legend(
        [Series(name=item.label, x=(), y=(), colour=colour) for item, colour in ends if item is not None]
    )


def _dots(run: Run, prompt: str | None, name: str) -> list[Dot]:
    dots = []
    for item, colour in ((run.before, _BEFORE_COLOUR), (run.best, _AFTER_COLOUR)):
        figures = _figures(item, prompt)
        value = finite(figures.get("reward_mean" if name == "reward" else name))
        if value is not None:
            low, high = finite(figures.get(f"{name}_low")), finite(figures.get(f"{name}_high"))
            dots.append(Dot(value=value, low=low, high=high, colour=colour))
    return dots


def _figures(item: Evaluation | None, prompt: str | None) -> Record:
    if item is None:
        return {}
    figures: Record = (
        item.record["overall"] if prompt is None else item.record.get("prompts", {}).get(prompt, {})
    )
    return figures


def comparison(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Several runs beside each other: figures, curves of their evaluations, settings that differ."""
    rows = [[name, *_comparison_cells(run)] for run, name in zip(runs, names, strict=True)]
    head = ["run", "objective", "steps", "reward before", "best", "gain", "correct before", "best", "wins"]
    dots = [(name, _dots(run, None, "reward")) for run, name in zip(runs, names, strict=True)]
    known = [(name, marks) for name, marks in dots if marks]
    note = "before and best, 95 % intervals"
    chart = interval_chart(known, title="Mean reward", note=note, y_format=_two) if known else ""
    body = f'{_table(head, rows)}<div class="wide-charts">{chart}</div>{over_training(runs, names)}'
    return f'<section class="run"><h2>Comparison</h2>{body}{_differences(runs, names)}</section>'


def _comparison_cells(run: Run) -> list[str]:
    before, best = _figures(run.before, None), _figures(run.best, None)
    return [
        str(run.record.get("objective", UNKNOWN)),
        str(run.metrics[-1]["step"]) if run.metrics else UNKNOWN,
        _two(finite(before.get("reward_mean"))),
        _two(finite(best.get("reward_mean"))),
        number(finite(best.get("gain")), digits=2, sign=True),
        percent(finite(before.get("correct"))),
        percent(finite(best.get("correct"))),
        percent(finite(best.get("win_rate"))),
    ]


def _differences(runs: Sequence[Run], names: Sequence[str]) -> str:
    flat = {
        name: flattened(run.record.get("settings", {}))
        for run, name in zip(runs, names, strict=True)
        if run.record
    }
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    rows = [[key, *(settings.get(key, UNKNOWN) for settings in flat.values())] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return f"<h3>Settings that differ</h3>{_table(['setting', *flat], rows)}" if rows else ""


def settings_table(run: Run) -> str:
    """Everything in run.json, or how an evaluation's images were made."""
    record = run.record
    if not record and run.best is not None:
        hidden = ("overall", "prompts", "images", "sheet", "format")
        record = {key: value for key, value in run.best.record.items() if key not in hidden}
    rows = [[key.removeprefix("settings."), value] for key, value in flattened(record).items()]
    return (
        f"<details open><summary>{len(rows)} values</summary>{_table(['name', 'value'], rows)}</details>"
        if rows
        else ""
    )


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as "outer.inner" → text."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[prefix + key] = ", ".join(map(str, value))
        else:
            flat[prefix + key] = UNKNOWN if value is None else str(value)
    return flat


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
