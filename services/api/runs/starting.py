"""What ``init_lora`` of a request names: the adapter of an earlier run, or an uploaded one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from services.api.runs.downloads import contents_of
from services.api.runs.shapes import RunCheck
from services.api.service import Service
from services.domain.errors import NotFoundError, Problem
from services.domain.ids import is_id
from services.domain.media import Media
from services.domain.starts import (
    HOW_NAMED,
    LARGEST_FILE_BYTES,
    StartName,
    StartObject,
    StoredStart,
    parse_start,
    shown,
)
from services.objects.errors import ObjectMissingError
from services.objects.keys import MANIFEST_NAME, upload_key
from services.objects.starts import find_stored_start
from services.store import checkpoint_retention, datasets, runs
from services.store.database import Connection
from trainer_core.checkpoint.layout import STATE_NAME, is_state_name
from trainer_core.config.plan.problems import ProblemCode
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import Findings, read_options
from trainer_core.config.simpletuner.start import start_name_of
from trainer_core.data.formats import ADAPTER_SUFFIX
from trainer_core.errors import AdapterFileError
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.weights.start_adapter import FoundStart, StartProblem

_NAME_CHARACTERS: Final = 200
_ADAPTERS_SHOWN: Final = 5
_IN_WORDS: Final[Mapping[Media, str]] = {
    "image": "an image",
    "caption": "a caption",
    "adapter": "an adapter",
}
_MAX_STARTS: Final = 20
"""Adapters that one batch may name: the headers of all are in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownStart:
    """What ``init_lora`` names."""

    found: FoundStart | StartProblem
    stored: StoredStart | None
    """None where there is a problem."""


def name_in(request: RunCheck) -> str | None:
    """What the request's ``init_lora`` names; None where the run starts from no adapter."""
    return start_name_of(read_options(request.config, OPTIONS, "/config", Findings(), "http"))


def find_starts(
    service: Service, tenant_id: str, requests: Iterable[RunCheck]
) -> Mapping[str, KnownStart]:
    """What each ``init_lora`` of the requests names. Reads the first bytes of the files.

    The first names are looked up, and of more than ``_MAX_STARTS`` the others are refused.
    """
    written = (name for request in requests if (name := name_in(request)) is not None)
    names = list(dict.fromkeys(written))
    found = {name: _find(service, tenant_id, name) for name in names[:_MAX_STARTS]}
    too_many = f"one batch starts from at most {_MAX_STARTS} adapters: submit several batches"
    return found | {name: _problem("conflict", too_many) for name in names[_MAX_STARTS:]}


def _find(service: Service, tenant_id: str, text: str) -> KnownStart:
    name, called = parse_start(text), text[:_NAME_CHARACTERS]
    if name is None:
        return _problem("bad_value", f"{called} is no run and no dataset: {HOW_NAMED}")
    try:
        if is_id(name.source, "run"):
            stored, is_stored = _of_run(service, tenant_id, name), True
        else:
            stored, is_stored = _of_dataset(service, tenant_id, name)
        if not is_stored:
            found = FoundStart(name=shown(stored), sha256=stored.files[0].sha256, header=None)
        else:
            found = find_stored_start(service.objects, stored)
    except (NotFoundError, ObjectMissingError):
        return _problem("not_found", f"there is no {called}, or its files are gone")
    except AdapterFileError as error:
        return _problem("bad_value", error.message)
    return KnownStart(found=found, stored=stored)


def _problem(code: ProblemCode, message: str) -> KnownStart:
    return KnownStart(found=StartProblem(code=code, message=message), stored=None)


def _of_run(service: Service, tenant_id: str, name: StartName) -> StoredStart:
    """The adapter file of a result, or the two files of a checkpoint."""
    with service.database.transaction(tenant_id) as conn:
        key_prefix, manifest_sha256 = _folder_of(conn, tenant_id, name)
    contents = contents_of(service.objects, key_prefix, manifest_sha256)
    names = (ADAPTER_NAME,) if name.step is None else (STATE_NAME, MANIFEST_NAME)
    if name.step is None and contents and ADAPTER_NAME not in contents:
        raise AdapterFileError(f"{name.source} trained all weights: its result has no adapter")
    if name.step is not None and len([each for each in contents if is_state_name(each)]) > 1:
        raise AdapterFileError(
            f"{name.source} trained all weights: its checkpoints have no adapter"
        )
    if not contents.keys() >= set(names):
        raise NotFoundError("run", name.source)
    files = tuple(
        StartObject(
            name=each,
            key=key_prefix + each,
            sha256=contents[each].sha256,
            size_bytes=contents[each].size_bytes,
        )
        for each in names
    )
    return _limited(StoredStart(source=name.source, step=name.step, files=files))


