"""Damage and kills by the thousand: writes the matrices of docs/reliability.md. Run by `make torture`.

Injections on a sealed and on an open data set, the same damage through the readers of webdataset and of datasets beside
ours, links, stray parts, odd names and pipes under every command, a kill and a full disk at every write, sync, rename
and removal of the commands that write a data set and of training, and a thousand preemptible workers on one data set.
"""

import argparse
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ppod_data.dataset.dataset import create
from ppod_data.diffusion.models.model import load_model
from ppod_data.errors import PpodError
from ppod_data.integrity.verify import verify
from tests.conftest import save_tiny_pipeline
from tests.support.damage import Injection, everything, inject, make_whole
from tests.support.durable_data import (
    STAGES,
    Work,
    before,
    fill_everywhere,
    finished,
    kill_everywhere,
    make_others,
    make_stages,
    make_works,
)
from tests.support.durable_run import check_run, make_run, make_training
from tests.support.faults import visible
from tests.support.intrusions import INTRUSIONS, outcome
from tests.support.preemption import Folder, Memory, Weather, simulate, stepwise
from tests.support.toy import make_dataset, make_spec
from tests.support.training import compared

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
SHAPE = (4, 16, 16)
"""Latents that make up most of a tar, as real ones do."""
SHARES = ("ranks", "driver", "none")
Counts = Counter[tuple[str, str]]


def sealed(root: Path, number: int, seed: int) -> Counts:
    """What `verify --read-data` says of each damaged file of a sealed data set."""
    chooser, counts = random.Random(seed), Counts()
    for _ in range(number):
        with inject(root, chooser) as damage:
            files = [finding.file for finding in verify(root, read_data=1).of("damaged")]
            named = damage.path.relative_to(root).as_posix() in files
        counts[damage.kind, "detected" if named else "undetected"] += 1
    return counts


def opened(root: Path, number: int, seed: int) -> Counts:
    """What our readers do on a data set without any seal: an error that names the file, or exactly the same values."""
    whole = everything(root)
    chooser, counts = random.Random(seed), Counts()
    for _ in range(number):
        with inject(root, chooser) as damage:
            counts[damage.kind, _outcome(lambda: everything(root), whole, damage, ours=True)] += 1
    return counts


def _outcome(read: Callable[[], Any], whole: Any, damage: Injection, *, ours: bool = False) -> str:
    try:
        return "same values" if read() == whole else "undetected"
    except PpodError as error:
        return "detected" if damage.path.name in str(error) else "undetected"
    except Exception:
        return "undetected" if ours else "detected"


def others(root: Path, number: int, seed: int, cache: Path) -> Counts:
    """The same damage to tars and tables of samples through the readers of other libraries."""
    import datasets
    import webdataset

    datasets.disable_progress_bars()
    chooser, counts = random.Random(seed), Counts()
    tars = sorted(map(str, (root / "trajectories").iterdir()))
    tables = sorted(map(str, (root / "samples").iterdir()))

    def by_webdataset() -> list[Any]:
        stream = webdataset.WebDataset(tars, shardshuffle=False)
        return [(row["__key__"], row.get("safetensors"), row.get("json")) for row in stream]

    def by_datasets(builder: str, files: list[str]) -> list[Any]:
        with tempfile.TemporaryDirectory(dir=cache) as place:
            loaded = datasets.load_dataset(builder, data_files=files, split="train", cache_dir=place)
            names = [name for name in loaded.column_names if name not in ("__url__", "image")]
            return [
                {name: row[name] for name in names}
                for row in loaded.remove_columns(["image"] if "image" in loaded.column_names else [])
            ]

    readers: list[tuple[str, str, Callable[[], Any]]] = [
        ("webdataset, tar", "trajectories", by_webdataset),
        ("datasets, tar", "trajectories", lambda: by_datasets("webdataset", tars)),
        ("datasets, parquet", "samples", lambda: by_datasets("parquet", tables)),
    ]
    wholes = {name: read() for name, _, read in readers}
    ours = everything(root)
    for _ in range(number):
        damage = inject(root, chooser)
        while damage.kind not in ("trajectories", "samples"):
            damage = inject(root, chooser)
        with damage:
            for name, kind, read in readers:
                if kind == damage.kind:
                    counts[name, _outcome(read, wholes[name], damage)] += 1
            counts[
                f"ppod, {'tar' if damage.kind == 'trajectories' else 'parquet'}",
                _outcome(lambda: everything(root), ours, damage, ours=True),
            ] += 1
    return counts


