"""The parent's side of `worker`: processes that do tasks when asked, and the seconds that those took."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Workers:
    """Worker processes; `clocks` read the seconds of all their tasks, for `side_by_side.measure`."""

    def __init__(self) -> None:
        self._seconds = {"processor": 0.0, "wall": 0.0}
        self._processes: list[subprocess.Popen[str]] = []
        self.clocks: Mapping[str, Callable[[], float]] = {
            name: lambda name=name: self._seconds[name] for name in self._seconds
        }

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def start(
        self, python: str, module: str, arguments: Sequence[str], *, log: Path
    ) -> Mapping[str, Callable[[], None]]:
        """Start `python -m module arguments` and wait until it is ready: its tasks by name."""
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [python, "-m", module, *arguments],
                cwd=Path(__file__).parents[1],
                env=os.environ | ONE_THREAD,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._processes.append(process)
        assert process.stdin is not None and process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def answer() -> object:
            line = answers.readline()
            if not line:
                raise SystemExit(f"{module} ended:\n{log.read_text()[-4000:]}")
            return json.loads(line)

        def task(name: str) -> Callable[[], None]:
            def run() -> None:
                print(name, file=requests, flush=True)
                for clock, seconds in answer().items():
                    self._seconds[clock] += seconds

            return run

        return {name: task(name) for name in answer()}
