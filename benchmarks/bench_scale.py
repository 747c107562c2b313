"""Claim: what a data set costs grows with its samples and shards and no faster.

(1) `ppod-pair rank`, 10 pairs an image: at most 3 times what writing the same table of pairs from memory with the same
writer costs, by the clock, at 1,000,000 images and 10,000,000 pairs. Smaller sizes, processor time and the command's
peak memory are shown. (2) Opening a data set and counting its samples costs at most 1.5 times as much a shard at
100,000 shards as at 10,000. (3) The other commands: at three times the samples, in shards of the same size, at most 4.5
times the processor time. A table gives each command's price of a data set, a shard and a sample. What makes and judges
images costs nothing here: it is the data set's own part.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from command_costs import Point, measure_commands, table
from side_by_side import Report, is_quick, measure, ratios

sys.path.append(str(Path(__file__).parents[1]))  # the large data sets of the tests

from ppod_data.dataset.dataset import Dataset
from ppod_data.format.tables import PAIRS, read_table, write_table
from ppod_data.pairs.rank import rank
from tests.support.big import make_big, open_shards

PAIRS_PER_PROMPT = 1000
SHARD_SIZES = (50, 500)


def ranked(root: Path) -> Callable[[], None]:
    """Return a run of `rank` without an earlier table."""

    def run() -> None:
        shutil.rmtree(root / "pairs", ignore_errors=True)
        rank(Dataset.open(root), reward="r", name="p", num_pairs_per_prompt=PAIRS_PER_PROMPT)

    return run


def peak_of_ranking(root: Path) -> int:
    """Return the peak MiB of the command in a small process; a fork starts with the peak of its parent."""
    command = ["ppod_cli.pair", "rank", root, "--reward", "r", "--name", "p"]
    command += ["--num-pairs-per-prompt", PAIRS_PER_PROMPT]
    small = [sys.executable, "-c", "import sys, bench_memory; print(bench_memory.peak(*sys.argv[1:]))"]
    done = subprocess.run(
        [*small, *map(str, command)], stdout=subprocess.PIPE, check=True, text=True, cwd=Path(__file__).parent
    )
    return int(done.stdout) >> 10


def rank_at(report: Report, root: Path, num_prompts: int, *, rounds: int, bound: float | None) -> None:
    """Add time and memory of ranking at one size to the report."""
    make_big(root, num_prompts=num_prompts)
    memory = peak_of_ranking(root)
    pairs = read_table(root / "pairs" / "p.parquet", PAIRS).combine_chunks()
    ways = {"rank": ranked(root), "write": lambda: write_table(root / "again.parquet", pairs)}
    seconds = measure(ways, rounds=rounds)
    for clock, one in seconds.items():
        claim = f"rank / write, {100 * num_prompts:,} images, {len(pairs):,} pairs, {clock} time"
        report.add(claim, ratios(one["rank"], one["write"]), bound=bound if clock == "wall" else None)
        print(f"{'':41}rank {min(one['rank']):.2f} s, write {min(one['write']):.2f} s")
    print(f"{'':41}peak memory {memory} MiB", flush=True)
    shutil.rmtree(root)


def opening(report: Report, folder: Path, few: int, many: int) -> None:
    """At a tenth of `few` as well, for information."""

    def opened(root: Path) -> Callable[[], None]:
        def run() -> None:
            dataset = Dataset.open(root)
            assert dataset.num_samples == dataset.spec.num_samples

        return run

    sizes = (few // 10, few, many)
    roots = {size: open_shards(folder / str(size), size, (0,)).root for size in sizes}
    seconds = measure({str(size): opened(root) for size, root in roots.items()}, rounds=3)["processor"]
    for size in sizes:
        print(f"{min(seconds[str(size)]) * 1e3:7.1f} ms to open and count {size:,} shards")
    each = [ratio * few / many for ratio in ratios(seconds[str(many)], seconds[str(few)])]
    report.add(f"opening: processor time a shard, {many:,} shards / {few:,}", each, bound=1.5)


def commands(report: Report, folder: Path, sizes: tuple[int, ...]) -> None:
    """Add the costs of every command per image, prompt and shard to the report."""
    measure_commands(folder / "warm", 100, 50)
    points: dict[tuple[int, int], Point] = {}
    for size in sizes:
        for images_per_shard in SHARD_SIZES:
            place = folder / f"{size}-{images_per_shard}"
            points[size, images_per_shard] = measure_commands(place, size, images_per_shard)
            shutil.rmtree(place)
    few, many = (points[size, SHARD_SIZES[0]] for size in sizes[-2:])
    for command, took in many.seconds.items():
        claim = f"{command}: processor time, {many.num_samples:,} samples / {few.num_samples:,}"
        report.add(claim, [took / few.seconds[command]], bound=1.5 * sizes[-1] / sizes[-2])
    print("\n".join(["", *table(list(points.values())), ""]))


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    report = Report()
    prompts = (2, 5, 10) if quick else (100, 1000, 10_000)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        commands(report, folder, (100, 300, 900) if quick else (1000, 3000, 9000))
        opening(report, folder, *((100, 1000) if quick else (10_000, 100_000)))
        for num_prompts in prompts:
            largest = num_prompts == prompts[-1]
            rank_at(
                report,
                folder / "ranked",
                num_prompts,
                rounds=1 if quick else 3,
                bound=3.0 if largest else None,
            )
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
