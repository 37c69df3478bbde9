"""Checks the lists of a new dataset: up to 100,000 files each, of which memory holds a few."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from pydantic import TypeAdapter, ValidationError

from services.api.datasets.files import FileRules
from services.api.datasets.shapes import (
    MAX_FILES,
    DatasetRequest,
    FileDeclaration,
    RemovedPath,
    SourcedDatasetRequest,
    WholeDatasetRequest,
)
from services.api.datasets.sources import about_source
from services.api.json_body import no_body, unstorable
from services.api.json_items import ItemCount, read_items
from services.api.long_lists import CheckedList
from services.api.problem_list import ProblemList
from services.api.problems import shape_problem
from services.domain.errors import Problem
from services.store.datasets import NewFile

_FILES: Final = "files"
_REMOVED: Final = "removed"
_ANY_ITEM: Final[dict[str, Any]] = {
    _FILES: {"path": "", "size_bytes": 0, "sha256": ""},
    _REMOVED: "",
}
_ITEMS_A_LINE: Final = 1000
_REMOVED_PATH: Final = TypeAdapter(RemovedPath)


def check_list(body: BinaryIO, rows: BinaryIO) -> CheckedList:
    """Read and check a DatasetRequest; write its lists to ``rows`` for the functions below.

    Raises InvalidJsonError, and InvalidRequestError with what is wrong.
    """
    if not body.read(1):
        raise no_body()
    body.seek(0)
    check = _Check(rows)
    outer = read_items(body, {_FILES: check.add_file, _REMOVED: check.add_removed})
    request = check.end(outer)
    return CheckedList(
        name=request.name,
        size_bytes=check.size_bytes,
        based_on=request.based_on,
        source=request.source,
        csv=request.csv,
    )


def files_of(rows: BinaryIO) -> Iterator[NewFile]:
    """The files that ``check_list`` wrote, in the order of the request."""
    for path, media, size_bytes, sha256 in _items(rows, _FILES):
        yield NewFile(path=path, media=media, size_bytes=size_bytes, sha256=sha256)


def removed_of(rows: BinaryIO) -> list[str]:
    """The removed paths that ``check_list`` wrote, in the order of the request."""
    return list(_items(rows, _REMOVED))


def _items(rows: BinaryIO, key: str) -> Iterator[Any]:
    rows.seek(0)
    for line in rows:
        yield from json.loads(line).get(key, ())


class _Check:
    """What is known of the lists so far."""

    def __init__(self, rows: BinaryIO) -> None:
        self.size_bytes = 0
        self._rules = FileRules()
        self._unstorable = ProblemList()
        self._misshapen = ProblemList()
        self._refused = ProblemList()
        self._lines: dict[str, list[Any]] = {_FILES: [], _REMOVED: []}
        self._rows = rows

    def add_file(self, position: int, item: Any) -> None:
        """Check one file."""
        if not self._is_looked_at(_FILES, position, item):
            return
        try:
            file = FileDeclaration.model_validate(item)
        except ValidationError as error:
            self._misshapen.add(_shape_problems(error, (_FILES, position)))
            return
        row = self._rules.check(file, f"/{_FILES}/{position}")
        if not isinstance(row, NewFile):
            self._refused.add(row)
            return
        self.size_bytes += row.size_bytes
        self._write(_FILES, (row.path, row.media, row.size_bytes, row.sha256))

    def add_removed(self, position: int, item: Any) -> None:
        """Check one path that is not taken over."""
        if not self._is_looked_at(_REMOVED, position, item):
            return
        try:
            path = _REMOVED_PATH.validate_python(item, strict=True)
        except ValidationError as error:
            self._misshapen.add(_shape_problems(error, (_REMOVED, position)))
            return
        self._refused.add(self._rules.about_removed(path, position))
        self._write(_REMOVED, path)

    def end(self, outer: Any) -> DatasetRequest:
        """Check what is around the lists. Raises InvalidRequestError."""
        lists = _lists_in(outer)
        self._unstorable.add(unstorable({**outer, **lists} if lists else outer, (), 1))
        self._unstorable.refuse()
        # Their items were checked one by one.
        lists = {key: [_ANY_ITEM[key]] * outer[key].number for key in lists}
        request = DatasetRequest()
        try:
            request = _shape_of(outer).model_validate({**outer, **lists} if lists else outer)
        except ValidationError as error:
            self._misshapen.add(_shape_problems(error, ()))
        self._misshapen.refuse()
        self._refused.add(_about_removed_from_nothing(request))
        self._refused.add(about_source(request))
        self._refused.add(self._rules.about_folders())
        self._refused.add(self._rules.about_removed_and_listed())
        self._refused.refuse()
        for key in self._lines:
            self._write_line(key)
        return request

    def _is_looked_at(self, key: str, position: int, item: Any) -> bool:
        """Whether the item is worth a look: not where the request is refused anyway."""
        self._unstorable.add(unstorable(item, (key, str(position)), 3))
        return position < MAX_FILES and not self._unstorable.total

    def _write(self, key: str, item: Any) -> None:
        self._lines[key].append(item)
        if len(self._lines[key]) == _ITEMS_A_LINE:
            self._write_line(key)

    def _write_line(self, key: str) -> None:
        self._rows.write(json.dumps({key: self._lines[key]}).encode() + b"\n")
        self._lines[key].clear()


def _lists_in(outer: Any) -> dict[str, list[Any]]:
    """An empty list for each list that was passed on item by item."""
    if not isinstance(outer, dict):
        return {}
    return {key: [] for key in _ANY_ITEM if isinstance(outer.get(key), ItemCount)}


def _shape_of(outer: Any) -> type[DatasetRequest]:
    if not isinstance(outer, dict):
        return WholeDatasetRequest
    if outer.get("source") is not None:
        return SourcedDatasetRequest
    return WholeDatasetRequest if outer.get("based_on") is None else DatasetRequest


def _about_removed_from_nothing(request: DatasetRequest) -> Iterator[Problem]:
    if request.removed and request.based_on is None:
        message = "Without based_on there is no dataset to leave files out of."
        yield Problem(pointer=f"/{_REMOVED}", code="refused", message=message)


def _shape_problems(error: ValidationError, at: tuple[str | int, ...]) -> Iterator[Problem]:
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        yield shape_problem({**found, "loc": ("body", *at, *found["loc"])})
