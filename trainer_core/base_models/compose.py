"""Compose one base model from parts in several folders: a folder of symbolic links."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel, read_base_model, write_description
from trainer_core.errors import BaseModelError


def composed_folder(home: Path, name: str, digest: str) -> Path:
    """Where a composed base model is stored."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip(".-") or "base"
    return home / "bases" / f"{safe}-{digest[:12]}"


def compose(
    folder: Path,
    name: str,
    parts: Mapping[str, Path],
    sources: Mapping[str, JsonValue],
    digest: str,
) -> BaseModel:
    """Write a base model of symbolic links. The folder appears complete or not at all.

    Args:
        folder: the folder to write; replaced unless it already holds the same model.
        name: name of the base model.
        parts: name of a part → its folder.
        sources: where the parts come from; recorded for people to read.
        digest: digest of the base model.
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
