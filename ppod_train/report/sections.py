"""Headline metrics of a run, and its rewards by prompt."""

from markupsafe import Markup

from ppod_data.html.charts.rows import Dot, interval_chart
from ppod_data.html.charts.svg import legend
from ppod_data.html.page import join, note, table, tiles
from ppod_data.support.formatting import UNKNOWN, Precision, count, counted, percent, precision
from ppod_train.evaluation.exploitation import WORDS
from ppod_train.report.records import Record, finite, part
from ppod_train.report.runs import Evaluation, Run
from ppod_train.report.verdict import verdict
from ppod_train.report.words import duration

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


def headline(run: Run) -> Markup:
    """Render the main metrics, before and after."""
    evaluation = run.after or run.before
    headlines: list[tuple[str, str, str]] = []
    if evaluation is not None:
        headlines += [(name, *_change(run, key, share)) for name, key, share in _HEADLINES]
    headlines += _training_tiles(run)
    measured = [tile for tile in headlines if tile[1] != UNKNOWN]
    return tiles(measured) + _provenance(run)


def banner(run: Run) -> Markup:
    """Render the verdict, with which a run begins."""
    return Markup('<p class="banner" role="status">{}</p>').format(verdict(run))


def _training_tiles(run: Run) -> list[tuple[str, str, str]]:
    """Render the cost: training steps, their time, and the images that the reward scored."""
    tiles = []
    if run.metrics:
        seconds = sum(finite(record.get("seconds")) or 0.0 for record in run.metrics)
        time = duration(seconds) if seconds else ""
        tiles.append(("Training steps", count(run.metrics[-1]["step"]), time))
    queries = [item.queries for item in run.evaluations if item.queries]
    if run.online and queries:
        tiles.append(("Reward queries", count(queries[-1]), "data and validation"))
    return tiles


def _change(run: Run, key: str, share: bool) -> tuple[str, str]:
    """Return an overall metric after training, and a note with its interval and its value before.

    The value is `UNKNOWN` if it was not measured.
    """
    evaluation, before = run.after or run.before, run.before
    if evaluation is None:
        return UNKNOWN, ""
    metrics = evaluation.overall
    name = key.removesuffix("_mean")
    low, high = finite(metrics.get(f"{name}_low")), finite(metrics.get(f"{name}_high"))
    value = finite(metrics.get(key))
    old = finite(before.overall.get(key)) if before is not None and before is not evaluation else None
    show = percent if share else precision([value, old], [(low, high)]).number
    interval = [] if low is None or high is None else [f"{show(low)} … {show(high)}"]
    was = [f"was {show(old)}"] if old is not None else []
    return show(value), "\n".join(interval + was)


def _provenance(run: Run) -> Markup:
    """Render a note on the images and the reward behind the metrics."""
    evaluation = run.after or run.before
    if evaluation is None:
        return note("No evaluation yet.")
    scorer = str(part(evaluation.record, "scorer").get("name", "?"))
    num_images, num_prompts = (
        finite(evaluation.overall.get("num_images")),
        len(part(evaluation.record, "prompts")),
    )
    text = Markup("{}, 95 % intervals. Reward <b>{}</b> on {}").format(
        evaluation.label.capitalize(), scorer, count(num_images)
    )
    text += f" {'image' if num_images == 1 else 'images'} of {counted(num_prompts, 'prompt')}."
    if run.before is not None and finite(evaluation.overall.get("win_rate")) is not None:
        text += " Win rate: against the same seeds before, ties half."
    if run.is_training and run.after is not None:
        text += _chosen_on(run)
    return note(text + _policies(run))


def _policies(run: Run) -> Markup:
    """Name both policies of an evaluation whose baseline has an adapter; "" for a baseline that is a whole model."""
    if run.is_training or run.before is None or run.after is None or not run.before.record.get("adapter"):
        return Markup()
    before, after = (
        str(item.record.get("adapter") or item.record.get("model")) for item in (run.before, run.after)
    )
    return Markup(" Before: the policy <b>{}</b>; after: <b>{}</b>.").format(before, after)


