"""Deleting in portions, so that each transaction is short and the process can end in between."""

from collections.abc import Callable
from typing import Final

from services.results.repeating import IsStopping
from services.store.database import Connection, Database

ROWS_A_PORTION: Final = 2000
_MOST_PORTIONS: Final = 20


def in_portions(delete: Callable[[], int], is_stopping: IsStopping) -> int:
    """Call ``delete`` until it deletes nothing, a limited number of times; returns how many."""
    num_deleted = 0
    for _ in range(_MOST_PORTIONS):
        if is_stopping():
            break
        portion = delete()
        num_deleted += portion
        if portion == 0:
            break
    return num_deleted


def delete_in_portions(
    database: Database, delete: Callable[[Connection], int], is_stopping: IsStopping
) -> int:
    """As ``in_portions``, each in a transaction of its own.

    Raises DatabaseDownError or DatabaseBusyError; what was deleted before stays so.
    """

    def portion() -> int:
        with database.transaction() as conn:
            return delete(conn)

    return in_portions(portion, is_stopping)
