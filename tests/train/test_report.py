"""The report is one file, loads nothing, escapes everything, and makes do with what a run has so far."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_train.eval_files import write_evaluation
from ppod_train.figures import EvalResult, EvalSettings, PromptMeasurement, Scorer, summarise
from ppod_train.report import write_report
from ppod_train.report.charts import Series, line_chart, smoothed, thinned, ticks
from ppod_train.report.runs import read_run

EVIL = "</script><script>alert('x')</script> & \"dogs\""
VOID = {"meta", "input", "line", "circle", "path", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and notes tags and the addresses that they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def evaluation(prompt: str, rewards: list[float], size: int = 16) -> EvalResult:
    images = tuple(Image.new("RGB", (size, size), (60 * k, 0, 0)) for k in range(len(rewards)))
    item = PromptMeasurement(
        rewards=np.array(rewards), correct=np.array(rewards) > 0, diversity=0.1, images=images
    )
    overall, prompts = summarise({prompt: item})
    return EvalResult(
        model="tiny",
        adapter=None,
        policy_fingerprint="0" * 64,
        settings=EvalSettings(prompts=(prompt,), num_images_per_prompt=len(rewards)),
        scorer=Scorer(name="scenes", revision="1"),
        check_scorer=None,
        overall=overall,
        prompts=prompts,
        measurements={prompt: item},
    )


def metrics(step: int) -> dict[str, object]:
    per_timestep = {"steps": [1, 3], "log_ratio_mean": [0.1, None], "clipped_right": [0.5, 0.25]}
    return {"step": step, "loss": 0.7 / step, "kl_estimate": float("nan"), "per_timestep": per_timestep}


def make_run(
    folder: Path, *, prompt: str = "a dog", steps: int = 60, evaluated: tuple[int, ...] = (0, 20, 40)
) -> Path:
    folder.mkdir(parents=True)
    settings = {"objective": "ppod", "log_ratio_clip": 0.002, "learning_rate": 1e-3, "note": prompt}
    (folder / "run.json").write_text(json.dumps({"settings": settings, "objective": "ppod", "pairs": "p"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(metrics(s)) + "\n" for s in range(1, steps + 1)))
    for step in evaluated:
        write_evaluation(folder / "evals" / f"step-{step:06d}", evaluation(prompt, [-1.0, step / 10, 2.0]))
    return folder


def test_report_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run")], out)
    page, text = parsed(out), out.read_text(encoding="utf-8")
    assert page.addresses == [] and "link" not in page.tags and "img" not in page.tags
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
    parsed(out)


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
    with pytest.raises(ConfigError, match="is no run"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_evaluation_folder_reports_before_and_after(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "eval" / "before", evaluation("a dog", [-1.0, -2.0]))
    write_evaluation(tmp_path / "eval" / "after", evaluation("a dog", [1.0, 2.0]))
    run = read_run(tmp_path / "eval")
    assert run.before is not None and run.best is not None
    assert (run.before.label, run.best.label, run.is_training) == ("before", "after", False)
    write_report([tmp_path / "eval"], tmp_path / "report.html")
    assert "a dog" in parsed(tmp_path / "report.html").text


def test_best_evaluation_is_the_one_with_the_highest_reward(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=(0, 40, 20))
    best = read_run(run).best
    assert best is not None and best.step == 40


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / parent / "run") for parent in ("first", "second")]
    write_report(runs, tmp_path / "report.html")
    text = parsed(tmp_path / "report.html").text
    assert "first/run" in text and "second/run" in text


def test_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("one.html", "two.html"):
        write_report([run], tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


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
