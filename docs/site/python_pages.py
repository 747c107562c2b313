"""Reference pages of the Python packages: their public names, and the options of their settings."""

import dataclasses
import importlib
import inspect
from typing import Any

from command_pages import prose

PACKAGES = ("ppod_data", "ppod_train")


def python_page(package: str) -> str:
    """Return the page of a package: one mkdocstrings block a public name."""
    module = importlib.import_module(package)
    summary, _, example = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    parts = [f"# {package}", summary, f"```python\n{example}\n```"]
    for name in module.__all__:
        parts.append(entry(package, name, getattr(module, name)))
    return "\n\n".join(parts) + "\n"


def entry(package: str, name: str, value: Any) -> str:
    """Return the block of one public name; a dataclass of options is followed by its options."""
    from ppod_data.support.options import options_of

    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"## {name}\n\n`{package}.{name}`: {', '.join(f'`{key}`' for key in value)}."
    block = f"::: {value.__module__}.{value.__qualname__}"
    options = options_of(value) if dataclasses.is_dataclass(value) else {}
    if not options:
        return block
    fields = {field.name: field for field in dataclasses.fields(value)}
    rows = [f"`{name}`\n:   {meaning(option, fields[name])}" for name, option in options.items()]
    members = (
        "    options:\n      members: false\n      merge_init_into_class: false\n      show_signature: false"
    )
    return "\n\n".join([f"{block}\n{members}", *rows])


def meaning(option: Any, field: Any) -> str:
    """Return the help of an option and its default, in words if it depends on something else."""
    if option.shown_default is not None:
        default = option.shown_default
    elif field.default is dataclasses.MISSING:
        return prose(option.help)
    else:
        default = repr(field.default)
    return f"{prose(option.help)} *{prose(f'default: {default}')}*"
