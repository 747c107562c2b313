"""Rewards that a data set names: what is contacted or read without the user's word."""

from pathlib import Path

import pytest

from ppod_data.errors import ConfigError
from ppod_data.inspect.judge import Judge, JudgePart, load_judge, must_be_named
from tests.support.reward_servers import serving


def judge_of(reward: str, revision: str = "x") -> Judge:
    part = JudgePart(name="judge", revision=revision, reward=reward)
    return Judge(name="judge", parts=(part,), source="pairs/p of data")


@pytest.mark.parametrize(
    "reward",
    [
        "https://example.org",
        "openai:https://api.example.org/v1#m",
        "flow-factory:http://10.0.0.1:8000#m",
        "unirl:http://127.0.0.1.example.org:8080#m",
    ],
)
def test_a_server_elsewhere_is_only_contacted_if_the_user_names_it(reward: str) -> None:
    with pytest.raises(ConfigError, match="a remote server: give --reward"):
        load_judge(judge_of(reward), "cpu")
    assert must_be_named(judge_of(reward))


def test_a_server_on_this_machine_is_contacted_and_its_revision_compared() -> None:
    with serving() as server:
        judge = judge_of(f"flow-factory:{server.url}#m", "flow-factory, version not reported")
        assert load_judge(judge, "cpu").revision == judge.parts[0].revision
        with pytest.raises(ConfigError, match="is now revision bright-2026-11"):
            load_judge(judge_of(f"openai:{server.url}/v1#bright"), "cpu")


def test_the_file_of_a_judge_must_be_in_the_current_folder_and_in_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with serving() as server:
        text = f'url = "{server.url}/v1"\nmodel = "bright"\n'
        for place in ("judge.toml", "data/judge.toml", "../judge.toml"):
            Path(place).write_text(text)
        with pytest.raises(ConfigError, match="is now revision bright-2026-11"):
            load_judge(judge_of("openai:judge.toml"), "cpu", [Path("data")])
        for place in ("data/judge.toml", "../judge.toml", "absent.toml"):
            with pytest.raises(ConfigError, match="whose file is not in this folder"):
                load_judge(judge_of(f"openai:{place}"), "cpu", [Path("data")])
            assert must_be_named(judge_of(f"openai:{place}"), [Path("data")])
