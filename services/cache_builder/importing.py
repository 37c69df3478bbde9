"""Imports of datasets: rows of a source are fetched, checked and stored, some of them a ring.

What strangers made is downloaded and decoded by a process of its own, which has the network and no
credential. This one stores its files under the names of their contents, as uploads are, and moves
the position in the database behind them.
"""

import hashlib
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import structlog

from services.cache_builder.fetched_files import opened, read_list
from services.cache_builder.holding import renewed
from services.cache_builder.import_leftovers import delete_leftovers
from services.cache_builder.import_problems import (
    UNEXPECTED,
    failed_here,
    lost,
    problem_of_use,
    should_wait,
    unreachable,
)
from services.cache_builder.verify import RULES
from services.domain.errors import NotFoundError, Problem, QuotaExceededError
from services.domain.file_names import path_fault
from services.domain.quotas import Quotas
from services.objects.errors import ObjectStoreDownError, ObjectStoreRefusedError
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.processes.request_child import ChildLostError, RequestChild, RequestFailedError
from services.store import import_offers, imports
from services.store.database import TRANSIENT_ERRORS, Database
from services.store.datasets import FileFacts, NewFile
from services.store.imports import Import, Portion
from services.workers.scratch import Scratch
from trainer_core.config.simpletuner.remote_sources import list_suffix, remote_source
from trainer_core.data.captions import decode_caption
from trainer_core.data.formats import CAPTION_SUFFIX, IMAGE_SUFFIXES
from trainer_core.errors import Category
from trainer_core.faultpoints import fault_point
from trainer_core.process.import_requests import (
    FetchedFile,
    FetchReply,
    FetchRequest,
    cache_folder,
)
from trainer_core.sources.errors import UnreachableError
from trainer_core.web.public_addresses import Network

log = structlog.get_logger(__name__)

_LATER: Final = timedelta(seconds=30)
_FREE_BYTES: Final = 2 << 30
"""Of scratch disk: a usual file of the Hub, and a portion. A larger one may fill it, and waits."""
_UPLOADS_AT_ONCE: Final = 8
_LONG_SUFFIX: Final = max((*IMAGE_SUFFIXES, CAPTION_SUFFIX), key=len)


