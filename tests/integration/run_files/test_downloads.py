"""Files of a run are downloaded although things break; the adapter of a checkpoint alone."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import httpx
import pytest
from typer.testing import CliRunner, Result

from services.cli.connection import Invocation
from services.cli.program import app
from services.client.client import Client
from services.client.download import (
    DownloadProgress,
    download,
    download_adapter,
    download_folder,
)
from services.client.errors import DownloadFailedError
from services.client.retry import Retry
from services.domain.ledger import Claim
from services.objects.port import ObjectStore
from tests.integration.run_files.contents import ADAPTER, ADAPTERS, LIVE, RESULT, STATE, WEIGHTS
from tests.support.finished_runs import closed_folder, commit_checkpoint
from tests.support.fleet import Fleet
from tests.support.proxy import FaultProxy
from tests.support.runs import TenantDatabase, plan
from tests.support.waiting import wait_until


def test_a_download_that_breaks_off_goes_on_where_it_was(
    client: Client, claim: Claim, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Each connection is cut in the middle of a block until the whole file is there."""
    to = tmp_path / "sub" / "weights"
    seen: list[DownloadProgress] = []

    def cut(now: DownloadProgress) -> None:
        seen.append(now)
        proxy.set("half_body" if len(seen) < 4 else "ok")

    proxy.set("half_body")
    download(client, claim.run_id, "result/a.safetensors", to, cut)

    assert to.read_bytes() == WEIGHTS
    assert [path.name for path in to.parent.iterdir()] == ["weights"]
    assert proxy.hits["half_body"] >= 2
    done = [now.done_bytes for now in seen]
    assert done == sorted(done), "it never starts anew"
    assert (done[-1], seen[-1].total_bytes) == (len(WEIGHTS), len(WEIGHTS))


def test_a_download_goes_on_in_another_process_and_a_whole_file_is_left_alone(  # noqa: PLR0917 - fixtures
    fleet: Fleet, key: str, client: Client, claim: Claim, proxy: FaultProxy, tmp_path: Path
) -> None:
    to = tmp_path / "weights"
    proxy.set("half_body")
    with (
        Client(fleet.url, key, retry=Retry(tries=1)) as hasty,
        pytest.raises(DownloadFailedError, match="no answer"),
    ):
        download(hasty, claim.run_id, "result/a.safetensors", to)
    (part,) = tmp_path.iterdir()
    come_bytes = part.stat().st_size
    assert 0 < come_bytes < len(WEIGHTS)
    proxy.set("ok")
    seen: list[DownloadProgress] = []
    download(client, claim.run_id, "result/a.safetensors", to, seen.append)
    assert seen[0].done_bytes > come_bytes
    assert to.read_bytes() == WEIGHTS
    before = to.stat().st_mtime_ns
    download(client, claim.run_id, "result/a.safetensors", to)
    assert to.stat().st_mtime_ns == before
    to.write_bytes(b"x" * len(WEIGHTS))
    download(client, claim.run_id, "result/a.safetensors", to)
    assert to.read_bytes() == WEIGHTS


def test_what_is_not_what_was_stored_is_thrown_away(
    client: Client, claim: Claim, tmp_path: Path
) -> None:
    to = tmp_path / "weights"
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    part = tmp_path / f".weights.{digest[:16]}.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(DownloadFailedError, match="damaged"):
        download(client, claim.run_id, "result/a.safetensors", to)
    assert list(tmp_path.iterdir()) == []
    download(client, claim.run_id, "result/a.safetensors", to)
    assert to.read_bytes() == WEIGHTS
    with pytest.raises(DownloadFailedError, match="no artifact result/none"):
        download(client, claim.run_id, "result/none", to)


def test_a_folder_is_downloaded_with_its_manifest(
    client: Client, claim: Claim, tmp_path: Path
) -> None:
    files = download_folder(client, claim.run_id, "checkpoints/step-00000020", tmp_path / "c")
    assert [file.name for file in files] == ["manifest.json", "state.safetensors"]
    assert files[1].read_bytes() == STATE["state.safetensors"]
    with pytest.raises(DownloadFailedError, match="no checkpoints/step-00000025"):
        download_folder(client, claim.run_id, "checkpoints/step-00000025", tmp_path / "d")


