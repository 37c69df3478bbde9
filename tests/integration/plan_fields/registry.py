"""The check of each field of the plan.

A field is written as ``identity.clip.limit``. ``backends[].crop`` is a field of each item of a
list, ``betas[0]`` one place of a pair, ``adapter(lokr).factor`` a field of one kind of adapter.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from tests.integration.plan_fields.environment import Environment
from tests.integration.plan_fields.files import Files
from trainer_core.config.plan import Plan

Check = Callable[[Plan, Environment], None]

EXEMPT: Final[Mapping[str, str]] = {
    "version": "names the format of the document; only one exists",
}


@dataclass(frozen=True, kw_only=True)
class ObservedField:
    """One field, and a check that passes only with the value from ``files``."""

    field: str
    files: Files
    """Where the plan of the first run comes from."""
    reset: Any
    """Another valid value, or a function that changes the dumped plan."""
    at: int | None
    """The item of the list that is reset; None: all items."""
    refuses: tuple[type[Exception], ...]
    """Errors that count like FieldIgnored after the reset."""
    check: Check

    def reset_in(self, plan: Plan) -> Plan:
        """The plan with only this field changed. The importer does not see the change."""
        body = plan.model_dump(mode="json")
        if callable(self.reset):
            self.reset(body)
        else:
            _put(body, self.field.split("."), self.reset, self.at)
        return Plan.model_validate(body)


OBSERVED: Final[dict[str, ObservedField]] = {}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Registers the checks of one module of this folder."""

    names: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        check: Check,
        *,
        reset: Any,
        files: Files | None = None,
        at: int | None = None,
        refuses: tuple[type[Exception], ...] = (),
    ) -> None:
        """Register the check of the field ``name``; arguments as in ``ObservedField``."""
        assert name not in OBSERVED, f"{name} has two checks"
        OBSERVED[name] = ObservedField(
            field=name, files=files or Files(), reset=reset, at=at, refuses=refuses, check=check
        )
        self.names.append(name)

    def observes(self, name: str, *, reset: Any, **others: Any) -> Callable[[Check], Check]:
        """Register the decorated check; arguments as in ``add``."""

        def register(check: Check) -> Check:
            self.add(name, check, reset=reset, **others)
            return check

        return register


def leaf_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The name of every field of a document, without those that only group other fields."""
    for name, info in model.model_fields.items():
        yield from _leaves(info.annotation, prefix + name)


def _leaves(annotation: Any, path: str) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _leaves(inner[0], path)
    elif origin is tuple and inner[1:] == (...,):
        yield from _leaves(inner[0], f"{path}[]")
    elif origin is tuple:
        for place, each in enumerate(inner):
            yield from _leaves(each, f"{path}[{place}]")
    elif origin in (Union, types.UnionType):
        models = [each for each in inner if _is_model(each)]
        for each in models:
            kind = f"({each.model_fields['kind'].default})" if len(models) > 1 else ""
            yield from leaf_fields(each, f"{path}{kind}.")
        if not models:
            yield path
    elif _is_model(annotation):
        yield from leaf_fields(annotation, f"{path}.")
    else:
        yield path


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _put(body: Any, parts: list[str], value: Any, at: int | None) -> None:
    """Change one field of a dumped document, in one item or in all items of a list."""
    head, *rest = parts
    name, _, place = head.partition("(")[0].partition("[")
    if not rest and place[:-1].isdecimal():
        body[name][int(place[:-1])] = value
    elif not rest:
        body[name] = value
    elif not place:
        _put(body[name], rest, value, at)
    else:
        for item in body[name] if at is None else [body[name][at]]:
            _put(item, rest, value, at)
