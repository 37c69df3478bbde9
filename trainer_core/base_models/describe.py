"""A base model in a folder: its description ``reverie-base.json``, its files, their hashes."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.base_models.layout import read_config
from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.digests import sha256_of
from trainer_core.errors import BaseModelError
from trainer_core.whole_file import replace_text

DESCRIPTION_NAME: Final = "reverie-base.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """A base model as its description says; the weights are not read."""

    name: str
    folder: Path
    digest: str
    """SHA-256 over name, size and SHA-256 of every file."""
    transformer_config: Mapping[str, Any]
    """``transformer/config.json`` as diffusers wrote it."""

    @property
    def max_area_px(self) -> int:
        """The largest image that the transformer takes, by area (real HiDream: 1024²)."""
        return max_area_px(self.transformer_config)


def read_base_models(models_dir: Path) -> dict[str, BaseModel]:
    """Name → base model for every described sub-folder of ``models_dir``.

    Sub-folders without a description are skipped. Raises BaseModelError if a description
    cannot be read, if two folders have the same name, or if ``models_dir`` does not exist.
    """
    if not models_dir.is_dir():
        raise BaseModelError(f"there is no folder of base models at {models_dir}")
    found: dict[str, BaseModel] = {}
    for folder in sorted(path for path in models_dir.iterdir() if path.is_dir()):
        if not (folder / DESCRIPTION_NAME).is_file():
            continue
        model = read_base_model(folder)
        if model.name in found:
            raise BaseModelError(f"{model.folder} and {found[model.name].folder} share a name")
        found[model.name] = model
    return found


def home_of(env: Mapping[str, str]) -> Path:
    """The folder for Reverie's own files: REVERIE_HOME, or ``~/.reverie``."""
    return Path(env.get("REVERIE_HOME") or "~/.reverie").expanduser()


def described_files(folder: Path) -> dict[str, str]:
    """Each file of a described base model → its SHA-256; empty where none are described.

    Of a composed model, a part from elsewhere → its commit or digest.
    """
    try:
        files = read_config(folder / DESCRIPTION_NAME).get("files")
    except BaseModelError:
        return {}
    return {
        name: str(facts.get("sha256") if isinstance(facts, dict) else facts)
        for name, facts in (files if isinstance(files, dict) else {}).items()
    }


def listed_base_models(env: Mapping[str, str]) -> dict[str, BaseModel]:
    """The operator's base models: those in REVERIE_MODELS_DIR, or in ``models`` below ``home_of``.

    Empty if REVERIE_MODELS_DIR is not set and there is no folder ``models``. Raises BaseModelError
    as ``read_base_models`` does.
    """
    named = env.get("REVERIE_MODELS_DIR")
    models_dir = Path(named).expanduser() if named else home_of(env) / "models"
    return read_base_models(models_dir) if named or models_dir.is_dir() else {}


def holds_base_model(folder: Path) -> bool:
    """Whether a described base model is there; False where one can be written.

    Raises BaseModelError where the folder holds anything else.
    """
    if (folder / DESCRIPTION_NAME).is_file():
        return True
    if folder.exists() and any(folder.iterdir()):
        raise BaseModelError(f"{folder} is not empty and is not a described base model")
    return False


def read_base_model(folder: Path) -> BaseModel:
    """The base model in ``folder``; raises BaseModelError if it has no valid description."""
    try:
        description = read_config(folder / DESCRIPTION_NAME)
        config = read_config(folder / "transformer" / "config.json")
    except BaseModelError as error:
        raise BaseModelError(f"{folder}: the base model cannot be read: {error.message}") from error
    name, digest = description.get("name"), description.get("digest")
    if not (isinstance(name, str) and isinstance(digest, str)):
        raise BaseModelError(f"{folder / DESCRIPTION_NAME}: name and digest have to be strings")
    return BaseModel(name=name, folder=folder, digest=digest, transformer_config=config)


def describe_base(folder: Path, name: str) -> BaseModel:
    """Hash every file under ``folder``, write ``reverie-base.json`` and return the base model."""
    stamps = stamps_of(folder)
    return write_description(folder, name, hash_files(folder), stamps=stamps)


def stamps_of(folder: Path) -> dict[str, JsonValue]:
    """Relative path → size, mtime and ctime of each file; any change to a file changes them.

    Call it before hashing, so that a change during hashing is detected later.
    """
    stamps: dict[str, JsonValue] = {}
    for path in content_of(folder):
        stamps[path.relative_to(folder).as_posix()] = stamp_of(path)
    return stamps


def stamp_of(file: Path) -> JsonValue:
    """Size, mtime and ctime of a file; any change to it changes them. Raises OSError."""
    facts = file.stat()
    return {
        "size_bytes": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        # Changes with the content even if the mtime is set back, as tar and rsync do.
        "ctime_ns": facts.st_ctime_ns,
    }


def hash_files(
    folder: Path, on_file: Callable[[int], None] = lambda _: None
) -> dict[str, JsonValue]:
    """Relative path → size and SHA-256 of each file of a model.

    Args:
        folder: a base model in diffusers' layout; may contain symbolic links.
        on_file: called after each file with its size in bytes.
    """
    files: dict[str, JsonValue] = {}
    for path in content_of(folder):
        size_bytes = path.stat().st_size
        files[path.relative_to(folder).as_posix()] = {
            "size_bytes": size_bytes,
            "sha256": sha256_of(path),
        }
        on_file(size_bytes)
    return files


def write_description(
    folder: Path,
    name: str,
    files: dict[str, JsonValue],
    digest: str | None = None,
    *,
    stamps: dict[str, JsonValue] | None = None,
) -> BaseModel:
    """Write ``reverie-base.json`` into ``folder`` atomically and return the base model.

    Args:
        folder: already contains the transformer's configuration.
        name: name of the base model.
        files: the result of ``hash_files``, or the sources of a composed model.
        digest: digest of the base model; None: the digest of ``files``.
        stamps: the result of ``stamps_of`` before hashing; None if nothing was hashed.
    """
    description = {
        "name": name,
        "digest": digest or digest_of(files),
        "files": files,
        "stamps": stamps or {},
    }
    body = json.dumps(description, indent=2, sort_keys=True) + "\n"
    replace_text(folder / DESCRIPTION_NAME, body)
    return read_base_model(folder)


def content_of(folder: Path) -> Iterator[Path]:
    """The model's files sorted by path, without its description and hidden files.

    Download tools leave hidden folders behind, so these are skipped. Links are followed: a part of
    the model may be a link to a folder elsewhere.
    """
    files = _files_in(folder, frozenset())
    yield from sorted(path for path in files if path != folder / DESCRIPTION_NAME)


def _files_in(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """``above``: the folders that this one is in; a link back to one of them is not followed."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_in(path, above | {real})
        elif path.is_file():
            yield path
