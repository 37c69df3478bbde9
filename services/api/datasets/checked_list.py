"""Checks the list of files of a new dataset: up to 100,000, of which memory holds a few."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from pydantic import ValidationError

from services.api.datasets.files import FileRules
from services.api.datasets.shapes import MAX_FILES, DatasetRequest, FileDeclaration
from services.api.json_body import no_body, unstorable
from services.api.json_items import ItemCount, read_items
from services.api.long_lists import CheckedList
from services.api.problem_list import ProblemList
from services.api.problems import shape_problem
from services.domain.errors import Problem
from services.store.datasets import NewFile

_KEY: Final = "files"
_ANY_FILE: Final = {"path": "", "size_bytes": 0, "sha256": ""}
_FILES_A_LINE: Final = 1000


def check_list(body: BinaryIO, rows: BinaryIO) -> CheckedList:
    """Read and check a DatasetRequest, and write its files to ``rows`` for ``files_of``.

    Raises InvalidJsonError, and InvalidRequestError with what is wrong.
    """
    if not body.read(1):
        raise no_body()
    body.seek(0)
    check = _Check(rows)
    outer = read_items(body, _KEY, check.add)
    return CheckedList(name=check.end(outer), size_bytes=check.size_bytes)


def files_of(rows: BinaryIO) -> Iterator[NewFile]:
    """The files that ``check_list`` wrote, in the order of the request."""
    rows.seek(0)
    for line in rows:
        for path, media, size_bytes, sha256 in json.loads(line):
            yield NewFile(path=path, media=media, size_bytes=size_bytes, sha256=sha256)


class _Check:
    """What is known of the files so far."""

    def __init__(self, rows: BinaryIO) -> None:
        self.size_bytes = 0
        self._rules = FileRules()
        self._unstorable = ProblemList()
        self._misshapen = ProblemList()
        self._refused = ProblemList()
        self._line: list[tuple[str, str, int, str]] = []
        self._rows = rows

    def add(self, position: int, item: Any) -> None:
        """Check one file."""
        self._unstorable.add(unstorable(item, (_KEY, str(position)), 3))
        if position >= MAX_FILES or self._unstorable.total:
            return  # the request is refused anyway
        try:
            file = FileDeclaration.model_validate(item)
        except ValidationError as error:
            self._misshapen.add(_shape_problems(error, (_KEY, position)))
            return
        row = self._rules.check(file, f"/{_KEY}/{position}")
        if not isinstance(row, NewFile):
            self._refused.add(row)
            return
        self.size_bytes += row.size_bytes
        self._line.append((row.path, row.media, row.size_bytes, row.sha256))
        if len(self._line) == _FILES_A_LINE:
            self._write_line()

    def end(self, outer: Any) -> str:
        """Check what is around the files; returns the name. Raises InvalidRequestError."""
        is_list = isinstance(outer, dict) and isinstance(outer.get(_KEY), ItemCount)
        self._unstorable.add(unstorable({**outer, _KEY: []} if is_list else outer, (), 1))
        self._unstorable.refuse()
        if is_list:  # the files themselves were checked one by one
            outer = {**outer, _KEY: [_ANY_FILE] * outer[_KEY].number}
        name = ""
        try:
            name = DatasetRequest.model_validate(outer).name
        except ValidationError as error:
            self._misshapen.add(_shape_problems(error, ()))
        self._misshapen.refuse()
        self._refused.add(self._rules.about_folders())
        self._refused.refuse()
        self._write_line()
        return name

    def _write_line(self) -> None:
        self._rows.write(json.dumps(self._line).encode() + b"\n")
        self._line.clear()


def _shape_problems(error: ValidationError, at: tuple[str | int, ...]) -> Iterator[Problem]:
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        yield shape_problem({**found, "loc": ("body", *at, *found["loc"])})
