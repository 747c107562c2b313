"""Processes that train together: the gradients of one process, the same weights everywhere, no wait for ever."""

import json
import os
import signal
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppod_data.diffusion.models.copies import copied
from ppod_data.diffusion.models.model import load_model
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError, NothingToLearnError, WorkersError
from ppod_data.generation.build_spec import build_spec
from ppod_data.storage.files import sha256_file
from ppod_train.distributed import Workers
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.objectives import OBJECTIVES
from ppod_train.online.online import train_online
from ppod_train.policy.fsdp import check_can_shard, whole
from ppod_train.run.compare import run_evaluation
from ppod_train.run.prepare import prepare
from ppod_train.run.train import train_offline
from ppod_train.settings import TrainSettings
from ppod_train.step.train_step import train_step
from tests.ppod_train.conftest import Redness, source_of
from tests.ppod_train.online.test_online import SETTINGS as ONLINE
from tests.ppod_train.online.test_online import load
from tests.ppod_train.step.test_gradient import OPTIONS, VARIANTS, loss_of, make_toy, toy_network, ways
from tests.ppod_train.step.test_network_gradient import double_network, moved
from tests.support.models import load_again
from tests.support.processes import together
from tests.support.training import Steps, compared

pytestmark = pytest.mark.long

WORLDS = (2, 5)
Found = list[tuple[Any, ...]]


def toy_gradients(variants: Sequence[tuple[str, dict[str, Any]]], workers: Workers) -> Found:
    """Of every objective and clip mode, in one pass and in two: loss, log-ratios, weights, shares, gradient."""
    found: Found = []
    weight, features, reference = make_toy()
    for objective, changes in variants:
        for kl_weight in (0.0, 2.0):
            evaluate = toy_network(weight, features, with_kl=kl_weight > 0)
            for take in ways(weight, objective, replace(OPTIONS, **changes), kl_weight):
                for chunk_size in (4, 30):  # eight chunks, and one: fewer than processes
                    weight.grad = None
                    loss = loss_of(objective, **changes)
                    done = take(evaluate, reference, loss, chunk_size=chunk_size, workers=workers)
                    workers.sum_gradients([weight])
                    assert weight.grad is not None
                    exact = (done.loss, done.log_ratios.tolist(), done.weights.tolist(), done.kl)
                    found.append((exact, done.backward_share, weight.grad.tolist()))
    return found


@pytest.mark.parametrize("world_size", WORLDS)
def test_gradients_are_those_of_one_process_in_float64(world_size: int) -> None:
    """Loss, log-ratios and their weights to the last bit; the gradient to its order of summation."""
    work = partial(toy_gradients, VARIANTS if world_size == 2 else VARIANTS[::4])
    [alone] = together(1, work)
    everyone = together(world_size, work)
    assert all(one == everyone[0] for one in everyone)
    for (exact, share, gradient), (expected_exact, expected_share, expected) in zip(
        everyone[0], alone, strict=True
    ):
        assert exact == expected_exact and share == expected_share
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


# Every objective, and every way to take an update. Chunks of 5 evaluations: 4 to 10 of them, the last one smaller.
STEPS: dict[str, dict[str, Any]] = {
    **{
        name: {"objective": name, "best_of": 4} if name == "sft-best" else {"objective": name}
        for name in OBJECTIVES
    },
    "all weights": {"lora_rank": 0, "log_ratio_clip": 1.0},
    "all weights, kl": {"lora_rank": 0, "kl_weight": 3.0, "gradient": "two-pass"},
    "kl": {"kl_weight": 3.0, "gradient": "one-pass"},
    "average, clipped": {"ema_decay": 0.5, "max_grad_norm": 1e-6},
    "timesteps": {"timesteps_per_update": 2},
    "two passes": {"gradient": "two-pass", "log_ratio_clip": 1e-3},
    "one pass, checkpointing": {
        "gradient_checkpointing": True,
        "gradient": "one-pass",
        "log_ratio_clip": 1.0,
    },
}
FEW = ("ppod", "all weights", "two passes")


