"""The invariants of what is in the object store, read past the proxy."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.domain.ledger import StoredFiles
from services.objects.errors import ObjectStoreError
from services.objects.folders import get_folder
from services.objects.keys import attempts_prefix
from services.objects.port import ObjectStore
from services.results.sweep import sweep_runs
from services.store.database import Database
from tests.faults.random.rows import FolderRow, RunRow

_SWEEP_NOW = "UPDATE runs SET sweep_after = clock_timestamp() - interval '1 second'"


def fetch_all(
    store: ObjectStore, folders: Sequence[FolderRow], into: Path
) -> tuple[dict[str, Path], list[str]]:
    """Fetch every folder that a row names, which checks sizes and SHA-256.

    Returns key prefix → local folder, and the breaches.
    """

    def fetch(folder: FolderRow) -> str | None:
        stored = StoredFiles(
            key_prefix=folder.key_prefix, manifest_sha256=folder.manifest_sha256, size_bytes=0
        )
        try:
            get_folder(store, stored, local[folder.key_prefix])
        except ObjectStoreError as error:
            return f"run {folder.run_id} step {folder.step}: {error}"
        return None

    local = {
        folder.key_prefix: into / hashlib.sha256(folder.key_prefix.encode()).hexdigest()[:16]
        for folder in folders
    }
    for path in local.values():
        path.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as threads:
        breaches = [wrong for wrong in threads.map(fetch, folders) if wrong]
    return local, breaches


def unnamed(
    database_url: str, store: ObjectStore, runs: Sequence[RunRow], folders: Sequence[FolderRow]
) -> list[str]:
    """Objects of runs that no row names: the sweep, which is due at once here, deletes them all."""
    database = Database(database_url, max_size=1)
    try:
        with database.transaction() as conn:
            conn.execute(_SWEEP_NOW)
        sweep_runs(database, store)
    finally:
        database.close()
    named = tuple(folder.key_prefix for folder in folders)
    return [
        f"{key} is named by no row"
        for run in runs
        for key in store.list_keys(attempts_prefix(run.tenant_id, run.run_id))
        if not key.startswith(named)
    ]


def differing(
    runs: Sequence[RunRow],
    folders: Sequence[FolderRow],
    local: Mapping[str, Path],
    configs: Mapping[str, str],
    unbroken: Mapping[str, str],
) -> tuple[int, int, list[str]]:
    """Each run's adapter and last state equal, bit for bit, those of the unbroken run.

    Returns how many runs were equal, how many were compared, and the breaches.
    """
    places: dict[str, list[Path]] = {}
    for run in runs:
        state = [f for f in folders if f.run_id == run.run_id and "/checkpoints/" in f.key_prefix]
        if run.status != "succeeded" or run.result_key_prefix is None or not state:
            continue
        last = max(state, key=lambda folder: folder.step)
        places[run.run_id] = [
            local[run.result_key_prefix] / "pytorch_lora_weights.safetensors",
            local[last.key_prefix] / "state.safetensors",
        ]
    breaches: list[str] = []
    equal = compared = 0
    for run_id, files in places.items():
        reference = unbroken.get(configs.get(run_id, ""))
        if reference is None or reference == run_id or reference not in places:
            continue
        compared += 1
        wrong = [
            f"run {run_id}: {ours.name} differs from the unbroken run {reference}"
            for ours, theirs in zip(files, places[reference], strict=True)
            if not _equal(ours, theirs)
        ]
        equal += not wrong
        breaches += wrong
    return equal, compared, breaches


def _equal(ours: Path, theirs: Path) -> bool:
    return _tensors(ours) == _tensors(theirs)


def _tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Name → dtype, shape and bytes. The file's metadata are left out: they may name the run.

    Source: the format of safetensors; torch is not imported for it.
    """
    body = path.read_bytes()
    start = 8 + int.from_bytes(body[:8], "little")
    header = json.loads(body[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            each["dtype"],
            each["shape"],
            body[start + each["data_offsets"][0] : start + each["data_offsets"][1]],
        )
        for name, each in header.items()
    }
