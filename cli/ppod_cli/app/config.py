"""`--config FILE.toml`: options in a file, under the same names; a table a command makes a file a recipe."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from ppod_data.errors import ConfigError

_NOT_IN_A_FILE = {"config", "help", "debug", "version", "install-completion", "show-completion"}
RECIPE_TABLES = ("gen", "score", "rank", "offline", "online", "eval")
"""The commands that a recipe may hold options of, by their last word."""


def load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a TOML file the defaults of the command, so that options on the command line win.

    A key is an option's or argument's name, with `-` or `_`. Relative paths in the file start at the current
    folder, as they do on the command line. A file of tables is a recipe: a command reads the one of its name.

    Raises:
        ConfigError: a file that is not TOML, a key that is no option (with the closest one), a value of
            another kind, a recipe without a table for this command.
    """
    if path is None:
        return None
    spellings = {
        spelling: param
        for param in ctx.command.params
        for spelling in [*(opt.lstrip("-") for opt in param.opts), param.name.replace("_", "-")]
        if spelling not in _NOT_IN_A_FILE
    }
    defaults: dict[str, Any] = {}
    for key, value in _options_of(path, ctx.command_path.split()[-1].removeprefix("ppod-")).items():
        param = spellings.get(key.replace("_", "-"))
        if param is None:
            close = get_close_matches(key.replace("_", "-"), spellings, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{path}: {key!r} is no option of {ctx.command_path}: {hint}see its --help")
        if param.name in defaults:
            raise ConfigError(f"{path}: {key!r} is given twice")
        many = param.multiple or param.nargs == -1
        defaults[param.name] = _checked(path, key, value, many=many, flag=getattr(param, "is_flag", False))
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


def _options_of(path: Path, command: str) -> dict[str, Any]:
    """Return the table of a command, or the whole file if the file has no tables."""
    values = _read(path)
    tables = [key for key, value in values.items() if isinstance(value, dict)]
    if not tables:
        return values
    known = f"a recipe has tables [{'], ['.join(RECIPE_TABLES)}]"
    for key in values:
        if key not in tables:
            raise ConfigError(f"{path}: {key!r} stands outside of a table: {known}")
        if key not in RECIPE_TABLES:
            raise ConfigError(f"{path}: [{key}] is no command: {known}")
    if command not in tables:
        raise ConfigError(f"{path} has no table [{command}]: it is a recipe for {', '.join(tables)}")
    options: dict[str, Any] = values[command]
    if nested := [key for key, value in options.items() if isinstance(value, dict)]:
        raise ConfigError(f"{path}: [{command}.{nested[0]}] is a table: write options only")
    return options


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _checked(path: Path, key: str, value: object, *, many: bool, flag: bool) -> object:
    if isinstance(value, bool) != flag:
        wanted = "true or false" if flag else "a value, not true or false"
        raise ConfigError(f"{path}: {key!r} wants {wanted}")
    if isinstance(value, list) and not many:
        raise ConfigError(f"{path}: {key!r} takes one value, not a list")
    return [value] if many and not isinstance(value, list) else value
