"""Plans the rows of a batch, one by one: good ones become runs, others are refused by name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.api.batches.reading import BatchRow
from services.api.errors import DatasetRejectedError, InvalidPlanError
from services.api.problem_list import MAX_PROBLEMS
from services.api.runs.planning import (
    about_named,
    find_datasets,
    find_known,
    plan_request,
    refuse,
)
from services.api.runs.starting import find_starts
from services.api.service import Service
from services.domain.errors import Problem
from services.domain.request_rates import RatePolicy
from services.store import request_rates
from services.store.database import Connection
from services.store.runs import NewRun

_SHOWN_PROBLEMS: Final = 5
_SHOWN_CHARACTERS: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRow:
    """A row that is good, with its run."""

    row: BatchRow
    new: NewRun


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRow:
    """A row with problems; their pointers lead into the body of the batch."""

    row: BatchRow
    problems: list[Problem]
    """The first of them."""
    num_problems: int

    def as_json(self) -> dict[str, Any]:
        """As it is stored and shown."""
        shown = [
            {"pointer": _cut(each.pointer), "code": each.code, "message": _cut(each.message)}
            for each in self.problems[:_SHOWN_PROBLEMS]
        ]
        return {
            "row": self.row.number,
            "options": self.row.options,
            "errors": shown,
            "num_errors": self.num_problems,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedBatch:
    planned: list[PlannedRow]
    """At least one."""
    refused: list[RefusedRow]


def plan_rows(service: Service, tenant_id: str, rows: Sequence[BatchRow]) -> PlannedBatch:
    """Plan every row. No transaction is open during planning.

    Each row counts as a request of its tenant. Raises InvalidPlanError or DatasetRejectedError
    where no row is good.
    """
    requests = [row.request for row in rows if row.request is not None]
    wanted = {each for request in requests for each in request.datasets.values()}
    with service.database.transaction(tenant_id) as conn:
        request_rates.charge(conn, tenant_id, RatePolicy.CREATE, len(rows) - 1)
    starts = find_starts(service, tenant_id, requests)
    with service.database.transaction(tenant_id) as conn:
        known = find_known(conn, tenant_id, wanted, starts)
    planned: list[PlannedRow] = []
    refused: list[RefusedRow] = []
    for row in rows:
        problems: Sequence[Problem] = row.problems
        if row.request is not None:
            try:
                planned.append(PlannedRow(row=row, new=plan_request(service, row.request, known)))
                continue
            except (InvalidPlanError, DatasetRejectedError) as error:
                problems = error.problems
        refused.append(_refused(row, problems, refused))
    return _some_left(planned, refused)


def _refused(
    row: BatchRow, problems: Sequence[Problem], before: Sequence[RefusedRow]
) -> RefusedRow:
    """A row with its first problems: with those of the rows ``before`` as many as are answered."""
    num_kept = sum(len(each.problems) for each in before)
    kept = problems[: max(_SHOWN_PROBLEMS, MAX_PROBLEMS - num_kept)]
    located = [replace(each, pointer=row.locate(each.pointer)) for each in kept]
    return RefusedRow(row=row, problems=located, num_problems=len(problems))


def check_again(conn: Connection, tenant_id: str, batch: PlannedBatch) -> PlannedBatch:
    """The batch without the rows that name what has changed since it was planned.

    Call it in the transaction that inserts the runs, with the tenant locked. Raises as
    ``plan_rows`` does.
    """
    wanted = {each for row in batch.planned for each in row.new.datasets.values()}
    known = find_datasets(conn, tenant_id, wanted)
    planned: list[PlannedRow] = []
    refused = list(batch.refused)
    for each in batch.planned:
        problems = list(about_named(conn, tenant_id, each.new, known))
        if problems:
            refused.append(_refused(each.row, problems, refused))
        else:
            planned.append(each)
    return _some_left(planned, sorted(refused, key=lambda each: each.row.number))


def _some_left(planned: list[PlannedRow], refused: list[RefusedRow]) -> PlannedBatch:
    """Refuse the whole request where no row is left; what is wrong in all of them is told once."""
    if not planned:
        refuse(dict.fromkeys(problem for each in refused for problem in each.problems))
    return PlannedBatch(planned=planned, refused=refused)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
