"""Options that the commands of training share."""

from typing import Annotated

import typer

PushToHub = Annotated[
    str | None,
    typer.Option(
        help="Upload the policy to this repository of the Hugging Face Hub, private where it is new.",
        metavar="OWNER/NAME",
        rich_help_panel="Running",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what it would take (memory, network calls, disk, time) and do nothing.",
        rich_help_panel="Running",
    ),
]
