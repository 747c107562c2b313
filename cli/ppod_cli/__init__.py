"""The commands: parse options, call one function of the library, say where the result is.

Nothing heavier than Typer is imported before an option has been understood, so that `--help` is quick.
"""
