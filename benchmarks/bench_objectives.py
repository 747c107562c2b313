"""Claim: every objective costs the network evaluations that it is made of, and nothing beside.

f and b are the bare forward and backward of the network on a step's unique (trajectory, timestep) evaluations, in the
same chunks. One optimizer step with the whole graph kept (one pass), all from reading the data to the metrics, takes
at most 1.05·(f + b) for ppod in each clip mode, ppod-mse, prdp, d3po, ddpo, sft and sft-best, which read the
reference's log-probabilities from the data set; and at most 1.05·(2f + b) where the reference's network is asked as
well: diffusion-dpo, dpok with its KL, ppod with a KL. LoRA of rank 8 on the embedded model, 16 trajectories of 20
steps, one thread. Clock: processor time; wall time is shown beside it.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from side_by_side import Report, is_quick, measure, ratios
from small_group import bare_calls, make_group, make_state, open_group

from ppod_train.objectives import OBJECTIVES
from ppod_train.settings import TrainSettings
from ppod_train.step.train_step import TrainState, train_step


def with_objective(state: TrainState, root: Path, objective: str, **changes: object) -> TrainState:
    """Return the same policy and trajectories with another objective."""
    settings = TrainSettings(
        objective=objective, pairs_per_step=state.settings.pairs_per_step, gradient="one-pass", **changes
    )
    return replace(state, data=open_group(root, objective), settings=settings)


def add(report: Report, name: str, state: TrainState, seconds: dict[str, dict[str, list[float]]]) -> None:
    """Add the ratios of one objective to the report."""
    asked = OBJECTIVES[state.settings.objective].on_final_latents or state.settings.kl_weight > 0
    for clock, of in seconds.items():
        with_reference = [f + both for f, both in zip(of["f"], of["f+b"], strict=True)]
        report.add(
            f"{name} / ({'2f' if asked else 'f'} + b), {clock} time",
            ratios(of["step"], with_reference if asked else of["f+b"]),
            bound=1.05 if clock == "processor" else None,
        )


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_group(root, 8 if quick else 16, 2 if quick else 20)
        state = make_state(root)
        steps = {name: with_objective(state, root, name) for name in OBJECTIVES}
        for mode in ("pessimistic-step", "pessimistic-pair"):
            steps[f"ppod, {mode}"] = with_objective(state, root, "ppod", clip_mode=mode, pull_back=1.0)
        steps["ppod, KL"] = with_objective(state, root, "ppod", kl_weight=1.0)
        bare = {
            "f": bare_calls(state, backward=False),
            "f+b": bare_calls(state, backward=True),
        }
        for name, each in steps.items():
            step = partial(train_step, each, step=0, gradient_share=1.0)
            # each beside its own bare calls: a round is short, and the machine's clock the same in it
            add(report, name, each, measure({**bare, "step": step}, rounds=1 if quick else 8))
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
