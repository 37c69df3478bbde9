"""The rows of a request for a batch: from its list of runs, or from its sweep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pydantic import ValidationError

from services.api.batches.shapes import BatchRequest, SweepRange, SweepRequest
from services.api.problems import shape_problem
from services.api.runs.shapes import RunRequest
from services.domain.errors import InvalidRequestError, Problem
from services.domain.sweep_rows import Row, at_option, expand
from services.domain.sweeps import Range, Sweep, Values
from services.domain.swept_documents import (
    Path,
    differing,
    find_options,
    pointer_in_sweep,
    shortened,
    with_row,
)

_MAX_BYTES: Final = 16 << 20
"""Of the run requests that a sweep makes. A request that lists its runs is shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRow:
    """One run that is asked for."""

    number: int
    """From 0."""
    request: RunRequest | None
    """None where it has ``problems``."""
    problems: list[Problem]
    options: dict[str, Any]
    """What it has other than the other rows; long values are cut."""
    locate: Callable[[str], str]
    """Makes a pointer into its run request one into the body of the batch."""


def read_rows(body: BatchRequest) -> list[BatchRow]:
    """All rows; raises InvalidRequestError where the request as a whole is wrong."""
    match body:
        case BatchRequest(runs=[*runs], base=None, sweep=None):
            return _listed(runs)
        case BatchRequest(runs=None, base=RunRequest() as base, sweep=SweepRequest() as sweep):
            return _swept(base, sweep, size_bytes=len(body.model_dump_json()))
    message = "Send either runs, or base and sweep."
    raise InvalidRequestError([Problem(pointer="", code="bad_value", message=message)])


def resolved(sweep: SweepRequest) -> dict[str, Any]:
    """The sweep as it is stored and shown: with the seed that was used."""
    stored: dict[str, Any] = {"method": sweep.method, "options": sweep.options}
    if sweep.method == "random":
        stored |= {"num_runs": sweep.num_runs, "seed": sweep.seed or 0}
    return stored


def _listed(runs: list[RunRequest]) -> list[BatchRow]:
    return [
        BatchRow(
            number=number,
            request=request,
            problems=[],
            options=options,
            locate=partial(_at_run, number),
        )
        for number, (request, options) in enumerate(
            zip(runs, differing([run.model_dump(mode="json") for run in runs]), strict=True)
        )
    ]


def _at_run(number: int, pointer: str) -> str:
    return f"/runs/{number}{pointer}"


def _swept(base: RunRequest, sweep: SweepRequest, *, size_bytes: int) -> list[BatchRow]:
    """``size_bytes``: of the whole request, as each of its runs may have."""
    documents = base.model_dump(mode="json")
    paths = find_options(documents, sweep.options)
    rows = expand(_sweep_of(sweep))
    if size_bytes * len(rows) > _MAX_BYTES:
        message = (
            f"The request has {size_bytes:,} bytes and {len(rows)} runs, together more than "
            f"{_MAX_BYTES:,} bytes: send a shorter base, or fewer runs."
        )
        raise InvalidRequestError([Problem(pointer="/base", code="bad_value", message=message)])
    return [_swept_row(number, documents, row, paths) for number, row in enumerate(rows)]


def _swept_row(
    number: int, documents: Mapping[str, Any], row: Row, paths: Mapping[str, Path]
) -> BatchRow:
    request: RunRequest | None = None
    problems: list[Problem] = []
    try:
        request = RunRequest.model_validate(with_row(documents, row, paths))
    except ValidationError as error:
        problems = _shape_problems(error, ())
    return BatchRow(
        number=number,
        request=request,
        problems=problems,
        options={name: shortened(choice.value) for name, choice in row.items()},
        locate=partial(pointer_in_sweep, row=row, paths=paths),
    )


def _sweep_of(request: SweepRequest) -> Sweep:
    options: dict[str, Values] = {}
    problems: list[Problem] = []
    for name, values in request.options.items():
        if isinstance(values, list):
            options[name] = values
            continue
        try:
            given = SweepRange.model_validate(values)
        except ValidationError as error:
            problems += _about_range(name, values, error)
        else:
            options[name] = Range(low=given.min, high=given.max, scale=given.scale)
    if problems:
        raise InvalidRequestError(problems)
    return Sweep(
        method=request.method, options=options, num_runs=request.num_runs, seed=request.seed
    )


def _about_range(name: str, values: Any, error: ValidationError) -> list[Problem]:
    if isinstance(values, dict):
        return _shape_problems(error, ("sweep", "options", name))
    message = "It has to be a list of values, or a range such as {min: 1e-4, max: 1e-2}."
    return [Problem(pointer=at_option(name), code="bad_value", message=message)]


def _shape_problems(error: ValidationError, at: tuple[str, ...]) -> list[Problem]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [shape_problem({**each, "loc": ("body", *at, *each["loc"])}) for each in found]
