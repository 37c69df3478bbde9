"""The files of a run and its pictures: listed in pages, and reached by name."""

import hashlib
import json
from pathlib import Path

import httpx
from PIL import Image
from typer.testing import CliRunner, Result

from services.cli.connection import Invocation
from services.cli.program import app
from services.domain.ledger import ChildEvent, Claim
from services.objects.keys import preview_key
from services.objects.port import ObjectStore
from tests.integration.run_files.contents import PICTURE, RESULT, STEPS
from tests.support.fleet import Fleet
from tests.support.proxy import FaultProxy
from tests.support.run_samples import png, preview_event, sample_path
from tests.support.runs import TenantDatabase
from tests.support.tenant import Json


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
    assert (cat["clip_score"], cat["similarity"], last["clip_score"]) == (0.25, 0.75, None)
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


def test_the_newest_preview_is_fetched_while_a_picture_is_sampled(
    fleet: Fleet,
    http: httpx.Client,
    key: str,
    *,
    tenant_db: TenantDatabase,
    objects: ObjectStore,
    tmp_path: Path,
) -> None:
    claim = tenant_db.held()
    path, file = f"/v1/runs/{claim.run_id}/preview", tmp_path / "new" / "coming.png"
    answer = http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_preview")
    beside = run_command(fleet, key, "samples", claim.run_id, "--preview", str(file), "--step=4")
    assert beside.exit_code == 2
    assert "does not act" in beside.output
    none = run_command(fleet, key, "samples", claim.run_id, "--preview", str(file))
    assert (none.exit_code, file.exists()) == (1, False)

    stage = ChildEvent(type="stage", step=4, data={"stage": "sampling"})
    for sampler_step in (1, 3):
        body = png((sampler_step, 0, 0))
        objects.put_bytes(preview_key(claim.tenant_id, claim.run_id, claim.fence), body)
        event = preview_event(4, body, sampler_step)
        events = [stage, event] if sampler_step == 1 else [event]
        tenant_db.ledger.event(claim.run_id, claim.fence, events)
        found = http.get(path).json()
        facts = ("step", "picture", "name", "weights", "width_px", "height_px", "sampler_steps")
        assert [found[each] for each in facts] == [4, *(event.data[each] for each in facts[1:])]
        assert found["sampler_step"] == sampler_step
        assert httpx.get(found["url"]).content == body
        written = run_command(fleet, key, "samples", claim.run_id, "--preview", str(file))
        assert written.exit_code == 0, written.output
        assert f"step {sampler_step} of 4 of its sampler" in written.stdout
        assert file.read_bytes() == body
    assert list(file.parent.iterdir()) == [file]


def test_a_run_without_files_has_empty_lists(http: httpx.Client, tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.queued().run_id
    for name in ("artifacts", "samples"):
        assert http.get(f"/v1/runs/{run_id}/{name}").json()["data"] == []