@pytest.fixture(scope="module")
def averaged(
    tenant_db: TenantDatabase, objects: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Claim:
    """A run with a running mean that still trains: its checkpoint has both adapters."""
    folder = tmp_path_factory.mktemp("averaged")
    claim = tenant_db.held(plan=plan(checkpoints=3))
    for step, more in ((5, {ADAPTER: b"now"}), (10, ADAPTERS), (20, {})):
        state = closed_folder(folder / str(step), STATE, more)
        commit_checkpoint(tenant_db, claim, objects, state, step)
    return claim


def test_the_adapter_of_a_checkpoint_is_an_artifact_while_the_run_trains(
    http: httpx.Client, client: Client, averaged: Claim, tmp_path: Path
) -> None:
    run_id, folder = averaged.run_id, "checkpoints/step-00000010"
    listed = http.get(f"/v1/runs/{run_id}/artifacts", params={"folder": folder}).json()["data"]
    assert [file["path"] for file in listed] == [
        f"{folder}/{name}" for name in sorted([*STATE, *ADAPTERS, "manifest.json"])
    ]
    one = http.get(f"/v1/runs/{run_id}/artifacts/{folder}/{LIVE}", follow_redirects=True)
    assert one.content == ADAPTERS[LIVE]
    checkpoints = http.get(f"/v1/runs/{run_id}/checkpoints").json()["data"]
    state_bytes = len(STATE["state.safetensors"])
    more_bytes = [0, sum(map(len, ADAPTERS.values())), len(b"now")]
    sizes = [each["size_bytes"] - state_bytes for each in checkpoints]
    assert sizes == more_bytes

    chosen: tuple[Literal["ema", "live"] | None, ...] = (None, "ema", "live")
    for weights in chosen:
        to = tmp_path / str(weights)
        files = download_adapter(client, run_id, folder, to, weights=weights)
        assert files == [to / ADAPTER, to / "lycoris_config.json"]
        assert files[0].read_bytes() == ADAPTERS[LIVE if weights == "live" else ADAPTER]
    with pytest.raises(DownloadFailedError, match=r"older versions.*`reverie export`"):
        download_adapter(client, run_id, "checkpoints/step-00000020", tmp_path / "none")
    with pytest.raises(DownloadFailedError, match=r"no result, or .*runs show .* lists its checkp"):
        download_adapter(client, run_id, "result", tmp_path / "none")
    with pytest.raises(DownloadFailedError, match=r"no running mean \(EMA\) in .*: take the live"):
        download_adapter(
            client, run_id, "checkpoints/step-00000005", tmp_path / "none", weights="ema"
        )
    with pytest.raises(ValueError, match="adapters of a checkpoint"):
        download_adapter(client, run_id, "result", tmp_path / "none", weights="ema")
    assert not (tmp_path / "none").exists()


def test_the_command_takes_the_adapter_alone(
    fleet: Fleet, key: str, averaged: Claim, tmp_path: Path
) -> None:
    env = {"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key}

    def download(*options: str) -> Result:
        arguments = ["runs", "download", averaged.run_id, *options, "--to", str(tmp_path / "a")]
        return CliRunner().invoke(app, arguments, obj=Invocation(env=env))

    assert "no result" in str(download("--adapter").exception)
    done = download("--checkpoint", "10", "--adapter", "--weights", "live")
    assert done.exit_code == 0, done.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        ADAPTER: ADAPTERS[LIVE],
        "lycoris_config.json": b"{}",
    }
    for options in (("--weights", "ema"), ("--adapter", "--weights", "ema")):
        refused = download(*options)
        assert refused.exit_code == 2
        assert "add --checkpoint STEP --adapter" in refused.stderr


def test_the_command_is_interrupted_and_goes_on(
    fleet: Fleet, proxy: FaultProxy, key: str, claim: Claim, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "services.cli.main", "runs", "download", claim.run_id]
    command += ["--to", str(tmp_path / "out")]
    env = {**os.environ, "REVERIE_URL": fleet.url, "REVERIE_API_KEY": key}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    proxy.set("slow")
    process = start()
    wait_until(
        lambda: any(part.stat().st_size for part in tmp_path.glob("out/.*.part")),
        what="the first bytes",
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command to go on" in err
    assert "Traceback" not in err

    proxy.set("ok")
    out, err = start().communicate(timeout=60)
    assert str(tmp_path / "out" / "a.safetensors") in out, err
    for name, body in RESULT.items():
        assert (tmp_path / "out" / name).read_bytes() == body
    assert list(tmp_path.glob("out/.*.part")) == []
