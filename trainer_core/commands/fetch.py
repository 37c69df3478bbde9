"""`python -m trainer_core fetch`: fetches parts of sources that strangers made.

It runs in a process that may crash, which has the network and no credential of anything. Pictures
are decoded here, too, one at a time.
"""

import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.simpletuner.remote_sources import (
    has_list,
    list_address,
    list_suffix,
    remote_source,
)
from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.process.import_requests import (
    FetchedFile,
    FetchReply,
    FetchRequest,
    LeftOut,
    PositionDocument,
    cache_folder,
)
from trainer_core.process.requests import answer_requests, open_replies
from trainer_core.sources.csv_list import download
from trainer_core.sources.errors import NotPublicError, SourceError, UnreachableError
from trainer_core.sources.numbered import (
    OpenSource,
    Position,
    Reading,
    open_source,
    rows_done,
    steps_from,
)
from trainer_core.sources.portions import Portion, PortionFile, PortionLimits, fetch_portion
from trainer_core.web.fetching import FetchError, FetchLimits
from trainer_core.web.public_addresses import Network

_MAX_LIST_BYTES: Final = 16 << 20
_MAX_FILE_BYTES: Final = 100 << 20
"""The largest picture that a dataset of the service may have."""
_SOURCES_KEPT: Final = 4
_KEPT_BYTES: Final = 16 << 30
"""Of files of all sources together. A file that another builder has read to its end stays here."""
_LOOK_EVERY_S: Final = 60.0
"""A source of single pictures may keep 100,000 captions, which take a second to look at."""
_NOT_PUBLIC: Final = (
    "the Hub has no public dataset of this dataset_name: it is private or gated, or there is none. "
    "Only what is public is imported; `reverie datasets push CONFIG --backend ID` fetches it on "
    "your machine, with your HF_TOKEN"
)


def serve(*, reply_fd: int, memory_bytes: int, hub_endpoint: str | None) -> int:
    """Answer until stdin ends.

    Args:
        reply_fd: an open descriptor for the replies.
        memory_bytes: limit of the address space of the process.
        hub_endpoint: address of the Hub; None: the public one.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # Else a token of the operator's, in a file or the environment, would open private datasets to
    # every tenant.
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # noqa: S105 - a switch
    os.environ.pop("HF_TOKEN", None)
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # it needs more memory than this process may have
    if hub_endpoint is not None:
        os.environ["HF_ENDPOINT"] = hub_endpoint
    with open_replies(reply_fd) as replies:
        answer_requests(sys.stdin.buffer, replies, FetchRequest, Fetcher().fetch)
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A source that an earlier request has opened."""

    key: str
    opened: OpenSource


