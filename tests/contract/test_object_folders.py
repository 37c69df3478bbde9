"""Folders on every object store: complete or not there at all."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.domain.ledger import StoredFiles
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folder_store import FolderStore
from services.objects.folders import (
    check_folder,
    folder_contents,
    get_folder,
    put_folder,
)
from services.objects.port import ObjectStore
from services.objects.signing import UrlSigner
from tests.support.finished_runs import closed_folder
from tests.support.objects import SHA256


def _make_folder(folder: Path) -> str:
    """A folder with a manifest, as training writes it; returns the manifest's SHA-256."""
    (folder / "samples").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(os.urandom(100_000))
    (folder / "samples" / "0.png").write_bytes(b"picture")
    (folder / "not-named.txt").write_bytes(b"left out")
    files = {
        name: {
            "size_bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("weights.safetensors", "samples/0.png")
    }
    manifest = json.dumps({"version": 1, "kind": "result", "files": files}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()


def test_a_folder_comes_back_byte_for_byte(store: ObjectStore, tmp_path: Path) -> None:
    digest = _make_folder(tmp_path / "out")

    stored = put_folder(store, "r/1/result/", tmp_path / "out")
    assert put_folder(store, "r/1/result/", tmp_path / "out") == stored, "again is harmless"
    get_folder(store, stored, tmp_path / "back")

    assert stored == StoredFiles(
        key_prefix="r/1/result/", manifest_sha256=digest, size_bytes=100_007
    )
    for name in ("weights.safetensors", "samples/0.png", "manifest.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "back" / "not-named.txt").exists()


def test_adapter_files_of_a_checkpoint_are_stored_and_only_fetched_by_name(
    store: ObjectStore, tmp_path: Path
) -> None:
    """A run goes on without them: not even their loss in the store harms it."""
    key_prefix = "r/1/checkpoints/"
    needed = {"state.safetensors": b"state"}
    adapters = {"a.safetensors": b"mean", "live/a.safetensors": b"now"}
    bodies = needed | adapters
    folder = closed_folder(tmp_path / "out", needed, adapters)

    stored = put_folder(store, key_prefix, folder)

    assert stored.size_bytes == len(b"statemeannow")
    contents = folder_contents(store, key_prefix, stored.manifest_sha256)
    assert contents.keys() == {*bodies, "manifest.json"}
    for name, body in bodies.items():
        assert store.get_bytes(key_prefix + name, limit_bytes=100) == body
        assert contents[name].sha256 == hashlib.sha256(body).hexdigest()
    store.delete(key_prefix + "a.safetensors")
    get_folder(store, stored, tmp_path / "back")
    assert {path.name for path in (tmp_path / "back").iterdir()} == {
        "state.safetensors",
        "manifest.json",
    }
    (tmp_path / "scratch").mkdir()
    found = check_folder(store, key_prefix, tmp_path / "scratch")
    assert found.manifest_sha256 == stored.manifest_sha256
    assert found.size_bytes == len(b"statenow")
    (folder / "a.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        put_folder(store, "r/2/checkpoints/", folder)


@pytest.mark.parametrize(
    "adapters",
    [
        {"../x": {}},
        {"x": {}},
        [],
        1,
        "x",
        {"manifest.json": {}},
        {"live/manifest.json": {}},
        {"a/" * 511 + "a": {}},
        {"x": {"size_bytes": -1, "sha256": SHA256}},
        {"x": {"size_bytes": 10**30, "sha256": SHA256}},
        {"x": {"size_bytes": float("inf"), "sha256": SHA256}},
    ],
)
def test_a_manifest_with_bad_adapter_files_lists_none(store: ObjectStore, adapters: object) -> None:
    facts = {"size_bytes": 1, "sha256": SHA256}
    if isinstance(adapters, dict) and "x" not in adapters:
        adapters = dict.fromkeys(adapters, facts)
    body = json.dumps({"files": {"a": facts}, "scalars": {"adapter_files": adapters}}).encode()
    store.put_bytes("r/1/checkpoints/manifest.json", body)

    with pytest.raises(ObjectCorruptError, match=r"is not a manifest|names itself"):
        folder_contents(store, "r/1/checkpoints/", hashlib.sha256(body).hexdigest())


def test_a_damaged_folder_is_not_uploaded(store: ObjectStore, tmp_path: Path) -> None:
    _make_folder(tmp_path / "out")
    (tmp_path / "out" / "samples" / "0.png").write_bytes(b"pictur3")

    with pytest.raises(ObjectCorruptError, match=r"samples/0\.png"):
        put_folder(store, "r/1/result/", tmp_path / "out")
    assert store.size("r/1/result/manifest.json") is None

    (tmp_path / "out" / "samples" / "0.png").unlink()
    with pytest.raises(FileNotFoundError):
        put_folder(store, "r/1/result/", tmp_path / "out")


def test_a_folder_is_never_committed_over_another(store: ObjectStore, tmp_path: Path) -> None:
    _make_folder(tmp_path / "one")
    _make_folder(tmp_path / "two")
    put_folder(store, "r/1/result/", tmp_path / "one")

    with pytest.raises(ObjectCorruptError, match="another manifest"):
        put_folder(store, "r/1/result/", tmp_path / "two")


@pytest.mark.parametrize("damage", ["content", "length", "gone", "manifest", "manifest_gone"])
def test_a_damaged_or_incomplete_folder_is_refused(
    store: ObjectStore, tmp_path: Path, damage: str
) -> None:
    _make_folder(tmp_path / "out")
    stored = put_folder(store, "r/1/result/", tmp_path / "out")
    match damage:
        case "content":
            store.put_bytes("r/1/result/samples/0.png", b"pictur3")
        case "length":
            store.put_bytes("r/1/result/samples/0.png", b"picture.")
        case "gone":
            store.delete("r/1/result/samples/0.png")
        case "manifest":
            store.put_bytes("r/1/result/manifest.json", b'{"files":{}}')
        case "manifest_gone":
            store.delete("r/1/result/manifest.json")

    with pytest.raises((ObjectCorruptError, ObjectMissingError), match="r/1/result/"):
        get_folder(store, stored, tmp_path / "back")
    assert not (tmp_path / "back" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", ".ssh/x", "manifest.json"])
def test_a_manifest_cannot_name_a_file_elsewhere(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    manifest = json.dumps({"files": {name: {"size_bytes": 1, "sha256": SHA256}}}).encode()
    store.put_bytes("r/1/result/manifest.json", manifest)
    stored = StoredFiles(
        key_prefix="r/1/result/",
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        size_bytes=1,
    )

    with pytest.raises(ObjectCorruptError, match=r"is not a manifest|names itself"):
        get_folder(store, stored, tmp_path / "back")


def test_a_deletion_leaves_no_empty_folder_and_hurts_no_writer(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    store = FolderStore(root, UrlSigner(api_url="http://unused", signing_key=b"unused here 0123"))
    store.put_bytes("runs/other/weights", b"stays")

    def write_and_delete(writer: int) -> None:
        for number in range(60):
            key = f"runs/one/attempts/1/{writer}"
            if number % 2:
                assert store.commit_once(key, b"body")
            else:
                store.put_bytes(key, b"body")
            assert store.get_bytes(key, limit_bytes=4) == b"body"
            assert set(store.list_keys("runs/")) >= {key, "runs/other/weights"}
            store.delete(key)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write_and_delete, range(4)))
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert found == {".incoming", "runs", "runs/other", "runs/other/weights"}
