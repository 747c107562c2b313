"""Section of the report on the stages of an online run: a table, curves over stages, and time."""

from collections.abc import Sequence

from markupsafe import Markup

from ppod_data.html.charts.lines import Series, line_chart
from ppod_data.html.charts.rows import Piece, stacked_chart
from ppod_data.html.page import note, table
from ppod_data.support.formatting import UNKNOWN, Precision, count, counted, percent
from ppod_train.report.curves import (
    EVALUATION_METRICS,
    QUERIES,
    REWARD_BY_QUERIES,
    STAGES,
    grid,
    metric_chart,
)
from ppod_train.report.records import finite, part
from ppod_train.report.runs import Evaluation, Run, Stage
from ppod_train.report.words import duration, figure_precision, precise_percent

_TIMES = (
    ("train", "train", 0),
    ("generate", "generate", 1),
    ("evaluate", "evaluate", 2),
    ("score", "score", 3),
    ("pair", "pair", 4),
    ("log_probs", "log-probs", 5),
)
"""Parts of a stage's time: key, name, colour. Long parts come first, so that bars of stages are comparable."""


def stages_section(run: Run) -> Markup:
    """Render the metrics that are measured once per stage."""
    charts = [metric_chart([(run, run.name)], metric, STAGES) for metric in EVALUATION_METRICS]
    charts.insert(1, metric_chart([(run, run.name)], REWARD_BY_QUERIES, QUERIES))
    charts.append(_outside_band_chart(run.stages))
    return note(_state(run)) + _stage_table(run) + grid(charts)


def _state(run: Run) -> str:
    """Describe the progress of the run in a sentence."""
    done = sum(bool(stage.record) for stage in run.stages)
    planned = finite(run.record.get("num_stages"))
    text = (
        f"{done} of {counted(round(planned), 'stage')} done."
        if planned is not None
        else f"{counted(done, 'stage')} done."
    )
    begun = [stage for stage in run.stages if not stage.record]
    if begun:
        text += f" Stage {begun[-1].number} has made {len(begun[-1].metrics)} training steps so far."
    return text


def _stage_table(run: Run) -> Markup:
    evaluations = {item.stage: item for item in run.evaluations}
    stages = {stage.number: stage for stage in run.stages}
    numbers = sorted({*stages, *(number for number in evaluations if number is not None)})
    head = ["stage", "steps", "queries", "data reward", "outside at start"]
    head += ["reward", "95 % interval", "correct", "gain", "wins", "time"]
    overall = [item.overall for item in evaluations.values()]
    rewards, gains = (figure_precision(overall, name) for name in ("reward", "gain"))
    rows = [
        [_name(number), *_cells(stages.get(number), evaluations.get(number), rewards, gains)]
        for number in numbers
    ]
    return table(head, rows) if rows else Markup()


def _name(stage: int) -> str:
    return str(stage) if stage else "pretrained"


def _cells(
    stage: Stage | None, evaluation: Evaluation | None, rewards: Precision, gains: Precision
) -> list[str]:
    record = {} if stage is None else stage.record
    metrics = {} if evaluation is None else evaluation.overall
    low, high = finite(metrics.get("reward_low")), finite(metrics.get("reward_high"))
    steps = finite(record.get("steps"))
    if steps is None and stage is not None and stage.metrics:
        steps = float(len(stage.metrics))
    return [
        count(steps),
        count(finite(record.get("reward_queries"))),
        rewards.number(finite(record.get("data_reward_mean"))),
        precise_percent(None if stage is None else _outside_band(stage)),
        rewards.number(finite(metrics.get("reward_mean"))),
        rewards.between(low, high) or UNKNOWN,
        percent(finite(metrics.get("correct"))),
        gains.number(finite(metrics.get("gain")), sign=True),
        percent(finite(metrics.get("win_rate"))),
        duration(_seconds(stage)),
    ]


def _seconds(stage: Stage | None) -> float | None:
    pieces = [] if stage is None else _pieces(stage)
    return sum(piece.value for piece in pieces) if pieces else None


def _outside_band(stage: Stage) -> float | None:
    """Return the stage's share of steps outside the band at its start, available once the stage trains."""
    at_end = finite(stage.record.get("outside_band_at_start"))
    return finite(stage.run_record.get("outside_band_at_start")) if at_end is None else at_end


def _outside_band_chart(stages: Sequence[Stage]) -> Markup:
    """Draw the share of steps outside the band before each stage, which the stage cannot train."""
    series = Series(
        name="outside",
        x=[float(stage.number) for stage in stages],
        y=[_outside_band(stage) for stage in stages],
        points=True,
    )
    if all(value is None for value in series.y):
        return Markup()
    return line_chart(
        [series],
        title="Outside the band at the start",
        note="share of a stage's data, before it trains",
        x_label="stage",
        share=True,
    )


def time_chart(run: Run) -> Markup:
    """Draw the time of each stage by phase; "" if it was not recorded."""
    rows = [(f"stage {stage.number}", _pieces(stage)) for stage in run.stages]
    known = [(label, pieces) for label, pieces in rows if any(piece.value > 0 for piece in pieces)]
    if not known:
        return Markup()
    return stacked_chart(
        known,
        title="Time of each stage",
        note="of the process that ended the stage; sums above",
        value_format=duration,
    )


def _pieces(stage: Stage) -> list[Piece]:
    seconds = part(stage.record, "seconds")
    return [
        Piece(name=name, value=value, colour=colour)
        for key, name, colour in _TIMES
        if (value := finite(seconds.get(key))) is not None
    ]
