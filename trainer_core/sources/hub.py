"""Datasets of the Hugging Face Hub: files of one commit, read as data. No code of a dataset runs.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE work as in huggingface_hub.
"""

import csv
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final

from trainer_core.config.simpletuner.source_types import MAX_ROWS, HubSource, PictureSource
from trainer_core.data.captions import MAX_CAPTION_BYTES, decode_caption
from trainer_core.disk import writing
from trainer_core.errors import BadCaptionError
from trainer_core.progress import Reporter
from trainer_core.sources.captions import captions_of_row
from trainer_core.sources.errors import (
    NotPublicError,
    RowError,
    SourceError,
    UnreachableError,
)
from trainer_core.sources.hub_layout import HubFile, SplitFiles
from trainer_core.sources.parquet_rows import open_parquet, rows_of_file
from trainer_core.sources.rows import Row, own_key, refuse, safe_key, suffix_in
from trainer_core.sources.tables import json_lines

_KIND: Final = "dataset"
_CARD: Final = "README.md"
_MAX_CARD_BYTES: Final = 4 << 20
_MAX_METADATA_BYTES: Final = 512 << 20
_MAX_COLUMNS: Final = 1000
_MAX_FILES: Final = 2_000_000
_FILE_NAME: Final = "file_name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One commit of a dataset."""

    name: str
    sha: str
    token: str | None


def newest_commit(dataset: str, revision: str | None, token: str | None) -> Commit:
    """The commit of a revision, by default the newest one; raises SourceError."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes a second, and is not always needed

    with hub_errors(dataset):
        info = HfApi().dataset_info(dataset, revision=revision, token=token)
    if not info.sha:
        raise SourceError(f"{dataset} has no commit")
    return Commit(name=dataset, sha=info.sha, token=token)


def files_of(commit: Commit) -> list[HubFile]:
    """All files of a commit."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - rarely wanted
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415 - rarely wanted

    found: list[HubFile] = []
    with hub_errors(commit.name):
        tree = HfApi().list_repo_tree(
            commit.name, recursive=True, revision=commit.sha, repo_type=_KIND, token=commit.token
        )
        for entry in tree:
            if isinstance(entry, RepoFile):
                oid = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
                found.append(HubFile(path=entry.path, size_bytes=entry.size, oid=oid))
            if len(found) > _MAX_FILES:
                raise SourceError(f"{commit.name} has more than {_MAX_FILES:,} files")
    return found


def card_of(commit: Commit, files: Sequence[HubFile], folder: Path) -> Mapping[str, Any]:
    """The metadata at the head of a dataset's card; empty where there is none that can be read."""
    import yaml  # noqa: PLC0415 - comes with huggingface_hub

    card = next((each for each in files if each.path == _CARD), None)
    if card is None or card.size_bytes > _MAX_CARD_BYTES:
        return {}
    text = obtain(commit, card, folder).read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return {}
    try:
        read = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---"))
    except yaml.YAMLError:
        return {}
    return read if isinstance(read, dict) else {}


