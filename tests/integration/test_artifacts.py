"""The files of a run: listed in pages, reached by name, and downloaded although things break."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from PIL import Image
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
from services.domain.ledger import ChildEvent, Claim
from services.objects.folders import put_folder
from services.objects.keys import result_prefix, sample_key
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.settings.env import Settings
from services.store.database import Database
from tests.support.api_keys import new_api_key
from tests.support.finished_runs import closed_folder, commit_checkpoint
from tests.support.fleet import Fleet
from tests.support.proxy import FaultProxy
from tests.support.run_samples import png, sample_event, sample_path
from tests.support.runs import TenantDatabase, plan
from tests.support.service import database_of
from tests.support.tenant import Json
from tests.support.waiting import wait_until

PICTURE, WEIGHTS = b"not a picture", os.urandom(3 << 20)
RESULT = {"a.safetensors": WEIGHTS, "card.json": b"{}", "samples/0.png": PICTURE}
STATE = {"state.safetensors": os.urandom(1 << 20)}
ADAPTER, LIVE = "pytorch_lora_weights.safetensors", "live/pytorch_lora_weights.safetensors"
ADAPTERS = {
    ADAPTER: b"mean",
    "lycoris_config.json": b"{}",
    LIVE: b"now",
    "live/lycoris_config.json": b"{}",
}
STEPS = (10, 20, 30)
PATIENT = Retry(tries=8, first_wait_s=0.05, limit_s=0.2)


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    return fleet_of(REVERIE_SINGLE_TENANT="false")


@pytest.fixture(scope="module")
def proxy(fleet: Fleet) -> Iterator[FaultProxy]:
    """Before the API, whose signed links lead through it."""
    with FaultProxy(fleet.port).running() as proxy:
        fleet.start("api", REVERIE_API_URL=f"http://127.0.0.1:{proxy.port}")
        fleet.wait_ready()
        yield proxy


@pytest.fixture(scope="module")
def store(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture(scope="module")
def tenant_db(store: Database) -> TenantDatabase:
    return TenantDatabase.new(store)


@pytest.fixture(scope="module")
def objects(fleet: Fleet) -> ObjectStore:
    return open_store(Settings.from_env(fleet.env))


@pytest.fixture(scope="module")
def claim(
    tenant_db: TenantDatabase, objects: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Claim:
    """A run that succeeded, with three checkpoints and a result."""
    folder = tmp_path_factory.mktemp("run")
    claim = tenant_db.held(plan=plan(checkpoints=3))
    scope = (claim.tenant_id, claim.run_id, claim.fence)
    state = closed_folder(folder / "state", STATE)
    for step in STEPS:
        commit_checkpoint(tenant_db, claim, objects, state, step)
    for step, name in ((0, "cat"), (20, "cat"), (20, "桜")):
        body = png((step, 0, 0))
        event = sample_event(step, body, name, "trained" if step else "base")
        objects.put_bytes(sample_key(*scope, event.data["sha256"]), body)
        tenant_db.ledger.event(claim.run_id, claim.fence, [event])
    sample = ChildEvent(type="sample", step=30, data={"prompt": "a boat"})
    tenant_db.ledger.event(claim.run_id, claim.fence, [sample])
    files = put_folder(objects, result_prefix(*scope), closed_folder(folder / "result", RESULT))
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, files, step=30)
    return claim


@pytest.fixture(scope="module")
def key(tenant_db: TenantDatabase) -> str:
    with tenant_db.database.transaction() as conn:
        return new_api_key(conn, tenant_db.tenant_id)


@pytest.fixture
def client(fleet: Fleet, proxy: FaultProxy, key: str) -> Iterator[Client]:
    with Client(fleet.url, key, retry=PATIENT) as client:
        yield client
    proxy.set("ok")


@pytest.fixture
def http(fleet: Fleet, proxy: FaultProxy, key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=fleet.url, headers=headers) as http:
        yield http


def all_paths() -> list[str]:
    found = [f"result/{name}" for name in sorted([*RESULT, "manifest.json"])]
    for step in reversed(STEPS):
        folder = f"checkpoints/step-{step:08d}"
        found += [f"{folder}/manifest.json", f"{folder}/state.safetensors"]
    return found


def test_artifacts_are_listed_result_first_in_pages_of_any_size(
    http: httpx.Client, claim: Claim
) -> None:
    for limit in (1, 3, 100):
        found: list[Json] = []
        query: dict[str, str | int] = {"limit": limit}
        while True:
            page = http.get(f"/v1/runs/{claim.run_id}/artifacts", params=query).json()
            found += page["data"]
            if not page["has_more"]:
                break
            query["after"] = page["next_cursor"]
        assert [file["path"] for file in found] == all_paths()
    for file in found:
        body = httpx.get(file["url"]).content
        assert hashlib.sha256(body).hexdigest() == file["sha256"]
        assert len(body) == file["size_bytes"]

    folder = "checkpoints/step-00000020"
    page = http.get(f"/v1/runs/{claim.run_id}/artifacts", params={"folder": folder}).json()
    assert [file["path"] for file in page["data"]] == [p for p in all_paths() if folder in p]
    gone = {"after": "checkpoints/step-00000025/state.safetensors"}  # replaced meanwhile
    page = http.get(f"/v1/runs/{claim.run_id}/artifacts", params=gone).json()
    assert [file["path"] for file in page["data"]] == all_paths()[6:]
    for query in ({"after": "result"}, {"folder": "results"}, {"after": "result/../x"}):
        answer = http.get(f"/v1/runs/{claim.run_id}/artifacts", params=query)
        assert answer.status_code == 422, query


def test_the_name_of_an_artifact_leads_to_its_bytes(http: httpx.Client, claim: Claim) -> None:
    path = f"/v1/runs/{claim.run_id}/artifacts/result/samples/0.png"
    answer = http.get(path)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (307, "no-store")
    link = answer.headers["Location"]
    assert httpx.get(link).content == PICTURE
    assert httpx.get(link, headers={"Range": "bytes=4-6"}).content == PICTURE[4:7]
    head = http.head(path)
    assert head.status_code == 307
    told = httpx.head(head.headers["Location"])
    assert (told.status_code, told.headers["Content-Length"]) == (200, str(len(PICTURE)))
    assert httpx.get(head.headers["Location"]).status_code == 403
    for absent in (
        "result/none",
        "result/samples",
        "checkpoints/step-00000015/state.safetensors",
        "checkpoints/step-00000010/../../../result/card.json",
        "result/%2e%2e/card.json",
        sample_path(21),
        "samples/step-000020/%00.png",
    ):
        answer = http.get(f"/v1/runs/{claim.run_id}/artifacts/{absent}")
        assert (answer.status_code, answer.json()["code"]) in {
            (404, "not_found"),
            (422, "invalid_request"),
        }, absent


def samples_of(http: httpx.Client, claim: Claim, **query: str | int) -> list[Json]:
    """Over all pages of these."""
    found: list[Json] = []
    while True:
        answer = http.get(f"/v1/runs/{claim.run_id}/samples", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        query["after"] = page["next_cursor"]


PAINTED = [sample_path(20, "cat"), sample_path(20, "桜"), sample_path(0, "cat", "base")]


def test_samples_are_listed_newest_first_with_what_they_show(
    http: httpx.Client, claim: Claim
) -> None:
    for limit in (1, 2, 3, 4, 100):
        found = samples_of(http, claim, limit=limit)
        assert [each["path"] for each in found] == ["result/samples/0.png", *PAINTED]
    last, cat, _, base = found
    assert (last["step"], last["prompt"], last["name"], last["weights"]) == (
        30,
        "a boat",
        None,
        None,
    )
    assert httpx.get(last["url"]).content == PICTURE
    facts = ("name", "prompt", "weights", "width_px", "height_px", "seed", "sampler_steps")
    assert [cat[each] for each in facts] == ["cat", "a cat", "trained", 64, 48, 42, 4]
    assert (base["step"], base["weights"], base["guidance"]) == (0, "base", 5.0)
    for sample in (cat, base):
        body = httpx.get(sample["url"]).content
        assert (hashlib.sha256(body).hexdigest(), len(body)) == (
            sample["sha256"],
            sample["size_bytes"],
        )
        by_name = http.get(f"/v1/runs/{claim.run_id}/artifacts/{sample['path']}")
        assert httpx.get(by_name.headers["Location"]).content == body


def test_samples_are_filtered_by_step_and_name(http: httpx.Client, claim: Claim) -> None:
    chosen: list[tuple[dict[str, str | int], list[str]]] = [
        ({"step": 20}, PAINTED[:2]),
        ({"step": 30}, ["result/samples/0.png"]),
        ({"step": 7}, []),
        ({"name": "cat"}, [PAINTED[0], PAINTED[2]]),
        ({"name": "cat", "step": 0}, PAINTED[2:]),
        ({"after": "result/samples/0.png"}, PAINTED),
        ({"after": sample_path(20, "a")}, PAINTED),
        ({"after": sample_path(9, "a")}, PAINTED[2:]),
    ]
    for query, paths in chosen:
        found = samples_of(http, claim, limit=1, **query)
        assert [each["path"] for each in found] == paths, query
    refused: list[dict[str, str | int]] = [
        {"step": -1}, {"step": "1_0"}, {"step": 2**31}, {"name": "a\0"}, {"name": "x" * 201},
        {"after": "samples/step-1"}, {"after": "result/a.safetensors"},
        {"after": "samples/step-1/../x.png"},
    ]  # fmt: skip
    for query in refused:
        answer = http.get(f"/v1/runs/{claim.run_id}/samples", params=query)
        assert answer.status_code == 422, query


def run_command(fleet: Fleet, key: str, *arguments: str) -> Result:
    env = {"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key}
    return CliRunner().invoke(app, ["runs", *arguments], obj=Invocation(env=env))


def test_the_command_lists_and_downloads_samples_and_puts_them_on_one_page(
    fleet: Fleet, proxy: FaultProxy, key: str, claim: Claim, tmp_path: Path
) -> None:
    listed = run_command(fleet, key, "samples", claim.run_id, "--limit", "2")
    assert listed.exit_code == 0, listed.output
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
        ["30", "-", "-", "-", "-", "result/samples/0.png"],
        ["20", "cat", "trained", "64x48", "42", PAINTED[0]],
    ]
    assert f"--after {PAINTED[0]}" in listed.stderr

    to, sheet = tmp_path / "pictures", tmp_path / "new" / "sheet.png"
    done = run_command(
        fleet, key, "samples", claim.run_id, "--name", "cat", "--to", str(to), "--sheet", str(sheet)
    )
    assert done.exit_code == 0, done.output
    assert sorted(path.relative_to(to).as_posix() for path in to.rglob("*.png")) == [
        path.removeprefix("samples/") for path in (PAINTED[2], PAINTED[0])
    ]
    assert (to / PAINTED[0].removeprefix("samples/")).read_bytes() == png((20, 0, 0))
    with Image.open(sheet) as page:
        shown = json.loads(page.info["Description"])
    assert (shown["title"], shown["rows"], shown["columns"]) == (
        claim.run_id,
        ["base", "step 20"],
        ["cat"],
    )

    one = run_command(fleet, key, "samples", claim.run_id, "--sheet", str(sheet), "--json")
    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout) == {"files": [], "sheet": str(sheet)}
    with Image.open(sheet) as page:
        assert json.loads(page.info["Description"])["columns"] == ["cat", "桜"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "pictures"]

    wrong = run_command(fleet, key, "samples", claim.run_id, "--sheet", "sheet.jpg")
    assert (wrong.exit_code, "has to end in .png" in wrong.stderr) == (2, True)
    none = run_command(fleet, key, "samples", claim.run_id, "--step", "7", "--to", str(to))
    assert "has no such pictures" in str(none.exception)


def test_a_run_without_files_has_empty_lists(http: httpx.Client, tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.queued().run_id
    for name in ("artifacts", "samples"):
        assert http.get(f"/v1/runs/{run_id}/{name}").json()["data"] == []


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


def test_a_download_goes_on_in_another_process_and_a_whole_file_is_left_alone(  # noqa: PLR0917
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
