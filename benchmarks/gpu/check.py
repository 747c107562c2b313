"""Check ppod on a GPU with full-size models of random weights: numbers, speed, memory, and resuming after a kill.

For each model and compute dtype it generates a few samples, scores and pairs them, and trains a LoRA on them, by the
functions that the commands call. It prints:

- replay drift: |replayed − recorded| log-probability of the untouched policy in the trainer's batch shape;
- images a second of sampling, decoding and recording, as a ratio to diffusers' own pipeline call;
- a training step as a ratio to the bare forward and backward calls of the network;
- peak memory of sampling and of a training step against the estimates of `--dry-run`;
- whether a training run that is killed and started again ends in the policy of an undisturbed run.

Needs no network. On a machine without the packages: `make gpu-bundle` on one that has them, then `make gpu-check`.
`--device cpu --tiny` runs the same code on tiny pipelines.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attention import check_attention
from case import check_case
from models import CASES
from resume import check_resume

from ppod_data.support.environment import environment

_ALL = ["attention", *CASES, "resume"]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny pipelines of the same classes, for a CPU")
    parser.add_argument(
        "--cases", nargs="*", default=[*CASES, "resume"], help=f"of {', '.join(CASES)} and resume"
    )
    parser.add_argument("--dtypes", nargs="*", help="compute dtypes; each model's own unless given")
    parser.add_argument("--untimed", action="store_true", help="measure no speed, and run fewer samples")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--budget", type=float, default=420, help="start no check after so many seconds")
    options = parser.parse_args()
    start = time.perf_counter()
    report: dict[str, Any] = {"checks": {}}
    with tempfile.TemporaryDirectory() as temporary:
        report["environment"] = _in_child(environment, Path(temporary))
        for title, run in _checks(options, Path(temporary)):
            if time.perf_counter() - start > options.budget:
                found: dict[str, Any] = {"skipped": "the time was used up"}
            else:
                found = _in_child(run, Path(temporary))
                if "CUDA" in found.get("failed", "") or "NonFinite" in found.get("failed", ""):
                    found |= _explained(partial(run, timed=False), Path(temporary))
            report["checks"][title] = found
            report["seconds"] = time.perf_counter() - start
            print(f"[{report['seconds']:5.0f} s] {title}: {_line(found)}", flush=True)
            options.out.write_text(json.dumps(report, indent=1))
    sys.exit(any("failed" in found for found in report["checks"].values()))


def _explained(run: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    """Run a check that ended in a CUDA fault again: where does it stop, and does another attention kernel help?"""

    def blocking() -> dict[str, Any]:
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
        return run()

    def math_attention() -> dict[str, Any]:
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        return run()

    return {ways.__name__: _in_child(ways, work) for ways in (blocking, math_attention)}


def _in_child(run: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    """Run a check in a forked process: a CUDA fault ends that process alone, and its memory is free afterwards."""
    result = work / "result.json"
    result.unlink(missing_ok=True)

    def call() -> None:
        try:
            found = run()
        except BaseException as error:
            found = {
                "failed": f"{type(error).__name__}: {error}"[:2000],
                "traceback": traceback.format_exc()[-4000:],
            }
        result.write_text(json.dumps(found))
        os._exit(0)  # skip the device's own clean-up, which fails after a fault

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join()
    if not result.exists():
        return {"failed": f"the process ended with {process.exitcode}"}
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _checks(options: argparse.Namespace, work: Path) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Return the checks in order: every model in its first dtype, then resuming, then the other dtypes."""
    folders: dict[str, Path] = {}
    for name in CASES:
        folders[name] = work / name
        (CASES[name].save_tiny if options.tiny else CASES[name].save)(folders[name])
    first: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    others: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    if "attention" in options.cases and not options.tiny:
        first.append(("gradients of attention kernels", partial(check_attention, options.device)))
    for name in (name for name in options.cases if name in CASES):
        case = CASES[name]
        for number, dtype in enumerate(options.dtypes or case.dtypes):
            timed = number == 0 and not options.untimed
            run = partial(
                check_case, case, folders[name], work, dtype=dtype, device=options.device, timed=timed
            )
            (first if number == 0 else others).append((f"{case.title}, {dtype}", run))
    if "resume" in options.cases:
        (work / "resume").mkdir()
        dtype = "fp32" if options.tiny else "fp16"
        run = partial(check_resume, folders["sd15"], work / "resume", device=options.device, dtype=dtype)
        first.append((f"resume after a kill, {CASES['sd15'].title}", run))
    return first + others


def _line(found: dict[str, Any]) -> str:
    """Return a result in one line."""
    shown = {name: value for name, value in found.items() if name not in ("drift", "traceback")}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())


if __name__ == "__main__":
    main()
