"""The way from prompts to a policy through the commands, with little of everything."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ppod_cli import data, gen, pair, score, train

from ppod_data.dataset.dataset import Dataset
from tests.cli.conftest import GEN, PROMPTS, Made
from tests.support.command import call
from tests.support.network_rows import network_rows
from tests.support.toy import files


def base(root: Path) -> dict[str, bytes]:
    """The files that are compared between workers and machines."""
    return {
        name: content
        for name, content in files(root).items()
        if name.split("/")[0] in ("ppod.json", "samples", "trajectories")
    }


def test_gen_says_where_the_data_is_and_what_comes_next(made: Made) -> None:
    assert made.gen.stdout.splitlines()[0].startswith("data: 12 images made in ")
    assert made.gen.stdout.splitlines()[-1] == "next: ppod-score data --reward scenes"
    first, second, *lines = made.gen.stderr.splitlines()
    assert (first, second) == ("gen: loading libraries", "gen: loading scenes")
    assert [line.split(" (")[0] for line in lines] == [f"gen: shard {i:06d} made" for i in range(3)]
    assert "8 of 12 images" in lines[1]
    assert Dataset.open(made.data).spec.prompts == PROMPTS


def test_json_is_all_that_is_on_stdout(made: Made) -> None:
    figures = json.loads(made.score.stdout)
    assert figures["missing_shards"] == 0
    (table,) = figures["scores"]
    assert (table["name"], table["num_scored"], table["num_failed"]) == ("scenes", 12, 0)
    assert table["low"] <= table["mean"] <= table["high"]
    assert len([line for line in made.score.stderr.splitlines() if "shard" in line]) == 3


def test_pairs_are_made_and_counted(made: Made) -> None:
    pairs = Dataset.open(made.data).pairs("scenes")
    assert made.pair.stdout.startswith(f"data/pairs/scenes.parquet: {pairs.num_rows} pairs of ")
    assert made.pair.stdout.endswith("next: ppod-train offline data --pairs scenes --out run\n")


def test_running_again_changes_nothing(made: Made) -> None:
    before = files(made.data)
    again = call(gen.app, made.data, "--prompts", made.folder / "prompts.txt", *GEN, "--json")
    assert json.loads(again.stdout)["num_made"] == 0
    assert [line.split(" (")[0] for line in again.stderr.splitlines() if "shard" in line] == [
        f"gen: shard {i:06d} was there" for i in range(3)
    ]
    assert json.loads(call(score.app, made.data, "--json").stdout)["scores"][0]["num_skipped"] == 12
    assert call(pair.app, "rank", made.data, "--strategy", "all").code == 0
    assert files(made.data) == before


def test_ranks_and_array_jobs_make_the_same_bytes(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--prompts", made.folder / "prompts.txt", *GEN]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert call(gen.app, tmp_path / "ranks", *words).code == 0
        assert call(score.app, tmp_path / "ranks").code == 0
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    for shards in ("2:3", "0:2"):
        assert call(gen.app, tmp_path / "array", *words, "--shards", shards).code == 0
    assert base(tmp_path / "ranks") == base(tmp_path / "array") == base(made.data)
    assert files(tmp_path / "ranks" / "scores") == files(made.data / "scores")


@pytest.mark.slow
def test_torchrun_makes_the_same_bytes(made: Made, tmp_path: Path) -> None:
    words = [str(word) for word in ("--prompts", made.folder / "prompts.txt", *GEN)]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "ppod_cli.gen",
        "data",
    ]
    subprocess.run([*command, *words], cwd=tmp_path, check=True, timeout=300)
    assert base(tmp_path / "data") == base(made.data)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    planned = call(gen.app, tmp_path / "data", "--prompt", "a cat", *GEN, "--dry-run", "--json")
    figures = json.loads(planned.stdout)
    assert figures["num_samples"] == 6
    assert figures["network_calls"] == 24
    assert not (tmp_path / "data").exists()


def test_an_unfinished_data_set_says_so(made: Made, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(made.data, root)
    shutil.rmtree(root / "pairs")
    (root / "samples" / "000002.parquet").unlink()
    (root / "scores" / "scenes" / "000002.parquet").unlink()
    assert "still to make: 1 shard;" in call(score.app, root).stdout
    assert "still to make: 1 shard;" in call(pair.app, "rank", root).stdout
    assert (
        "still to make: 1 shard; run the same ppod-gen command again" in call(data.app, "info", root).stdout
    )


def test_info_counts_what_is_there(made: Made) -> None:
    figures = json.loads(call(data.app, "info", made.data, "--json").stdout)
    assert (figures["num_samples"], figures["num_shards"], figures["missing_shards"]) == (12, 3, [])
    assert figures["spec"]["prompts"] == list(PROMPTS)
    assert figures["scores"]["scenes"]["rows"] == 12
    assert figures["pairs"]["scenes"]["strategy"] == "all"
    assert figures["bytes"]["trajectories"] > 12 * 5 * 4 * 8 * 8 * 4
    text = call(data.app, "info", made.data).stdout
    assert "12 of 12 images of 2 prompts, 3 of 3 shards" in text
    assert figures["fingerprint"] in text


def test_log_probs_of_the_same_policy_are_the_recorded_ones(made: Made, tmp_path: Path) -> None:
    root = shutil.copytree(made.data, tmp_path / "data")
    figures = json.loads(call(data.app, "log-probs", root, "--name", "again", "--json").stdout)
    assert (figures["num_computed"], figures["max_difference"]) == (12, 0.0)
    opened = Dataset.open(root)
    recorded = opened.samples(["sample_id", "log_probs"])
    assert opened.log_probs("again").to_pylist() == recorded.to_pylist()
    assert (
        json.loads(call(data.app, "log-probs", root, "--name", "again", "--json").stdout)["num_skipped"] == 12
    )
    other = call(data.app, "log-probs", root, "--name", "again", "--batch-size", 2)
    assert other.code == 2
    assert "log_probs/again was computed with batch_size 4, not 2: give another --name" in other.one_error()


def test_train_eval_and_report(made: Made, tmp_path: Path) -> None:
    out, result = tmp_path / "run", tmp_path / "result"
    small = ["--num-train-steps", 2, "--pairs-per-step", 4, "--eval-every", 1, "--eval-images-per-prompt", 4]
    trained = call(train.app, "offline", made.data, "--out", out, *small)
    assert trained.code == 0, trained.stderr
    assert "\ndrift: " in trained.stderr
    assert "largest possible logit" in trained.stderr
    assert "train: step 2: reward" in trained.stderr
    assert f"policy: {out / 'policy'}" in trained.stdout
    assert (out / "report.html").exists()

    again = call(train.app, "offline", made.data, "--out", out, *small, "--json")
    assert json.loads(again.stdout)["steps"] == 2

    words = [
        "--num-inference-steps",
        4,
        "--num-images-per-prompt",
        4,
        "--prompts",
        made.folder / "prompts.txt",
    ]
    words += ["--guidance-scale", 3, "--guidance-mode", "sequential"]
    with network_rows() as rows:
        judged = call(train.app, "eval", "--out", result, "--adapter", out / "policy", *words, "--json")
    assert judged.code == 0, judged.stderr
    assert rows == {8}  # images, and not both halves of guidance
    figures = json.loads(judged.stdout)
    for side in ("before", "after"):
        assert figures[side]["num_images"] == 8
        assert figures[side]["reward_low"] <= figures[side]["reward_mean"] <= figures[side]["reward_high"]
    assert (result / "grid.png").exists()

    page = tmp_path / "page.html"
    assert call(train.app, "report", out, result, "--out", page).stdout == f"report: {page}\n"
    assert page.exists()


def test_a_policy_whose_settings_differ_is_not_gone_on_with(made: Made, tmp_path: Path) -> None:
    small = ["--num-train-steps", 1, "--pairs-per-step", 2, "--eval-every", 0]
    out = tmp_path / "run"
    assert call(train.app, "offline", made.data, "--out", out, *small).code == 0
    failed = call(train.app, "offline", made.data, "--out", out, *small, "--dpo-beta", 5)
    assert failed.code == 2
    assert "dpo_beta" in failed.one_error()


def test_a_config_file_reaches_the_library(tmp_path: Path) -> None:
    (tmp_path / "gen.toml").write_text('prompt = ["a cat"]\nnum_images_per_prompt = 2\ndry-run = true\n')
    planned = call(gen.app, tmp_path / "data", "--config", tmp_path / "gen.toml", "--json")
    assert json.loads(planned.stdout)["num_samples"] == 2
