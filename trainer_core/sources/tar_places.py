"""Where tar files and their indexes are: folders, addresses, and datasets of the Hub.

An index is a JSON file with the name of its tar file. webshart keeps in it where each member
begins, which is read from the tar file itself here, and the captions.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from trainer_core.config.simpletuner.source_types import TarSource, is_address, is_dataset
from trainer_core.disk import writing
from trainer_core.paths import find_file, find_folder, is_file, places_of
from trainer_core.progress import Reporter
from trainer_core.sources.errors import SourceError, UnreachableError
from trainer_core.sources.hub import Commit, files_of, newest_commit, obtain
from trainer_core.sources.hub_layout import HubFile
from trainer_core.sources.surroundings import Surroundings
from trainer_core.sources.tar_names import expanded_braces, names_of_addresses, names_of_files
from trainer_core.sources.tars import captions_in_json
from trainer_core.web.fetching import FetchError, retried
from trainer_core.web.resuming import Remote, ask, fetch_on

_TAR: Final = ".tar"
_INDEX: Final = ".json"
_MAX_INDEX_BYTES: Final = 512 << 20
_THREADS: Final = 8
_TRIES: Final = 3
_FIRST_WAIT_S: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class OnTheWay:
    """Where files are kept until they are read, and who hears of their download."""

    folder: Path
    stopping: threading.Event
    """Gives a download up when it is set."""
    reporter: Reporter
    max_bytes: int = 1 << 40
    """Of a file that is downloaded from an address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findable:
    """A file that can be had."""

    name: str
    """With the folders below the place that was named."""
    at: str
    """Its path or address."""
    token: str
    """Names its content."""
    size_bytes: int
    """0: not known."""
    have: Callable[[OnTheWay], Path]
    """Have it on this disk; may be deleted after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundTars:
    """The tar files of a source."""

    tars: tuple[Findable, ...]
    indexes: Mapping[str, Findable]
    """Name of a tar file → its index."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Name of a tar file that is not there → why."""


def find_tars(source: TarSource, around: Surroundings, *, wants_captions: bool) -> FoundTars:
    """Find the tar files of a source, and their indexes where captions are wanted.

    Raises SourceError where there are none, UnreachableError where their place does not answer.
    """
    name, faults = source.source, dict[str, str]()
    beside: Mapping[str, Findable] = {}
    if is_address(name):
        tars, faults = _at_addresses(name, around)
        if wants_captions and source.metadata is None:
            beside = _there({tar.name: _index_address(tar.at) for tar in tars}, around)
    elif (in_folders := _in_folders(name, around.folders)) is not None:
        tars = in_folders
        beside = _beside({tar.name: Path(_index_of(tar.at)) for tar in tars})
    elif is_dataset(name):
        files = _in_dataset(name, source)
        tars = [each for each in files.values() if each.name.endswith(_TAR)]
        beside = _named(files, tars)
    else:
        tried = ", ".join(str(p)[:300] for p in places_of(name, around.folders))
        raise SourceError(
            f"source names {name[:200]}, which is no address, no dataset of the Hub (owner/name), "
            f"and in none of these places: {tried}"
        )
    if not tars and not faults:
        raise SourceError(f"source names {name[:200]}, which has no .tar file")
    if source.metadata is not None:
        beside = _indexes_at(source.metadata, tars, source, around)
    return FoundTars(tars=tuple(tars), indexes=beside if wants_captions else {}, faults=faults)


def _indexes_at(
    where: str, tars: Sequence[Findable], source: TarSource, around: Surroundings
) -> dict[str, Findable]:
    """Name of a tar file → its index in another place, of those that have one there."""
    if is_address(where):
        base = where.rstrip("/")
        return _there({tar.name: f"{base}/{_index_of(tar.name)}" for tar in tars}, around)
    folder = find_folder(where, around.folders)
    if folder is not None:
        return _beside({tar.name: folder / _index_of(tar.name) for tar in tars})
    if is_dataset(where):
        return _named(_in_dataset(where, source), tars)
    tried = ", ".join(str(p)[:300] for p in places_of(where, around.folders))
    raise SourceError(
        f"metadata names {where[:200]}, which is no address, no dataset of the Hub (owner/name), "
        f"and no folder in these places: {tried}"
    )


class NoIndexError(SourceError):
    """A JSON file is no index of a tar file."""


