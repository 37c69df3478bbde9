"""Whether the files of a base model are still those that were hashed, or downloaded.

A file is read again only after its size, mtime or ctime has changed: hashing 47 GB takes minutes.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.base_models.describe import (
    DESCRIPTION_NAME,
    BaseModel,
    content_of,
    described_files,
    stamp_of,
)
from trainer_core.base_models.layout import read_config
from trainer_core.config.plan.frozen import digest_of
from trainer_core.digests import sha256_of
from trainer_core.errors import BaseModelError
from trainer_core.progress import Reporter
from trainer_core.whole_file import replace_text

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_checked: dict[Path, JsonValue] = {}
"""Stamps of files that this process found to be right, where no note can be written."""


def check_described(model: BaseModel, home: Path, reporter: Reporter, *, way_on: str = "") -> None:
    """Compare the files of a described base model with their SHA-256 in its description.

    Files that are missing are not errors here: with kept weights a run does not need all of them,
    and whatever reads one names it.

    Args:
        model: its description has SHA-256 of its files; one composed of others has none.
        home: gets a note of what was compared.
        reporter: gets progress, and can stop the work.
        way_on: what to do about a damaged file; empty: put it back, or register the model again.

    Raises:
        BaseModelError: a file has other bytes; the message names it and the way on.
    """
    way_on = way_on or (
        "Put it back from a copy; if you replaced it on purpose, register the model again: "
        f"{registering(model.folder, model.name)}"
    )
    expected = {
        model.folder / name: sha256
        for name, sha256 in described_files(model.folder).items()
        if _SHA256.fullmatch(sha256)
    }
    try:
        stamps = read_config(model.folder / DESCRIPTION_NAME).get("stamps")
    except BaseModelError:
        stamps = None
    known = {model.folder / name: stamp for name, stamp in _as_dict(stamps).items()}
    _check(model.folder, expected, known, home, reporter, way_on=lambda _: way_on)


def registering(folder: Path, name: str) -> str:
    """The command that hashes a base model and gives it its name, for a shell."""
    return shlex.join(["reverie", "models", "register", str(folder), "--name", name])


def check_downloaded(parts: Mapping[str, Path], home: Path, reporter: Reporter) -> None:
    """Compare weights in the Hub's cache with the SHA-256 that the Hub has for them.

    The cache names the content of such a file by its SHA-256. Small files are named otherwise, and
    not compared.

    Args:
        parts: name of a part → its folder in the cache.
        home: gets a note of what was compared.
        reporter: gets progress, and can stop the work.

    Raises:
        BaseModelError: a file has other bytes; the message names it and the way on.
    """
    for folder in parts.values():
        expected = {
            file: file.resolve().name
            for file in content_of(folder)
            if _SHA256.fullmatch(file.resolve().name)
        }
        _check(folder, expected, {}, home, reporter, way_on=_download_again)


def _download_again(file: Path) -> str:
    """What to do about a damaged file of the Hub's cache, which links to its content."""
    content = shlex.join(map(str, dict.fromkeys([file, file.resolve()])))
    return f"Delete it, and what it links to (rm {content}): it is downloaded again"


def check_not_damaged(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], record: Path
) -> None:
    """Raise BaseModelError where weights of a user's folder have other bytes, and the same size.

    That is what damage looks like. Other changes are taken as meant: the model is then another one.

    Args:
        folder: where the files are.
        before: result of ``hash_files`` when they were hashed the last time.
        now: the same of today.
        record: the file that holds ``before``; without it, they count as new. A description has
            the model's name too, so it is written again instead.
    """
    for name, facts in now.items():
        old = before.get(name)
        if not (name.endswith(".safetensors") and isinstance(old, dict)):
            continue
        if old.get("size_bytes") == facts["size_bytes"] and old.get("sha256") != facts["sha256"]:
            described = read_config(record).get("name")
            is_own = record == folder / DESCRIPTION_NAME and isinstance(described, str)
            way_on = registering(folder, str(described)) if is_own else f"delete {record}"
            raise BaseModelError(
                f"{folder / name} is damaged: it has other bytes than when it was hashed, and "
                f"the same size. Put it back from a copy; if you replaced it on purpose, {way_on}"
            )


def _check(
    folder: Path,
    expected: Mapping[Path, str],
    known: Mapping[Path, JsonValue],
    home: Path,
    reporter: Reporter,
    *,
    way_on: Callable[[Path], str],
) -> None:
    """Compare each existing file, unless its stamp is the known, the noted or the checked one."""
    note = home / "hashes" / f"compared-{digest_of(str(folder.resolve()))[:16]}.json"
    noted = _read(note)
    stamps = {file: stamp_of(file) for file in expected if file.is_file()}
    doubtful = [
        file
        for file, stamp in stamps.items()
        if stamp not in (known.get(file), noted.get(str(file)), _checked.get(file))
    ]
    if not doubtful:
        return
    total, done = sum(file.stat().st_size for file in doubtful), 0
    reporter.log(f"comparing files of {folder} with their SHA-256 (once)")
    for file in doubtful:
        if sha256_of(file) != expected[file]:
            raise BaseModelError(
                f"{file} is damaged: its SHA-256 is not the recorded one. {way_on(file)}"
            )
        done += file.stat().st_size
        reporter.progress("hashing", done, total)
        reporter.check_control()
    _checked.update({file: stamps[file] for file in doubtful})
    with contextlib.suppress(OSError):  # compared again by the next process
        _write(note, {**noted, **{str(file): stamp for file, stamp in stamps.items()}})


def _read(note: Path) -> dict[str, JsonValue]:
    try:
        return _as_dict(json.loads(note.read_bytes()))
    except (OSError, ValueError):
        return {}


def _write(note: Path, stamps: Mapping[str, JsonValue]) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    replace_text(note, json.dumps(stamps))


def _as_dict(found: Any) -> dict[str, JsonValue]:
    return found if isinstance(found, dict) else {}
