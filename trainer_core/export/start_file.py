"""Finds and checks the file whose adapter a run starts from (``init_lora``). Imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json

from trainer_core.checkpoint.layout import (
    EMA,
    MANIFEST_NAME,
    PARAMETER,
    STATE_NAME,
    CheckpointManifest,
    FileFacts,
    ResultManifest,
    adapter_files,
    opened,
)
from trainer_core.checkpoint.opening import CHECKPOINTS, holds_checkpoints
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.data.formats import ADAPTER_SUFFIX
from trainer_core.errors import AdapterFileError
from trainer_core.export.origin import ADAPTER_NAME, LIVE_FOLDER
from trainer_core.paths import is_file, is_folder, places_of
from trainer_core.weights.entries import BadHeaderError, Header, read_entries
from trainer_core.weights.finite import checked_sha256
from trainer_core.weights.start_adapter import (
    MAX_HEADER_BYTES,
    MAX_UPLOAD_HEADER_BYTES,
    FoundStart,
    StartProblem,
    StateFile,
)

_RESULT: Final = "result"
_Manifest = CheckpointManifest | ResultManifest
_ADAPTER: Final = TypeAdapter[LokrAdapter | LoraAdapter | None](LokrAdapter | LoraAdapter | None)
_PLACES: Final = (
    f"name an adapter file ({ADAPTER_SUFFIX}), the folder of a result, or that of a checkpoint"
)


_DOWNLOAD: Final = "a repository of the Hugging Face Hub is not read: download the file and name it"
_OF_SERVICE: Final = re.compile(r"(run|ds)_[0-9a-f]{32}(/.*)?")
_OF_HUB: Final = re.compile(r"[\w.-]+/[\w.-]+(:.*)?")
_NAME_OF_FILE: Final = re.compile(rf"[^:]*{re.escape(ADAPTER_SUFFIX)}")


def look_up_start(name: str | None, folders: Sequence[Path]) -> FoundStart | StartProblem | None:
    """``start_named``, with its error as a problem of the plan; None where there is no name."""
    try:
        return None if name is None else start_named(name, folders)
    except AdapterFileError as error:
        return StartProblem(code="bad_value", message=error.message)


def start_named(name: str, folders: Sequence[Path]) -> FoundStart:
    """``find_start`` of the first place that exists, of those where a relative path is tried."""
    places = places_of(name, folders)
    for place in places:
        if is_file(place) or is_folder(place):
            return find_start(place)
    if _OF_SERVICE.fullmatch(name):
        raise AdapterFileError(
            f"{name} is in the service: download it (reverie runs download), and name the folder"
        )
    tried = ", ".join(str(place) for place in places)
    is_hub_name = _OF_HUB.fullmatch(name) and not _NAME_OF_FILE.fullmatch(name.lower())
    hint = _DOWNLOAD if is_hub_name else _PLACES
    raise AdapterFileError(f"{name} is in none of these places: {tried}; {hint}")


def find_start(place: Path) -> FoundStart:
    """The file that a path means: an adapter file, or one in the folder of a run.

    A folder may be a result or a checkpoint of this project, an output folder with a result in it,
    or any folder with an adapter file of the usual name, as SimpleTuner's checkpoints are. Of a
    checkpoint the running mean (EMA) is taken, where its run had one, as in a result.

    Raises AdapterFileError where there is no such file, or it is damaged; the message names it.
    """
    if is_folder(place):
        return _in_folder(place)
    if not is_file(place):
        raise AdapterFileError(f"there is no {place}: {_PLACES}")
    if place.suffix.lower() != ADAPTER_SUFFIX:
        raise AdapterFileError(
            f"{place} is no {ADAPTER_SUFFIX} file, and no others are read: pickled weights can run "
            "code"
        )
    manifest = _manifest_of(place.parent)
    if isinstance(manifest, CheckpointManifest) and place.name in manifest.files:
        return _of_checkpoint(place.parent, manifest)
    return _of_file(place, manifest)


def _in_folder(folder: Path) -> FoundStart:
    manifest = _manifest_of(folder)
    if isinstance(manifest, CheckpointManifest):
        return _of_checkpoint(folder, manifest)
    if (folder / ADAPTER_NAME).is_file():
        return _of_file(folder / ADAPTER_NAME, manifest)
    if manifest is not None:
        raise AdapterFileError(f"{folder} is the result of full-rank training: it has no adapter")
    if (folder / _RESULT).is_dir():
        return _in_folder(folder / _RESULT)
    if (folder / CHECKPOINTS).is_dir():
        raise AdapterFileError(
            f"{folder} has no result yet: name one of the checkpoints in {folder / CHECKPOINTS}"
        )
    if holds_checkpoints(folder):
        raise AdapterFileError(f"{folder} holds checkpoints: name one of the step-… folders in it")
    raise AdapterFileError(f"{folder} holds no {ADAPTER_NAME}: {_PLACES}")


def _manifest_of(folder: Path) -> _Manifest | None:
    """The manifest of a folder of this project; None where it is none.

    Raises AdapterFileError where it is damaged: its checkpoint's adapter would be scaled wrongly.
    """
    file = folder / MANIFEST_NAME
    try:
        body = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AdapterFileError(f"{file} cannot be read: {error.strerror}") from error
    try:
        kind = _kind_of(body)
        if kind == "checkpoint" or is_file(folder / STATE_NAME):
            return opened(body)
        return ResultManifest.model_validate_json(body) if kind == "result" else None
    except ValueError as error:
        raise AdapterFileError(
            f"{file} is damaged, or of a newer version: put it back from a copy, or name another "
            "adapter"
        ) from error


def _kind_of(manifest: bytes) -> object:
    """As a manifest of this project has it; None for that of another program.

    Raises ValueError where it is no JSON.
    """
    content = from_json(manifest)
    return content.get("kind") if isinstance(content, dict) else None


def _of_file(file: Path, manifest: _Manifest | None) -> FoundStart:
    header, sha256 = _checked(file, str(file))
    _check_manifest(file, sha256, manifest)
    return FoundStart(name=str(file), sha256=sha256, header=header, path=file)


def _of_checkpoint(folder: Path, manifest: CheckpointManifest) -> FoundStart:
    if len(manifest.files) > 1:  # of several processes, which share a state of all weights only
        raise _all_weights(str(folder))
    file = folder / STATE_NAME
    header, sha256 = _checked(file, str(file))
    _check_manifest(file, sha256, manifest)
    state = state_file(str(folder), header, manifest.identity)
    return FoundStart(name=str(folder), sha256=sha256, header=header, path=file, state=state)


def state_file(name: str, header: Header, identity: dict[str, JsonValue] | None) -> StateFile:
    """How the adapter lies in the state file of a checkpoint.

    Args:
        name: of the checkpoint, for messages.
        header: of its state file.
        identity: as its manifest has it.

    Raises AdapterFileError where its run had no adapter, or the manifest does not tell.
    """
    if identity is None:
        raise AdapterFileError(
            f"{name} was written by an older version, which did not note its adapter: name the "
            "result of that run"
        )
    try:
        adapter = _ADAPTER.validate_python(identity.get("adapter"))
    except ValidationError as error:
        raise AdapterFileError(f"{name}: the adapter in its manifest cannot be read") from error
    if adapter is None:
        raise _all_weights(name)
    has_mean = any(each.startswith(EMA) for each in header.entries)
    return StateFile(prefix=EMA if has_mean else PARAMETER, adapter=adapter)


def _all_weights(name: str) -> AdapterFileError:
    return AdapterFileError(f"{name} is a checkpoint of full-rank training: it has no adapter")


def check_upload(file: Path, name: str) -> None:
    """Check that a file may be an adapter: its form, and that its numbers are finite.

    Whether it fits is checked with the run that starts from it. ``name``: what messages call it.
    Raises AdapterFileError, and OSError: where this machine cannot read it, the file is not wrong.
    """
    try:
        _checked(file, name, MAX_UPLOAD_HEADER_BYTES)
    except AdapterFileError as error:
        bad_file = error.__cause__
        if isinstance(bad_file, BadHeaderError) and isinstance(bad_file.__cause__, OSError):
            raise bad_file.__cause__ from error
        raise


def _checked(file: Path, name: str, limit_bytes: int = MAX_HEADER_BYTES) -> tuple[Header, str]:
    """Header and SHA-256 of a file; ``limit_bytes``: of the header."""
    try:
        header = read_entries(file, name=name, limit_bytes=limit_bytes)
        return header, checked_sha256(file, header, called=name)
    except BadHeaderError as error:
        raise AdapterFileError(str(error)) from error


def _check_manifest(file: Path, sha256: str, manifest: _Manifest | None) -> None:
    """Raise AdapterFileError where the manifest of the file's folder knows it with other bytes."""
    name = file.name
    if manifest is None and file.parent.name == LIVE_FOLDER:
        manifest, name = _manifest_of(file.parent.parent), f"{LIVE_FOLDER}/{file.name}"
    facts = None if manifest is None else manifest.files.get(name)
    if facts is None and isinstance(manifest, CheckpointManifest):
        facts = _adapter_files(file, manifest).get(name)
    if facts is not None and facts.sha256 != sha256:
        raise AdapterFileError(
            f"{file} is damaged: it differs from the {MANIFEST_NAME} of its folder in its SHA-256"
        )


def _adapter_files(file: Path, manifest: CheckpointManifest) -> dict[str, FileFacts]:
    try:
        return adapter_files(manifest)
    except ValueError as error:
        raise AdapterFileError(
            f"{file}: the {MANIFEST_NAME} of its checkpoint is of a newer version; name the "
            "checkpoint itself"
        ) from error
