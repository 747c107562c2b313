"""Claim: two processes work at the rate of two loops that know nothing of each other.

(1) Generating a data set and (2) scoring one by two processes, each with its own shards and one thread, go at at least
0.95 times the rate of two bare loops over the same network calls that run beside each other. Guidance 5 on the embedded
model; a CLIP ViT-B/16 of random weights on 512 × 512 images. (3) A training step that two processes share takes at most
0.55 times the processor time of the step that each does alone beside the other. The exchange is shown as a share of the
step, alone and with the waiting for the other process. LoRA of rank 8, 32 trajectories, 20 steps, gloo. Clock:
processor time of both processes; wall time, that of the slower one, is shown beside it.
"""

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from bench_generate import BATCH, PROMPTS, bare_calls
from bench_score import BATCH as SCORED
from bench_score import bare_calls as bare_scores
from bench_score import picture, random_clip
from large_latents import make_dataset
from side_by_side import Report, is_quick
from small_group import make_group, make_state

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.models.model import DiffusionModel, load_model
from ppod_data.format.spec import GenerationSpec
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate, select_shards
from ppod_data.rewards.clip import ClipReward
from ppod_data.scoring.score import score
from ppod_train.distributed import start_workers
from ppod_train.step.train_step import TrainState, train_step

Ways = Mapping[str, Callable[[int], object]]
"""What a process does, by name: called with its rank."""
RANKS = (0, 1)


class Pair:
    """Two processes that do the same thing at the same time when asked."""

    def __init__(self, serve: Callable[[int, Connection], None]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes = [context.Pipe() for _ in RANKS]
        self._processes = [context.Process(target=serve, args=(rank, self._pipes[rank][1])) for rank in RANKS]
        for process in self._processes:
            process.start()

    def ask(self, name: str) -> tuple[float, float, float]:
        """Seconds: of both processors together, of the slower process by the clock, of its exchange in that."""
        for here, _ in self._pipes:
            here.send(name)
        found = [here.recv() for here, _ in self._pipes]
        slower = max(found, key=lambda times: times[1])
        return sum(times[0] for times in found), slower[1], slower[2]

    def end(self) -> None:
        """End both processes."""
        for here, _ in self._pipes:
            here.send("")
        for process in self._processes:
            process.join()


def serve(ways: Ways, rank: int, pipe: Connection, exchange: list[float] | None = None) -> None:
    """Run the named work on request, and send its times."""
    while name := pipe.recv():
        processor, clock, before = time.process_time(), time.perf_counter(), sum(exchange or [])
        ways[name](rank)
        times = time.process_time() - processor, time.perf_counter() - clock
        pipe.send((*times, sum(exchange or []) - before))


def rounds_of(pair: Pair, names: tuple[str, ...], rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Run every way once a round in alternating order, after one run that is not counted."""
    for name in names:
        pair.ask(name)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            found[name].append(pair.ask(name))
    pair.end()
    return found


def generating(spec: GenerationSpec, model: DiffusionModel, folder: Path) -> Callable[[int], None]:
    """Return a share of `generate` into a new folder."""
    made = iter(range(10**6))

    def run(rank: int) -> None:
        shards = select_shards(spec, None, rank, len(RANKS))
        generate(folder / str(next(made)), spec, model, shards=shards)

    return run


def scoring(dataset: Dataset, reward: ClipReward) -> Callable[[int], None]:
    """Return a share of `score` into a new table."""
    done = iter(range(10**6))

    def run(rank: int) -> None:
        name = f"clip-{next(done)}"
        score(dataset, reward, name=name, batch_size=SCORED, rank=rank, world_size=len(RANKS))

    return run


def training(state: TrainState, port: int, rank: int, pipe: Connection) -> None:
    """Serve steps shared with the other process, whole steps beside it, and the exchange alone."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    exchange: list[float] = []
    reduce = dist.all_reduce

    def timed(tensor: torch.Tensor) -> None:
        start = time.perf_counter()
        reduce(tensor)
        exchange.append(time.perf_counter() - start)

    dist.all_reduce = timed
    with start_workers(rank, len(RANKS), "cpu") as workers:
        shared = replace(state, workers=workers)

        def only_exchange(rank: int) -> None:
            workers.sum(torch.zeros(1, len(state.data.rows), len(state.data.steps), dtype=torch.float64))
            workers.sum_gradients(state.parameters.values())

        ways: Ways = {
            "shared": lambda rank: train_step(shared, step=0, gradient_share=1.0),
            "alone": lambda rank: train_step(state, step=0, gradient_share=1.0),
            "exchange": only_exchange,
        }
        serve(ways, rank, pipe, exchange)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def against_bare(
    report: Report, what: str, work: Callable[[int], object], bare: Callable[[], object], rounds: int
) -> None:
    """Add the rate of shared work to the report, relative to that of two bare loops."""
    ways: Ways = {"work": work, "bare": lambda rank: bare()}
    found = rounds_of(Pair(partial(serve, ways)), ("work", "bare"), rounds)
    for place, clock in enumerate(("processor", "wall")):
        each = [bare[place] / work[place] for work, bare in zip(found["work"], found["bare"], strict=True)]
        bound = 0.95 if clock == "processor" else None
        report.add(f"rate of {what} / of two bare loops, {clock} time", each, bound=bound, at_least=True)


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    rounds, steps = (1, 2) if quick else (5, 20)
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model = load_model("scenes")

        def spec_of(*prompts: str) -> GenerationSpec:
            return build_spec(
                model,
                prompts=prompts,
                num_images_per_prompt=BATCH,
                num_inference_steps=steps,
                guidance_scale=5.0,
                batch_size=BATCH,
                images_per_shard=BATCH,
            )

        work = generating(spec_of(*PROMPTS), model, folder / "made")
        against_bare(report, "generation", work, bare_calls(spec_of(PROMPTS[0]), model), rounds)

        reward, size = random_clip(), 2 if quick else SCORED
        both = make_dataset(folder / "both", 2 * size, picture, images_per_shard=size)
        one = make_dataset(folder / "one", size, picture, images_per_shard=size)
        against_bare(report, "scoring", scoring(both, reward), bare_scores(one, reward), rounds)

        make_group(folder / "group", 4 if quick else 32, 2 if quick else 20)
        state = make_state(folder / "group", batch_size=4 if quick else BATCH, gradient="two-pass")
        pair = Pair(partial(training, state, free_port()))
        found = rounds_of(pair, ("shared", "alone", "exchange"), rounds)
    for place, clock in enumerate(("processor", "wall")):
        each = [a[place] / b[place] for a, b in zip(found["shared"], found["alone"], strict=True)]
        bound = 0.55 if clock == "processor" else None
        report.add(f"step that two processes share / that each does alone, {clock} time", each, bound=bound)
    alone = [a[2] / b[1] for a, b in zip(found["exchange"], found["shared"], strict=True)]
    report.add("exchange alone / a shared step, wall time", alone, bound=None)
    waiting = [times[2] / times[1] for times in found["shared"]]
    report.add("exchange and waiting for the other process / a shared step, wall time", waiting, bound=None)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
