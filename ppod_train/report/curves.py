"""The report's curves: evaluations and metrics over training steps, log-ratios over the steps of the chain.

Shapes: T steps of the chain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ppod_train.report.charts import FIRST_SHADE, NUM_COLOURS, NUM_SHADES, Series, line_chart, smoothed
from ppod_train.report.runs import Record, Run, finite
from ppod_train.wording import number, percent

_SMOOTH_FROM = 40
"""Steps from which on a curve is smoothed."""
_WINDOW = 10


@dataclass(frozen=True)
class _Metric:
    key: str
    title: str
    note: str = ""
    share: bool = False


_METRICS = (
    _Metric("loss", "Loss", "ln 2 = 0.693 where policy and reference agree"),
    _Metric(
        "preference_accuracy", "Preference accuracy", "pairs whose chosen image the policy favours", True
    ),
    _Metric("log_ratio_mean", "Mean log-ratio", "log(π / π_ref), averaged over latent dimensions"),
    _Metric("log_ratio_max", "Largest log-ratio", "in absolute value"),
    _Metric("clipped_right", "Outside the band, right side", "moved far enough the way it should", True),
    _Metric(
        "clipped_wrong", "Outside the band, wrong side", "drifted the other way, and no gradient back", True
    ),
    _Metric("kl_estimate", "KL estimate", "KL(π_ref ‖ π) of a whole trajectory, in nats"),
    _Metric("backward_share", "Back-propagated", "network evaluations with a gradient other than 0", True),
    _Metric("grad_norm", "Gradient norm", "before it is clipped"),
)
_TIMESTEP_METRICS = (
    _Metric("log_ratio_mean", "Mean log-ratio", "dashed: the band within which a step gets a gradient"),
    _Metric("log_ratio_max", "Largest log-ratio", "in absolute value"),
    _Metric("clipped_right", "Outside the band, right side", "", True),
    _Metric("clipped_wrong", "Outside the band, wrong side", "", True),
)


def over_training(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The evaluations' figures over training: reward, correct images, check scorer, diversity."""
    shown = [(run, name) for run, name in zip(runs, names, strict=True) if _num_steps_evaluated(run) > 1]
    if not shown:
        return ""
    charts = [
        _evaluated(
            shown, "reward_mean", "Mean reward", "shaded: 95 % interval", _two, ("reward_low", "reward_high")
        ),
        _evaluated(
            shown,
            "correct",
            "Fully correct images",
            "shaded: 95 % interval",
            percent,
            ("correct_low", "correct_high"),
        ),
        _evaluated(
            shown,
            "check_reward_mean",
            "Check scorer's reward",
            "a second scorer, never trained on",
            _two,
            None,
        ),
        _evaluated(shown, "diversity", "Diversity", "mean distance between images of a prompt", number, None),
    ]
    return f'<div class="charts two">{"".join(charts)}</div>'


def _num_steps_evaluated(run: Run) -> int:
    return sum(item.step is not None for item in run.evaluations)


def _evaluated(
    shown: Sequence[tuple[Run, str]],
    key: str,
    title: str,
    note: str,
    y_format: Callable[[float | None], str],
    interval: tuple[str, str] | None,
) -> str:
    """One chart of a figure of the evaluations, a curve a run; empty where nobody measured it."""
    series = []
    for index, (run, name) in enumerate(shown):
        items = [item for item in run.evaluations if item.step is not None]
        values = [finite(item.record["overall"].get(key)) for item in items]
        ends = [[finite(item.record["overall"].get(end)) for item in items] for end in interval or ()]
        series.append(
            Series(
                name=name,
                x=[float(item.step or 0) for item in items],
                y=values,
                low=ends[0] if ends else None,
                high=ends[1] if ends else None,
                colour=index % NUM_COLOURS,
                points=True,
            )
        )
    if all(value is None for one in series for value in one.y):
        return ""
    return line_chart(series, title=title, note=note, x_label="step", y_format=y_format)


def learning_curves(run: Run) -> str:
    """The metrics of every training step."""
    if not run.metrics:
        return ""
    charts = "".join(_metric_chart(run.metrics, metric) for metric in _METRICS)
    smooth = len(run.metrics) >= _SMOOTH_FROM
    note = f"Thin: each step. Bold: the mean of the last {_WINDOW}." if smooth else "Each training step."
    return f'<p class="note">{note} None of these says whether the images are good: evaluations do.</p>' + (
        f'<div class="charts">{charts}</div>'
    )


def _metric_chart(records: Sequence[Record], metric: _Metric) -> str:
    values = [finite(record.get(metric.key)) for record in records]
    if all(value is None for value in values):
        return ""
    steps = [float(record["step"]) for record in records]
    if len(records) < _SMOOTH_FROM:
        series = [Series(name="step", x=steps, y=values)]
    else:
        mean = smoothed(values, _WINDOW)
        series = [
            Series(name="this step", x=steps, y=values, faint=True),
            Series(name=f"mean of {_WINDOW}", x=steps, y=mean),
        ]
    return line_chart(
        series,
        title=metric.title,
        note=metric.note,
        x_label="step",
        y_format=_precise_percent if metric.share else number,
    )


def timestep_curves(run: Run) -> str:
    """Log-ratios and shares outside the band by timestep, a curve for each quarter of the training so far."""
    records = [record for record in run.metrics if isinstance(record.get("per_timestep"), dict)]
    if not records:
        return ""
    clip = finite(run.record.get("settings", {}).get("log_ratio_clip"))
    charts = []
    for metric in _TIMESTEP_METRICS:
        series = [
            Series(
                name=f"steps {part[0]['step']} to {part[-1]['step']}",
                x=[float(t) for t in range(len(means))],
                y=means,
                colour=FIRST_SHADE + NUM_SHADES - num_parts + index,
            )
            for num_parts, index, part in _parts(records)
            if (means := _timestep_means(part, metric.key))
        ]
        if series:
            charts.append(
                line_chart(
                    series,
                    title=metric.title,
                    note=metric.note,
                    x_label="timestep",
                    y_format=_precise_percent if metric.share else number,
                    rules=() if clip is None or metric.share else ((clip, "clip"), (-clip, "")),
                )
            )
    note = "Timestep 0 is the noisiest. A curve for each quarter of the training, later ones stronger."
    return f'<p class="note">{note}</p><div class="charts two">{"".join(charts)}</div>' if charts else ""


def _parts(records: Sequence[Record]) -> list[tuple[int, int, Sequence[Record]]]:
    """(number of parts, index, records): at most four parts of about the same length, none of them empty."""
    count = min(NUM_SHADES, len(records))
    ends = [round(i * len(records) / count) for i in range(count + 1)]
    return [(count, i, records[ends[i] : ends[i + 1]]) for i in range(count)]


def _timestep_means(records: Sequence[Record], key: str) -> list[float | None]:
    """The mean over records of each chain step's value [T], None for a step that no record trained.

    A record's `steps` say which chain steps its values are of; without them the values are of steps 0, 1, ….
    """
    values: dict[int, list[float]] = {}
    for record in records:
        row = record["per_timestep"].get(key) or []
        steps = record["per_timestep"].get("steps") or range(len(row))
        for t, item in zip(steps, row, strict=False):
            value = finite(item)
            if value is not None:
                values.setdefault(int(t), []).append(value)
    if not values:
        return []
    return [sum(values[t]) / len(values[t]) if t in values else None for t in range(max(values) + 1)]


def _two(value: float | None) -> str:
    return number(value, digits=2)


def _precise_percent(value: float | None) -> str:
    return number(None) if value is None else f"{100 * value:.3g} %"