def obtain(commit: Commit, file: HubFile, folder: Path, reporter: Reporter | None = None) -> Path:
    """Have a file of a commit on this disk; a download goes on where it stopped.

    Args:
        commit: of the file.
        file: what is wanted.
        folder: where to.
        reporter: can stop a long download.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - rarely wanted
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415 - rarely wanted

    class StoppableBar(tqdm):
        """The Hub's progress bar, which shows nothing and checks for a stop at each chunk."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> Any:
            if reporter is not None:
                reporter.check_control()
            return super().update(n)

    with hub_errors(commit.name), writing(folder):
        return Path(
            hf_hub_download(
                commit.name,
                file.path,
                repo_type=_KIND,
                revision=commit.sha,
                local_dir=folder,
                token=commit.token,
                tqdm_class=StoppableBar,
            )
        )


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Raise the Hub's errors as SourceError, each with a sentence on how to mend it."""
    try:
        from huggingface_hub import constants, errors  # noqa: PLC0415 - rarely wanted
    except ImportError as error:
        raise SourceError(
            "datasets of the Hub need huggingface_hub, which is not installed: pip install "
            "'reverie[sources]'"
        ) from error
    import httpx2  # noqa: PLC0415 - comes with huggingface_hub, which speaks through it

    endpoint = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        raise NotPublicError(
            f"{name} on {endpoint} is gated: accept its terms there, and set HF_TOKEN to a token "
            "of that account"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotPublicError(
            f"{endpoint} has no dataset {name} that you can read: check dataset_name, or set "
            "HF_TOKEN if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{name} has no such revision: check revision") from error
    except errors.HFValidationError as error:
        raise SourceError(f"{name[:100]} is no name of a dataset: owner/name") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise UnreachableError(f"{endpoint} cannot be reached for {name}") from error
    except (errors.HfHubHTTPError, httpx2.HTTPError) as error:
        raise UnreachableError(
            f"{endpoint} does not answer for {name}: try again, or check HF_ENDPOINT"
        ) from error


def picture_rows(
    commit: Commit,
    split: SplitFiles,
    source: PictureSource,
    place: HubSource,
    folder: Path,
    *,
    first: int = 0,
) -> Iterator[Row]:
    """The rows of a repository of single pictures: with a table of captions, or text files.

    Args:
        commit: of the dataset.
        split: its pictures, and where their captions are.
        source: says what is wanted of them.
        place: says where captions are in a table.
        folder: for files that are fetched on the way.
        first: rows before this number are left away.
    """
    tables = _tables(commit, split.metadata, folder) if source.wants_captions else {}
    texts = {str(PurePosixPath(f.path).with_suffix("")): f for f in split.captions}
    taken: set[str] = set()
    for number, file in enumerate(split.files):
        key = own_key(safe_key(file.path), file.path, taken)
        if number < first:
            continue
        row = tables.get(file.path)
        captions: tuple[str, ...] | str | None = None
        token = file.oid
        write = functools.partial(_move, commit, file, folder, max_bytes=source.max_file_bytes)
        if source.wants_captions:
            text = texts.get(str(PurePosixPath(file.path).with_suffix("")))
            if row is not None:
                captions = captions_of_row(row, place.captions)
            elif text is not None:
                try:
                    captions = _text_of(commit, text, folder)
                except (RowError, BadCaptionError) as error:
                    # Without a token, so that no picture of before is taken for it.
                    token, write = "", functools.partial(refuse, str(error))
            else:
                captions = ()
        yield Row(
            key=key,
            token=token,
            suffix=suffix_in(file.path),
            label=file.path,
            captions=captions,
            write=write,
        )


def _text_of(commit: Commit, file: HubFile, folder: Path) -> str:
    """The text of a caption file; raises RowError and BadCaptionError."""
    if file.size_bytes > MAX_CAPTION_BYTES:
        raise RowError(f"{file.path}: {file.size_bytes:,} bytes are too many for captions")
    return decode_caption(obtain(commit, file, folder).read_bytes(), name=file.path)


def _move(commit: Commit, file: HubFile, folder: Path, to: Path, *, max_bytes: int) -> None:
    if file.size_bytes > max_bytes:
        raise RowError(f"{file.size_bytes:,} bytes, more than source_max_file_mb allows")
    shutil.move(obtain(commit, file, folder), to)


def _tables(
    commit: Commit, metadata: Sequence[HubFile], folder: Path
) -> dict[str, Mapping[str, Any]]:
    """Path of a picture → its row in the metadata of its folder, or of a folder above."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in metadata:
        if file.size_bytes > _MAX_METADATA_BYTES:
            raise SourceError(f"{file.path} has {file.size_bytes:,} bytes, more than are read")
        here = PurePosixPath(file.path).parent
        for row in _read_table(obtain(commit, file, folder), file.path):
            name = row.get(_FILE_NAME)
            if isinstance(name, str):
                found[(here / name).as_posix()] = row
    return found


def _read_table(file: Path, name: str) -> list[Mapping[str, Any]]:
    readers: dict[str, Callable[[Path], list[Any]]] = {
        ".csv": _csv_rows,
        ".jsonl": json_lines,
        ".parquet": _parquet_rows,
    }
    try:
        rows = readers[PurePosixPath(name).suffix.lower()](file)
    except (ValueError, RecursionError, csv.Error) as error:
        raise SourceError(f"{name} cannot be read: {error}") from error
    if len(rows) > MAX_ROWS:
        raise SourceError(
            f"{name} has more than {MAX_ROWS:,} rows: give each folder of pictures its own table"
        )
    return [row for row in rows if isinstance(row, dict)]


def _parquet_rows(path: Path) -> list[Any]:
    """One row more than a table may have, or all; raises SourceError."""
    return list(islice(rows_of_file(open_parquet(path), None), MAX_ROWS + 1))


def _csv_rows(path: Path) -> list[Any]:
    """The same, without empty values, so that many columns and short rows fit into memory."""
    with path.open(encoding="utf-8-sig", newline="") as opened:
        rows = csv.DictReader(opened)
        if len(rows.fieldnames or ()) > _MAX_COLUMNS:
            raise csv.Error(f"it has more than {_MAX_COLUMNS:,} columns")
        return [
            {column: value for column, value in row.items() if column is not None and value}
            for row in islice(rows, MAX_ROWS + 1)
        ]