class Fetcher:
    """Answers requests; the source of the last one stays open."""

    def __init__(self) -> None:
        self._known: _Known | None = None
        self._next_look_s = 0.0

    def fetch(self, request: FetchRequest) -> FetchReply:
        """Fetch the next rows. Raises SourceError, and OSError of this machine."""
        try:
            return self._fetch(request)
        except NotPublicError as error:
            self._known = None
            raise SourceError(_NOT_PUBLIC) from error
        except BaseException:
            self._known = None  # its event to stop downloads may be set
            raise

    def _fetch(self, request: FetchRequest) -> FetchReply:
        source = _source_of(request.source, with_list=request.list_file is not None)
        folder, stopping = Path(request.folder), threading.Event()
        cache = self._cache_for(Path(request.cache), request.source)
        allowed = tuple(ip_network(each) for each in request.allowed)
        list_file = _list_of(request, source, folder, allowed, stopping)
        around = Reading(cache=cache, list_file=list_file, allowed=allowed, stopping=stopping)
        before = None if request.position is None else Position(**request.position.model_dump())
        opened = self._open(request, source, before, around)
        position = before or opened.start
        if position.revision != opened.start.revision:
            raise SourceError("the list has changed since the import began: import it again")
        limits = PortionLimits(
            rows=request.max_rows,
            size_bytes=request.max_bytes,
            seconds=request.max_s,
            file_bytes=min(source.max_file_bytes, _MAX_FILE_BYTES),
        )
        portion = fetch_portion(
            steps_from(opened, source, position, around),
            position,
            folder,
            limits,
            stopping,
            leaves_out_first=request.leaves_out_first,
        )
        is_new = list_file is not None and request.list_file is None
        return _reply(portion, opened, list_file if is_new else None)

    def _cache_for(self, root: Path, backend: Mapping[str, JsonValue]) -> Path:
        """The folder of this source; of others those that were not used for longest go."""
        own = cache_folder(root, backend)
        own.mkdir(parents=True, exist_ok=True)
        os.utime(own)
        if time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + _LOOK_EVERY_S
            _delete_old(root)
            own.mkdir(exist_ok=True)
        return own

    def _open(
        self,
        request: FetchRequest,
        source: PictureSource,
        before: Position | None,
        around: Reading,
    ) -> OpenSource:
        """The source, opened anew unless the last request was for it.

        A dataset of the Hub costs some requests to open. Its downloads under way obey the event of
        the request that opened it, which nobody sets unless that fails.
        """
        revision = None if before is None else before.revision
        if self._known is None or self._known.key != digest_of([request.source, revision]):
            self._known = None
            opened = open_source(source, revision, around)
            if has_list(source):  # each request brings its list
                return opened
            key = digest_of([request.source, opened.start.revision])
            self._known = _Known(key=key, opened=opened)
        return self._known.opened


def _source_of(backend: Mapping[str, JsonValue], *, with_list: bool) -> PictureSource:
    found = remote_source(backend, with_list=with_list)
    if found.source is None:
        raise SourceError("; ".join(f"{each.pointer}: {each.message}" for each in found.problems))
    return found.source


def _list_of(
    request: FetchRequest,
    source: PictureSource,
    folder: Path,
    allowed: Sequence[Network],
    stopping: threading.Event,
) -> Path | None:
    """The list of the source on this machine; None where it has none."""
    if request.list_file is not None:
        return Path(request.list_file)
    if not has_list(source):
        return None
    address, file = list_address(source), folder / f"list{list_suffix(source)}"
    assert address is not None
    try:
        download(
            address,
            file,
            limits=FetchLimits(max_bytes=_MAX_LIST_BYTES),
            allowed=allowed,
            stopping=stopping,
        )
    except FetchError as error:
        kind = UnreachableError if error.retryable else SourceError
        raise kind(f"csv_file: {error.message}") from error
    if b"\0" in file.read_bytes():
        raise SourceError("csv_file: the list has NUL characters: save it as text in UTF-8")
    return file


def _delete_old(root: Path) -> None:
    """Keep the folders that were used last, within the limits."""
    newest = sorted(root.iterdir(), key=lambda each: each.stat().st_mtime_ns, reverse=True)
    left_bytes = _KEPT_BYTES
    for number, folder in enumerate(newest):
        left_bytes -= sum(each.lstat().st_size for each in folder.rglob("*"))
        if number >= _SOURCES_KEPT or left_bytes < 0:
            shutil.rmtree(folder, ignore_errors=True)


def _reply(portion: Portion, opened: OpenSource, new_list: Path | None) -> FetchReply:
    return FetchReply(
        files=tuple(_file(each) for each in portion.files),
        left_out=tuple(
            LeftOut(row=each.label, message=each.message, may_pass=each.may_pass)
            for each in portion.left_out
        ),
        position=PositionDocument(**asdict(portion.position)),
        is_last=portion.is_last,
        rows_done=rows_done(opened, portion.position),
        rows_total=opened.total,
        list_name=None if new_list is None else new_list.name,
    )


def _file(file: PortionFile) -> FetchedFile:
    facts = file.facts
    return FetchedFile(
        path=file.path,
        local_name=file.local.name,
        media=file.media,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        width_px=None if facts is None else facts.width_px,
        height_px=None if facts is None else facts.height_px,
        lit=None if facts is None else facts.lit,
    )
