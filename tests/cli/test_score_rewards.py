"""ppod-score with other rewards than `scenes`, alone and together, and pairs by their sum."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont
from ppod_cli import pair, score

from ppod_data.dataset.dataset import Dataset
from tests.cli.conftest import Made
from tests.ppod_data.rewards.test_rewards_remote import start, url_of
from tests.support.command import call, following, ran
from tests.support.faults import killed_at, visible
from tests.support.foreign_cases import row, write_parquet
from tests.support.reward_servers import serving
from tests.support.small_rewards import save_clip

SHORT = ("--num-train-steps", 1, "--pairs-per-step", 1, "--eval-images-per-prompt", 2)
MINE = """
import os
def shy(prompts, images):
    if any("cat" in prompt for prompt in prompts) and not os.path.exists("brave"):
        raise ValueError("a cat")
    return [float(image.getpixel((0, 0))[0]) for image in images]
"""


@pytest.fixture
def data(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data set in a folder of its own, which is the current one."""
    shutil.copytree(made.data, tmp_path / "data")
    (tmp_path / "shy_rewards.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_several_rewards_in_one_call_and_pairs_by_their_sum(data: Path) -> None:
    save_clip(data.parent / "weights")
    clip = f"clip:{data.parent / 'weights'}"
    done = call(score.app, data, "--reward", clip, "--reward", "jpeg-compressibility", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)["scores"]
    assert [(one["name"], one["num_scored"]) for one in told] == [("clip", 12), ("jpeg-compressibility", 12)]
    weighted = ("--reward", "clip=2", "--reward", "jpeg-compressibility=-0.5")
    error = call(pair.app, "rank", data, *weighted).one_error()
    assert "--name" in error
    assert call(pair.app, "rank", data, *weighted, "--name", "mixed").code == 0
    assert "rewards" in json.loads(Dataset.open(data).pairs("mixed").schema.metadata[b"ppod"])
    assert call(pair.app, "rank", data, *weighted, "--normalise", "group", "--name", "z").code == 0
    assert json.loads(Dataset.open(data).pairs("z").schema.metadata[b"ppod"])["normalise"] == "group"


def test_failed_rows_are_tried_again_on_request(data: Path) -> None:
    first = call(score.app, "data", "--reward", "shy_rewards:shy", "--json")
    assert first.code == 0, first.stderr
    told = json.loads(first.stdout)["scores"][0]
    assert (told["name"], told["num_scored"], told["num_failed"]) == ("shy", 6, 6)
    assert told["first_failure"] == "failed: ValueError: a cat"
    (data.parent / "brave").touch()
    again = call(score.app, "data", "--reward", "shy_rewards:shy", "--retry-failed", "--json")
    told = json.loads(again.stdout)["scores"][0]
    assert (told["num_scored"], told["num_failed"], told["num_skipped"]) == (6, 0, 6)


def test_a_served_reward_makes_the_same_table(data: Path) -> None:
    assert call(score.app, data, "--reward", "jpeg-compressibility", "--as", "here").code == 0
    process: subprocess.Popen[str] = start("jpeg-compressibility", data.parent, "--batch-size", "5")
    try:
        done = call(score.app, data, "--reward", url_of(process))
    finally:
        process.kill()
        process.communicate()
    assert done.code == 0, done.stderr
    opened = Dataset.open(data)
    assert opened.scores("jpeg-compressibility").equals(opened.scores("here"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give the folder of a data set to score, or --serve"),
        (("data", "--serve", "scenes"), "give the folder of a data set to score, or --serve"),
        (("data", "--reward", "clip:nowhere"), "nowhere is not a folder"),
        (("data", "--reward", "scnes"), "did you mean 'scenes'"),
        (("--serve", "scnes"), "did you mean 'scenes'"),
        (
            ("data", "--reward", "shy_rewards:shy", "--reward", "shy_rewards:shy", "--as", "x"),
            "--as names one table",
        ),
    ],
)
def test_a_wrong_call_is_one_line(data: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = call(score.app, *arguments)
    assert result.code == 2
    assert reason in result.one_error()


def test_two_rewards_of_one_name_are_refused(data: Path) -> None:
    save_clip(data.parent / "a")
    save_clip(data.parent / "b", seed=1)
    result = call(score.app, data, "--reward", f"clip:{data.parent}/a", "--reward", f"clip:{data.parent}/b")
    assert "two rewards are called clip" in result.one_error()


@pytest.mark.long
def test_images_of_text_are_read_ranked_and_trained_on_though_scoring_is_killed(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = 'a sign that says "OPEN"'
    shown = [drawn(word) for word in ("OPEN", "OPE", "CLOSED")]
    comparisons = [row(prompt, shown[0], shown[1]), row(prompt, shown[1], shown[2])]
    write_parquet(tmp_path / "signs.parquet", comparisons)
    made_by = ("--model", tiny_pipeline, "--num-inference-steps", 2)
    imported = call(
        pair.app,
        "import",
        tmp_path / "whole/data",
        tmp_path / "signs.parquet",
        "--format",
        "pickapic",
        *made_by,
    )
    assert imported.code == 0, imported.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    monkeypatch.chdir(tmp_path / "whole")
    ranked = ran(following(ran("ppod-score data --reward ocr")))
    assert max(Dataset.open("data").scores("ocr")["score"].to_pylist()) == 1.0
    ran(following(ranked), *SHORT)

    monkeypatch.chdir(tmp_path / "killed")
    killed_at(4, lambda: ran("ppod-score data --reward ocr"))
    assert following(ran(following(ran("ppod-score data --reward ocr")))) == following(ranked)
    ran(following(ranked), *SHORT)
    assert visible(tmp_path / "killed/data") == visible(tmp_path / "whole/data")
    policies = [visible(tmp_path / name / "run/policy") for name in ("killed", "whole")]
    assert policies[0] == policies[1] != {}


def test_a_unirl_server_s_images_are_scored_ranked_and_trained_on(data: Path) -> None:
    with serving() as server:
        reward = f"unirl:{server.url}#two/dark"
        ran(following(ran(following(ran(f"ppod-score data --reward {reward}")))), *SHORT)
    assert reward in (data.parent / "run" / "run.json").read_text()


def test_what_a_judge_was_asked_is_counted_over_all_processes(data: Path) -> None:
    with serving() as server:
        judge = f"openai:{server.url}/v1#bright"
        done = call(score.app, data, "--reward", judge, "--num-processes", 2)
        asked = server.asked()
    assert done.code == 0, done.stderr
    assert asked == 15, "three processes connect with a question each, and two of them score 12 images"
    assert f"  {asked} requests, 1,500 tokens of questions" in done.stdout


def test_a_judge_compares_images_and_is_trained_on(data: Path) -> None:
    with serving() as server:
        judge = f"openai:{server.url}/v1#bright"
        judged = ran(f"ppod-pair judge data --judge {judge} --num-questions 10 --name vlm")
        assert "10 pairs judged now" in judged.stdout and "21 requests" in judged.stdout
        error = call(pair.app, "judge", data, "--judge", "scenes").one_error()
    assert error == "--judge scenes cannot compare images: give openai:URL#MODEL or openai:FILE.toml"
    ran(following(ran(following(judged))), *SHORT)
    assert (data.parent / "run" / "policy").is_dir()


def drawn(word: str) -> bytes:
    """The PNG of a word on a light ground."""
    image = Image.new("RGB", (96, 96), (214, 226, 240))
    ImageDraw.Draw(image).text((8, 36), word, font=ImageFont.load_default(20), fill=(20, 20, 60))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