def intruded(
    works: Mapping[str, Work], starts: Mapping[str, Path], place: Path, number: int, seed: int
) -> Counts:
    """What a random command does to a data set in which a stranger left something; `INTRUSIONS` has what."""
    chooser, counts = random.Random(seed), Counts()
    for one in range(number):
        kind, command = chooser.choice(sorted(INTRUSIONS)), chooser.choice(sorted(works))
        told = outcome(kind, works[command], starts[command], place / f"{one}", chooser, everything)
        if told != "harmless":
            print(f"{kind}, {command}: {told}", flush=True)
        counts[kind, told] += 1
    return counts


def durability(
    place: Path, stride: int, intrusions: int, seed: int
) -> tuple[list[tuple[str, int, int]], Counts]:
    """(command, kills, full disks) that all ended in the files of an undisturbed run; raises where one did not.

    And what `intruded` counts of the same commands.
    """
    torch.set_num_threads(1)
    pipeline = save_tiny_pipeline(place / "tiny")
    model = load_model(str(pipeline))
    works = make_works(model, place)
    (place / "stages").mkdir()
    stages = make_stages(works, place / "stages")
    (place / "other").mkdir()
    others = make_others(model, stages, place / "other")
    whole = {name: case for name, case in others.items() if case.start == stages["combine"]}
    counts = intruded(
        {name: works[name] for name in STAGES if name != "gen"}
        | {name: case.work for name, case in whole.items()},
        dict.fromkeys([*STAGES, *whole], whole["log-probs"].end),
        place / "intruded",
        intrusions,
        seed,
    )
    train = make_training(pipeline, place / "training")
    cases = [(stage, works[stage], before(stages, stage), stages[stage], {}) for stage in STAGES]
    cases += [
        (name, one.work, one.start, one.end, {"check": one.check, "result": finished})
        for name, one in others.items()
    ]
    run = make_run(train, place / "run")
    cases.append(("train", train, stages[""], run, {"check": check_run, "result": compared}))
    rows = []
    for name, work, start, end, how in cases:
        numbers = []
        for strike in (kill_everywhere, fill_everywhere):
            folder = place / f"{name}-{strike.__name__}"
            folder.mkdir()
            numbers.append(strike(work, start, end, folder, stride, **how))
            print(f"{name}: {strike.__name__} at {numbers[-1]} points", flush=True)
        rows.append((name, *numbers))
    return rows, counts