def _chosen_on(run: Run) -> Markup:
    """Describe how the evaluation was chosen, and the resulting bias."""
    later = run.later
    among = "stages" if run.online else "evaluations while training"
    if len(later) == 1:
        return Markup(" <code>ppod-train eval</code> measures on other seeds.")
    return Markup(
        " The best of {} {}, chosen on the same seeds, which biases the metrics slightly upward."
        " <code>ppod-train eval</code> measures on other seeds."
    ).format(len(later), among)


def num_prompts(run: Run) -> int:
    """Return the number of prompts of the shown evaluation."""
    shown = run.after or run.before
    return 0 if shown is None else len(part(shown.record, "prompts"))


def images_table(run: Run) -> Markup:
    """Render the statistics of the images that no reward computes, before and after; "" if they were not measured."""
    if run.after is None:
        return Markup()
    rows = []
    for name, change in part(run.after.record, "statistics").items():
        mean, difference = finite(change.get("mean")), finite(change.get("change"))
        if name not in WORDS or mean is None or difference is None:
            continue
        low, high = finite(change.get("change_low")), finite(change.get("change_high"))
        form, effect = precision([mean, difference], [(low, high)]), finite(change.get("effect"))
        spreads = UNKNOWN if effect is None else Precision(1).number(effect, sign=True)
        before = form.number(mean - difference)
        rows.append(
            [
                WORDS[name],
                before,
                form.number(mean),
                form.with_interval(difference, low, high, sign=True),
                spreads,
            ]
        )
    if not rows:
        return Markup()
    text = "From the pixels alone, on the same seeds. From 1.5 spreads on, images have left their range."
    return note(text) + table(
        ["statistic", "before", "after", "change", "in spreads (standard deviations before)"], rows
    )


def by_prompt(run: Run) -> Markup:
    """Draw dots with intervals: mean reward and correct images of each prompt, before and after."""
    evaluation = run.after or run.before
    if evaluation is None:
        return Markup()
    prompts = list(part(evaluation.record, "prompts"))
    rows: list[tuple[str, str | None]] = [(prompt, prompt) for prompt in prompts[:_MAX_ROWS]]
    rows += [("all prompts", None)] if len(prompts) > 1 else []
    charts = []
    for name, title in (("reward", "Mean reward"), ("correct", "Fully correct images")):
        dots = [(label, dots_of(run, prompt, name)) for label, prompt in rows]
        if any(marks for _, marks in dots):
            charts.append(interval_chart(dots, title=title, note="95 % intervals", share=name == "correct"))
    left_out = len(prompts) - _MAX_ROWS
    more = note(f"{left_out} more prompts are in eval.json.") if left_out > 0 else Markup()
    wide = Markup('<div class="wide-charts">{}</div>').format(join(charts))
    return before_after_key(run) + wide + more


def before_after_key(run: Run) -> Markup:
    """Render the legend of the colours before and after."""
    ends = ((run.before, _BEFORE_COLOUR), (run.after, _AFTER_COLOUR))
    return legend([(colour, item.label) for item, colour in ends if item is not None])


def dots_of(run: Run, prompt: str | None, name: str, colour_after: int = _AFTER_COLOUR) -> list[Dot]:
    """Return a metric of a prompt (of all prompts for None) before and after."""
    dots = []
    for item, colour in ((run.before, _BEFORE_COLOUR), (run.after, colour_after)):
        metrics = _metrics_of(item, prompt)
        value = finite(metrics.get("reward_mean" if name == "reward" else name))
        if value is not None:
            low, high = finite(metrics.get(f"{name}_low")), finite(metrics.get(f"{name}_high"))
            dots.append(Dot(value=value, low=low, high=high, colour=colour))
    return dots


def _metrics_of(item: Evaluation | None, prompt: str | None) -> Record:
    """Return the metrics of one prompt, or of all prompts for None."""
    if item is None:
        return {}
    return item.overall if prompt is None else part(part(item.record, "prompts"), prompt)