def captions_in_index(body: bytes, name: str) -> dict[str, Any]:
    """Member → its captions, of an index; raises NoIndexError where it is none."""
    try:
        read = json.loads(body)
        files = read["files"]
        listed = (
            [{"path": path, **each} for path, each in files.items()]
            if isinstance(files, dict)
            else list(files)
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoIndexError(
            f"{name} is no index of a tar file: it has to be a JSON object with files"
        ) from error
    found: dict[str, Any] = {}
    for each in listed:
        if not isinstance(each, dict):
            continue
        path = next((each[k] for k in ("path", "fname", "filename") if each.get(k)), None)
        captions = each.get("captions") or each.get("caption")
        captions = captions or captions_in_json(each.get("json_metadata"))
        if isinstance(path, str) and captions:
            found[path.removeprefix("./")] = captions
    return found


def read_index(found: Findable, way: OnTheWay, *, is_named: bool) -> dict[str, Any]:
    """The captions in an index; raises SourceError.

    ``is_named``: that it is one; else a JSON file that is something else has no captions.
    """
    _check_size(found, found.size_bytes)
    # Servers and folders may not have said how large it is.
    file = found.have(replace(way, max_bytes=min(way.max_bytes, _MAX_INDEX_BYTES)))
    try:
        _check_size(found, file.stat().st_size)
        return captions_in_index(file.read_bytes(), found.name)
    except NoIndexError as error:
        if is_named:
            raise
        way.reporter.log(f"{error.message}; nothing is read from it")
        return {}
    finally:
        file.unlink(missing_ok=True)


def _check_size(index: Findable, size_bytes: int) -> None:
    if size_bytes > _MAX_INDEX_BYTES:
        raise SourceError(f"{index.name} has {size_bytes:,} bytes, more than are read")


def _in_folders(name: str, folders: Sequence[Path]) -> list[Findable] | None:
    """The tar files in a folder or of a pattern on this machine; None where it is neither."""
    folder = find_folder(name, folders)
    if folder is not None:
        below = (
            each
            for each in folder.rglob(f"*{_TAR}")
            if not any(part.startswith(".") for part in each.relative_to(folder).parts)
        )
        files = sorted(each for each in below if is_file(each))
        return [_local(each, each.relative_to(folder).as_posix()) for each in files]
    named: list[Path] = []
    for each in expanded_braces(name):
        file = find_file(each, folders)
        if file is None and not named:
            return None
        if file is None:
            raise SourceError(f"source names {each[:200]}, which is not there")
        named.append(file.absolute())
    names = names_of_files([file.as_posix() for file in named])
    return [_local(file, each) for file, each in zip(named, names, strict=True)]


def _local(file: Path, name: str) -> Findable:
    file = file.absolute()
    stat = file.stat()
    return Findable(
        name=name,
        at=str(file),
        token=f"{file}-{stat.st_size}-{stat.st_mtime_ns}",
        size_bytes=0,  # no space is needed for it
        have=partial(_linked, file),
    )


def _linked(file: Path, way: OnTheWay) -> Path:
    link = _place_of(way, str(file), file.suffix)
    with writing(way.folder):
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    return link


def _place_of(way: OnTheWay, token: str, suffix: str) -> Path:
    with writing(way.folder):
        way.folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return way.folder / f"{name}{suffix}"


def _at_addresses(text: str, around: Surroundings) -> tuple[list[Findable], dict[str, str]]:
    """The tar files of a pattern of addresses, and those that are not there."""
    urls = expanded_braces(text)
    names = names_of_addresses(urls)
    found: list[Findable] = []
    faults: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(partial(_asked, around=around), urls)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Remote):
                found.append(_remote(answer, name, around))
            else:
                faults[name] = answer.message
    return found, faults


def _asked(url: str, around: Surroundings) -> Remote | FetchError:
    """What is at an address, or why nothing is; raises UnreachableError where that may pass."""
    once = partial(ask, url, allowed=around.allowed)
    never = threading.Event()
    try:
        return retried(once, tries=_TRIES, first_wait_s=_FIRST_WAIT_S, stopping=never)
    except FetchError as error:
        if not error.retryable:
            return error
        raise UnreachableError(f"{error.message}; give the same command again") from error


def _remote(remote: Remote, name: str, around: Surroundings) -> Findable:
    token = f"{remote.url}-{remote.mark}-{remote.size_bytes}"
    return Findable(
        name=name,
        at=remote.url,
        token=token,
        size_bytes=remote.size_bytes,
        have=partial(_downloaded, remote, token, name, around),
    )


def _downloaded(remote: Remote, token: str, name: str, around: Surroundings, way: OnTheWay) -> Path:
    file = _place_of(way, token, PurePosixPath(name).suffix)
    mib = remote.size_bytes >> 20

    def tell(size_bytes: int) -> None:
        way.reporter.check_control()
        way.reporter.progress(f"{name}, MiB", size_bytes >> 20, max(mib, size_bytes >> 20))

    if is_file(file):
        return file
    try:
        with writing(way.folder):
            fetch_on(
                remote,
                file,
                max_bytes=way.max_bytes,
                allowed=around.allowed,
                stopping=way.stopping,
                tell=tell,
            )
    except FetchError as error:
        kind = UnreachableError if error.retryable else SourceError
        raise kind(error.message) from error
    return file


def _in_dataset(dataset: str, source: TarSource) -> dict[str, Findable]:
    """Path → tar file or index in a dataset of the Hub, in the order of their paths."""
    commit = newest_commit(dataset, None, source.token)
    start = f"{source.subfolder}/" if source.subfolder else ""
    return {
        each.path: Findable(
            name=each.path,
            at=each.path,
            token=each.oid,
            size_bytes=each.size_bytes,
            have=partial(_obtained, commit, each),
        )
        for each in sorted(files_of(commit), key=lambda each: each.path)
        if each.path.startswith(start)
        and each.path.endswith((_TAR, _INDEX))
        and not any(part.startswith(".") for part in each.path.split("/"))
    }


def _obtained(commit: Commit, file: HubFile, way: OnTheWay) -> Path:
    return obtain(commit, file, way.folder, way.reporter)


def _there(urls: Mapping[str, str], around: Surroundings) -> dict[str, Findable]:
    """Name of a tar file → its index, of those at whose addresses is one."""
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(partial(_asked, around=around), urls.values())
        return {
            name: _remote(answer, _index_of(name), around)
            for name, answer in zip(urls, answers, strict=True)
            if isinstance(answer, Remote)
        }


def _beside(files: Mapping[str, Path]) -> dict[str, Findable]:
    """Name of a tar file → its index, of those of these files that are there."""
    return {name: _local(file, file.name) for name, file in files.items() if is_file(file)}


def _named(known: Mapping[str, Findable], tars: Iterable[Findable]) -> dict[str, Findable]:
    """Name of a tar file → its index, of those whose names are known."""
    names = {tar.name: _index_of(tar.name) for tar in tars}
    return {name: known[index] for name, index in names.items() if index in known}


def _index_of(name: str) -> str:
    return f"{name.removesuffix(_TAR)}{_INDEX}"


def _index_address(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(path=_index_of(parts.path)).geturl()
