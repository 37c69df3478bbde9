"""The stored files of a run, named by paths.

``result/…``, ``checkpoints/step-…/…``, and ``samples/step-…/….png`` of pictures that it made while
it trains.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from services.api.runs.downloads import contents_of
from services.domain.samples import SAMPLE_PATH
from services.objects.folders import FileFacts
from services.objects.keys import sample_key
from services.objects.port import ObjectStore
from services.store import run_samples, runs
from services.store.database import Connection
from services.store.run_rows import Run
from services.store.run_samples import Sample
from trainer_core.checkpoint.layout import checkpoint_name

RESULT: Final = "result"
_CHECKPOINTS: Final = "checkpoints/"
SAMPLES: Final = f"{RESULT}/samples/"
PATH: Final = r"^(result|checkpoints/step-[0-9]{8,10})/([A-Za-z0-9_][A-Za-z0-9._/-]*)$"
SAMPLE_CURSOR: Final = rf"^({SAMPLE_PATH}|{SAMPLES}[A-Za-z0-9_][A-Za-z0-9._/-]*)$"
FOLDER: Final = r"^(result|checkpoints/step-[0-9]{8,10})$"
_PATH: Final = re.compile(PATH)
_SAMPLE_PATH: Final = re.compile(SAMPLE_PATH)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFolder:
    """A folder of a run that is closed by a manifest."""

    name: str
    """``result`` or ``checkpoints/step-00000100``."""
    step: int
    key_prefix: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    path: str
    key: str
    facts: FileFacts


def folders_of(conn: Connection, run: Run) -> list[StoredFolder]:
    """The result, where there is one, and the checkpoints, the newest first."""
    found = []
    if run.result_key_prefix is not None and run.result_manifest_sha256 is not None:
        found.append(
            StoredFolder(
                name=RESULT,
                step=run.result_step or run.step,
                key_prefix=run.result_key_prefix,
                manifest_sha256=run.result_manifest_sha256,
            )
        )
    found += [
        StoredFolder(
            name=_CHECKPOINTS + checkpoint_name(row.step),
            step=row.step,
            key_prefix=row.key_prefix,
            manifest_sha256=row.manifest_sha256,
        )
        for row in runs.checkpoints(conn, run.tenant_id, run.run_id)
    ]
    return found


def files_after(
    store: ObjectStore, folders: Sequence[StoredFolder], after: str | None
) -> Iterator[StoredFile]:
    """The files of the folders in order, those after the path ``after``.

    Manifests are read one by one, as the caller asks for files. A folder whose manifest is missing
    or damaged has no files.
    """
    last_folder, last_name = split(after) if after is not None else ("", "")
    for folder in folders:
        if last_folder and _place(folder.name) < _place(last_folder):
            continue
        contents = contents_of(store, folder.key_prefix, folder.manifest_sha256)
        for name, facts in sorted(contents.items()):
            if folder.name != last_folder or name > last_name:
                yield StoredFile(
                    path=f"{folder.name}/{name}", key=folder.key_prefix + name, facts=facts
                )


def find_file(store: ObjectStore, folders: Sequence[StoredFolder], path: str) -> StoredFile | None:
    """The file that the path names; None where there is none."""
    folder_name, name = split(path)
    for folder in folders:
        if folder.name == folder_name:
            contents = contents_of(store, folder.key_prefix, folder.manifest_sha256)
            if name in contents:
                return StoredFile(path=path, key=folder.key_prefix + name, facts=contents[name])
    return None


def find_sample(conn: Connection, run: Run, path: str) -> StoredFile | None:
    """The picture of this path that the run made while it trains; None where there is none."""
    if _SAMPLE_PATH.fullmatch(path) is None:
        return None
    sample = run_samples.find(conn, run.tenant_id, run.run_id, path)
    return None if sample is None else file_of_sample(run, sample)


def file_of_sample(run: Run, sample: Sample) -> StoredFile:
    """The file of a picture that the run made while it trains."""
    return StoredFile(
        path=sample.path,
        key=sample_key(run.tenant_id, run.run_id, sample.fence, sample.sha256),
        facts=FileFacts(size_bytes=sample.size_bytes, sha256=sample.sha256),
    )


def place_of_sample(path: str) -> tuple[int, str] | None:
    """Step and path of a picture as the list of them is ordered; None for one in the result."""
    if path.startswith(SAMPLES):
        return None
    return int(path.split("/")[1].removeprefix("step-")), path


def split(path: str) -> tuple[str, str]:
    """The folder and the name in it; two empty texts where the path cannot be one."""
    found = _PATH.fullmatch(path)
    return ("", "") if found is None else (found[1], found[2])


def _place(folder_name: str) -> tuple[int, int]:
    """Orders the folders of a run: the result, then checkpoints from the newest to the oldest."""
    return (0, 0) if folder_name == RESULT else (1, -int(folder_name.rpartition("-")[2]))
