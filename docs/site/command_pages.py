"""Reference pages of the commands, from the same parameters that `--help` prints."""

import html
import importlib
import inspect
import re
from typing import Any

COMMANDS = ("ppod-gen", "ppod-score", "ppod-pair", "ppod-train", "ppod-data")
SPECIAL = re.compile(r"([\\`*_{}\[\]|])")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


def command_page(name: str) -> str:
    """Return the page of a command or of a group of commands."""
    from typer.main import get_command

    module = importlib.import_module(f"ppod_cli.{name.removeprefix('ppod-')}")
    root: Any = get_command(module.commands)
    commands = getattr(root, "commands", None)
    if commands is None:
        return f"# {name}\n\n{command_text(root, name)}"
    parts = [f"# {name}\n\n{prose(root.help)}\n"]
    for sub, command in commands.items():
        parts.append(f"## {name} {sub}\n\n{command_text(command, f'{name} {sub}')}")
    return "\n".join(parts)


def command_text(command: Any, name: str) -> str:
    """Return usage, description, examples and options of one command."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    examples = inspect.cleandoc(command.epilog or "").removeprefix("Examples:").strip()
    parts = [f"```text\n{usage}\n```", prose(command.help), f"```bash\n{examples}\n```"]
    panels: dict[str, list[str]] = {}
    for param in command.params:
        if getattr(param, "hidden", False):
            continue
        panel = param.rich_help_panel or ("Arguments" if param.param_type_name == "argument" else "Options")
        panels.setdefault(panel, []).append(definition(param, context, name))
    for panel, entries in panels.items():
        parts += [f"**{panel}**", "\n\n".join(entries)]
    return "\n\n".join(parts) + "\n"


def definition(param: Any, context: Any, name: str) -> str:
    """Return a definition-list entry with an anchor for one parameter."""
    term, text = param.get_help_record(context)
    if param.param_type_name == "argument":
        term = param.metavar or param.name.upper()
    text, _, facts = text.partition("  [")
    note = f" *{prose(facts.removesuffix(']'))}*" if facts else ""
    anchor = re.sub(r"\W+", "-", f"{name} {param.name}").strip("-")
    return f"<code id='{anchor}'>{html.escape(term)}</code>\n:   {prose(text.strip())}{note}"


def prose(text: str) -> str:
    """Escape text for Markdown, and set options as code."""
    escaped = SPECIAL.sub(r"\\\1", html.escape(text, quote=False))
    return OPTION.sub(lambda match: f"`{match[0]}`", escaped)
