"""`ppod-train online` as users run it: what it makes, killed and run again, more stages, errors in one line."""

import json
import signal
import time
from contextlib import chdir
from pathlib import Path

import pytest
from ppod_cli import train

from ppod_data.storage.files import sha256_file
from tests.cli.conftest import Made
from tests.support.command import call, fork

POLICY = Path("policy") / "pytorch_lora_weights.safetensors"
TINY = (
    *(
        "--prompt",
        "a dog on the moon",
        "--num-images-per-prompt",
        6,
        "--batch-size",
        3,
        "--images-per-shard",
        3,
    ),
    *(
        "--lr-scheduler",
        "constant",
        "--num-inference-steps",
        4,
        "--num-train-steps",
        3,
        "--pairs-per-step",
        2,
        "--lora-rank",
        2,
    ),
    *("--eval-images-per-prompt", 4, "--checkpoint-every", 1),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two stages that nothing interrupted; it ran in the folder above."""
    folder = tmp_path_factory.mktemp("online")
    with chdir(folder):
        done = call(train.app, "online", "--out", "run", "--stages", 2, *TINY)
    assert done.code == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder / "run"


def test_it_makes_what_it_says(finished: Path) -> None:
    said = (finished.parent / "stdout").read_text().splitlines()
    assert said[0].startswith("run: 2 stages, 24 images judged")
    assert "next: ppod-train eval --adapter run/policy --out run-eval" in said
    for name in (POLICY, "report.html", "summary.json", "online.json", "stage-02/data/ppod.json"):
        assert (finished / name).is_file(), name
    told = (finished.parent / "stderr").read_text()
    assert "before: reward" in told and "stage 2 of 2: its data's mean reward" in told


@pytest.mark.long
def test_a_real_process_killed_anywhere_ends_in_the_same_policy(finished: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as a file of each phase appears, four times in one run."""
    moments = (
        "stage-01/data/samples/000000.parquet",
        "stage-01/run/checkpoints/step-000001",
        "stage-02/data/log_probs/reference/000000.parquet",
        "stage-02/run/checkpoints/step-000002",
    )
    words = ("online", "--out", "run", "--stages", 2, *TINY)
    for moment in moments:
        process = fork(train.app, *words, cwd=tmp_path)
        while process.is_alive() and not (tmp_path / "run" / moment).exists():
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "run" / "summary.json").exists()
    last_process = fork(train.app, *words, cwd=tmp_path)
    last_process.join()
    assert last_process.exitcode == 0
    assert sha256_file(tmp_path / "run" / POLICY) == sha256_file(finished / POLICY)
    last = Path("stage-02") / "run" / POLICY
    assert sha256_file(tmp_path / "run" / last) == sha256_file(finished / last)