def preempted(place: Path, num_workers: int) -> str:
    """What kills cost, as a table; raises where a schedule on a real folder ends in other bytes than one worker's."""
    heavy: dict[str, Any] = {"prompts": ("a cat",), "num_images_per_prompt": 4 * num_workers}
    heavy |= {"images_per_shard": 2, "num_inference_steps": 2}
    make_dataset(place / "one", **heavy)
    spec = make_spec(**heavy)
    kills, sleeps, others = 0, 0, 0
    for share in SHARES:
        create(place / share, spec)
        store = Folder(place / share, spec)
        with stepwise():
            number = (
                num_workers // 10 if share == "none" else num_workers
            )  # each of those looks at every shard
            done = simulate(spec, store, Weather(num_workers=number, share=share, kill_rate=0.5), 0)
        if visible(place / share) != visible(place / "one"):
            raise AssertionError(f"{share}: other bytes than one worker's")
        kills, sleeps, others = kills + done.kills, sleeps + done.sleeps, others + store.num_other
    light = make_spec(prompts=("a cat",), num_images_per_prompt=40 * num_workers, images_per_shard=4)
    lines = [
        f"{num_workers:,} workers, {spec.num_shards:,} shards on a real folder, a tenth of the "
        f"workers where they have no share: {kills:,} "
        f"workers killed, {sleeps:,} put to sleep, {others:,} of whose shards were written again with other bytes; the "
        "files are those of one worker.",
        "",
        "| kills of a worker in the time of a shard | closed form | ranks | Ray's driver | neither |",
        "|---|---|---|---|---|",
    ]
    for rate in (0.0, 0.02, 0.1, 0.5, 1.0):
        cells = [f"{math.expm1(rate) / rate - 1 if rate else 0:.1%}"]
        for share in SHARES:
            weather = Weather(num_workers=num_workers, share=share, kill_rate=rate)
            cells.append(f"{simulate(light, Memory(4), weather, 0).wasted:.1%}")
        lines.append(f"| {rate} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(counts: Counts, outcomes: tuple[str, ...], heading: str) -> str:
    """A Markdown table with a row a kind, and the sums."""
    kinds = sorted({kind for kind, _ in counts})
    rows = [[kind, *(counts[kind, outcome] for outcome in outcomes)] for kind in kinds]
    rows = [[row[0], sum(row[1:]), *row[1:]] for row in rows]
    if heading == "file":
        rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, len(outcomes) + 2))])
    lines = [f"| {heading} | injected | " + " | ".join(outcomes) + " |", "|---" * (len(outcomes) + 2) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def main() -> int:
    """Everything, into docs/reliability.md; 1 where something was lost or not detected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--injections", type=int, default=1000)
    parser.add_argument("--others", type=int, default=100)
    parser.add_argument("--intrusions", type=int, default=300)
    parser.add_argument("--stride", type=int, default=1, help="of the writes that are struck")
    parser.add_argument("--workers", type=int, default=1000, help="that are preempted")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        one = make_whole(place / "sealed", sealed=True, latent_shape=SHAPE).root
        two = make_whole(place / "open", sealed=False, latent_shape=SHAPE).root
        three = make_whole(place / "others", sealed=False, excluded=False, latent_shape=SHAPE).root
        of_sealed = sealed(one, options.injections, options.seed)
        of_open = opened(two, options.injections, options.seed + 1)
        of_others = others(three, options.others, options.seed + 2, place)
        struck, of_intruded = durability(place, options.stride, options.intrusions, options.seed + 3)
        (place / "preempted").mkdir()
        of_workers = preempted(place / "preempted", options.workers)
    texts = {
        "sealed": table(of_sealed, ("detected", "undetected"), "file"),
        "open": table(of_open, ("detected", "same values", "undetected"), "file"),
        "others": table(of_others, ("detected", "same values", "undetected"), "reader"),
        "durability": "| command | kills | full disks | lost or half-written |\n|---|---|---|---|\n"
        + "\n".join(f"| {stage} | {kills} | {full} | 0 |" for stage, kills, full in struck),
        "intruded": table(of_intruded, ("harmless", "undetected", "outside"), "intrusion"),
        "preemption": of_workers,
    }
    page = PAGE.read_text(encoding="utf-8")
    for key, text in texts.items():
        page = re.sub(
            rf"(<!-- {key} -->\n).*?(\n<!-- end -->)",
            lambda found, text=text: found[1] + text + found[2],
            page,
            flags=re.DOTALL,
        )
        print(f"{key}\n{text}\n")
    PAGE.write_text(page, encoding="utf-8")
    print(f"{time.monotonic() - start:.0f} seconds; written to {PAGE}")
    missed = sum(
        count
        for (_, outcome), count in (of_sealed + of_open + of_intruded).items()
        if outcome in ("undetected", "outside")
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
