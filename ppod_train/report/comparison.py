"""Section of the report that compares several runs, and the table of a run's settings."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ppod_data.html.charts.lines import NUM_COLOURS
from ppod_data.html.charts.rows import interval_chart
from ppod_data.html.page import table, titled
from ppod_data.support.formatting import UNKNOWN, Precision, count, percent
from ppod_train.report.curves import over_training
from ppod_train.report.records import Record, finite, part
from ppod_train.report.runs import Evaluation, Run
from ppod_train.report.sections import dots_of
from ppod_train.report.tables import flattened
from ppod_train.report.words import figure_precision, gain_precision

_DRAWN = ("drift.steps", "drift.median", "drift.p99")
"""Values with a chart of their own."""

_POLICY = ("model", "adapter", "policy_fingerprint")
"""Names of the evaluated policy in eval.json."""

_IDENTITIES = ("data_fingerprint", "reference_fingerprint", "start_fingerprint")
"""Identities of an offline run: its data and its start."""


def comparison(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """Compare several runs: metrics, curves of their evaluations, and settings that differ."""
    head = ["run", "kind", "objective", "steps", "queries", "reward before", "reward after", "gain"]
    head += ["correct before", "correct after", "wins"]
    overall = [_overall(item) for run in runs for item in (run.before, run.after)]
    rewards = figure_precision(overall, "reward")
    gains = gain_precision(overall)
    rows = [[name, *_cells(run, rewards, gains)] for run, name in zip(runs, names, strict=True)]
    dots = [
        (name, dots_of(run, None, "reward", colour_after=number % NUM_COLOURS))
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    known = [(name, marks) for name, marks in dots if marks]
    note = "grey before, the run's colour after; 95 % intervals"
    chart = interval_chart(known, title="Mean reward", note=note) if known else ""
    return Markup(
        '<section class="run"><h2>Comparison</h2>{}<div class="wide-charts">{}</div>{}{}</section>'
    ).format(table(head, rows, sortable=True), chart, over_training(runs, names), _differences(runs, names))


def _cells(run: Run, rewards: Precision, gains: Precision) -> list[str]:
    before = _overall(run.before)
    after = before if run.kept_is_start else _overall(run.after)
    queries = [item.queries for item in run.evaluations if item.queries]
    return [
        _kind(run) + (", kept its start" if run.kept_is_start else ""),
        objective(run) or UNKNOWN,
        count(run.metrics[-1]["step"]) if run.metrics else UNKNOWN,
        count(queries[-1] if queries else None),
        rewards.number(finite(before.get("reward_mean"))),
        rewards.number(finite(after.get("reward_mean"))),
        gains.number(0.0 if run.kept_is_start else finite(after.get("gain")), sign=True),
        percent(finite(before.get("correct"))),
        percent(finite(after.get("correct"))),
        percent(finite(after.get("win_rate"))),
    ]


def _overall(item: Evaluation | None) -> Record:
    return {} if item is None else item.overall


def _kind(run: Run) -> str:
    if run.online:
        return "online"
    return "offline" if run.is_training else "evaluation"


def objective(run: Run) -> str:
    """Return the objective's name; "" if the settings do not state it."""
    return _settings(run).get("objective", "")


def _settings(run: Run) -> dict[str, str]:
    """Return names → texts; training settings have the same names offline and online.

    A stage's own eval_images_per_prompt is ignored, because the online run's value applies.
    """
    identity = part(run.record, "identity")
    generation = part(identity, "generation") or part(run.record, "generation")
    own = flattened({name: value for name, value in run.settings.items() if name != "train"})
    train = flattened(part(run.settings, "train"))
    data = {name: run.record[name] for name in ("datasets", "targets", "reward") if name in run.record}
    data |= {name: identity[name] for name in _IDENTITIES if name in identity}
    return flattened(data) | train | own | flattened(generation, "generation.")


def _differences(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """Render the settings that differ between runs that have them."""
    named_runs = [(name, run) for run, name in zip(runs, names, strict=True) if run.settings]
    settings = [_settings(run) for _, run in named_runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [
        [key, *(one.get(key, "") for one in settings)]
        for key in keys
        if len({one[key] for one in settings if key in one}) > 1
    ]
    head = ["setting", *(name for name, _ in named_runs)]
    return titled("Settings that differ", table(head, rows)) if rows else Markup()


def settings_table(run: Run) -> Markup:
    """Render all values of run.json or online.json, or the settings of an evaluation and the names of its baseline."""
    record = run.record
    if not record and run.after is not None:
        hidden = ("overall", "prompts", "images", "sheet", "format")
        record = {key: value for key, value in run.after.record.items() if key not in hidden}
        if run.before is not None and not run.is_training:
            names = {key: value for key, value in run.before.record.items() if key in _POLICY}
            record |= {f"baseline {key}": value for key, value in names.items()}
    rows = [[name, text] for name, text in _once(flattened(record)).items()]
    if not rows:
        return Markup()
    return table(["name", "value"], rows)


def _once(flat: Mapping[str, str]) -> dict[str, str]:
    """Return the values by their own names, which `settings` and `identity` share, without those in charts."""
    return {
        name.removeprefix("settings.").removeprefix("identity."): text
        for name, text in flat.items()
        if name not in _DRAWN
    }
