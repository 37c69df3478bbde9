"""Problems of one request, counted without an end and kept up to a number."""

from collections.abc import Iterable
from typing import Final

from services.domain.errors import InvalidRequestError, Problem

MAX_PROBLEMS: Final = 1000
"""Most problems in one answer."""


class ProblemList:
    """Collects problems; memory and answer stay small however many there are."""

    def __init__(self) -> None:
        self.total = 0
        self._first: list[Problem] = []

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.total += 1
            if len(self._first) < MAX_PROBLEMS:
                self._first.append(problem)

    def refuse(self) -> None:
        """Raise InvalidRequestError where there are problems."""
        if self.total:
            raise InvalidRequestError(self._first, total=self.total)
