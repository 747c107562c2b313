"""`--num-processes` of a training command: ranks that run the same command line, of which the first one prints."""

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ppod_data.cluster.settings import ProcessSettings

if TYPE_CHECKING:
    import typer

    from ppod_train.library.ranks import RankJob


def run_shared(ctx: "typer.Context", asked: ProcessSettings, describe: "Callable[[], RankJob]") -> bool:
    """Run the command in several processes if `--num-processes` asks for them or `auto` saves time.

    Args:
        ctx: the command's context, whose object is the command line.
        asked: the processes that the options ask for.
        describe: returns what the processes would share.

    Returns:
        False if this process is to do the work itself.

    Raises:
        PpodError: a rank failed.
    """
    from ppod_train.library.rank_processes import run_ranks
    from ppod_train.library.ranks import choose_ranks

    if ctx.obj.is_rank:
        return False
    processes = asked.local_processes()
    choice = choose_ranks(processes, describe) if processes.count != 1 else None
    if choice is None or len(choice.devices) == 1:
        return False
    if choice.reason:
        print(f"train: {choice.reason}", file=sys.stderr, flush=True)
    run_ranks(partial(ctx.obj.run_as_rank, ctx.obj.arguments), len(choice.devices))
    return True
