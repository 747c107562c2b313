"""The report is one file, loads nothing, escapes everything, and makes do with what a run has so far."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ppod_data.errors import ConfigError
from ppod_data.html.charts.axes import span, ticks
from ppod_data.html.charts.lines import Series, line_chart, smoothed, thinned
from ppod_data.support.formatting import count
from ppod_train.evaluation.files import write_evaluation
from ppod_train.report import write_report
from ppod_train.report.page import distinct_names
from ppod_train.report.runs import read_run
from ppod_train.report.timesteps import drift_chart, drift_words
from ppod_train.report.words import duration
from tests.support.browser import chromium
from tests.support.report_cases import EVIL, evaluation, make_run, metrics, parsed, put


def test_report_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run")], out)
    page, text = parsed(out), out.read_text(encoding="utf-8")
    assert (
        all(address.startswith("#") for address in page.addresses)
        and "link" not in page.tags
        and "img" not in page.tags
    )
    assert not re.search(r"https?://|//[a-z]|@import", text)
    assert text.count("data:image/png;base64,") == 3
    assert "default-src 'none'" in text
    assert "svg" in page.tags


def test_whatever_a_prompt_says_it_is_text(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run", prompt=EVIL), make_run(tmp_path / "<b>other", prompt=EVIL)], out)
    page = parsed(out)
    assert EVIL in page.text
    assert "<b>other" in page.text
    assert page.tags.count("script") == 3  # the page's own, and one block of data a run
    assert "alert('x')</script>" not in out.read_text(encoding="utf-8").replace("&lt;/script&gt;", "")


@pytest.mark.parametrize("missing", ["run.json", "metrics.jsonl", "evals"])
def test_run_without_a_part_still_reports(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "run")
    (run / missing).rename(tmp_path / "elsewhere")
    out = tmp_path / "report.html"
    write_report([run], out)
    assert run.name in parsed(out).text


def test_unfinished_run_reports_what_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=3, evaluated=(0,))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 0.')
    (run / "evals" / "step-000020").mkdir()
    (run / "evals" / "step-000020" / "eval.json").write_text('{"format"')
    read = read_run(run)
    assert [record["step"] for record in read.metrics] == [1, 2, 3]
    assert [item.label for item in read.evaluations] == ["step 0"]
    write_report([run], tmp_path / "report.html")
    parsed(tmp_path / "report.html")


def test_steps_done_again_after_a_resume_count_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=5, evaluated=())
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 9.0}) + "\n")
    assert [record.get("loss") for record in read_run(run).metrics][3] == 9.0
    assert len(read_run(run).metrics) == 5


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_evaluation_folder_reports_before_and_after(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "eval" / "before", evaluation("a dog", [-1.0, -2.0]))
    write_evaluation(tmp_path / "eval" / "after", evaluation("a dog", [1.0, 2.0]))
    run = read_run(tmp_path / "eval")
    assert run.before is not None and run.after is not None
    assert (run.before.label, run.after.label, run.is_training) == ("before", "after", False)
    write_report([tmp_path / "eval"], tmp_path / "report.html")
    assert "a dog" in parsed(tmp_path / "report.html").text


def test_an_evaluation_against_another_policy_names_both(tmp_path: Path) -> None:
    for folder, adapter in (("before", "run-a/<policy>"), ("after", "run-b/policy")):
        named = replace(
            evaluation("a dog", [1.0, 2.0]), adapter=adapter, policy_fingerprint=f"print of {adapter}"
        )
        write_evaluation(tmp_path / "eval" / folder, named)
    write_report([tmp_path / "eval"], tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert "Before: the policy run-a/<policy>; after: run-b/policy." in text
    assert "baseline modeltiny" in text and "baseline adapterrun-a/<policy>" in text
    assert "baseline policy_fingerprintprint of run-a/<policy>" in text


def test_an_evaluation_against_the_model_names_the_model(tmp_path: Path) -> None:
    before = evaluation("a dog", [1.0, 2.0])
    write_evaluation(tmp_path / "eval" / "before", replace(before, model="base"))
    write_evaluation(tmp_path / "eval" / "after", replace(before, model="run/policy"))
    write_report([tmp_path / "eval"], tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert "baseline modelbase" in text and "Before: the policy" not in text
    write_evaluation(tmp_path / "alone" / "after", before)
    write_report([tmp_path / "alone"], tmp_path / "alone.html")
    assert "baseline model" not in parsed(tmp_path / "alone.html").text


def test_kept_evaluation_is_the_one_with_the_highest_reward(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=(0, 40, 20))
    after = read_run(run).after
    assert after is not None and after.step == 40


def test_a_run_that_nothing_beat_reports_the_start_that_it_kept(tmp_path: Path) -> None:
    """The figures are those of the policy on the disk, with what to try above them."""
    out = make_run(tmp_path / "run", evaluated=())
    for step, reward in ((0, -1.0), (20, -2.0), (40, -3.0)):
        write_evaluation(out / "evals" / f"step-{step:06d}", evaluation("a dog", [reward, reward - 0.1]))
    run = read_run(out)
    assert run.kept_is_start and run.after is None
    write_report([out], tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text.replace("−", "-")
    assert "Nothing beat the starting model: the kept policy IS the starting model." in text
    assert "Mean reward-1.05" in text and "Mean reward-3.05" not in text
    other = make_run(tmp_path / "other")
    write_report([out, other], tmp_path / "both.html")
    assert "kept its start" in parsed(tmp_path / "both.html").text


def test_settings_that_differ_name_data_and_pairs_and_the_value_that_counts(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    for run, pairs in zip(runs, ("scenes", "people"), strict=True):
        record = json.loads((run / "run.json").read_text())
        record |= {"targets": f"pairs/{pairs}", "datasets": [f"data-{pairs}"]}
        (run / "run.json").write_text(json.dumps(record))
    write_report(runs, tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert "targetspairs/scenespairs/people" in text and "datasetsdata-scenesdata-people" in text

    for run, images in zip(runs, (8, 16), strict=True):
        settings = {"eval_images_per_prompt": images, "train": {"eval_images_per_prompt": 64}}
        (run / "online.json").write_text(json.dumps({"settings": settings}))
    write_report(runs, tmp_path / "report.html")
    assert "eval_images_per_prompt816" in parsed(tmp_path / "report.html").text


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / parent / "run") for parent in ("first", "second")]
    write_report(runs, tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert "first/run" in text and "second/run" in text


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/a/one", "/a/two"], ["one", "two"]),
        (["/ppod/seed-0/run", "/d3po/seed-0/run"], ["ppod/seed-0/run", "d3po/seed-0/run"]),
        (["/p/x/y/run", "/q/x/y/run", "/other"], ["p/x/y/run", "q/x/y/run", "other"]),
        (["/run", "/a/run"], ["run", "a/run"]),
        (["/a/run", "/a/run", "/a/run", "/a/run (2)"], ["run", "run (3)", "run (4)", "run (2)"]),
        (["/a/run", "/b/run", "/b/../b/run"], ["a/run", "b/run", "b/run (2)"]),
    ],
)
def test_names_of_runs_are_short_and_differ(folders: list[str], names: list[str]) -> None:
    assert distinct_names([Path(folder) for folder in folders]) == names


def test_runs_in_folders_of_the_same_last_names_are_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / method / "seed-0" / "run") for method in ("ppod", "d3po")]
    put(runs[1] / "run.json", {"settings": {"objective": "d3po"}})
    write_report(runs, tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    differences = text.partition("Settings that differ")[2]
    assert "settingppod/seed-0/rund3po/seed-0/run" in differences
    assert "objectiveppodd3po" in differences


def test_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("one.html", "two.html"):
        write_report([run], tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_report_in_a_folder_of_another_kind_s_own_files_is_refused(tmp_path: Path) -> None:
    run, data = make_run(tmp_path / "run"), tmp_path / "data"
    (data / "pairs").mkdir(parents=True)
    (data / "ppod.json").write_text("{}")
    for place, owner in (
        (data / "pairs" / "x.parquet", "a data set"),
        (run / "policy" / "x.html", "an offline run"),
    ):
        with pytest.raises(ConfigError, match=f"which is {owner}: give another --out"):
            write_report(run, place)
        assert not place.exists()
    assert write_report(run, run / "x.html").is_file()


def test_large_images_are_embedded_smaller(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "eval" / "after", evaluation("a dog", [1.0, 2.0], size=512))
    write_report([tmp_path / "eval"], tmp_path / "report.html")
    assert "data:image/jpeg;base64," in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == [0, 0.5, 1] or ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(-3.4, -0.6) == [-3, -2, -1]
    assert ticks(0.0001, 0.0042) == pytest.approx([0.002, 0.004]) or len(ticks(0.0001, 0.0042)) >= 3


def test_long_curves_are_thinned_by_means() -> None:
    long = Series(name="loss", x=[float(x) for x in range(601)], y=[1.0] * 601)
    thin = thinned(long)
    assert len(thin.x) <= 300 and set(thin.y) == {1.0}
    assert smoothed([1.0, None, 3.0], 2) == [1.0, 1.0, 3.0]


def test_chart_of_one_point_and_of_none() -> None:
    assert "<circle" in line_chart(
        [Series(name="a", x=[1.0], y=[2.0], points=True)], title="t", x_label="step"
    )
    assert "not recorded" in line_chart([Series(name="a", x=[1.0], y=[None])], title="t", x_label="step")


@pytest.mark.parametrize("missing", ["preference_accuracy", "loss", "clipped_right"])
def test_figure_that_is_null_everywhere_has_no_chart(tmp_path: Path, missing: str) -> None:
    """As preference_accuracy of an objective without pairs."""
    titles = {"preference_accuracy": "Preference accuracy", "loss": "Loss", "clipped_right": "right side"}
    run = make_run(tmp_path / "run", steps=0)
    for name, value in (("with", 0.5), ("without", None)):
        lines = [{**metrics(step), missing: value, "per_timestep": {missing: [value]}} for step in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_report([run], tmp_path / f"{name}.html")
    caption = re.compile(rf"<figcaption>[^<]*{titles[missing]}")
    assert caption.search((tmp_path / "with.html").read_text("utf-8"))
    assert not caption.search((tmp_path / "without.html").read_text("utf-8"))


def test_evaluation_without_a_mean_reward_still_reports(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "evals" / "step-000020" / "eval.json"
    record = json.loads(path.read_text())
    put(path, {**record, "overall": {**record["overall"], "reward_mean": None}})
    after = read_run(run).after
    assert after is not None and after.step == 40
    write_report([run], tmp_path / "report.html")
    parsed(tmp_path / "report.html")


def test_objective_without_a_clip_has_no_band(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for objective, banded in (("ppod", True), ("diffusion-dpo", False)):
        put(run / "run.json", {"settings": {"objective": objective, "log_ratio_clip": 0.1}})
        write_report([run], tmp_path / "report.html")
        text = parsed(tmp_path / "report.html").text
        assert ("Outside the band" in text, "dashed" in text) == (banded, banded)


def test_band_around_another_policy_is_not_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    put(run / "run.json", {"settings": {"log_ratio_clip": 0.1, "clip_anchor": "stage"}})
    write_report([run], tmp_path / "report.html")
    assert "dashed" not in parsed(tmp_path / "report.html").text


def test_drift_is_drawn_unless_exact() -> None:
    exact = {"drift": {"steps": [0, 1], "median": [0.0, 0.0], "p99": [0.0, 0.0], "share_exact": 1.0}}
    inexact = {"drift": {"steps": [0, 1], "median": [0.0, 1e-8], "p99": [1e-7, None], "overall_p99": 1e-7}}
    assert "exact" in drift_words(exact) and drift_chart(exact) == ""
    assert "within 1.0e−7" in drift_words(inexact) and "<svg" in drift_chart(inexact)
    assert drift_words({}) == drift_chart({}) == ""


def test_settings_appear_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    put(run / "run.json", {"settings": {"objective": "ppod"}, "identity": {"objective": "ppod", "data": "d"}})
    write_report([run], tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert text.count("objectiveppod") == 1 and "datad" in text


def test_numbers_are_short() -> None:
    assert count(12345.0) == "12\N{NARROW NO-BREAK SPACE}345"
    assert [duration(seconds) for seconds in (3.25, 90, 150, 9000)] == ["3.2 s", "90 s", "2.5 min", "2.5 h"]


def test_axis_of_shares_keeps_to_what_a_share_can_be() -> None:
    for value in (0.0, 1.0):
        chart = line_chart([Series(name="a", x=[1, 2], y=[value] * 2)], title="t", x_label="s", share=True)
        ticks_of_y = re.findall(r'text-anchor="end">([^<s]+ %)<', chart)
        assert len(ticks_of_y) > 1 and all(0 <= float(text.removesuffix(" %")) <= 100 for text in ticks_of_y)


def test_ticks_have_a_power_of_ten_all_or_none() -> None:
    chart = line_chart([Series(name="a", x=[1, 2], y=[-0.0006, 0.0014])], title="t", x_label="s")
    assert ">−0.0005<" in chart and ">0.0010<" in chart
    chart = line_chart([Series(name="a", x=[1, 2], y=[0.0, 2.1e-7])], title="t", x_label="s")
    assert ">5.0e−8<" in chart and ">2.0e−7<" in chart


@pytest.mark.parametrize("least_span", [0.0, 0.05])
@pytest.mark.parametrize("values", [(0.2270, 0.2277), (0.0, 1e-9), (1e6, 1e6 + 1), (-3.3, -0.8), (5.0, 5.0)])
def test_no_two_ticks_read_alike(values: tuple[float, float], least_span: float) -> None:
    chart = line_chart(
        [Series(name="a", x=[1, 2], y=list(values))], title="t", x_label="step", least_span=least_span
    )
    texts = re.findall(r'text-anchor="end">([^<]+)<', chart)
    texts.remove("step")
    assert len(texts) > 1 and len(set(texts)) == len(texts)


def test_an_axis_of_evaluations_makes_no_rise_of_a_rounding() -> None:
    low, high = span(0.2270, 0.2277, 0.05)
    assert high - low >= 0.05 * 0.2277 and low < 0.2270 < 0.2277 < high
    assert span(-3.3, -0.8, 0.05) == span(-3.3, -0.8, 0.0)


def test_a_report_begins_with_the_verdict_and_opens_what_its_contents_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_report([run], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert 0 < text.index('class="banner"') < text.index('class="contents"') < text.index('class="figures"')
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollHeight") < 3000
        page.click("text=Settings")
        assert page.evaluate("[...document.querySelectorAll('details.part')].at(-2).open")
        page.click(".viewer .tile >> nth=0")
        assert page.evaluate("document.querySelector('dialog .tile').clientWidth") > 400
        page.keyboard.press("Escape")
        assert not page.evaluate("document.querySelector('dialog').open")


def test_a_phone_shows_a_run_in_3000_pixels_and_its_best_and_worst_images(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_report([run], tmp_path / "report.html")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollHeight") <= 3000
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.click("text=Best and worst")
        ends = page.eval_on_selector_all(".ranked small", "all => all.map(one => one.textContent)")
        assert ends == ["4.00 a dog", "\u22121.00 a dog"]
        tile = "document.querySelector('.ranked .tile').style.backgroundPosition"
        assert page.evaluate(tile) == "50% 0%"  # the second of three images


def test_runs_are_sorted_by_a_column_and_keep_their_colours(tmp_path: Path) -> None:
    """A gain of nothing beside a large one is 0, not a row of digits."""
    runs = []
    for name, gain in (("one", 4e-6), ("two", -5.5), ("three", 1.25)):
        run = make_run(tmp_path / name, evaluated=())
        for step, change in ((0, 0.0), (20, gain)):
            result = evaluation("a dog", [change, change + 1])
            overall = replace(result.overall, gain=change or None, gain_low=change, gain_high=change)
            write_evaluation(run / "evals" / f"step-{step:06d}", replace(result, overall=overall))
        runs.append(run)
    write_report(runs, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert '<h2 class="key c2" id="run-2">three</h2>' in text and "--c0: var(--c2)" in text
    with chromium() as browser:
        page = browser.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        cells = "all => all.map(row => row.cells[0].textContent + row.cells[7].textContent)"
        rows = "table.sortable tbody tr"
        assert page.eval_on_selector_all(rows, cells) == ["one+0.00", "two+0.00", "three+1.25"]
        page.click("th >> text=gain")
        assert page.eval_on_selector_all(rows, cells) == ["three+1.25", "one+0.00", "two+0.00"]
        page.click("th >> text=gain")
        assert page.eval_on_selector_all(rows, cells)[-1] == "three+1.25"
        assert page.get_attribute("th:nth-child(8)", "aria-sort") == "ascending"
