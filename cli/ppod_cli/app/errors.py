"""Errors as one line and an exit code."""

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

import typer

from ppod_cli.app.output import printable
from ppod_data.errors import PpodError
from ppod_data.support.runtime import is_out_of_memory

_INTERRUPTED = 130
_RUST_OS_ERROR = re.compile(r"\(os error (\d{1,4})\)")
"""In messages of libraries written in Rust, such as safetensors, whose exceptions are not OSErrors."""


class Invocation(NamedTuple):
    """A command line, as `ctx.obj` of its command."""

    arguments: tuple[str, ...]
    is_rank: bool
    """Another process started this one to share its work."""
    run_as_rank: Callable[[Sequence[str]], object] | None
    """Runs a command line in such a process, where the command has ranks."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    message: str = ""
    """The error in one line; empty without one."""
    error: Exception | None = None


def runner(
    commands: typer.Typer,
    name: str,
    *,
    out_of_memory: str,
    run_as_rank: Callable[[Sequence[str]], object] | None = None,
) -> Callable[..., Ended]:
    """Return the function that runs `commands` with arguments, and `is_rank=True` in a rank, without printing an error.

    Args:
        name: of the script, for usage lines.
        out_of_memory: what to type when memory runs out.
        run_as_rank: runs a command line in a rank: a function of a module, which can be pickled.
    """

    def run(arguments: Sequence[str], *, is_rank: bool = False) -> Ended:
        _write_what_can_be_written()
        root = typer.main.get_command(commands)
        if not arguments and hasattr(root, "commands"):
            arguments = ["--help"]
        try:
            invocation = Invocation(tuple(arguments), is_rank, run_as_rank)
            code = root(list(arguments), prog_name=name, standalone_mode=False, obj=invocation)
        except Exception as error:
            if "--debug" in arguments:
                traceback.print_exc()
            message, code = explain(error, name, out_of_memory)
            return Ended(code, message, error)
        if code == _INTERRUPTED:
            return Ended(code, "interrupted: run the same command again to go on")
        return Ended(code or 0)

    return run


def entry_point(run: Callable[..., Ended]) -> Callable[..., None]:
    """Return the function of a console script, which runs what `runner` returned and ends the process with its code."""

    def app(args: Sequence[str] | None = None) -> None:
        ended = run(sys.argv[1:] if args is None else list(args))
        if ended.message:
            _print_error(ended.message)
        raise SystemExit(ended.code)

    return app


def _write_what_can_be_written() -> None:
    """Replace letters that the terminal's or pipe's encoding does not have, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def explain(error: Exception, name: str, out_of_memory: str) -> tuple[str, int]:
    """Return an error in one line, and the exit code.

    The exit code is 2 for options and input, 1 for a failure of the environment, and 3 for damage.
    """
    if isinstance(error, PpodError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return _explain_usage(error, name), 2
    if is_out_of_memory(error):
        return f"out of memory: {out_of_memory}", 1
    if isinstance(error, OSError):
        return _explain_os_error(error), 1
    if code := _RUST_OS_ERROR.search(str(error)):
        return _explain_os_error(OSError(int(code[1]), os.strerror(int(code[1])))), 1
    detail = str(error) or "no message"
    return f"{type(error).__name__}: {detail} (--debug shows where)", 1


def _explain_usage(error: typer.TyperException, name: str) -> str:
    """Return the message, with the help option of the command."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else name
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
    return f"{_with_value(message, error)}: see {command} --help"


def _with_value(message: str, error: typer.TyperException) -> str:
    """Return the message of a number that is out of range or no number, with the number's value."""
    from pydantic import ValidationError

    if not isinstance(error.__cause__, ValidationError):
        return message
    detail = error.__cause__.errors()[0]
    rules = {
        "greater_than_equal": "must be at least {ge:g}",
        "less_than_equal": "must be at most {le:g}",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
    }
    if detail["type"] not in rules:
        return message
    rule = rules[detail["type"]].format_map(detail.get("ctx", {}))
    return f"{message.removesuffix(detail['msg'])}{rule}, not {detail['input']}"


def _explain_os_error(error: OSError) -> str:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left{where}: free space and run the same command again: finished shards are kept"
    if error.errno == errno.EFBIG:
        return f"a file may not be this large{where}: raise the limit of ulimit -f, and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission{where} ({error.strerror}): check the permissions, or give another folder"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files{where}: raise the limit of ulimit -n, and run the same command again"
    if error.errno in (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN):
        return (
            f"{error.strerror or error}{where}: check the disk or the mount, and run the same command again"
        )
    return f"{error.strerror or error}{where}"


def _print_error(message: str) -> None:
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f"process {printable(rank)}: "
    print(f"error: {where}{printable(' '.join(message.split()))}", file=sys.stderr)
