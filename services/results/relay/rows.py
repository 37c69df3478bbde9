"""A run's events as the rows of its history at Weights & Biases: one row for each step."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from services.store.runs import Event
from trainer_core.process.scalars import scalars_of


class Row(NamedTuple):
    """The numbers of one step."""

    step: int
    at: datetime
    """When the first of them were stored."""
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows that some events of a run complete."""

    rows: list[Row]
    """Their steps rise."""
    seq: int
    """All events up to it are in these rows or earlier ones."""


def rows_of(
    events: Iterable[Event], *, after_seq: int, after_step: int, are_all: bool, limit: int
) -> Rows:
    """The rows of the steps after ``after_step``, from the events after ``after_seq``.

    A step's numbers come with several events, so its row is complete when an event of a later step
    follows. Steps that a later attempt took again are there already, and are left out.

    Args:
        are_all: no more events will follow, so the last row is complete.
        limit: at most so many rows.
    """
    rows: list[Row] = []
    seq = newest_seq = after_seq
    last_step = after_step
    open_row: Row | None = None
    for event in events:
        values = scalars_of(event.type, event.data)
        if values and event.step > (last_step if open_row is None else open_row.step):
            if open_row is not None:
                rows.append(open_row)
                last_step = open_row.step
                seq = event.seq - 1
                if len(rows) == limit:
                    return Rows(rows=rows, seq=seq)
            open_row = Row(event.step, event.created_at, {})
        if open_row is None:
            seq = event.seq
        elif event.step == open_row.step:
            open_row.values.update(values)
        newest_seq = event.seq
    if are_all and open_row is not None:
        rows.append(open_row)
        seq = newest_seq
    return Rows(rows=rows, seq=seq)
