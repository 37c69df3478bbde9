"""Pictures that are elsewhere, from the command line: looked at, fetched, pushed and trained on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli.connection import CommandError, Invocation
from services.cli.plan_report import Report, report_on
from services.cli.program import app
from services.cli.source_fetching import local_folders, networks_in
from tests.support.buckets import listing
from tests.support.file_server import OWN, File, FileServer
from tests.support.local_commands import Commands
from tests.support.pictures import picture
from tests.support.tars import tar_of
from tests.unit.config_examples import SMALL_CONFIG, SMALL_LYCORIS

NETWORK = f"{OWN}/32"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(OWN) as running:
        for n in range(3):
            running.files[f"/{n}.png"] = File(body=picture(n, size=(128, 128)))
        yield running


@pytest.fixture
def config(tmp_path: Path, server: FileServer) -> Path:
    """The folder of a run on a list of three pictures and a dead link."""
    lines = [f"{server.url(f'/{n}.png')},number {n}" for n in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["url,caption", *lines]))
    folder = tmp_path / "config"
    folder.mkdir()
    written = {**SMALL_CONFIG, "lycoris_config": "ly.json", "data_backend_config": "b.json"}
    (folder / "config.json").write_text(json.dumps({**written, "resolution": 64}))
    (folder / "ly.json").write_text(json.dumps(SMALL_LYCORIS))
    backend = {"id": "list", "type": "csv", "csv_file": "list.csv", "caption_strategy": "csv"}
    cache = {"id": "t", "dataset_type": "text_embeds", "default": True, "cache_dir": "c"}
    (folder / "b.json").write_text(json.dumps([backend, cache]))
    return folder


def report(config: Path, *allowed: str) -> Report:
    return report_on(
        config,
        {},
        working_dir=config.parent,
        env={"REVERIE_HOME": str(config.parent / "home")},
        on_progress=lambda *_: None,
        allowed=networks_in(allowed),
    )


def run(config: Path, *argv: str) -> Result:
    env = {"REVERIE_HOME": str(config.parent / "home")}
    return CliRunner().invoke(app, argv, obj=Invocation(env=env))


def test_the_report_fetches_them_and_tells_what_is_not_there(
    config: Path, server: FileServer
) -> None:
    found = report(config, NETWORK)

    (survey,) = found.surveys
    assert (survey.pictures, survey.buckets) == (3, {(64, 64): 3})
    assert not found.errors
    (note,) = [each for each in found.warnings if "left out" in each]
    assert note.startswith(f"list: 1 row is left out: {server.url('/3.png')}: the server answers")
    asked = len(server.requests)
    assert report(config, NETWORK).surveys == found.surveys
    assert len(server.requests) == asked


def test_a_source_that_cannot_be_read_is_an_error_of_its_backend(config: Path) -> None:
    (error,) = report(config).errors  # without the network, no address is public
    assert (error.pointer, error.code) == ("/data_backends/0/type", "bad_source")
    assert error.file == config / "b.json"
    assert "no public address" in error.message
    (config.parent / "list.csv").unlink()
    assert "csv_file names list.csv" in report(config).errors[0].message


def test_they_are_fetched_into_a_folder(config: Path) -> None:
    to = config.parent / "pictures"
    argv = ("datasets", "fetch", str(config), "--backend", "list", "--allow-network", NETWORK)

    result = run(config, *argv, "--output", str(to))

    assert result.exit_code == 0, result.output
    assert str(to) in result.stdout
    assert {file.read_bytes() for file in to.glob("*.png")} == {
        picture(n, size=(128, 128)) for n in range(3)
    }
    assert {file.read_text() for file in to.glob("*.txt")} == {f"number {n}\n" for n in range(3)}
    again = run(config, *argv, "--output", str(to))
    assert again.exit_code != 0
    assert "is there already" in str(again.exception)
    other = run(config, *argv[:4], "lists", *argv[5:])
    assert "there is no data backend lists; there are: list, t" in str(other.exception)


def test_they_are_sent_to_the_service_as_files(config: Path) -> None:
    backends: list[dict[str, Any]] = json.loads((config / "b.json").read_text())
    body: dict[str, Any] = {"config": SMALL_CONFIG, "data_backends": backends}
    env = {"REVERIE_HOME": str(config.parent / "home")}

    folders = local_folders(body, (config.parent,), env, networks_in([NETWORK]), named=())

    assert len(list(folders["list"].glob("*.png"))) == 3
    assert body["data_backends"] == [
        {"id": "list", "type": "local", "caption_strategy": "textfile"},
        backends[1],
    ]
    body["data_backends"] = backends
    assert local_folders(body, (config.parent,), env, (), named=("list",)) == {}
    assert body["data_backends"][0]["type"] == "local"
    body["data_backends"] = [{**backends[0], "csv_file": "none.csv"}]
    with pytest.raises(CommandError, match=r"none\.csv"):
        local_folders(body, (config.parent,), env, (), named=())


@pytest.mark.parametrize("kind", ["aws", "webshart"])
def test_buckets_and_tar_files_are_looked_at_and_fetched(
    config: Path, server: FileServer, kind: str
) -> None:
    files = {f"{n}.png": picture(n, size=(128, 128)) for n in range(3)} | {"0.txt": b"one\ntwo"}
    backend: dict[str, Any] = {"id": "list", "type": kind}
    if kind == "webshart":
        (config.parent / "t.tar").write_bytes(tar_of(files))
        backend |= {"source": "t.tar", "caption_strategy": "webshart"}
    else:
        server.files["/pictures"] = File(body=listing(files))
        server.files |= {f"/pictures/{name}": File(body=body) for name, body in files.items()}
        backend |= {
            "aws_bucket_name": "pictures",
            "aws_endpoint_url": server.url(""),
            "aws_access_key_id": "AKIAEXAMPLE",
            "aws_secret_access_key": "not-for-eyes",
            "caption_strategy": "textfile",
        }
    (config / "b.json").write_text(json.dumps([backend]))
    sheet, to = config.parent / "sheet.png", config.parent / "pictures"

    argv = ("--allow-network", NETWORK)
    looked = run(config, "validate", "--config", str(config), "--contact-sheet", str(sheet), *argv)
    argv = ("--backend", "list", "--output", str(to), *argv)
    fetched = run(config, "datasets", "fetch", str(config), *argv)

    assert fetched.exit_code == 0, fetched.output
    assert sheet.is_file(), looked.output
    assert "not-for-eyes" not in looked.output + fetched.output
    assert {file.name: file.read_bytes() for file in to.rglob("*") if file.is_file()} == files


@pytest.mark.deep
def test_a_run_trains_on_them(commands: Commands, config: Path, tmp_path: Path) -> None:
    demo: dict[str, Any] = json.loads((commands.config / "config.json").read_text())
    few = {"max_train_steps": 1, "report_to": "none", "use_ema": False, "eval_steps_interval": 0}
    (config / "config.json").write_text(json.dumps({**demo, **few}))
    (config / "multidatabackend.json").write_text((config / "b.json").read_text())
    shutil.copy(commands.config / "lycoris_config.json", config)

    status, said = commands.run(
        *("train", "--config", config, "--output", tmp_path / "out", "--allow-network", NETWORK),
        REVERIE_HOME=str(tmp_path / "home"),
    )

    assert status == 0, said
    assert "list: 1 row is left out" in said
    assert (tmp_path / "out" / "result" / "pytorch_lora_weights.safetensors").is_file()
