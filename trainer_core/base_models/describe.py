"""The operator's list of base models: one folder each, described by ``reverie-base.json``."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.errors import BaseModelError

DESCRIPTION_NAME: Final = "reverie-base.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """A base model as it is described; its weights are not looked at."""

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

    Sub-folders without a description are passed over. Raises BaseModelError where a description
    cannot be read, where two folders claim one name, or where ``models_dir`` does not exist.
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
    """Where Reverie keeps what it makes on this machine: REVERIE_HOME, else ``~/.reverie``."""
    return Path(env.get("REVERIE_HOME") or "~/.reverie").expanduser()


def listed_base_models(env: Mapping[str, str]) -> dict[str, BaseModel]:
    """Those of REVERIE_MODELS_DIR, else of ``models`` in the home where there is such a folder.

    Raises BaseModelError as ``read_base_models`` does.
    """
    named = env.get("REVERIE_MODELS_DIR")
    models_dir = Path(named).expanduser() if named else home_of(env) / "models"
    return read_base_models(models_dir) if named or models_dir.is_dir() else {}


def read_base_model(folder: Path) -> BaseModel:
    """The one base model in ``folder``; raises BaseModelError where it is not described."""
    try:
        description = json.loads((folder / DESCRIPTION_NAME).read_bytes())
        config = json.loads((folder / "transformer" / "config.json").read_bytes())
        name, digest = description["name"], description["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelError(f"{folder}: the base model cannot be read: {error}") from error
    if not (isinstance(name, str) and isinstance(digest, str) and isinstance(config, dict)):
        raise BaseModelError(f"{folder / DESCRIPTION_NAME}: name and digest have to be text")
    return BaseModel(name=name, folder=folder, digest=digest, transformer_config=config)


def describe_base(folder: Path, name: str) -> BaseModel:
    """Hash every file under ``folder``, write ``reverie-base.json`` and return the base model."""
    stamps = stamps_of(folder)
    return write_description(folder, name, hash_files(folder), stamps=stamps)


def stamps_of(folder: Path) -> dict[str, JsonValue]:
    """Relative path → what shows that a file is the one that was hashed, without reading it.

    Taken before the files are hashed: what is replaced meanwhile is noticed afterwards.
    """
    stamps: dict[str, JsonValue] = {}
    for path in content_of(folder):
        facts = path.stat()
        stamps[path.relative_to(folder).as_posix()] = {
            "size_bytes": facts.st_size,
            "mtime_ns": facts.st_mtime_ns,
            # Changes with the content also where the mtime was set back, as tar and rsync do.
            "ctime_ns": facts.st_ctime_ns,
        }
    return stamps


def hash_files(
    folder: Path, on_file: Callable[[int], None] = lambda _: None
) -> dict[str, JsonValue]:
    """Relative path → size and SHA-256 of every file of a model.

    Args:
        folder: in diffusers' layout; may hold links to files.
        on_file: called with its size after each file.
    """
    files: dict[str, JsonValue] = {}
    for path in content_of(folder):
        size_bytes = path.stat().st_size
        files[path.relative_to(folder).as_posix()] = {
            "size_bytes": size_bytes,
            "sha256": _sha256_of(path),
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
    """Write ``reverie-base.json`` into ``folder`` at once and return the base model.

    ``digest`` None: that of ``files``. ``stamps``: of the files, where they were hashed.
    """
    description = {
        "name": name,
        "digest": digest or digest_of(files),
        "files": files,
        "stamps": stamps or {},
    }
    body = json.dumps(description, indent=2, sort_keys=True) + "\n"
    temporary = folder / f".{DESCRIPTION_NAME}.{os.getpid()}.tmp"
    try:
        temporary.write_text(body, encoding="utf-8")
        temporary.replace(folder / DESCRIPTION_NAME)
    finally:
        temporary.unlink(missing_ok=True)
    return read_base_model(folder)


def content_of(folder: Path) -> Iterator[Path]:
    """The files that make the model; what a download tool leaves in hidden folders is not one."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and parts != (DESCRIPTION_NAME,):
            yield path


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
