"""The commands of the how-to pages run as they are written, one page after the other, on tiny models.

Each line gets options that make it small, unless it has them already. Commands of scripts are shell functions that
print the words of a command; torchrun is left out, so that a command runs in one process.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ppod_data.dataset.dataset import Dataset
from tests.contracts.test_docs import blocks, page
from tests.support.command import ran
from tests.support.pipelines import save_tiny_pipeline

pytestmark = pytest.mark.long

SMALL = {
    "ppod-gen": {"--num-images-per-prompt": 4, "--num-inference-steps": 2},
    "ppod-train offline": {
        "--num-train-steps": 2,
        "--pairs-per-step": 2,
        "--eval-every": 1,
        "--eval-images-per-prompt": 2,
        "--lora-rank": 2,
    },
    "ppod-train eval": {"--num-images-per-prompt": 2},
}
REWARD = re.search(r"```python\n(# my_rewards\.py\n.*?)```", page("docs/howto/own-reward.md"), re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name: prompts, a model, a reward."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat and a dog\na dog on the moon\n")
    assert REWARD is not None
    Path("my_rewards.py").write_text(REWARD[1])
    save_tiny_pipeline(Path("my-model"))
    return tmp_path


def small(line: str) -> list[str]:
    """Return the options that make a command small and that the line leaves open."""
    name = " ".join(line.split()[: 2 if line.startswith("ppod-train") else 1])
    left = {option: value for option, value in SMALL.get(name, {}).items() if option not in line}
    if "--start" in line:
        left.pop("--lora-rank")  # it is that of the start
    return [word for option, value in left.items() for word in (option, str(value))]


def lines(text: str) -> list[str]:
    """Return the commands of a page."""
    joined = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("ppod-")]


def run_page(name: str) -> None:
    """Run every command of a how-to page in this process."""
    commands = lines(page(f"docs/howto/{name}.md"))
    assert commands
    for line in commands:
        ran(line, *small(line))


def test_a_checkpoint_and_its_lora_are_trained_further(here: Path) -> None:
    run_page("own-checkpoint")
    assert Dataset.open("data").spec.model.endswith("my-model")
    run_page("continue-a-lora")
    first, second = (load_file(f"{run}/policy/pytorch_lora_weights.safetensors") for run in ("run", "run-2"))
    assert first.keys() == second.keys()
    assert Path("result-2/summary.json").is_file()


def test_two_policies_are_compared(here: Path) -> None:
    ran(f"ppod-gen data --prompts prompts.txt --seed 3 {shlex.join(small('ppod-gen'))}")
    ran("ppod-score data --reward scenes")
    ran("ppod-pair rank data --reward scenes")
    for run, seed in (("run-a", 1), ("run-b", 2)):
        ran(f"ppod-train offline data --out {run} --seed {seed}", *small("ppod-train offline"))
    run_page("compare-policies")
    assert "run-a" in Path("comparison.html").read_text("utf-8")


def test_more_images_are_a_second_data_set(here: Path) -> None:
    for line in ("ppod-gen data --prompts prompts.txt", "ppod-score data --reward scenes"):
        ran(line, *small(line))
    ran("ppod-pair rank data --reward scenes")
    run_page("more-images")
    pixels = [
        set(Dataset.open(name).samples(["image_pixels_sha256"])["image_pixels_sha256"].to_pylist())
        for name in ("data", "more")
    ]
    assert pixels[0].isdisjoint(pixels[1])


SHELL = """
run() { (IFS=$'\\x1f'; echo "${RANK-}$IFS${WORLD_SIZE-}$IFS$*"); }
torchrun() { shift 4; run "ppod-${1#ppod_cli.}" "${@:2}"; }
for name in gen score pair train; do eval "ppod-$name() { run ppod-$name \\"\\$@\\"; }"; done
"""
"""Print each command in place of running it: RANK, WORLD_SIZE and the words, with a separator between them."""


def commands_of(script: str, variables: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return (RANK, WORLD_SIZE, command line) of the commands that bash runs for a script."""
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-euc", SHELL + script],
        capture_output=True,
        text=True,
        env=os.environ | {"SLURM_GPUS_ON_NODE": "1"} | variables,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split("\x1f") for line in done.stdout.splitlines()]
    return [(rank, world_size, shlex.join(words)) for rank, world_size, *words in found]


def test_the_jobs_of_a_cluster_make_one_data_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bash expands each script with SLURM's variables; its commands run here, the tasks of the array in turn."""
    scripts = [block for block in blocks(page("docs/howto/slurm.md"), "bash") if "#SBATCH" in block]
    assert len(scripts) == 3
    tasks = [{"SLURM_ARRAY_TASK_ID": str(i), "SLURM_ARRAY_TASK_COUNT": "2"} for i in range(2)]
    jobs = [commands_of(script, {}) for script in scripts[1:]]
    array = [commands_of(scripts[0], task) for task in tasks]
    assert [[command[:2] for command in job] for job in array] == [[("0", "2")], [("1", "2")]]
    for rank, world_size, line in [command for job in (*array, *jobs) for command in job]:
        with monkeypatch.context() as patch:
            for name, value in (("RANK", rank), ("WORLD_SIZE", world_size)):
                if value:
                    patch.setenv(name, value)
            few = ["--images-per-shard", "2"] if line.startswith("ppod-gen") else []
            ran(line, *small(line), *few)
    assert not Dataset.open("data").missing_shards()
    assert Path("run/policy/pytorch_lora_weights.safetensors").is_file()
