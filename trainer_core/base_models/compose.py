"""Base models on this machine's disk: their layout, their digests, one folder made of several."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.base_models.describe import (
    DESCRIPTION_NAME,
    BaseModel,
    content_of,
    hash_files,
    read_base_model,
    stamps_of,
    write_description,
)
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import BaseModelError
from trainer_core.progress import Reporter

WEIGHTS: Final = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Folders with weights, but for the fourth encoder's."""
OTHERS: Final = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")
FOURTH: Final = ("text_encoder_4", "tokenizer_4")


def transformer_config(folder: Path) -> dict[str, Any]:
    """``transformer/config.json`` of a base model; raises BaseModelError."""
    file = folder / "transformer" / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{folder} is no base model in diffusers' layout: {file} cannot be read ({error})"
        ) from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{file} has to hold an object")
    return config


def has_fourth(folder: Path) -> bool:
    """Whether the folder brings its own fourth encoder."""
    return all((folder / part).is_dir() for part in FOURTH)


def check_main(folder: Path) -> None:
    """Raise BaseModelError where a part is missing, or has no weights as safetensors."""
    missing = [part for part in (*WEIGHTS, *OTHERS) if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(
            f"{folder} is no whole base model in diffusers' layout; it lacks {', '.join(missing)}"
        )
    for part in WEIGHTS:
        _check_weights(folder / part)


def fourth_parts(folder: Path) -> dict[str, Path]:
    """The fourth encoder and its tokenizer in a folder of either layout; raises BaseModelError.

    Either sub-folders ``text_encoder_4`` and ``tokenizer_4``, or both at the top, as a language
    model is published.
    """
    model = folder / "text_encoder_4" if (folder / "text_encoder_4").is_dir() else folder
    tokenizer = folder / "tokenizer_4" if (folder / "tokenizer_4").is_dir() else model
    if not (model / "config.json").is_file():
        raise BaseModelError(f"{folder} holds no text encoder: there is no {model}/config.json")
    if not (tokenizer / "tokenizer_config.json").is_file():
        raise BaseModelError(
            f"{folder} holds no tokenizer: there is no {tokenizer}/tokenizer_config.json"
        )
    _check_weights(model)
    return {"text_encoder_4": model, "tokenizer_4": tokenizer}


def _check_weights(part: Path) -> None:
    names = {path.name for path in part.glob("*.safetensors")}
    if not names:
        raise BaseModelError(
            f"{part} has no weights as safetensors; other kinds are not read, because they can run "
            "code"
        )
    for index in part.glob("*.safetensors.index.json"):
        try:
            wanted = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise BaseModelError(f"{index} cannot be read: {error}") from error
        if lacking := sorted(wanted - names):
            raise BaseModelError(f"{part} lacks {', '.join(lacking)}: fetch the model again")


def describe_folder(folder: Path, home: Path, watch: Reporter) -> BaseModel:
    """A model in a local folder, with the SHA-256 of its files.

    They are hashed once: into ``reverie-base.json`` in the folder, or under ``home`` where the
    folder cannot be written. Hashed again where the name, the size or a time of any file is not
    what was noted.
    """
    notes = home / "bases" / f"hashed-{_path_digest(folder)}"
    for described in (folder, notes):
        if _is_fresh(described / DESCRIPTION_NAME, folder):
            return read_base_model(described)
    stamps = stamps_of(folder)
    files = _hashed(folder, watch)
    try:
        name = read_base_model(folder).name
    except BaseModelError:
        name = folder.resolve().name
    try:
        return write_description(folder, name, files, stamps=stamps)
    except OSError:  # somebody else's folder
        parts = {p.name: p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."}
        compose(notes, name, parts, files, digest_of(files))
        return write_description(notes, name, files, stamps=stamps)


def digest_folder(folder: Path, home: Path, watch: Reporter) -> str:
    """SHA-256 over the files of a folder that is no whole base model; noted under ``home``."""
    note = home / "hashes" / f"{_path_digest(folder)}.json"
    if not _is_fresh(note, folder):
        stamps = stamps_of(folder)
        files = _hashed(folder, watch)
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f".{note.name}.{os.getpid()}.tmp")
        body = {"folder": str(folder), "files": files, "stamps": stamps}
        draft.write_text(json.dumps(body), encoding="utf-8")
        draft.replace(note)
    return digest_of(json.loads(note.read_bytes())["files"])


def _path_digest(folder: Path) -> str:
    return digest_of(str(folder.resolve()))[:16]


def _hashed(folder: Path, watch: Reporter) -> dict[str, JsonValue]:
    total = sum(path.stat().st_size for path in content_of(folder))
    watch.log(f"hashing the files of {folder} (once)")
    done = 0

    def tell(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        watch.progress("hashing", done, total)
        watch.check_control()

    return hash_files(folder, tell)


def _is_fresh(description: Path, folder: Path) -> bool:
    """Whether the description still speaks of the files that are there."""
    try:
        stamps: Mapping[str, Any] = json.loads(description.read_bytes())["stamps"]
        return stamps == stamps_of(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def compose(
    folder: Path,
    name: str,
    parts: Mapping[str, Path],
    sources: Mapping[str, JsonValue],
    digest: str,
) -> BaseModel:
    """A base model made of links to folders that lie elsewhere; appears complete or not at all.

    Args:
        folder: where it is to stand; what stood there is replaced unless it is the same.
        name: of the base model.
        parts: name of a part → its folder.
        sources: what it was made of, for people.
        digest: of the base model.
    """
    if _is_composed(folder, parts, digest):
        return read_base_model(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for part, target in parts.items():
            (draft / part).symlink_to(target.resolve())
        write_description(draft, name, dict(sources), digest)
        draft.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, f"{draft}-old")  # noqa: PTH105 - says what matters
        draft.rename(folder)
    finally:
        shutil.rmtree(f"{draft}-old", ignore_errors=True)
        shutil.rmtree(draft, ignore_errors=True)
    return read_base_model(folder)


def _is_composed(folder: Path, parts: Mapping[str, Path], digest: str) -> bool:
    try:
        if read_base_model(folder).digest != digest:
            return False
    except BaseModelError:
        return False
    return all(
        (folder / part).is_dir() and (folder / part).resolve() == target.resolve()
        for part, target in parts.items()
    )


def composed_folder(home: Path, name: str, digest: str) -> Path:
    """Where a composed base model stands."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip(".-") or "base"
    return home / "bases" / f"{safe}-{digest[:12]}"


def main_parts(folder: Path) -> dict[str, Path]:
    """The parts of a base model but for its fourth encoder."""
    return {part: folder / part for part in (*WEIGHTS, *OTHERS)}