def steps_of(
    data: Path, pipeline: Path, workers: Workers, *, names: Sequence[str], double: bool
) -> dict[str, tuple[Any, ...]]:
    """Of each way, from a policy away from the reference: what a step saw, and its gradient."""
    found = {}
    model = load_again(pipeline)
    for name in names:
        changes = STEPS[name]
        settings = TrainSettings(
            **{"objective": "ppod", "lora_rank": 4, "pairs_per_step": 3, "batch_size": 5, "drift_samples": 1}
            | changes
        )
        state, _ = prepare(source_of(data), copied(model), settings, "", None, workers)
        if double:
            unet = state.model.pipeline.unet.double()
            state = replace(
                state,
                policy=state.policy.with_network(double_network(unet)),
                reference=state.policy.with_network(double_network(deepcopy(unet))),
                average={key: value.double() for key, value in state.average.items()},
            )
            if not settings.kl_weight and not OBJECTIVES[settings.objective].on_final_latents:
                state = replace(state, reference=None)
            if state.maker is not None:
                state = replace(state, maker=state.policy.with_network(double_network(deepcopy(unet))))
        moved(dict(state.parameters))
        seen = train_step(state, step=0, gradient_share=1.0).to_json()
        gradients = [p.grad.flatten().double() for p in state.parameters.values() if p.grad is not None]
        weights = [*state.parameters.values(), *state.average.values()]
        workers.check_same(weights, "weights")
        found[name] = (seen, torch.cat(gradients).numpy())
    return found


@pytest.mark.parametrize(("names", "double", "tolerance"), [(STEPS, True, 1e-12), (FEW, False, 1e-6)])
def test_a_step_of_a_real_network_has_the_gradient_of_one_process(
    recorded: Path, tiny_pipeline: Path, names: Sequence[str], double: bool, tolerance: float
) -> None:
    """Relative to the largest element; measured: 3e-16 in float64, 1.2e-7 in float32.

    A sum of two calls is the same to the bit in either order; with more the sums of two processes differ.
    """
    work = partial(steps_of, recorded, tiny_pipeline, names=list(names), double=double)
    [alone] = together(1, work)
    everyone = together(2, work)
    differences = []
    for name, (expected_seen, expected) in alone.items():
        [(seen, gradient), (_, other)] = [found[name] for found in everyone]
        assert gradient.tobytes() == other.tobytes(), name
        scale = float(np.abs(expected).max())
        differences.append(float(np.abs(gradient - expected).max()) / scale)
        assert differences[-1] <= tolerance, name
        for key in expected_seen.keys() - {"seconds", "grad_norm"}:
            assert seen[key] == expected_seen[key], (name, key)
    assert max(differences) > 0


def sharded_steps(
    data: Path, pipeline: Path, workers: Workers
) -> tuple[dict[str, Any], dict[str, list[float]], int]:
    """A step of all weights in 5 chunks: what it saw, the whole gradient, and how many numbers are held here."""
    settings = TrainSettings(
        lora_rank=0, pairs_per_step=3, batch_size=5, drift_samples=1, kl_weight=3.0, gradient="two-pass"
    )
    state, _ = prepare(source_of(data), load_again(pipeline), settings, "", None, workers)
    seen = train_step(state, step=0, gradient_share=1.0).to_json()
    gradients = {
        name: whole(parameter.grad).flatten().tolist()
        for name, parameter in state.parameters.items()
        if parameter.grad is not None
    }
    held = [getattr(parameter, "_local_tensor", parameter) for parameter in state.parameters.values()]
    return seen, gradients, sum(map(torch.numel, held))


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_sharded_weights_have_the_gradient_of_one_process(
    recorded: Path, tiny_pipeline: Path, world_size: int
) -> None:
    """FSDP 2, each process with its rows of every weight alone; five chunks, so that one process waits."""
    work = partial(sharded_steps, recorded, tiny_pipeline)
    [(expected_seen, expected, total)] = together(1, work)
    for seen, gradients, held in together(world_size, work, sharded=True):
        assert held < total / world_size * 1.2
        assert gradients.keys() == expected.keys()
        scale = max(abs(value) for values in expected.values() for value in values)
        for name, values in gradients.items():
            np.testing.assert_allclose(values, expected[name], atol=2e-6 * scale, rtol=0, err_msg=name)
        for key in expected_seen.keys() - {"seconds", "grad_norm"}:
            assert seen[key] == expected_seen[key], key
        assert seen["grad_norm"] == pytest.approx(expected_seen["grad_norm"], rel=1e-5)


