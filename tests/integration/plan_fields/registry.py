"""A check for each field of the plan: what can be observed of its value.

A field is written as ``identity.clip.limit``; ``backends[].crop`` stands for each item of a list,
``betas[0]`` for one place of a pair, ``adapter(lokr).factor`` for one kind of a choice.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from tests.integration.plan_fields.world import Files, World
from trainer_core.config.plan import Plan

Check = Callable[[Plan, World], None]
Reset = Callable[[dict[str, Any]], None]

EXEMPT: Final[Mapping[str, str]] = {
    "version": "says how the document is read; there is one",
    "identity.backends[].crop_style": "has one value",
}


@dataclass(frozen=True, kw_only=True)
class ObservedField:
    """One field, and a check that only its value passes."""

    field: str
    files: Files
    reset: Any
    """Another valid value, or a function that changes the dumped plan."""
    at: int | None
    """Which item of the list is reset; None: all."""
    refuses: tuple[type[Exception], ...]
    """What may be raised instead of FieldIgnored once the field is reset."""
    check: Check

    def reset_in(self, plan: Plan) -> Plan:
        """The same plan with this one field changed, past the importer."""
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

    def observes(
        self,
        name: str,
        *,
        reset: Any,
        files: Files | None = None,
        at: int | None = None,
        refuses: tuple[type[Exception], ...] = (),
    ) -> Callable[[Check], Check]:
        """Register the decorated check as that of the field ``name``."""

        def enter(check: Check) -> Check:
            assert name not in OBSERVED, f"{name} has two checks"
            OBSERVED[name] = ObservedField(
                field=name,
                files=files or Files(),
                reset=reset,
                at=at,
                refuses=refuses,
                check=check,
            )
            self.names.append(name)
            return check

        return enter


def leaf_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every field of a document that holds a value of its own."""
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
