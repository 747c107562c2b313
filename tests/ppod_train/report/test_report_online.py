"""Online runs in the report: stages, queries, boundaries, comparisons, and whatever is missing."""

import shutil
from pathlib import Path

import pytest

from ppod_data.html.charts.rows import Piece, stacked_chart
from ppod_train.report import write_report
from ppod_train.report.runs import Run, read_run
from ppod_train.report.stages import stages_section, time_chart
from tests.support.report_cases import EVIL, make_online_run, make_run, parsed, put


def totals(run: Run) -> list[tuple[str, int | None, float | None]]:
    return [(item.label, item.step, item.queries) for item in run.evaluations]


def test_steps_and_queries_add_up_over_stages(tmp_path: Path) -> None:
    """The first evaluation is of two images, which no stage counts; the pretrained model itself needed none."""
    run = read_run(make_online_run(tmp_path / "run"))
    assert totals(run) == [
        ("pretrained", 0, 0),
        ("stage 1", 20, 102),
        ("stage 2", 40, 202),
        ("stage 3", 60, 302),
    ]
    assert [record["step"] for record in run.metrics] == list(range(1, 61))
    assert [stage.first_step for stage in run.stages] == [0, 20, 40]
    assert run.before is not None and run.before.label == "pretrained"


def test_kept_policy_is_the_best_stage_s(tmp_path: Path) -> None:
    after = read_run(make_online_run(tmp_path / "run")).after
    assert after is not None and after.label == "stage 2"


def test_report_on_an_online_run_has_every_section(tmp_path: Path) -> None:
    write_report([make_online_run(tmp_path / "run")], tmp_path / "report.html")
    page = parsed(tmp_path / "report.html")
    for words in (
        "3 of 3 stages done",
        "Mean reward by queries",
        "Outside the band at the start",
        "By timestep, stage 3",
        "The replay before training was exact",
        "Time of each stage",
        "train 10.0 min",
        "steps 41 to 45",
        "train.learning_rate",
    ):
        assert words in page.text
    html = (tmp_path / "report.html").read_text()
    assert '"label":"stage 2"' in html and html.count("data:image/png;base64,") == 4
    assert html.count('class="mark"') == 2  # before the second and the third stage


@pytest.mark.parametrize(
    "missing",
    [
        "online.json",
        "evals",
        "evals/stage-00",
        "evals/stage-02/images.png",
        "stage-01",
        "stage-02/run",
        "stage-02/run/run.json",
        "stage-02/run/metrics.jsonl",
        "stage-03/stage.json",
    ],
)
def test_online_run_without_a_part_still_reports(tmp_path: Path, missing: str) -> None:
    run = make_online_run(tmp_path / "run")
    (run / missing).rename(tmp_path / "elsewhere")
    write_report([run], tmp_path / "report.html")
    assert run.name in parsed(tmp_path / "report.html").text


def test_unfinished_online_run_reports_what_is_whole(tmp_path: Path) -> None:
    run = make_online_run(tmp_path / "run", steps=5)
    shutil.rmtree(run / "stage-03")
    (run / "stage-02" / "stage.json").unlink()
    with (run / "stage-02" / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 0.')
    (run / "evals" / "stage-02" / "eval.json").write_text('{"format"')
    shutil.rmtree(run / "evals" / "stage-03")
    read = read_run(run)
    assert totals(read) == [("pretrained", 0, 0), ("stage 1", 5, 102)]
    assert len(read.metrics) == 10
    write_report([run], tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert "1 of 3 stages done. Stage 2 has made 5 training steps so far." in text


def test_online_run_that_has_just_begun_reports(tmp_path: Path) -> None:
    put(tmp_path / "run" / "online.json", {"num_stages": 4})
    write_report([tmp_path / "run"], tmp_path / "report.html")
    assert "0 of 4 stages done" in parsed(tmp_path / "report.html").text


def test_a_stage_whose_count_is_unknown_leaves_later_totals_unknown(tmp_path: Path) -> None:
    run = make_online_run(tmp_path / "run")
    (run / "stage-02").rename(tmp_path / "elsewhere")
    assert totals(read_run(run))[1:] == [
        ("stage 1", 20, 102),
        ("stage 2", None, None),
        ("stage 3", None, None),
    ]


def test_figures_that_are_null_are_left_out(tmp_path: Path) -> None:
    run = make_online_run(tmp_path / "run")
    for stage in (1, 2, 3):
        names = ("reward_queries", "data_reward_mean", "outside_band_at_start", "seconds")
        put(run / f"stage-{stage:02d}" / "stage.json", {"stage": stage, **dict.fromkeys(names)})
    read = read_run(run)
    assert "by queries" not in stages_section(read) and "Outside the band" not in stages_section(read)
    assert time_chart(read) == ""
    write_report([run], tmp_path / "report.html")
    parsed(tmp_path / "report.html")


def test_share_outside_the_band_is_known_while_the_stage_trains(tmp_path: Path) -> None:
    run = make_online_run(tmp_path / "run")
    (run / "stage-03" / "stage.json").unlink()
    put(run / "stage-03" / "run" / "run.json", {"outside_band_at_start": 0.777})
    assert "77.7 %" in stages_section(read_run(run))


def test_whatever_an_online_run_says_it_is_text(tmp_path: Path) -> None:
    run = make_online_run(tmp_path / "run", prompt=EVIL)
    write_report([run, make_run(tmp_path / "<b>other", prompt=EVIL)], tmp_path / "report.html")
    page = parsed(tmp_path / "report.html")
    assert EVIL in page.text and "<b>other" in page.text
    assert page.tags.count("script") == 3 and all(address.startswith("#") for address in page.addresses)


def test_online_and_offline_runs_compare(tmp_path: Path) -> None:
    """Their training settings meet under the same names; of what only one of them has, nothing differs."""
    online = make_online_run(tmp_path / "online")
    write_report([make_run(tmp_path / "offline"), online], tmp_path / "report.html")
    comparison = parsed(tmp_path / "report.html").text.partition("Settings that differ")
    assert "Mean reward by queries" in comparison[0]
    assert "offlineofflineppod60" in comparison[0] and "onlineonlineppod60302" in comparison[0]
    differing = comparison[2].partition("Mean reward")[0]
    assert "learning_rate0.0010.0005" in differing
    assert "objective" not in differing and "strategy" not in differing


def test_offline_runs_compare_over_steps_alone(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    write_report(runs, tmp_path / "report.html")
    assert "by queries" not in parsed(tmp_path / "report.html").text


def test_online_runs_compare_their_generation(tmp_path: Path) -> None:
    runs = [make_online_run(tmp_path / name) for name in ("one", "two")]
    put(runs[0] / "online.json", {"settings": {"a": 1}, "identity": {"generation": {"guidance_scale": 1.0}}})
    write_report(runs, tmp_path / "report.html")
    assert "generation.guidance_scale1.03.0" in parsed(tmp_path / "report.html").text


def test_stacked_bars_share_a_scale_and_sum_up() -> None:
    pieces = [Piece(name="<train>", value=30.0, colour=0), Piece(name="none", value=0.0, colour=1)]
    chart = stacked_chart([("stage 1", pieces), ("stage 2", [*pieces, *pieces])], title="t")
    assert "&lt;train&gt; <b>90" in chart and "<train>" not in chart
    assert chart.count("width:50.00%") == 3
