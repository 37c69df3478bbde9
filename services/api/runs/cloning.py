"""A stored request with changes, as a new request."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from services.api.problems import shape_problem
from services.api.runs.shapes import Difference, Differences, RunCheck
from services.domain.errors import InvalidRequestError
from services.domain.merge_patch import differences, merged
from trainer_core.config.simpletuner.reading import option_name

T = TypeVar("T", bound=RunCheck)


def changed_request(request: Mapping[str, Any], changes: Mapping[str, Any], kind: type[T]) -> T:
    """The request with the changes (JSON Merge Patch).

    Raises InvalidRequestError where that is no request; pointers are into the changed one.

    Args:
        request: as stored.
        changes: its members are those of a request.
        kind: the shape that it has to have.
    """
    changes = dict(changes)
    if isinstance(config := changes.get("config"), Mapping):
        changes["config"] = _as_written(request.get("config", {}), config)
    return parsed_request(merged(request, changes), kind)


def parsed_request(body: Any, kind: type[T]) -> T:
    """Raises InvalidRequestError with everything that is wrong with the body's shape."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problems = [
            shape_problem({**each, "loc": ("body", *each["loc"])}) for each in error.errors()
        ]
        raise InvalidRequestError(problems) from None


def _as_written(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes under the names that the configuration has: with or without dashes."""
    written = {option_name(name): name for name in config}
    return {written.get(option_name(name), name): value for name, value in changes.items()}


def differences_of(
    requests: tuple[Mapping[str, Any], Mapping[str, Any]],
    plans: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Differences:
    """What differs between two runs: (before, after) of their requests and of their plans."""
    return Differences(request=_shown(*requests), plan=_shown(*plans))


def _shown(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(option=each.option, before=each.before, after=each.after)
        for each in differences(before, after)
    ]
