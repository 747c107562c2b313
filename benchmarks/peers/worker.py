"""The worker's side of `peer_process`: does a task once for every line on stdin, and answers with its seconds.

Knows neither ppod nor TRL, and runs in the environment of either.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping


def serve(prepare: Callable[[], Mapping[str, Callable[[], object]]]) -> None:
    """Prepare the tasks, say so, and do what is asked until stdin ends. What a library prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    tasks = prepare()
    answer(sorted(tasks))
    for line in sys.stdin:
        task = tasks[line.strip()]
        processor, wall = time.process_time(), time.perf_counter()
        task()
        answer({"processor": time.process_time() - processor, "wall": time.perf_counter() - wall})