@dataclass(frozen=True, kw_only=True, slots=True)
class PortionSize:
    """What one request to the fetching process may take."""

    rows: int = 64
    size_bytes: int = 128 << 20
    seconds: float = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetched:
    """What the fetching process replied, and the folder where its files are."""

    reply: FetchReply
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Importer:
    """Handles ``datasets.import``."""

    database: Database
    objects: ObjectStore
    fetcher: RequestChild
    """Runs ``trainer_core fetch``."""
    scratch: Scratch
    networks: Sequence[Network] = ()
    """That addresses may lead to besides the public internet."""
    quotas: Quotas = field(default_factory=Quotas)
    """Of tenants that have no others."""
    slice_s: float = 30.0
    """A ring imports portions for this long, and at least one."""
    size: PortionSize = field(default_factory=PortionSize)
    free_bytes: int = _FREE_BYTES
    """With less free scratch disk nothing is imported."""
    _at_work: threading.Lock = field(default_factory=threading.Lock)

    def answer_ring(self, tenant_id: str, dataset_id: str) -> None:
        """Import some rows, if the import goes on and nobody else works on it.

        One import at a time: the threads of this process also admit runs. What it declines is due
        again at once, for another builder; and so is an import with rows left, behind others.
        """
        if not self._at_work.acquire(blocking=False):
            self._decline(tenant_id, dataset_id)
            return
        try:
            with self.database.transaction() as conn:
                work = imports.take(conn, tenant_id, dataset_id)
            if work is not None:
                fault_point("import.taken")
                with renewed(self.database, partial(imports.renew, work=work)):
                    self._import_a_slice(work)
        except TRANSIENT_ERRORS as error:
            log.warning("import_postponed", dataset_id=dataset_id, error=type(error).__name__)
        finally:
            self._at_work.release()

    def _decline(self, tenant_id: str, dataset_id: str) -> None:
        offer = import_offers.ImportOffer(tenant_id=tenant_id, dataset_id=dataset_id)
        try:
            with self.database.transaction() as conn:
                import_offers.withdraw(conn, offer)
        except TRANSIENT_ERRORS as error:  # the offer runs out by itself
            log.warning("import_not_declined", error=type(error).__name__)

    def _import_a_slice(self, work: Import) -> None:
        try:
            self._advance(work)
        except TRANSIENT_ERRORS:
            raise
        except (ObjectStoreDownError, ObjectStoreRefusedError, OSError) as error:
            # The store fails, or this machine: it is not the source's fault.
            self._postpone(work, type(error).__name__)
        except QuotaExceededError as error:
            self._reject(work, error.code, str(error))
        except NotFoundError:  # the tenant is being deleted
            self._postpone(work, "tenant_deleted")
        except RequestFailedError as error:
            failure = error.failure
            if failure.code == UnreachableError.code:
                self._count_failure(work, failure.code, unreachable(failure.message))
            elif failure.category is Category.USER:
                self._reject(work, failure.code, f"It cannot be imported: {failure.message}.")
            else:  # such as a file for which the scratch disk is too small
                self._empty_cache()
                self._count_failure(work, failure.code, failed_here(failure.message))
        except ChildLostError as error:
            self._count_failure(work, "fetcher_lost", lost(str(error)))
        except Exception:  # one bad source must end with a reason, not be tried for ever
            log.exception("import_failed_unexpectedly", dataset_id=work.dataset_id)
            self._count_failure(work, "unexpected", UNEXPECTED)

    def _advance(self, work: Import) -> None:
        """Import portions until the slice or the source is over."""
        ends_s = time.monotonic() + self.slice_s
        while self._has_space():
            with self.scratch.work_folder("import") as folder:
                fetched = self._fetch(work, folder)
                reply = fetched.reply
                if should_wait(work, reply):
                    first = next(row for row in reply.left_out if row.may_pass)
                    message = f"most rows cannot be fetched now, such as {first.message}"
                    self._count_failure(work, "rows_unreachable", unreachable(message))
                    return
                advanced = self._store(work, fetched)
            if advanced is None:  # deleted, or another builder is ahead
                return
            work = advanced
            if problem := problem_of_use(work, is_last=reply.is_last):
                self._reject(work, problem.code, problem.message)
                return
            if reply.is_last:
                self._finish(work)
                return
            if time.monotonic() >= ends_s:
                with self.database.transaction() as conn:
                    imports.put_back(conn, work)
                return
        self._postpone(work, "scratch_full")

    def _has_space(self) -> bool:
        """Whether a portion has room; what is kept for later requests makes way for it."""
        if not self.scratch.has_space(self.free_bytes):
            self._empty_cache()
        return self.scratch.has_space(self.free_bytes)

    @property
    def _cache(self) -> Path:
        return self.scratch.folder / "import-cache"

    def _empty_cache(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)

    def _fetch(self, work: Import, folder: Path) -> _Fetched:
        """The next rows; a row that ends the process is left out."""
        request = self._request(work, folder)
        try:
            fetched = self._ask(request)
        except ChildLostError:
            one = request.model_copy(update={"max_rows": 1, "folder": _new(folder, "one")})
            try:
                fetched = self._ask(one)
            except ChildLostError:
                none = one.model_copy(
                    update={"leaves_out_first": True, "folder": _new(folder, "none")}
                )
                # Raises ChildLostError where the process cannot start at all.
                fetched = self._ask(none)
        if fetched.reply.list_name is not None:
            # Not as text: the ends of lines in captions are part of the list's revision.
            body = read_list(fetched.folder, fetched.reply.list_name)
            content = body.decode("utf-8-sig", errors="replace")
            with self.database.transaction() as conn:
                imports.keep_list(conn, work, content.replace("\0", ""))
        return fetched

    def _ask(self, request: FetchRequest) -> _Fetched:
        reply = self.fetcher.request(request, FetchReply)
        return _Fetched(reply=reply, folder=Path(request.folder))

    def _request(self, work: Import, folder: Path) -> FetchRequest:
        with self.database.transaction() as conn:
            content = imports.read_list(conn, work)
        list_file: Path | None = None
        if content is not None:
            source = remote_source(work.source, with_list=True).source
            suffix = ".csv" if source is None else list_suffix(source)
            list_file = folder / f"list{suffix}"
            list_file.write_text(content, encoding="utf-8", newline="")
        return FetchRequest.model_validate(
            {
                "source": work.source,
                "list_file": None if list_file is None else str(list_file),
                "position": work.position,
                "cache": _new(self.scratch.folder, self._cache.name),
                "folder": _new(folder, "files"),
                "allowed": [str(each) for each in self.networks],
                "max_rows": self.size.rows,
                "max_bytes": self.size.size_bytes,
                "max_s": self.size.seconds,
            }
        )

    def _store(self, work: Import, fetched: _Fetched) -> Import | None:
        """Store the files, and go on behind their rows; None where the import is over."""
        portion = _portion(fetched)
        with self.database.transaction() as conn:
            if not imports.declare(conn, work, portion, self.quotas):
                return None
        fault_point("import.declared")
        contents = {file.sha256: file for file in fetched.reply.files}
        store = partial(self._store_file, work.tenant_id, fetched.folder)
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
            list(pool.map(store, contents.values()))
        fault_point("import.stored")
        with self.database.transaction() as conn:
            return imports.advance(conn, work, portion, rules=RULES)

    def _store_file(self, tenant_id: str, folder: Path, file: FetchedFile) -> None:
        key = upload_key(tenant_id, file.sha256)
        if self.objects.size(key) != file.size_bytes:
            with opened(folder, file) as path:
                self.objects.put_file(key, path)

    def _finish(self, work: Import) -> None:
        delete_leftovers(self.database, self.objects, work)
        with self.database.transaction() as conn:
            is_over = imports.finish(conn, work)
        self._forget_source(work)
        if is_over:
            log.info(
                "dataset_imported",
                dataset_id=work.dataset_id,
                pictures=work.pictures,
                left_out=work.left_out,
                fetched_bytes=work.fetched_bytes,
            )

    def _reject(self, work: Import, code: str, message: str) -> None:
        log.warning("import_rejected", dataset_id=work.dataset_id, code=code)
        with self.database.transaction() as conn:
            imports.reject(conn, work, Problem(pointer="", code=code, message=message))
        self._forget_source(work)

    def _forget_source(self, work: Import) -> None:
        shutil.rmtree(cache_folder(self._cache, work.source), ignore_errors=True)

    def _postpone(self, work: Import, reason: str) -> None:
        log.warning("import_postponed", dataset_id=work.dataset_id, reason=reason)
        with self.database.transaction() as conn:
            imports.postpone(conn, work, after=_LATER)

    def _count_failure(self, work: Import, code: str, message: str) -> None:
        log.warning("import_failed", dataset_id=work.dataset_id, code=code)
        problem = Problem(pointer="", code=code, message=message)
        with self.database.transaction() as conn:
            imports.count_failure(conn, work, problem)


