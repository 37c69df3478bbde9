"""What the results process does every minute: it deletes what nobody needs."""

from collections.abc import Callable, Mapping
from typing import Final

from services.results.repeating import IsStopping, attempt

UPKEEP_EVERY_S: Final = 60.0


def keep_up(
    settle: Callable[[], object], works: Mapping[str, Callable[[], object]], is_stopping: IsStopping
) -> None:
    """Do each of the works, also where another one fails.

    Args:
        settle: called first; whatever it raises postpones them all.
        works: by the names that their failures have in the log.
    """
    settle()
    for name, work in works.items():
        if is_stopping():
            return
        attempt(name, work)
