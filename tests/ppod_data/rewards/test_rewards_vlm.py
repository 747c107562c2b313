"""A judge behind a real OpenAI-compatible server on the loopback, and servers that misbehave."""

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from PIL import Image

from ppod_data.errors import ConfigError, RewardError, RewardUnavailableError
from ppod_data.rewards import check_reward_name, load_reward
from ppod_data.rewards.named import NamedReward
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.http_client import Patience
from ppod_data.rewards.usage import total_usage, usage_of
from ppod_data.rewards.vlm import chat as chat_module
from ppod_data.rewards.vlm.answers import Reply, Token, expected_value, stated_number, stated_word
from ppod_data.rewards.vlm.chat import image_part
from ppod_data.rewards.vlm.reward import VlmReward
from ppod_data.rewards.vlm.settings import VlmSettings, read_settings
from ppod_data.rewards.weighted import WeightedReward
from ppod_data.scoring.score import score
from tests.support.reward_servers import KEY, Running, brightness, serving, start
from tests.support.toy import make_dataset

YES = {"yes": 1.0, "no": 0.0}
GREYS = [Image.new("RGB", (32, 24), (level, level, level)) for level in (0, 64, 160, 255)]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry sooner."""
    monkeypatch.setattr(chat_module, "Patience", lambda answer: Patience(8, 0.02, 5, answer))


def bright(image: Image.Image) -> float:
    return brightness(image_part(image)["image_url"]["url"].partition(",")[2])


def write_judge(path: Path, server: Running, **values: Any) -> str:
    lines = [
        f"{key} = {value if isinstance(value, int | float) else repr(value)}" for key, value in values.items()
    ]
    path.write_text("\n".join([f'url = "{server.url}/v1"', *lines]))
    return f"openai:{path}"


def reply(text: str, *tokens: tuple[str, dict[str, float]]) -> Reply:
    return Reply(text, tuple(Token(word, others) for word, others in tokens), "m")


LOGS = {"Yes": -0.1, " yes": -3.0, "NO": -3.5, "Maybe": -4.0}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (reply("Yes", ("Yes", LOGS)), 0.970),
        (reply("**Yes**", ("**", {}), ("Yes", LOGS), ("**", {})), 0.970),
        (
            reply("", ("<think>", {}), ("No", {}), ("</", {}), ("think>", {}), ("\n", {}), ("Yes", LOGS)),
            0.970,
        ),
        (reply("Yes", ("Yes", LOGS | {"no": 1e9, "No": math.nan})), 0.970),
        (reply("Maybe", ("Maybe", LOGS)), None),
        (reply("Yes"), None),
    ],
)
def test_the_score_is_the_probability_of_yes_at_the_place_of_the_answer(
    answer: Reply, value: float | None
) -> None:
    assert expected_value(answer, YES) == (None if value is None else pytest.approx(value, abs=1e-3))


def test_a_digit_of_a_longer_number_is_not_the_answer() -> None:
    scale = {str(number): float(number) for number in range(1, 6)}
    logs = {"1": -0.7, "3": -0.7}
    assert expected_value(reply("1", ("1", logs)), scale) == pytest.approx(2.0)
    assert expected_value(reply("10", ("1", logs), ("0", {})), scale) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes.", 1.0),
        ("**no**", 0.0),
        ("No, although yes in part", 0.0),
        ("The answer is yes", 1.0),
        ("<think>no no</think> Yes", 1.0),
        ("<think>I would say yes, but", None),
        ("It could be yes or no", None),
        ("A banana", None),
        ("", None),
    ],
)
def test_a_stated_word_is_read(text: str, value: float | None) -> None:
    assert stated_word(text, YES) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4.0),
        ("Rating: 4/5", 4.0),
        ("4 out of 5.", 4.0),
        ("3.5", 3.5),
        ("**4**", 4.0),
        ("6", None),
        ("between 3 and 4", None),
        ("10", None),
        ("v2 gives none", None),
        ("", None),
    ],
)
def test_a_stated_number_is_read(text: str, value: float | None) -> None:
    assert stated_number(text, 1, 5) == value


def test_log_probabilities_give_the_score(server: Running) -> None:
    reward = load_reward(f"openai:{server.url}/v1#bright")
    assert reward.name == "bright" and reward.revision.startswith("bright-2026-11 ")
    assert reward.score(["a cat"] * 4, GREYS) == pytest.approx([bright(image) for image in GREYS])


@pytest.mark.parametrize("model", ["bright-text", "picky"])
def test_without_log_probabilities_the_stated_answer_counts(server: Running, model: str) -> None:
    reward = load_reward(f"openai:{server.url}/v1#{model}")
    assert reward.score(["a cat"] * 4, GREYS) == [0.0, 0.0, 1.0, 1.0]


def test_a_scale_of_a_file_gives_the_expected_number(server: Running, tmp_path: Path) -> None:
    file = write_judge(tmp_path / "light.toml", server, model="bright", answers="1-5", max_side=16)
    reward = load_reward(file)
    values = reward.score(["a cat"] * 4, GREYS)
    assert reward.name == "light"
    assert values == sorted(values, key=lambda value: float(value or 0)) and 1 < float(values[0] or 0) < 2
    (text,) = load_reward(
        write_judge(tmp_path / "text.toml", server, model="bright-text", answers="1-5")
    ).score(["a cat"], GREYS[3:])
    assert text == 5.0


def test_the_revision_names_all_that_changes_an_answer(server: Running, tmp_path: Path) -> None:
    def revision(**values: Any) -> str:
        return load_reward(
            write_judge(tmp_path / "judge.toml", server, **{"model": "bright"} | values)
        ).revision

    plain = revision()
    assert plain == load_reward(f"openai:{server.url}/v1#bright").revision
    assert plain == revision(concurrency=1, timeout=5.0, max_requests=9)
    others = [revision(question="Light? Yes or No."), revision(max_side=8), revision(model="bright-text")]
    assert len({plain, *others}) == 4


def test_requests_and_tokens_are_counted(server: Running) -> None:
    reward = load_reward(f"openai:{server.url}/v1#bright")
    before = usage_of(reward)
    assert before is not None and before.requests == 1  # one question tells what the server can do
    reward.score(["a cat"] * 4, GREYS)
    after = usage_of(reward)
    assert after is not None
    assert (after.requests, after.prompt_tokens, after.answer_tokens) == (5, 500, 10)
    assert str(after.since(before)) == "4 requests, 400 tokens of questions, 8 of answers"
    jpeg = load_reward("jpeg-compressibility")
    both = WeightedReward("sum", ((0.5, reward), (0.5, jpeg)))
    assert usage_of(both) == total_usage([reward, jpeg]) == after
    assert usage_of(WeightedReward("sum", ((1.0, jpeg),))) is total_usage([jpeg]) is None


def test_the_limit_of_requests_ends_the_scoring(server: Running, tmp_path: Path) -> None:
    reward = load_reward(write_judge(tmp_path / "judge.toml", server, model="bright", max_requests=3))
    with pytest.raises(
        RewardUnavailableError, match="the limit of 3 requests is reached: raise max_requests"
    ):
        reward.score(["a cat"] * 4, GREYS)


def test_fields_of_the_request_are_sent(server: Running, tmp_path: Path) -> None:
    with pytest.raises(RewardUnavailableError, match=r"use max_completion_tokens.*change the fields"):
        load_reward(f"openai:{server.url}/v1#newer")
    request = {"max_completion_tokens": 4, "temperature": 1}
    text = ", ".join(f"{key} = {value}" for key, value in request.items())
    file = write_judge(tmp_path / "judge.toml", server, model="newer")
    with (tmp_path / "judge.toml").open("a") as opened:
        opened.write(f"\nrequest = {{{text}}}\n")
    assert load_reward(file).score(["a cat"], GREYS[3:]) == pytest.approx([0.98])


def test_a_busy_server_is_asked_again(server: Running) -> None:
    assert load_reward(f"openai:{server.url}/v1#busy").score(["a cat"], GREYS[3:]) == pytest.approx([0.98])


def test_nonsense_marks_its_row_without_a_second_question(server: Running, tmp_path: Path) -> None:
    reward = load_reward(f"openai:{server.url}/v1#nonsense")
    (missing,) = reward.score(["a cat"], GREYS[:1])
    assert isinstance(missing, NoScore) and missing.reason == "the answer 'A banana.' is not yes or no"
    before = usage_of(reward)
    dataset = make_dataset(tmp_path / "data", num_images_per_prompt=8, images_per_shard=16)
    with pytest.raises(RewardError, match=r"could score none of the first 16 images .*A banana"):
        score(dataset, reward, name="judge")
    after = usage_of(reward)
    assert before is not None and after is not None and after.requests - before.requests == 16
    assert not (dataset.root / "scores").exists()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("words", "did not return JSON .*welcome"),
        ("absent", "does not know absent .*give the URL up to /v1"),
        ("blind", "refuses a question about an image to blind .*take a model that sees images"),
        ("locked", "denies access .*set OPENAI_API_KEY"),
    ],
)
def test_a_server_that_cannot_judge_is_named_with_the_way_out(
    server: Running, model: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RewardUnavailableError, match=reason):
        load_reward(f"openai:{server.url}/v1#{model}").score(["a cat"], GREYS[:1])


def test_the_key_of_the_environment_is_sent_and_not_stored(
    server: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reward = load_reward(f"openai:{server.url}/v1#locked")
    dataset = make_dataset(tmp_path / "data")
    assert score(dataset, reward, name="judge").num_scored == 6
    assert KEY not in repr(reward)
    stored = [path.read_bytes() for path in (dataset.root / "scores").rglob("*") if path.is_file()]
    assert stored and all(KEY.encode() not in data for data in stored)
    assert "Authorization" in chat_module._headers(f"{server.url}/v1")
    assert "Authorization" in chat_module._headers("https://api.example.org/v1")
    assert chat_module._headers("http://api.example.org/v1") == {}


def test_a_slow_server_is_given_up_and_marks_nothing(server: Running, tmp_path: Path) -> None:
    reward = load_reward(write_judge(tmp_path / "judge.toml", server, model="slow", timeout=0.1))
    dataset = make_dataset(tmp_path / "data")
    with pytest.raises(RewardUnavailableError, match=r"8 attempts .*ReadTimeoutError"):
        score(dataset, reward, name="judge")
    assert not (dataset.root / "scores").exists()


def test_a_server_that_is_killed_and_started_again_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "Patience", lambda answer: Patience(12, 0.02, 5, answer))
    first = start()
    reward = load_reward(f"openai:{first.url}/v1#bright")
    first.process.kill()
    first.process.communicate()
    again: list[Running] = []
    restart = threading.Thread(target=lambda: again.append(start(int(first.url.rpartition(":")[2]))))
    restart.start()
    try:
        assert reward.score(["a cat"], GREYS[3:]) == pytest.approx([0.98])
    finally:
        restart.join()
        again[0].process.kill()
        again[0].process.communicate()


def test_a_server_with_another_model_now_is_refused(server: Running) -> None:
    named = load_reward(f"openai:{server.url}/v1#bright")
    assert isinstance(named, NamedReward) and isinstance(named.model, VlmReward)
    reward = replace(named.model, chat=replace(named.model.chat, reported="bright-2026-10"))
    with pytest.raises(RewardUnavailableError, match=r"now answers by bright-2026-11, not bright-2026-10"):
        reward.score(["a cat"], GREYS[:1])


def test_the_prompt_is_put_into_the_question_as_it_is() -> None:
    settings = VlmSettings(url="http://h", model="m", name="m")
    assert settings.ask("a {b} cat") == 'Does this image show "a {b} cat"? Answer Yes or No.'
    assert "from 1 (not at all) to 5" in replace(settings, answers="1-5").ask("a cat")
    assert replace(settings, question="Is it sharp?").ask("a cat") == "Is it sharp?"


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        ("openai:nowhere#m", "has no URL of a server: give openai:http://127.0.0.1:8000/v1#MODEL"),
        ("openai:http://host/v1", "has no MODEL after the URL"),
        ("openai:http://user:secret@host/v1#m", "a URL with a password or a query would be stored"),
        ("openai:http://host/v1?key=secret#m", "a URL with a password or a query would be stored"),
        ("openai:ftp://host/v1#m", "has no URL of a server"),
    ],
)
def test_an_address_that_is_none_is_refused(reward: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        check_reward_name(reward)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model = ", "is not TOML"),
        ('url = "http://h"', 'has no model: add a line model = "…"'),
        (
            'url = "http://h"\nmodel = "m"\nconcurency = 3',
            "concurency is unknown: the keys are answers, conc",
        ),
        ('url = "http://h"\nmodel = "m"\nconcurrency = 0', "concurrency must be at least 1"),
        ('url = "http://h"\nmodel = "m"\nanswers = "5-1"', "give yes-no, or a scale such as 1-5"),
        ('url = "http://h"\nmodel = 3', "model is 3: give a str"),
        ('url = "http://h"\nmodel = "m"\n[request]\na = 2026-01-01', "a value that JSON does not have"),
    ],
)
def test_a_file_that_is_no_judge_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "judge.toml").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_settings(f"openai:{tmp_path / 'judge.toml'}")


def test_several_questions_are_under_way_at_a_time(server: Running) -> None:
    """As many as there are images, in the order of the images."""
    reward = load_reward(f"openai:{server.url}/v1#bright")
    many = [Image.new("L", (8, 8), level) for level in range(0, 250, 5)]
    assert reward.score(["a cat"] * 50, many) == pytest.approx([bright(image) for image in many])
    counts = urllib3.request("GET", f"{server.url}/counts").json()
    assert counts["bright"] >= 51
