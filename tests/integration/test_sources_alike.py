"""The same pictures and captions through every type of data backend are the same entries."""

import ipaddress
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.buckets import listing
from tests.support.file_server import OWN, File, FileServer
from tests.support.hub import HubServer
from tests.support.pictures import picture
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.local.data import scan
from trainer_core.progress import SilentReporter
from trainer_core.sources.fetching import fetch_source
from trainer_core.sources.surroundings import Surroundings

FILES = {
    f"{stem}{suffix}": body
    for n, stem in enumerate(("a", "in/b", "in/deep/c"))
    for suffix, body in (
        (".png", picture(n, size=(200, 160))),
        (".txt", f"number {n},  with two blanks\nand another line".encode()),
    )
}
Backend = Callable[[Path, FileServer, HubServer], dict[str, Any]]


def _write(folder: Path) -> Path:
    for name, body in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


def in_tar_files(tmp_path: Path, _server: FileServer, _hub: HubServer) -> dict[str, Any]:
    folder = _write(tmp_path / "unpacked")
    with tarfile.open(tmp_path / "t.tar", "w") as opened:
        opened.add(folder, ".")
    return {"type": "webshart", "source": "t.tar", "caption_strategy": "webshart"}


def in_a_bucket(_path: Path, server: FileServer, _hub: HubServer) -> dict[str, Any]:
    objects = {f"cats/{name}": body for name, body in FILES.items()}
    server.files["/pictures"] = File(body=listing(objects))
    server.files |= {f"/pictures/{key}": File(body=body) for key, body in objects.items()}
    return {
        "type": "aws",
        "aws_bucket_name": "pictures",
        "aws_data_prefix": "cats",
        "aws_endpoint_url": server.url(""),
        "aws_access_key_id": "AKIAEXAMPLE",
        "aws_secret_access_key": "not-for-eyes",
        "caption_strategy": "textfile",
    }


def on_the_hub(_path: Path, _server: FileServer, hub: HubServer) -> dict[str, Any]:
    hub.add_dataset("someone/cats", FILES)
    return {"type": "huggingface", "dataset_name": "someone/cats"}


def in_a_table(tmp_path: Path, _server: FileServer, _hub: HubServer) -> dict[str, Any]:
    _write(tmp_path / "pics")
    rows = [
        {"id": name.removesuffix(".png"), "text": FILES[f"{name[:-4]}.txt"].decode().split("\n")}
        for name in FILES
        if name.endswith(".png")
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    table = {"path": "t.json", "filename_column": "id", "caption_column": "text"}
    return {"instance_data_dir": "pics", "caption_strategy": "parquet", "parquet": table}


def index_of(
    backend: dict[str, Any], tmp_path: Path, folder: Path | None = None
) -> tuple[DataIndex, str]:
    """What a run would encode, and the secret-free text of its plan."""
    backend = {"id": "cats", **backend}
    found = import_small({"output_dir": "out"}, backends=[backend], source="local")
    if folder is None:
        around = Surroundings(
            root=tmp_path / "sources",
            folders=(tmp_path,),
            allowed=(ipaddress.ip_network(f"{OWN}/32"),),
        )
        source = found.sources["cats"]
        folder = fetch_source("cats", source, around, SilentReporter()).folder
    data = scan(found.plan, {"cats": folder}, tmp_path / "notes", SilentReporter())
    index = build_index(found.plan, data.items, TINY_CONFIG)
    return index, found.plan.model_dump_json()


@pytest.mark.parametrize("backend", [in_tar_files, in_a_bucket, on_the_hub, in_a_table])
def test_nothing_is_encoded_twice(
    backend: Backend,
    tmp_path: Path,
    server: FileServer,
    on_the_hub: HubServer,
) -> None:
    wanted, _ = index_of(
        {"instance_data_dir": "pics", "caption_strategy": "textfile"},
        tmp_path,
        _write(tmp_path / "files"),
    )

    found, plan = index_of(backend(tmp_path, server, on_the_hub), tmp_path)

    assert len(wanted.entries) > 3
    assert {each.digest for each in found.entries} == {each.digest for each in wanted.entries}
    assert found.digest() == wanted.digest()
    assert "not-for-eyes" not in plan