@pytest.mark.slow
def test_a_sharded_run_goes_on_whole_and_its_policy_is_a_pipeline(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Two steps by two processes with sharded weights, the third by one process."""
    all_weights = {"lora_rank": 0, "ema_decay": 0.0, "learning_rate": 1e-4}
    expected = trained(recorded, tmp_path / "alone", tiny_pipeline, Workers(), **all_weights)
    out = tmp_path / "sharded"
    with pytest.raises(Stop):
        together(2, partial(trained, recorded, out, tiny_pipeline, stop_at=3, **all_weights), sharded=True)
    assert (out / "checkpoints" / "step-000002").is_dir()
    found = trained(recorded, out, tiny_pipeline, Workers(), **all_weights)
    assert found == expected | {"reward_best": pytest.approx(expected["reward_best"], abs=1e-4)}
    again = together(
        2, partial(trained, recorded, tmp_path / "2", tiny_pipeline, **all_weights), sharded=True
    )
    assert again[0] == again[1] == found | {"reward_best": pytest.approx(expected["reward_best"], abs=1e-4)}
    evaluations = [
        run / "evals" / "step-000000" / "eval.json" for run in (tmp_path / "alone", out, tmp_path / "2")
    ]
    assert len({sha256_file(path) for path in evaluations}) == 1
    assert names_of(tmp_path / "2") == names_of(tmp_path / "alone")
    policies = [
        load_model(str(run / "policy")).denoiser.state_dict() for run in (tmp_path / "alone", tmp_path / "2")
    ]
    for name, value in policies[0].items():
        torch.testing.assert_close(
            policies[1][name], value, rtol=0, atol=4e-4
        )  # Adam: a sign may flip in 3 steps


@pytest.mark.parametrize(
    "changes", [{"lora_rank": 4}, {"ema_decay": 0.9}, {"gradient": "one-pass"}, {"torch_compile": True}]
)
def test_what_does_not_go_with_sharded_weights_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="FSDP"):
        check_can_shard(replace(TrainSettings(lora_rank=0), **changes))


TRAIN = TrainSettings(
    num_train_steps=3,
    pairs_per_step=4,
    lora_rank=4,
    batch_size=3,
    eval_every=3,
    eval_images_per_prompt=3,
    checkpoint_every=1,
    drift_samples=2,
    patience=0,
    ema_decay=0.5,
)


class Stop(Exception):
    """Stands for the end of the first process."""


def trained(
    data: Path, out: Path, pipeline: Path, workers: Workers, *, stop_at: int = -1, **changes: Any
) -> dict[str, Any]:
    """Train, or go on; the summary is the same in all processes."""
    done = train_offline(
        source_of(data),
        out,
        replace(TRAIN, **changes),
        model=load_again(pipeline),
        reward=Redness(),
        progress=Steps(stop_at, Stop),
        workers=workers,
    )
    return asdict(done)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def names_of(out: Path) -> list[str]:
    return sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*") if "tensorboard" not in path.parts
    )


def test_a_run_has_the_files_of_one_process_and_goes_on_with_any_number(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Three steps by one process; and by two, three and one of them, the first process of each but the last ended."""
    expected = trained(recorded, tmp_path / "alone", tiny_pipeline, Workers())
    out = tmp_path / "together"
    for world_size, stop_at in ((2, 2), (3, 3)):
        with pytest.raises(Stop):
            together(world_size, partial(trained, recorded, out, tiny_pipeline, stop_at=stop_at))
        assert (out / "checkpoints" / f"step-{stop_at - 1:06d}").is_dir()
    found = trained(recorded, out, tiny_pipeline, Workers())
    assert found == expected | {"reward_best": pytest.approx(expected["reward_best"], abs=1e-4)}
    assert names_of(out) == names_of(tmp_path / "alone")
    for name in (
        "eval.json",
        "images.png",
    ):  # of the reference, by two processes with 6 images in batches of 8
        both = [sha256_file(run / "evals" / "step-000000" / name) for run in (out, tmp_path / "alone")]
        assert both[0] == both[1]
    for line, expected_line in zip(lines_of(out), lines_of(tmp_path / "alone"), strict=True):
        for key in ("loss", "log_ratio_mean", "grad_norm", "kl_estimate"):
            assert line[key] == pytest.approx(expected_line[key], rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_as_many_processes_again_give_the_same_bytes(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    for name in ("first", "again"):
        together(3, partial(trained, recorded, tmp_path / name, tiny_pipeline))
    assert compared(tmp_path / "first") == compared(tmp_path / "again")


def uneven_evaluation(folder: Path, pipeline: Path, workers: Workers, *, each: int, size: int) -> None:
    run_evaluation(
        ModelSource(model=str(pipeline)),
        folder / str(workers.world_size),
        Counting(),
        EvalSettings(
            prompts=("a cat", "two dogs", "a fox"),
            num_images_per_prompt=each,
            batch_size=size,
            num_inference_steps=2,
            guidance_scale=1.0,
        ),
        baseline=None,
        check_reward=Redness(),
        workers=workers,
    )


class Counting(Redness):
    """Redness, and the place in its batch: another batch would give other scores. It checks facts as well."""

    name = "counting"

    def score(self, prompts: Any, images: Any) -> list[float]:
        scores = super().score(prompts, images)
        return [1000 * len(images) + 100 * place + score for place, score in enumerate(scores)]

    def correct(self, prompts: Any, images: Any) -> list[bool]:
        return [score > 0.5 for score in super().score(prompts, images)]


# Images of a prompt and of a batch: batches over three prompts, over two, of one prompt, and fewer than processes.
@pytest.mark.parametrize(("each", "size"), [(3, 7), (5, 4), (6, 3), (2, 8)])
def test_an_evaluation_has_the_bytes_of_one_process(
    tiny_pipeline: Path, tmp_path: Path, each: int, size: int
) -> None:
    for world_size in (1, 2, 3):
        together(world_size, partial(uneven_evaluation, tmp_path, tiny_pipeline, each=each, size=size))
    for name in ("summary.json", "after/eval.json", "after/images.png", "grid.png"):
        assert len({sha256_file(tmp_path / str(world_size) / name) for world_size in (1, 2, 3)}) == 1, name


def test_other_weights_in_one_process_are_found() -> None:
    def work(workers: Workers) -> None:
        weights = torch.zeros(3)
        workers.check_same([weights, torch.ones(())], "weights")
        weights[1] = 1e-45 * workers.rank
        workers.check_same([weights], "weights")

    with pytest.raises(WorkersError, match="processes 0 and 1 hold different weights"):
        together(2, work)


class TerminatedError(Exception):
    """Its process is told to end, as by torchrun, while it says what went wrong."""

    def __reduce__(self) -> tuple[type[Exception], tuple[str]]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ValueError, ("said",)


def test_a_process_that_is_told_to_end_says_what_went_wrong_first() -> None:
    def work(workers: Workers) -> None:
        raise TerminatedError

    with pytest.raises(ValueError, match="said"):
        together(2, work)


def test_what_the_first_process_cannot_learn_ends_all() -> None:
    def nothing() -> None:
        raise NothingToLearnError("all equal")

    def work(workers: Workers) -> str:
        try:
            workers.on_main(nothing)
        except NothingToLearnError as error:
            return str(error)
        return ""

    assert together(2, work) == ["all equal", "there is nothing to learn: see the error of the main process"]


def online(out: Path, pipeline: Path, workers: Workers) -> dict[str, Any]:
    options: dict[str, Any] = {
        "prompts": ("a cat", "two dogs"),
        "num_images_per_prompt": 5,
        "num_inference_steps": 4,
        "batch_size": 4,
        "images_per_shard": 4,
        "guidance_scale": 1.0,
    }
    summary = train_online(
        out / str(workers.world_size),
        ONLINE,
        reference=ModelSource(model=str(pipeline)),
        build_spec=partial(build_spec, **options),
        load=load,
        reward=Redness(),
        workers=workers,
    )
    return asdict(summary)


def test_stages_are_those_of_one_process(tiny_pipeline: Path, tmp_path: Path) -> None:
    """The first stage's data to the byte; the second stage's policy is another one by rounding."""
    [expected] = together(1, partial(online, tmp_path, tiny_pipeline))
    found = together(2, partial(online, tmp_path, tiny_pipeline))
    assert found[0] == found[1] and found[0].keys() == expected.keys()
    data = [tmp_path / str(world_size) / "stage-01" / "data" for world_size in (1, 2)]
    names = [name for name in names_of(data[0]) if not name.startswith("environment")]
    assert names == [name for name in names_of(data[1]) if not name.startswith("environment")]
    for name in names:
        if (data[0] / name).is_file():
            assert sha256_file(data[0] / name) == sha256_file(data[1] / name), name
    policies = [tmp_path / str(world_size) / "stage-02" / "run" / "run.json" for world_size in (1, 2)]
    anchors = [json.loads(path.read_text())["outside_band_at_start"] for path in policies]
    assert anchors[0] == pytest.approx(anchors[1], abs=0.1)
