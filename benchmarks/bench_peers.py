"""Claim: ppod samples and trains faster than TRL's DDPOTrainer, and than a step that asks the reference's network.

(1) Images a second, sampled by the LoRA policy with chain and log-probabilities, to at least 1.1 times TRL's; ppod
writes its data set to disk, TRL keeps tensors in memory. (2) Training evaluations a second, the forward and backward of
one (trajectory, timestep), in one optimizer step of every objective with the graphs of at most two calls in memory: at
least as many as TRL's; without a bound where the objective asks a second network (dpok, and those on x_0 alone). (3)
D3PO steps a second with the recorded log-probabilities of the reference, at least 1.3 times a plain loop that asks a
second network for them. The embedded model with Stable Diffusion 1.5's scheduler settings, 32 trajectories of 10
steps, 32 evaluations a call, guidance 5 in sampling and training, LoRA of rank 4, fp32, one thread a process.

TRL 0.23.1 lives in build/trl-venv, which `make peers` makes; without it (1) and (2) are left out. Both sides are
processes that do one repetition when asked, in turn. Clock: processor time; wall time is shown beside it.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from peers.process import Workers
from safetensors.torch import load_file, save_file
from side_by_side import Report, is_quick, measure, ratios

from ppod_data.scenes import PIPELINE_PATH
from ppod_train.objectives import OBJECTIVES

TRL_PYTHON = Path(__file__).parents[1] / "build" / "trl-venv" / "bin" / "python"

# What DDPO's step takes for granted: the last step ends at the first trained timestep, so every step has noise.
SCHEDULER = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}

# the peer's task -> our tasks that are compared with it, each with the bound of its rate; None: for information
CLAIMS: Mapping[str, Mapping[str, float | None]] = {
    "TRL, sample": {
        "sample by the policy, to disk": 1.1,
        "sample by the policy, in memory": None,
        "sample by the pipeline, to disk": None,
    },
    "TRL, train": {
        f"{name}, bounded": None if name == "dpok" or objective.on_final_latents else 1.0
        for name, objective in OBJECTIVES.items()
    },
    "d3po, two networks": {"d3po, one pass": 1.3, "d3po, two passes": None},
}


def save_pipeline(folder: Path) -> str:
    """Save the embedded model with the scheduler settings above, so that both versions of the libraries load it.

    transformers 4 finds the text encoder's weights only under their older names, and starts it at random otherwise;
    transformers 5 reads either.
    """
    shutil.copytree(PIPELINE_PATH, folder)
    weights = folder / "text_encoder" / "model.safetensors"
    named = {f"text_model.{name}": value for name, value in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | SCHEDULER))
    return str(folder)


def start_all(workers: Workers, root: Path, *, batch: int, steps: int) -> Mapping[str, Callable[[], None]]:
    """Every task by name; TRL's are missing where its environment is."""
    arguments = (save_pipeline(root / "pipeline"), str(root), str(batch), str(steps))
    tasks = dict(workers.start(sys.executable, "peers.ppod_worker", arguments, log=root / "ppod.log"))
    if TRL_PYTHON.exists():
        return tasks | workers.start(str(TRL_PYTHON), "peers.trl_worker", arguments, log=root / "trl.log")
    print("build/trl-venv is missing, so TRL is left out: `make peers` makes it", flush=True)
    return tasks


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    report = Report()
    with tempfile.TemporaryDirectory() as folder, Workers() as workers:
        tasks = start_all(workers, Path(folder), batch=4 if quick else 32, steps=2 if quick else 10)
        for peer, claims in CLAIMS.items():
            if peer not in tasks:
                continue
            ways = {name: tasks[name] for name in (peer, *claims)}
            seconds = measure(ways, rounds=1 if quick else 6, clocks=workers.clocks)
            for clock, of in seconds.items():
                for name, bound in claims.items():
                    report.add(
                        f"rate: {name} / {peer}, {clock} time",
                        ratios(of[peer], of[name]),
                        bound=bound if clock == "processor" else None,
                        at_least=True,
                    )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
