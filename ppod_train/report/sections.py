"""What a reader asks for first: the headline figures of a run, and its rewards by prompt."""

from html import escape

from ppod_data.support.formatting import UNKNOWN, percent, precision
from ppod_train.report.charts import Series, legend
from ppod_train.report.records import Record, finite, part
from ppod_train.report.rows import Dot, interval_chart
from ppod_train.report.runs import Evaluation, Run
from ppod_train.report.verdict import no_gain
from ppod_train.report.words import count, duration

_BEFORE_COLOUR, _AFTER_COLOUR = 7, 0
_MAX_ROWS = 30

_HEADLINES: tuple[tuple[str, str, bool], ...] = (
    ("Mean reward", "reward_mean", False),
    ("Fully correct", "correct", True),
    ("Win rate", "win_rate", True),
    ("Check reward", "check_reward_mean", False),
    ("Diversity", "diversity", False),
)
"""Name, key, and whether it is a share."""


def headline(run: Run) -> str:
    """Render the main metrics, before and after."""
    shown = run.after or run.before
    tiles = []
    if shown is not None:
        tiles += [_tile(name, *_change(run, key, share)) for name, key, share in _HEADLINES]
    tiles += _training_tiles(run)
    return f'{_banner(run)}<div class="figures">{"".join(tiles)}</div>{_provenance(run)}'


def _banner(run: Run) -> str:
    """Render a sentence above the metrics if training did not help."""
    text = no_gain(run)
    return "" if text is None else f'<p class="banner" role="status">{escape(text)}</p>'


def _training_tiles(run: Run) -> list[str]:
    """Render the cost: training steps, their time, and the images that the reward scored."""
    tiles = []
    if run.metrics:
        seconds = sum(finite(record.get("seconds")) or 0.0 for record in run.metrics)
        time = duration(seconds) if seconds else ""
        tiles.append(_tile("Training steps", count(run.metrics[-1]["step"]), time))
    queries = [item.queries for item in run.evaluations if item.queries]
    if run.online and queries:
        tiles.append(_tile("Reward queries", count(queries[-1]), "data and validation"))
    return tiles


def _tile(name: str, value: str, note: str) -> str:
    """Render a metric with its name; "" if it was not measured."""
    if value == UNKNOWN:
        return ""
    parts = f"<span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small>"
    return f'<div class="figure">{parts}</div>'


def _change(run: Run, key: str, share: bool) -> tuple[str, str]:
    """Return an overall metric after training, and a note with its interval and its value before.

    The value is `UNKNOWN` if it was not measured.
    """
    shown, before = run.after or run.before, run.before
    if shown is None:
        return UNKNOWN, ""
    figures = shown.overall
    name = key.removesuffix("_mean")
    low, high = finite(figures.get(f"{name}_low")), finite(figures.get(f"{name}_high"))
    value = finite(figures.get(key))
    old = finite(before.overall.get(key)) if before is not None and before is not shown else None
    show = percent if share else precision([value, old], [(low, high)]).number
    interval = [] if low is None or high is None else [f"{show(low)} … {show(high)}"]
    was = [f"was {show(old)}"] if old is not None else []
    return show(value), "\n".join(interval + was)


def _provenance(run: Run) -> str:
    """Render a note on the images and the reward behind the metrics."""
    shown = run.after or run.before
    if shown is None:
        return '<p class="note">No evaluation yet.</p>'
    scorer = escape(str(part(shown.record, "scorer").get("name", "?")))
    num_images, num_prompts = finite(shown.overall.get("num_images")), len(part(shown.record, "prompts"))
    text = (
        f"{escape(shown.label).capitalize()}, 95 % intervals. Reward <b>{scorer}</b> on {count(num_images)}"
    )
    text += f" images of {num_prompts} prompts." if num_prompts != 1 else " images of one prompt."
    if run.before is not None and finite(shown.overall.get("win_rate")) is not None:
        text += " Win rate: against the same seeds before, ties half."
    if run.is_training and run.after is not None:
        text += _chosen_on(run)
    return f'<p class="note">{text}</p>'


def _chosen_on(run: Run) -> str:
    """Describe how the evaluation was chosen, and the resulting bias."""
    later = run.later
    among = "stages" if run.online else "evaluations while training"
    if len(later) == 1:
        return " <code>ppod-train eval</code> measures on other seeds."
    return (
        f" The best of {len(later)} {among}, chosen on these very seeds: that flatters a little."
        " <code>ppod-train eval</code> measures on others."
    )


def by_prompt(run: Run) -> str:
    """Draw dots with intervals: mean reward and correct images of each prompt, before and after."""
    shown = run.after or run.before
    if shown is None:
        return ""
    prompts = list(part(shown.record, "prompts"))
    rows: list[tuple[str, str | None]] = [(prompt, prompt) for prompt in prompts[:_MAX_ROWS]]
    rows += [("all prompts", None)] if len(prompts) > 1 else []
    charts = []
    for name, title in (("reward", "Mean reward"), ("correct", "Fully correct images")):
        dots = [(label, dots_of(run, prompt, name)) for label, prompt in rows]
        if any(marks for _, marks in dots):
            charts.append(interval_chart(dots, title=title, note="95 % intervals", share=name == "correct"))
    key = before_after_key(run)
    left_out = len(prompts) - _MAX_ROWS
    note = f'<p class="note">{left_out} more prompts are in eval.json.</p>' if left_out > 0 else ""
    return f'{key}<div class="wide-charts">{"".join(charts)}</div>{note}'


def before_after_key(run: Run) -> str:
    """Render the legend of the colours before and after."""
    ends = ((run.before, _BEFORE_COLOUR), (run.after, _AFTER_COLOUR))
    return legend(
        [Series(name=item.label, x=(), y=(), colour=colour) for item, colour in ends if item is not None]
    )


def dots_of(run: Run, prompt: str | None, name: str) -> list[Dot]:
    """Return a metric of a prompt (of all prompts for None) before and after."""
    dots = []
    for item, colour in ((run.before, _BEFORE_COLOUR), (run.after, _AFTER_COLOUR)):
        figures = _figures(item, prompt)
        value = finite(figures.get("reward_mean" if name == "reward" else name))
        if value is not None:
            low, high = finite(figures.get(f"{name}_low")), finite(figures.get(f"{name}_high"))
            dots.append(Dot(value=value, low=low, high=high, colour=colour))
    return dots


def _figures(item: Evaluation | None, prompt: str | None) -> Record:
    """Return the metrics of one prompt, or of all prompts for None."""
    if item is None:
        return {}
    return item.overall if prompt is None else part(part(item.record, "prompts"), prompt)
