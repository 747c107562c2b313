"""Claim: a training step costs the network evaluations that it needs, and nothing beside.

f and b are the bare forward and backward of the network on the unique (trajectory, timestep) evaluations of a step, in
the same chunks. Reading and checking the trajectories, log-probabilities, loss, optimizer and metrics included:
(1) the exact two-pass step with nothing clipped takes at most 1.05·(2f + b); (2) with a share s of the evaluations in
the band, at most 1.05·(f + s·(f + b)); (3) the one-pass step that keeps the whole graph at most 1.05·(f + b), and the
one that keeps the graphs of two calls, nothing clipped, at most 1.08·(f + b): with the trajectories of pairs in a
call, or, where pairs connect all trajectories, with a buffer for each and f + b in calls of one trajectory; (4) all 496
pairs of a group of 32 take at most 1.05 times its 16 disjoint pairs, best with worst and so on. LoRA of rank 8 on the
embedded model, 20 steps, one thread. Clock: processor time; wall time is shown beside it.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from side_by_side import Report, is_quick, measure, ratios
from small_group import BATCH, bare_calls, make_group, make_state, open_group

from ppod_train.data.batches import load_batch
from ppod_train.step.gradient import all_log_probs
from ppod_train.step.log_probs import batch_log_probs
from ppod_train.step.train_step import TrainState, train_step


def median_log_ratio(state: TrainState) -> float:
    """Return the clip that leaves about half of the evaluations in the band."""
    data = state.data
    batch = load_batch(data, data.units, data.steps, state.policy.prompts)
    with torch.no_grad():
        log_probs = batch_log_probs(state.policy, batch)
        policy = all_log_probs(log_probs, batch.reference_log_probs, chunk_size=BATCH)
    return float((policy - batch.reference_log_probs).abs().median())


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        group = 8 if quick else 32
        make_group(Path(folder), group, 2 if quick else 20)
        state = make_state(Path(folder), log_ratio_clip=float("inf"), gradient="two-pass")
        every = open_group(Path(folder), "ppod", "all")

        def step(state: TrainState) -> float:
            return train_step(state, step=0, gradient_share=1.0).backward_share

        def with_settings(**changes: Any) -> TrainState:
            return replace(state, settings=replace(state.settings, **changes))

        half = with_settings(log_ratio_clip=median_log_ratio(state))
        one_pass = with_settings(gradient="one-pass")
        # A graph limit below the whole graph, above one call's and the buffers.
        bounded = replace(
            with_settings(gradient="one-pass", max_graph_gib=1.0),
            graph_bytes=2**30 // (2 * BATCH),
        )
        all_pairs = replace(with_settings(pairs_per_step=len(every.chosen)), data=every)
        connected = replace(
            bounded, data=every, settings=replace(bounded.settings, pairs_per_step=len(every.chosen))
        )
        share = step(half)
        seconds = measure(
            {
                "f": bare_calls(state, backward=False),
                "two": lambda: step(state),
                "f+b": bare_calls(state, backward=True),
                "f+b by trajectory": bare_calls(state, backward=True, size=len(state.data.steps)),
                "one": lambda: step(one_pass),
                "bounded": lambda: step(bounded),
                "connected": lambda: step(connected),
                "half": lambda: step(half),
                "all": lambda: step(all_pairs),
            },
            rounds=1 if quick else 8,
        )
    for clock, of in seconds.items():

        def sums(weight: float, of: dict[str, list[float]] = of) -> list[float]:
            """Return f + weight·(f + b) of every round."""
            return [f + weight * both for f, both in zip(of["f"], of["f+b"], strict=True)]

        for claim, numerator, denominator, most in (
            ("two-pass step, nothing clipped / (2f + b)", of["two"], sums(1), 1.05),
            (f"two-pass step, s = {share:.2f} in the band / (f + s(f + b))", of["half"], sums(share), 1.05),
            ("one-pass step, whole graph / (f + b)", of["one"], of["f+b"], 1.05),
            ("one-pass step, graphs of two calls / (f + b)", of["bounded"], of["f+b"], 1.08),
            ("the same, all pairs / (f + b) in calls of 19", of["connected"], of["f+b by trajectory"], 1.08),
            ("step on all pairs / on disjoint pairs of the same group", of["all"], of["two"], 1.05),
        ):
            bound = most if clock == "processor" else None
            report.add(f"{claim}, {clock} time", ratios(numerator, denominator), bound=bound)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
