"""Hash a folder once, and again only after one of its files has changed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from trainer_core.base_models.compose import compose
from trainer_core.base_models.describe import (
    DESCRIPTION_NAME,
    BaseModel,
    content_of,
    hash_files,
    read_base_model,
    stamps_of,
    write_description,
)
from trainer_core.base_models.unchanged import check_not_damaged
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import BaseModelError
from trainer_core.progress import Reporter
from trainer_core.whole_file import replace_text


def describe_folder(folder: Path, home: Path, reporter: Reporter) -> BaseModel:
    """The base model in a local folder, with the SHA-256 of its files.

    The hashes are stored in ``reverie-base.json`` in the folder, or under ``home`` if the folder is
    read-only. They are computed again if the name, size, mtime or ctime of any file has changed.
    Raises BaseModelError where weights have other bytes and the same size.
    """
    elsewhere = home / "bases" / f"hashed-{_path_digest(folder)}"
    for described in (folder, elsewhere):
        if _is_fresh(described / DESCRIPTION_NAME, folder):
            return read_base_model(described)
    stamps = stamps_of(folder)
    files = _hashed(folder, reporter)
    for described in (folder, elsewhere):
        record = described / DESCRIPTION_NAME
        check_not_damaged(folder, _files_in(record), files, record)
    try:
        name = read_base_model(folder).name
    except BaseModelError:
        name = folder.resolve().name
    try:
        return write_description(folder, name, files, stamps=stamps)
    except OSError:  # the folder is read-only
        parts = {p.name: p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."}
        compose(elsewhere, name, parts, files, digest_of(files))
        return write_description(elsewhere, name, files, stamps=stamps)


def digest_folder(folder: Path, home: Path, reporter: Reporter) -> str:
    """Digest of the files of a folder that is not a complete base model; stored under ``home``.

    Raises BaseModelError as ``describe_folder`` does.
    """
    note = home / "hashes" / f"{_path_digest(folder)}.json"
    if not _is_fresh(note, folder):
        stamps = stamps_of(folder)
        files = _hashed(folder, reporter)
        check_not_damaged(folder, _files_in(note), files, note)
        note.parent.mkdir(parents=True, exist_ok=True)
        body = {"folder": str(folder), "files": files, "stamps": stamps}
        replace_text(note, json.dumps(body))
    return digest_of(json.loads(note.read_bytes())["files"])


def _path_digest(folder: Path) -> str:
    return digest_of(str(folder.resolve()))[:16]


def _hashed(folder: Path, reporter: Reporter) -> dict[str, JsonValue]:
    total = sum(path.stat().st_size for path in content_of(folder))
    reporter.log(f"hashing the files of {folder} (once)")
    done = 0

    def on_file(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        reporter.progress("hashing", done, total)
        reporter.check_control()

    return hash_files(folder, on_file)


def _files_in(record: Path) -> Mapping[str, Any]:
    """The files that were hashed; none where there is no such record."""
    try:
        files = json.loads(record.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _is_fresh(description: Path, folder: Path) -> bool:
    """Whether the files are unchanged since the description was written."""
    try:
        stamps: Mapping[str, Any] = json.loads(description.read_bytes())["stamps"]
        return stamps == stamps_of(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
