"""Refuses an empty path in every command: an unset "$DIR" would mean the current folder."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

Parameter = TyperArgument | TyperOption
_PLACES: Final = ("CHECKPOINT", "DIR", "FILE", "FOLDER")
"""Starts of what a metavar calls a path, also where a name may stand in its place."""


class Commands(TyperGroup):
    """The commands of a program, none of which takes an empty path."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for parameter in _parameters(self):
            if _takes_path(parameter):
                # A parameter turns its text into a path and keeps nothing of an empty one.
                read = partial(_read, parameter, parameter.process_value)
                # typer builds the parameters, so a class of their own is no way.
                parameter.process_value = read  # type: ignore[method-assign]


def _parameters(command: Any) -> Iterator[Parameter]:
    """Those of a command and of the commands in it."""
    yield from (each for each in command.params if isinstance(each, Parameter))
    for inside in getattr(command, "commands", {}).values():
        yield from _parameters(inside)


def _takes_path(parameter: Parameter) -> bool:
    words = (parameter.metavar or "").split("|")
    return parameter.type_descriptor.is_path or any(each.startswith(_PLACES) for each in words)


def _read(parameter: Parameter, process: Any, ctx: Any, value: Any) -> Any:
    """The value of a parameter; raises typer.BadParameter for an empty text."""
    if "" in (value if isinstance(value, list | tuple) else (value,)):
        raise typer.BadParameter("it is empty: give a path", ctx=ctx, param=parameter)
    return process(ctx, value)
