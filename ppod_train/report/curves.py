"""Curves of the report over a run: metrics of its evaluations and of its training steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from ppod_data.html.charts.axes import LEAST_SPAN
from ppod_data.html.charts.lines import NUM_COLOURS, Series, line_chart, smoothed
from ppod_data.html.page import join
from ppod_data.html.page import note as small_print
from ppod_train.report.records import Record, finite
from ppod_train.report.runs import Evaluation, Run, Stage

_SMOOTH_FROM = 40
"""Minimum number of steps for a smoothed curve."""
_WINDOW = 10
_MAX_BANDS = 2
"""The intervals of more curves than these would hide each other: the sections of the runs have them."""
_MAX_LABELS = 4
"""Up to this number of stages, boundaries are labelled "stage 2"; with more stages "2"."""


@dataclass(frozen=True)
class Axis:
    """Quantity that evaluations are plotted against."""

    label: str
    place: Callable[[Evaluation], float | None]
    """Position of an evaluation; None if it has none on this axis."""


STEPS = Axis("step", lambda item: item.step)
STAGES = Axis("stage", lambda item: item.stage)
QUERIES = Axis("reward queries", lambda item: item.queries)


@dataclass(frozen=True)
class Metric:
    """A metric of the evaluations and its chart."""

    key: str
    title: str
    note: str
    interval: tuple[str, str] | None = None
    share: bool = False


_INTERVAL = "shaded: 95 % interval"
REWARD = Metric("reward_mean", "Mean reward", _INTERVAL, ("reward_low", "reward_high"))
REWARD_BY_QUERIES = Metric(
    "reward_mean",
    "Mean reward by queries",
    "images scored, of data and validation",
    ("reward_low", "reward_high"),
)
EVALUATION_METRICS = (
    REWARD,
    Metric("correct", "Fully correct images", _INTERVAL, ("correct_low", "correct_high"), True),
    Metric("check_reward_mean", "Check scorer's reward", "a second scorer, never trained on"),
    Metric("diversity", "Diversity", "mean distance between images of a prompt"),
)


@dataclass(frozen=True)
class _Metric:
    key: str
    title: str
    note: str = ""
    share: bool = False


_STEP_METRICS = (
    _Metric("loss", "Loss"),
    _Metric(
        "preference_accuracy", "Preference accuracy", "pairs whose chosen image the policy favours", True
    ),
    _Metric("gradient_share", "With a gradient", "log-ratios with a nonzero gradient", True),
    _Metric("log_ratio_mean", "Mean log-ratio", "log(π / π_ref), averaged over latent dimensions"),
    _Metric("log_ratio_max", "Largest log-ratio", "in absolute value"),
    _Metric("kl_estimate", "KL estimate", "KL(π_ref ‖ π) of a trajectory's trained steps, in nats"),
    _Metric("kl", "KL of a step", "KL(π ‖ π_ref), averaged over latent dimensions"),
    _Metric("clipped_right", "Outside the band, right side", "moved in the intended direction", True),
    _Metric("clipped_wrong", "Outside the band, wrong side", "moved in the opposite direction", True),
    _Metric("grad_norm", "Gradient norm", "before it is clipped"),
)
BAND_KEYS = ("clipped_right", "clipped_wrong")
WITHOUT_BAND = ("diffusion-dpo", "diffusion-nft", "sft", "sft-best")
"""Objectives without a clip, for which metrics of the band are meaningless."""
_LOSS_NOTES = {
    "ppod": "ln 2 = 0.693 where policy and reference agree",
    "ppod-mse": "0.25 where policy and reference agree",
    "d3po": "ln 2 = 0.693 where policy and reference agree",
    "diffusion-dpo": "ln 2 = 0.693 where policy and reference agree",
    "diffusion-nft": "0 where the policy is the one that made the data",
}


def over_training(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """Draw the evaluations' metrics over training: reward, correct images, check scorer, diversity.

    For an online run, the reward is also drawn over the number of scored images.
    """
    named_runs = list(zip(runs, names, strict=True))
    charts = [metric_chart(named_runs, metric, STEPS) for metric in EVALUATION_METRICS]
    if any(run.online for run in runs):
        charts.insert(1, metric_chart(named_runs, REWARD_BY_QUERIES, QUERIES))
    return grid(charts)


def grid(charts: Sequence[Markup]) -> Markup:
    """Arrange charts in rows of two or three, whichever leaves fewer gaps; empty charts are left out.

    A phone shows them side by side, to be moved by a finger or the arrow keys.
    """
    filled = [chart for chart in charts if chart]
    kind = "charts two" if len(filled) in (1, 2, 4) else "charts"
    return Markup('<div class="{}" tabindex="0">{}</div>').format(kind, join(filled)) if filled else Markup()


def metric_chart(named_runs: Sequence[tuple[Run, str]], metric: Metric, axis: Axis) -> Markup:
    """Draw a metric of the evaluations, with one named curve per run.

    The result is "" if no run has measured it. A run with a single evaluation has no curve and is left out.
    """
    series = []
    for index, (run, name) in enumerate(named_runs):
        one = _metric_series(run.evaluations, metric, axis, name, index % NUM_COLOURS)
        if sum(value is not None for value in one.y) > 1:
            series.append(one)
    if not series:
        return Markup()
    note = metric.note
    if len(series) > _MAX_BANDS and metric.interval:
        series = [replace(one, low=None, high=None) for one in series]
        note = "" if note == _INTERVAL else note
    return line_chart(
        series,
        title=metric.title,
        note=note,
        x_label=axis.label,
        share=metric.share,
        least_span=LEAST_SPAN,
    )


def _metric_series(
    evaluations: Sequence[Evaluation], metric: Metric, axis: Axis, name: str, colour: int
) -> Series:
    places = [(place, item) for item in evaluations if (place := axis.place(item)) is not None]

    def values(key: str) -> list[float | None]:
        return [finite(item.overall.get(key)) for _, item in places]

    low, high = metric.interval or (None, None)
    return Series(
        name=name,
        x=[float(place) for place, _ in places],
        y=values(metric.key),
        low=values(low) if low else None,
        high=values(high) if high else None,
        colour=colour,
        points=True,
    )


def learning_curves(run: Run, objective: str) -> Markup:
    """Draw the metrics of every training step; for an online run the stages follow each other."""
    if not run.metrics:
        return Markup()
    stages = [stage for stage in run.stages if stage.metrics]
    parts = [stage.metrics for stage in stages] if run.online else [run.metrics]
    marks = stage_marks(stages)
    charts = [
        _metric_chart(parts, metric, _LOSS_NOTES.get(objective, "") if metric.key == "loss" else "", marks)
        for metric in _STEP_METRICS
        if objective not in WITHOUT_BAND or metric.key not in BAND_KEYS
    ]
    smooth = len(run.metrics) >= _SMOOTH_FROM
    note = f"Thin: each step. Bold: the mean of the last {_WINDOW}" if smooth else "Each training step"
    note += " of a stage." if smooth and run.online else "."
    note += " These metrics do not measure image quality; evaluations do."
    return small_print(note) + grid(charts)


def stage_marks(stages: Sequence[Stage]) -> list[tuple[float, str]]:
    """Return the first step of each stage on an axis of training steps, with labels."""
    every = 1 + len(stages) // 13
    word = "stage " if len(stages) <= _MAX_LABELS else ""
    return [
        (float(stage.first_step), f"{word}{stage.number}" if index % every == 0 else "")
        for index, stage in enumerate(stages)
    ]


def _metric_chart(
    parts: Sequence[Sequence[Record]], metric: _Metric, note: str, marks: Sequence[tuple[float, str]]
) -> Markup:
    """Draw a metric of every step with its running mean, which restarts with each of `parts`."""
    values = [[finite(record.get(metric.key)) for record in records] for records in parts]
    every = [value for part in values for value in part]
    if all(value is None for value in every):
        return Markup()
    steps = [float(record["step"]) for records in parts for record in records]
    if len(every) < _SMOOTH_FROM:
        series = [Series(name="step", x=steps, y=every)]
    else:
        mean = [value for part in values for value in smoothed(part, _WINDOW)]
        series = [
            Series(name="this step", x=steps, y=every, faint=True),
            Series(name=f"mean of {_WINDOW}", x=steps, y=mean),
        ]
    return line_chart(
        series,
        title=metric.title,
        note=metric.note or note,
        x_label="step",
        marks=marks,
        share=metric.share,
    )