def _folder_of(conn: Connection, tenant_id: str, name: StartName) -> tuple[str, str]:
    """Key prefix and digest of the manifest of a result, or of a checkpoint."""
    run = runs.get(conn, tenant_id, name.source)
    if name.step is None:
        if run.result_key_prefix is None or run.result_manifest_sha256 is None:
            raise AdapterFileError(
                f"{name.source} is {run.status} and has no result; a checkpoint of it is named by "
                f"{name.source}/checkpoints/step-00000500"
            )
        return run.result_key_prefix, run.result_manifest_sha256
    for checkpoint in runs.checkpoints(conn, tenant_id, name.source):
        if checkpoint.step == name.step:
            return checkpoint.key_prefix, checkpoint.manifest_sha256
    raise NotFoundError("checkpoint", f"{name.source} {name.step}")


def _of_dataset(service: Service, tenant_id: str, name: StartName) -> tuple[StoredStart, bool]:
    """The adapter file of a dataset, and whether it is stored already."""
    with service.database.transaction(tenant_id) as conn:
        dataset = datasets.get(conn, tenant_id, name.source)
        files = datasets.adapters(conn, tenant_id, name.source, _ADAPTERS_SHOWN)
        if name.path is not None:
            named = datasets.find_file(conn, tenant_id, name.source, name.path)
            files = [] if named is None else [named]
    if dataset.status == "rejected":
        first = dataset.errors[0]["message"] if dataset.errors else "see its errors"
        raise AdapterFileError(f"{name.source} was rejected: {first}")
    if not files:
        what = f"no adapter file ({ADAPTER_SUFFIX})"
        if name.path is not None:
            what = f"no {name.path[:_NAME_CHARACTERS]}"
        raise AdapterFileError(f"{name.source} holds {what}")
    if len(files) > 1:
        listed = ", ".join(f"{name.source}/{file.path}" for file in files)
        raise AdapterFileError(f"{name.source} holds several adapter files; name one: {listed}")
    (file,) = files
    if file.media != "adapter":
        raise AdapterFileError(
            f"{name.source}/{file.path[:_NAME_CHARACTERS]} is {_IN_WORDS[file.media]}, no adapter "
            f"({ADAPTER_SUFFIX})"
        )
    key = upload_key(tenant_id, file.sha256)
    only = StartObject(name=ADAPTER_NAME, key=key, sha256=file.sha256, size_bytes=file.size_bytes)
    stored = StoredStart(source=name.source, step=None, files=(only,), path=name.path)
    return _limited(stored), dataset.status != "uploading"


def _limited(start: StoredStart) -> StoredStart:
    size_bytes = sum(file.size_bytes for file in start.files)
    if size_bytes > LARGEST_FILE_BYTES:
        raise AdapterFileError(
            f"{shown(start)} has {size_bytes} bytes, more than {LARGEST_FILE_BYTES}"
        )
    return start


def about_start(conn: Connection, tenant_id: str, start: StoredStart, at: str) -> Iterator[Problem]:
    """A problem where the adapter is gone since the run was planned; ``at``: pointer to its name.

    Call it in the transaction that inserts the run, with the tenant locked: from then on it is not
    deleted.
    """
    try:
        if is_id(start.source, "ds"):
            is_there = datasets.get(conn, tenant_id, start.source).status != "rejected"
        else:
            if start.step is not None:
                checkpoint_retention.keep_checkpoints(conn, tenant_id, start.source)
            prefix, _ = _folder_of(conn, tenant_id, StartName(source=start.source, step=start.step))
            is_there = start.files[0].key.startswith(prefix)
    except (NotFoundError, AdapterFileError):
        is_there = False
    if not is_there:
        message = f"init_lora: {shown(start)} was deleted or replaced a moment ago."
        yield Problem(pointer=at, code="not_found", message=message)
