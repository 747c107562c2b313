"""Claim: a trajectory shard is its tensors' bytes.

The tar of 64 trajectories of T = 50 steps, 51 latents of 4×64×64 in fp32 each, is at most 1.01 times the bytes of the
tensors. Nothing is timed.
"""

import tempfile
from pathlib import Path

from large_latents import SHAPE, STEPS, make_dataset
from side_by_side import Report, is_quick


def main() -> None:
    """Run the benchmark."""
    quick = is_quick(__doc__)
    images = 4 if quick else 64
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), images)
        (tar,) = (dataset.root / "trajectories").glob("*.tar")
        tensors = images * (STEPS + 1) * SHAPE[0] * SHAPE[1] * SHAPE[2] * 4
        report.add("trajectory tar / bare tensor bytes", [tar.stat().st_size / tensors], bound=1.01)
    report.exit(quick=quick)


if __name__ == "__main__":
    main()
