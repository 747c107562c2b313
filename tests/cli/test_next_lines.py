"""The printed `next:` lines on a user's own model, reward and prompts; refusals keep existing files."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from ppod_cli import data, gen, pair, score, train
from safetensors.torch import load_file

from ppod_data.dataset.dataset import Dataset
from tests.support.command import call, following, ran
from tests.support.pipelines import save_tiny_pipeline
from tests.support.toy import files

SMALL = ("--num-images-per-prompt", 4, "--num-inference-steps", 4, "--batch-size", 4)
TRAIN = ("--num-train-steps", 2, "--pairs-per-step", 2, "--eval-images-per-prompt", 2)
REDNESS = """def redness(prompts, images):
    return [sum(image.convert("RGB").resize((1, 1)).getpixel((0, 0))[:1]) / 255 for image in images]
def flat(prompts, images):
    return [1.0 for image in images]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space in its name, a model, a reward function and prompts, in which the commands run."""
    here = tmp_path / "my wörk"
    here.mkdir()
    save_tiny_pipeline(here / "tiny sd")
    (here / "reds.py").write_text(REDNESS)
    rows = [{"prompt": "a red car", "id": 1}, {"prompt": "a blue bus", "id": 2}]
    (here / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("reds", "bad"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return here


def test_the_next_lines_lead_from_prompts_to_an_evaluation_by_ones_own_reward(folder: Path) -> None:
    made = ran("ppod-gen 'a data set' --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    assert following(made) == "ppod-score 'a data set' --reward image-reward"
    scored = ran(following(made).replace("image-reward", "reds:redness"))
    ranked = ran(following(scored))
    trained = ran(following(ranked), *TRAIN)
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["reward"].startswith("redness ")
    assert record["judge"]["parts"][0]["reward"] == "reds:redness"
    evaluated = ran(following(trained), "--num-images-per-prompt", 2)
    result = json.loads((folder / "run-eval" / "after" / "eval.json").read_text())
    assert (result["scorer"]["name"], list(result["prompts"])) == ("redness", ["a red car", "a blue bus"])
    assert (result["model"], result["num_inference_steps"]) == ("tiny sd", 4)
    ran(following(evaluated))
    assert (folder / "run-eval-and-run.html").is_file()
    # A second table leads to a run of its own.
    again = ran("ppod-pair rank 'a data set' --reward redness --strategy best-worst --name extremes")
    assert following(again).endswith("--out run-extremes")
    ran(following(again), *TRAIN)


def test_peoples_labels_lead_on_with_a_reward_that_scored_or_without_one(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    ids = Dataset.open(folder / "d").samples(["sample_id"])["sample_id"].to_pylist()
    rows = [f"{ids[i]},{ids[i + 1]},a" for i in (0, 2, 4, 6)]
    (folder / "votes.csv").write_text("\n".join(["a,b,label", *rows]))
    imported = ran("ppod-pair import d votes.csv --format table --name people")
    assert following(imported) == "ppod-train offline d --pairs people --eval-every 0 --out run"
    ran(following(imported), *TRAIN[:4])
    refused = call(train.app, "offline", "d", "--out", "run-2")
    assert "judgement of people" in refused.one_error() and "--eval-every 0" in refused.one_error()
    assert not (folder / "run-2").exists()

    ran("ppod-score d --reward reds:redness")
    both = ran("ppod-pair combine d --pairs people --label-smoothing 0.1 --name smooth")
    assert following(both) == "ppod-train offline d --pairs smooth --reward reds:redness --out run-smooth"
    trained = ran(following(both), *TRAIN)
    ran(following(trained), "--num-images-per-prompt", 2)
    people = ran("ppod-pair agreement d --labels people --scores by-people")
    ranked = ran(following(people))
    assert "--reward reds:redness" in following(ranked)
    assert following(ran("ppod-data verify d")) == "ppod-data verify d --read-data"


def test_a_run_in_which_nothing_beat_the_start_says_so_and_leads_on_with_the_start(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    ranked = ran(following(ran("ppod-score d --reward reds:redness")))
    line = following(ranked).replace("reds:redness", "reds:flat")
    trained = ran(line, *TRAIN, "--eval-every", 1)
    says = "Nothing beat the starting model: the kept policy IS the starting model."
    assert says in trained.stdout
    summary = json.loads(ran(line, *TRAIN, "--eval-every", 1, "--json").stdout)
    assert (summary["improved"], summary["best_step"], summary["steps"]) == (False, 0, 2)
    assert summary["verdict"].startswith(says)
    (weights,) = (folder / "run" / "policy").glob("*.safetensors")
    ups = [tensor for name, tensor in load_file(weights).items() if "lora.up" in name or "lora_B" in name]
    assert ups and not any(tensor.any() for tensor in ups)
    report = ran("ppod-train report run")
    assert says in (folder / "run" / "report.html").read_text() and report.code == 0

    ran(following(trained), "--num-images-per-prompt", 2)
    before, after = (
        json.loads((folder / "run-eval" / side / "eval.json").read_text()) for side in ("before", "after")
    )
    assert after["images"] == before["images"] and after["overall"]["gain"] == 0


def test_a_merge_and_a_pulled_copy_lead_on(folder: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        ran(f"ppod-gen {name} --prompts prompts.jsonl --model 'tiny sd' --seed {seed}", *SMALL)
        ran(f"ppod-score {name} --reward reds:redness")
        ran(f"ppod-pair rank {name}")
    merged = ran("ppod-data merge 'both of them.json' one two")
    ran(following(merged), *TRAIN)
    ran("ppod-data push one 'a store'")
    ran(following(ran("ppod-data pull 'a store' copy")))


def test_the_data_sets_own_reward_is_followed_and_never_a_strangers_code(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    ran("ppod-score d --reward reds:redness --reward jpeg-compressibility")
    ran("ppod-pair rank d --reward redness=0.7 --reward jpeg-compressibility=0.3 --name mixed")
    ran("ppod-train offline d --out run", *TRAIN)
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["reward"].startswith("0.3*jpeg-compressibility+0.7*redness ")
    ran("ppod-train offline d --objective dpok --scores redness --out run-scores", *TRAIN)

    (folder / "reds.py").write_text(REDNESS + "# edited\n")
    changed = call(train.app, "offline", "d", "--out", "run-2", *TRAIN)
    assert "reds.py has changed since: give --reward reds:redness" in changed.one_error()
    (folder / "d" / "reds.py").write_text(REDNESS)
    (folder / "reds.py").unlink()
    gone = call(train.app, "offline", "d", "--out", "run-2", *TRAIN)
    assert "not in this folder" in gone.one_error()
    assert not (folder / "run-2").exists()


def test_a_reward_in_another_folder_is_named_in_the_next_lines(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "reds.py").write_text(REDNESS)
    (folder / "here").mkdir()
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        ran("ppod-score ../d --reward ../elsewhere/reds.py:redness")
        ranked = ran("ppod-pair rank ../d")
        assert "--reward ../elsewhere/reds.py:redness" in following(ranked)
        words = shlex.split(following(ranked))
        plain = [word for word in words if "redness" not in word and word not in ("--reward", "--pairs")]
        refused = call(train.app, *plain[1:], "--model", "../tiny sd", *TRAIN)
        assert "not in this folder" in refused.one_error()


def test_no_reward_is_assumed_for_another_model_than_scenes(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    for refused in (
        call(score.app, "d"),
        call(train.app, "online", "--model", "tiny sd", "--prompt", "a cat", "--out", "o"),
        call(train.app, "eval", "--model", "tiny sd", "--prompt", "a cat", "--out", "e"),
    ):
        assert refused.code == 2
        assert "give --reward NAME: aesthetic, " in refused.one_error()
    ran("ppod-score d --reward reds:redness --reward jpeg-compressibility")
    assert "jpeg-compressibility, redness: choose with --reward" in call(pair.app, "rank", "d").one_error()
    for name in ("redness", "jpeg-compressibility"):
        ran(f"ppod-pair rank d --reward {name}")
    assert "choose with --pairs" in call(train.app, "offline", "d", "--out", "run").one_error()
    assert not any((folder / name).exists() for name in ("o", "e", "run"))


def test_a_start_that_is_refused_leaves_nothing_behind(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    ran("ppod-score d --reward reds:redness")
    ran("ppod-pair rank d")
    (folder / "bad.py").write_text("def bad(prompts, images):\n    return [float('nan')] * len(images)\n")
    refusals = {
        "scenes": "cannot read the prompt",
        "bad:bad": "the score is nan",
    }
    for reward, reason in refusals.items():
        refused = call(train.app, "offline", "d", "--reward", reward, "--out", "run", *TRAIN)
        assert reason in refused.one_error()
        assert not (folder / "run").exists()
        online = ("online", "--model", "tiny sd", "--prompts", "prompts.jsonl", "--out", "o", *SMALL)
        assert reason in call(train.app, *online, "--reward", reward).one_error()
        assert not (folder / "o").exists()
    ran("ppod-train offline d --out run", *TRAIN)


def test_no_command_writes_over_the_work_of_another(folder: Path) -> None:
    """A run, an evaluation and a data set stay, byte for byte."""
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    ran("ppod-score d --reward reds:redness")
    trained = ran(following(ran("ppod-pair rank d")), *TRAIN)
    ran(following(trained), "--num-images-per-prompt", 2)
    ran("ppod-data export d --out images")
    before = files(folder)
    online = (
        "online",
        "--model",
        "tiny sd",
        "--prompts",
        "prompts.jsonl",
        "--reward",
        "reds:redness",
        *SMALL,
    )
    evaluation = ("eval", "--adapter", "run/policy", "--num-images-per-prompt", 2)
    for place in (
        "d",
        "run",
        "run-eval",
        "images",
        "tiny sd",
        "run/policy",
        "d/samples",
        "run/evals",
        "reds.py",
    ):
        for words in (("offline", "d"), online, evaluation):
            own = {"run": "offline", "run-eval": "eval"}
            if own.get(place) != words[0]:
                refused = call(train.app, *words, "--out", place)
                assert (refused.code, refused.stdout) == (2, ""), f"{words} --out {place}"
        if place not in ("d", "reds.py"):
            assert call(gen.app, place, "--prompts", "prompts.jsonl", "--model", "tiny sd", *SMALL).code == 2
    for file in ("run/run.json", "d/ppod.json", "reds.py", "run"):
        assert call(train.app, "report", "run", "--out", file).code == 2
        assert call(data.app, "info", "d", "--html", file).code == 2
        assert call(data.app, "merge", file, "d").code == 2
    assert files(folder) == before


def test_two_policies_are_compared_on_the_same_seeds(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd'", *SMALL)
    ran("ppod-score d --reward reds:redness")
    ran("ppod-pair rank d")
    for name, rate in (("a", 0.01), ("b", 0.03)):
        ran(f"ppod-train offline d --out {name} --learning-rate {rate} --eval-every 0", *TRAIN[:4])
    for out, option in (("ab", "--baseline-adapter"), ("ab-2", "--baseline")):
        words = ("--adapter", "a/policy", option, "b/policy", "--num-images-per-prompt", 2)
        ran(f"ppod-train eval --out {out}", *words)
        sides = [json.loads((folder / out / side / "eval.json").read_text()) for side in ("before", "after")]
        assert [side["adapter"] for side in sides] == ["b/policy", "a/policy"]
        assert sides[1]["overall"]["win_rate"] is not None


def test_log_probs_in_another_precision_lead_to_training_on_them(folder: Path) -> None:
    ran("ppod-gen d --prompts prompts.jsonl --model 'tiny sd' --compute-dtype fp16", *SMALL)
    ran("ppod-score d --reward jpeg-compressibility")
    ran("ppod-pair rank d --reward jpeg-compressibility")
    computed = ran("ppod-data log-probs d --name exact --compute-dtype fp32")
    assert "--compute-dtype fp32 --reference-log-probs exact" in following(computed)
    ran(following(computed), *TRAIN)
    assert (folder / "run" / "policy").is_dir()