def _portion(fetched: _Fetched) -> Portion:
    reply = fetched.reply
    files, facts = [], []
    for file in reply.files:
        path = _safe(file.path)
        files.append(
            NewFile(path=path, media=file.media, size_bytes=file.size_bytes, sha256=file.sha256)
        )
        text = None
        if file.media == "caption":
            with opened(fetched.folder, file) as local:
                text = decode_caption(local.read_bytes(), name=path)
        facts.append(
            FileFacts(
                path=path,
                width_px=file.width_px,
                height_px=file.height_px,
                lit=file.lit,
                text=text,
            )
        )
    return Portion(
        files=files,
        facts=facts,
        left_out=[{"row": row.row, "message": row.message} for row in reply.left_out],
        position=reply.position.model_dump(mode="json"),
        rows_done=reply.rows_done,
        rows_total=reply.rows_total,
    )


def _safe(path: str) -> str:
    """The path of a file in the dataset: another one where datasets do not take this one.

    The picture and the captions of a row get the same name.
    """
    pure = PurePosixPath(path)
    key = path.removesuffix(pure.suffix)
    if path_fault(f"{key}{_LONG_SUFFIX}") is None:
        return path
    return f"{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}{pure.suffix}"


def _new(folder: Path, name: str) -> str:
    (folder / name).mkdir(exist_ok=True)
    return str(folder / name)
