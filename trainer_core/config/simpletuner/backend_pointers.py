"""Where the backends of a plan are in the file: a plan leaves out those without images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend
from trainer_core.config.plan.problems import Problem
from trainer_core.config.simpletuner.backends import holds_no_images
from trainer_core.config.simpletuner.reading import option_name, text_of

_LIST: Final = "/data_backends"


def pointers_to(backends: Sequence[Backend], written: Sequence[JsonValue]) -> dict[str, str]:
    """Id → JSON Pointer of each backend of a plan.

    ``written``: the list of data backends that the plan was made of.
    """
    at = {
        text_of(value): f"{_LIST}/{position}"
        for position, item in enumerate(written)
        if isinstance(item, dict) and not holds_no_images(item)
        for key, value in item.items()
        if option_name(key) == "id"
    }
    return {backend.id: at[backend.id] for backend in backends}


def repointed(problems: Sequence[Problem], pointers: Mapping[str, str]) -> list[Problem]:
    """Problems of a plan's data, with pointers to the backends as they were written.

    ``pointers``: of all backends of the plan, in its order.
    """
    at = tuple(pointers.values())
    found = []
    for problem in problems:
        pointer = problem.pointer
        if pointer.startswith(f"{_LIST}/"):
            position, slash, rest = pointer.removeprefix(f"{_LIST}/").partition("/")
            pointer = f"{at[int(position)]}{slash}{rest}"
        found.append(replace(problem, pointer=pointer))
    return found
