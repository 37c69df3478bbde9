"""What a new dataset that is based on another one would be: the checks that need the other one."""

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, Final

from services.api.datasets.checked_list import files_of, removed_of
from services.api.datasets.lookup import find_dataset
from services.api.datasets.shapes import MAX_FILES
from services.api.problem_list import ProblemList
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.domain.file_names import key_of, shown
from services.store import dataset_versions
from services.store.database import Connection
from services.store.datasets import Dataset

_AT: Final = "/based_on"


def find_base(conn: Connection, tenant_id: str, dataset_id: str) -> Dataset:
    """The dataset that others can be based on; raises InvalidRequestError where it is none."""
    try:
        dataset = find_dataset(conn, tenant_id, dataset_id)
    except NotFoundError:
        message = f"There is no dataset {dataset_id[:64]}."
        problem = Problem(pointer=_AT, code="not_found", message=message)
        raise InvalidRequestError([problem]) from None
    match dataset.status:
        case "uploading":
            message = f"{dataset_id} is not completed: its files may be missing. Complete it first."
        case "rejected":
            message = (
                f"{dataset_id} was rejected. Send all files in a new dataset: those that are "
                "uploaded need not be sent again, and those that were good are not verified again."
            )
        case "verifying" | "ready":
            return dataset
        case other:
            raise AssertionError(other)
    problem = Problem(pointer=_AT, code=f"dataset_{dataset.status}", message=message)
    raise InvalidRequestError([problem])


def check_against_base(
    conn: Connection, tenant_id: str, dataset_id: str, rows: BinaryIO
) -> Dataset:
    """The base of a new dataset whose lists are in ``rows``. Raises InvalidRequestError."""
    base = find_base(conn, tenant_id, dataset_id)
    new = _NewFiles(file.path for file in files_of(rows))
    left = {path: position for position, path in enumerate(removed_of(rows))}
    problems, num_kept = ProblemList(), 0
    for path in dataset_versions.paths(conn, tenant_id, dataset_id):
        if left.pop(path, None) is not None:
            continue
        if path not in new.position_of:
            problems.add(new.about(path))
            num_kept += 1
    problems.add(_about_missing(left))
    problems.add(_about_number(num_kept + len(new.position_of)))
    problems.refuse()
    return base


def _about_missing(removed: Mapping[str, int]) -> Iterator[Problem]:
    for path, position in removed.items():
        message = f"The dataset that it is based on lists no {shown(path)}."
        yield Problem(pointer=f"/removed/{position}", code="not_found", message=message)


def _about_number(num_files: int) -> Iterator[Problem]:
    if num_files > MAX_FILES:
        message = f"With those taken over it would have {num_files:,} files; {MAX_FILES:,} are the "
        message += "most."
        yield Problem(pointer="/files", code="bad_value", message=message)
    elif num_files == 0:
        message = "No file would be left."
        yield Problem(pointer="/removed", code="bad_value", message=message)


class _NewFiles:
    """The files of the list, to be compared with those that are taken over."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.position_of = {path: position for position, path in enumerate(paths)}
        self._of_key = {key_of(path): path for path in self.position_of}
        self._of_folder = {
            folder: path for key, path in self._of_key.items() for folder in _folders(key)
        }

    def about(self, path: str) -> Iterator[Problem]:
        """Problems where a file that is taken over would be one with a file of the list."""
        key = key_of(path)
        if twin := self._of_key.get(key):
            yield self._problem(twin, f"is taken over as {shown(path)}")
        if inner := self._of_folder.get(key):
            yield self._problem(inner, f"would be in the folder {shown(path)}, which is a file")
        for folder in _folders(key):
            if file := self._of_key.get(folder):
                yield self._problem(file, f"would be the folder of {shown(path)}")

    def _problem(self, path: str, wrong: str) -> Problem:
        return Problem(
            pointer=f"/files/{self.position_of[path]}/path",
            code="conflict",
            message=f"{shown(path)} {wrong} (case is ignored).",
        )


def _folders(key: bytes) -> Iterator[bytes]:
    """Each folder that a path lies in."""
    end = key.find(b"/")
    while end != -1:
        yield key[:end]
        end = key.find(b"/", end + 1)
