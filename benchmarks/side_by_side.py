"""Ways of doing the same work, measured in turn in one process, and compared as ratios.

A machine is shared and its clock speed moves, so no time is kept: after a warm-up every round runs each way once, in
the opposite order of the round before, and gives one ratio; the median of the rounds is the result. Work that is
computation is measured in processor time of the process, which other processes hardly change; work that waits (for a
disk, for another process) by the wall clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"processor": time.process_time, "wall": time.perf_counter}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One claim as it was measured."""

    claim: str
    ratios: tuple[float, ...]
    """One a round."""
    bound: float | None
    """None: shown for information."""
    at_least: bool
    """The ratio must be at least the bound; otherwise at most."""

    @property
    def holds(self) -> bool:
        """Return whether the median ratio keeps its bound."""
        median = statistics.median(self.ratios)
        if self.bound is None:
            return True
        return median >= self.bound if self.at_least else median <= self.bound


class Report:
    """Prints each result as it comes; at the end its exit code says whether all bounds held."""

    def __init__(self) -> None:
        self._results: list[Result] = []

    def add(
        self, claim: str, ratios: Sequence[float], *, bound: float | None, at_least: bool = False
    ) -> Result:
        """Print a result, and remember whether its bound holds."""
        result = Result(claim=claim, ratios=tuple(ratios), bound=bound, at_least=at_least)
        self._results.append(result)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds" if len(ratios) > 1 else ""
        wanted = ""
        if bound is not None:
            wanted = f"at {'least' if at_least else 'most'} {bound:.3f}: "
            wanted += "holds" if result.holds else "DOES NOT HOLD"
        print(f"{statistics.median(ratios):7.3f}  {wanted:<32}{claim}", flush=True)
        if spread:
            print(f"{'':41}{spread}", flush=True)
        return result

    def exit(self, *, quick: bool) -> None:
        """End the process: 1 when a bound does not hold. A quick run is too short to judge by, and ends with 0."""
        sys.exit(0 if quick or all(result.holds for result in self._results) else 1)


def measure(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, clocks: Mapping[str, Clock] = CLOCKS
) -> dict[str, dict[str, list[float]]]:
    """Return clock -> way -> seconds of every round, after one run of each way that is not counted."""
    for run in ways.values():
        run()
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in ways} for clock in clocks}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            start = {clock: read() for clock, read in clocks.items()}
            ways[name]()
            for clock, read in clocks.items():
                seconds[clock][name].append(read() - start[clock])
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def is_quick(description: str | None) -> bool:
    """Parse the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: does the script run?")
    return bool(parser.parse_args().quick)