def test_more_stages_and_a_summary_for_programs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.parent)
    before = sha256_file(finished / "stage-02" / "run" / POLICY)
    done = call(train.app, "online", "--out", "run", "--stages", 3, *TINY, "--json")
    assert done.code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["stages"], figures["reward_queries"]) == (3, 34)
    assert "online: stage 2 of 3 was finished before\n" in done.stderr
    assert sha256_file(finished / "stage-02" / "run" / POLICY) == before
    fewer = call(train.app, "online", "--out", "run", "--stages", 2, *TINY)
    assert "this online run is in stage 3, past --stages 2" in fewer.one_error()
    refused = call(train.app, "online", "--out", "run", "--stages", 3, *TINY, "--dpo-beta", 3)
    assert "started with train.dpo_beta 10.0, not 3.0" in refused.one_error()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "ddpo", "--clip-mode", "paper"), ""),
        (
            ("--objective", "ddpo", "--clip-mode", "pessimistic-step"),
            "objective ddpo does not read clip_mode",
        ),
        (("--objective", "sft", "--dpo-beta", "3"), "objective sft does not read dpo_beta"),
        (("--pull-back", "1", "--log-ratio-clip", "inf"), "give a finite log_ratio_clip"),
        (("--reward", "nothing"), "unknown reward model 'nothing'"),
        (("--label-temperature", "0"), "label_temperature is 0.0: it must be a positive number"),
        (("--objective", "ddpo", "--min-margin", "1"), "trains on single trajectories and their scores"),
        (("--strategy", "all", "--num-pairs-per-prompt", "8"), "strategy all makes every pair"),
    ],
)
def test_impossible_options_are_one_line(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    words = ("--out", tmp_path / "run", "--stages", 1, *TINY[:-4], "--eval-images-per-prompt", 0, *options)
    done = call(train.app, "online", *words)
    if message:
        assert message in done.one_error() and done.code == 2
        assert not (tmp_path / "run").exists()
    else:
        assert done.code == 0, done.stderr


def test_a_run_that_made_nothing_may_be_started_otherwise(tmp_path: Path) -> None:
    words = ("--out", tmp_path / "run", "--stages", 1, *TINY[2:])
    failed = call(train.app, "online", *words, "--prompt", "a catt")
    assert "cannot read the prompt 'a catt'" in failed.one_error()
    done = call(train.app, "online", *words, "--prompt", "a cat")
    assert done.code == 0, done.stderr
    other = call(train.app, "online", *words, "--prompt", "a dog")
    assert "this online run was started with generation" in other.one_error()


def test_an_adapter_is_no_model(finished: Path, tmp_path: Path) -> None:
    failed = call(
        train.app,
        "online",
        "--out",
        tmp_path / "run",
        "--model",
        finished / "policy",
        "--reward",
        "scenes",
        *TINY,
    )
    assert "is no pipeline: it has no model_index.json" in failed.one_error()
    assert not (tmp_path / "run").exists()


def test_options_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "online.toml").write_text(
        'prompt = ["a cat"]\nstages = 1\nnum-images-per-prompt = 6\nnum-inference-steps = 4\n'
        "num-train-steps = 1\neval-images-per-prompt = 0\nobjective = 'sft'\n"
    )
    done = call(
        train.app, "online", "--config", tmp_path / "online.toml", "--out", tmp_path / "run", "--json"
    )
    assert done.code == 0, done.stderr
    record = json.loads((tmp_path / "run" / "stage-01" / "run" / "run.json").read_text())
    assert record["settings"]["objective"] == "sft" and record["num_pairs"] == 0


def test_offline_trains_on_scores_and_from_an_earlier_policy(made: Made, tmp_path: Path) -> None:
    words = (
        "offline",
        made.data,
        "--num-train-steps",
        1,
        "--lora-rank",
        2,
        "--eval-every",
        0,
        "--pairs-per-step",
        2,
    )
    done = call(train.app, *words, "--out", tmp_path / "first", "--objective", "ddpo", "--scores", "scenes")
    assert done.code == 0, done.stderr
    assert "pairs of" not in done.stderr and "12 trajectories" in done.stderr
    assert "logit" not in done.stderr
    again = call(train.app, *words, "--out", tmp_path / "second", "--start", tmp_path / "first" / "policy")
    assert again.code == 0, again.stderr
    first = json.loads((tmp_path / "second" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["log_ratio_max"] > 0
    unread = call(train.app, *words, "--out", tmp_path / "third", "--scores", "scenes")
    assert "objective ppod trains on pairs: leave --scores out" in unread.one_error()
    rank = words.index("--lora-rank") + 1
    other = [4 if place == rank else word for place, word in enumerate(words)]
    wrong = call(train.app, *other, "--out", tmp_path / "third", "--start", tmp_path / "first" / "policy")
    assert "leave out --lora-rank to use the policy's rank" in wrong.one_error()
    own = [word for place, word in enumerate(words) if place not in (rank - 1, rank)]
    third = call(train.app, *own, "--out", tmp_path / "third", "--start", tmp_path / "first" / "policy")
    assert third.code == 0, third.stderr
    assert json.loads((tmp_path / "third" / "run.json").read_text())["settings"]["lora_rank"] == 2


def test_the_help_names_the_real_defaults_of_ppod() -> None:
    """Options whose default hangs on the objective show ppod's."""
    from ppod_data.support.options import options_of
    from ppod_train.settings import TrainSettings

    settings = TrainSettings()
    shown = {
        name: option.shown_default.removesuffix(" for ppod")
        for name, option in options_of(TrainSettings).items()
        if option.shown_default and option.shown_default.endswith(" for ppod")
    }
    assert len(shown) == 6
    for name, text in shown.items():
        value = getattr(settings, name)
        assert text == (f"{value:g}" if isinstance(value, float) else value), name
