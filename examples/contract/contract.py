"""The whole API of Reverie, call by call, with its Python client.

    REVERIE_URL           where the service is, such as http://127.0.0.1:8484
    REVERIE_OPERATOR_KEY  rvo_…, the key of somebody who runs the service

It makes two tenants, trains a tiny model for four steps, and deletes both tenants. Each function is
a section: what it does and why, the calls, and a check of what they return. The first wrong answer
ends the program. The client sends an Idempotency-Key with each POST and repeats what may be
repeated, so nothing here does.
"""

import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.client.async_client import AsyncClient
from services.client.client import Client
from services.client.dataset_shapes import NewFile
from services.client.download import download
from services.client.errors import ProblemError
from services.client.pages import every
from services.client.push import push_folder

HERE = Path(__file__).parent
PHOTOS = HERE.parent / "photos" / "train"


def say(text: str) -> None:
    print(f"\n{text}")


def check(is_right: bool, expected: str) -> None:
    """End the program unless the answer was as it should be."""
    if not is_right:
        sys.exit(f"contract.py: {expected}")


def refused(code: str, call: Callable[[], Any]) -> ProblemError:
    """Make a call that the service has to refuse with this code."""
    try:
        call()
    except ProblemError as problem:
        check(problem.code == code, f"the refusal should be {code}: {problem}")
        return problem
    sys.exit(f"contract.py: this should be refused with {code}")


def wait_until(is_there: Callable[[], bool], what: str) -> None:
    """Ask again until it is so, for at most five minutes."""
    end_s = time.monotonic() + 300
    while not is_there():
        check(time.monotonic() < end_s, f"{what} did not come")
        time.sleep(0.2)


def make_tenant(operator: Client, name: str) -> tuple[str, str]:
    """A tenant, and the first key of its owner. The secret is in this one answer only."""
    tenant = operator.create_tenant({"name": name})
    key = operator.create_tenant_key(tenant["id"], {"name": "first"})
    check(key["secret"] is not None, "a new key should come with its secret")
    return tenant["id"], str(key["secret"])


def run_the_service(operator: Client, tenant_id: str) -> None:
    """What an operator looks at and sets: tenants with their quotas, keys, prices, workers."""
    say("An operator sets weights, quotas and prices, and sees tenants, keys and workers.")
    changed = operator.change_tenant(tenant_id, {"weight": 2.0, "quotas": {"queued_runs": 20}})
    check(changed["weight"] == 2, "the weight should be set")
    limits = {quota["id"]: quota["limit"] for quota in operator.get_tenant(tenant_id)["quotas"]}
    check(limits["queued_runs"] == 20, "the quota should be set")
    listed = every(lambda after: operator.list_tenants(limit=100, after=after))
    check(any(tenant["id"] == tenant_id for tenant in listed), "the tenant should be listed")
    (owner,) = operator.list_tenant_members(tenant_id).data
    check(owner["role"] == "owner", "a new tenant should have an owner")
    spare = operator.create_tenant_key(tenant_id, {"name": "spare"})
    check(operator.get_tenant_key(tenant_id, spare["id"])["name"] == "spare", "it should be shown")
    operator.revoke_tenant_key(tenant_id, spare["id"])
    check(len(operator.list_tenant_keys(tenant_id).data) == 1, "one key should be left")
    operator.set_price("example", price_micros_per_hour=2_500_000, memory_bytes=80 << 30)
    priced = [gpu_class["id"] for gpu_class in operator.list_gpu_classes().data]
    check("example" in priced, "the price should be listed")
    box = operator.create_worker_key({"name": "box", "gpu_class": "example"})
    check(operator.get_worker_key(box["id"])["gpu_class"] == "example", "it should be shown")
    operator.revoke_worker_key(box["id"])
    left = every(lambda after: operator.list_worker_keys(limit=100, after=after))
    check(all(key["id"] != box["id"] for key in left), "a revoked key should not be listed")
    kinds = {worker["kind"] for worker in operator.list_workers().data}
    check("trainer" in kinds, "a trainer should be there")


def let_a_colleague_in(client: Client) -> None:
    """Members have roles, keys have scopes; what a key lacks is refused by name."""
    say("A colleague becomes a member, with a key that may read runs only.")
    refused("wrong_key", client.list_tenants)  # operators' addresses take no keys of tenants
    limits = {quota["id"]: quota["limit"] for quota in client.get_own_tenant()["quotas"]}
    check(limits["queued_runs"] == 20, "the tenant should see its quotas")
    prices = {each["id"]: each["price_micros_per_hour"] for each in client.list_gpu_types().data}
    check(prices["example"] == 2_500_000, "it should see the price list")
    grace = client.create_member("Grace", "viewer")
    client.change_member(grace["id"], {"role": "member"})
    check(client.get_member(grace["id"])["role"] == "member", "the role should be changed")
    check(len(client.list_members().data) == 2, "both members should be listed")
    key = client.create_key(
        {"name": "dashboard", "member_id": grace["id"], "scopes": ["runs:read"]}
    )
    check(client.get_key(key["id"])["scopes"] == ["runs:read"], "the scopes should be kept")
    with Client(client.url, str(key["secret"])) as reader:
        check(reader.list_runs().data == [], "there should be no runs yet")
        problem = refused("scope_missing", lambda: reader.cancel_run("run_of_somebody"))
        check(problem.status == 403, "a missing scope should be 403")
        check("runs:write" in problem.detail, "the detail should name the scope")
        check(problem.request_id is not None, "a problem should name its request")
    renewed = client.rotate_key(key["id"], grace_s=3600)  # the old one works for an hour more
    client.revoke_key(renewed["id"])
    client.remove_member(grace["id"])
    check(len(client.list_keys().data) == 1, "her keys should be gone with her")


def push_pictures(client: Client, folder: Path) -> str:
    """A folder becomes a dataset: declared, uploaded by signed requests, verified."""
    say("Pictures with captions become a dataset; a large file is sent in parts.")
    photos = folder / "photos"
    photos.mkdir()
    for name, caption in (
        ("espresso_cup", "a cup of coffee"),
        ("astronaut_portrait", "a portrait"),
    ):
        shutil.copy(PHOTOS / f"{name}.jpg", photos)
        (photos / f"{name}.txt").write_text(caption)
    dataset = push_folder(client, photos)
    check(dataset["status"] == "ready", "the dataset should be verified")
    check(client.get_dataset(dataset["id"])["num_files"] == 4, "it should have four files")
    return dataset["id"]


def push_a_large_picture(client: Client, folder: Path) -> None:
    """Above 32 MiB it goes in parts; after an interruption only the missing ones are sent."""
    large = folder / "large"
    large.mkdir()
    picture = (PHOTOS / "espresso_cup.jpg").read_bytes()
    (large / "large.jpg").write_bytes(picture + bytes(34_000_000))
    (large / "large.txt").write_text("a cup of coffee")
    push_folder(client, large)
    both = [dataset["id"] for dataset in client.list_datasets().data]
    check(len(both) == 2, "both datasets should be listed")
    files = client.list_dataset_files(both[0]).data
    check([file["path"] for file in files] == ["large.jpg", "large.txt"], "and its files")
    changes = client.diff_datasets(both[1], against=both[0])["totals"]
    check(changes is not None and changes["added"] == 2, "the large one should have two others")


def give_up_an_upload(client: Client) -> str:
    """A dataset that stays open; the parts of its large file, if any were sent, are deleted."""
    never: NewFile = {"path": "never.jpg", "size_bytes": 34_000_000, "sha256": "0" * 64}
    dataset = client.create_dataset("never complete", [never])
    client.abort_parts(dataset["id"], never["path"])
    return dataset["id"]


def plan(client: Client, request: Any) -> None:
    """What a run would be, and every mistake with its place, before anything starts."""
    say("What would a run be?")
    found = client.validate_run(request)
    check(found["is_valid"], f"the request should be valid: {found['problems']}")
    check(found["max_steps"] == 4, "it should take four steps")
    wrong: Any = {**request, "config": {**request["config"], "learning_rate": -1}}
    problem = refused("invalid_plan", lambda: client.submit_run(wrong))
    check(problem.errors[0].pointer == "/config/learning_rate", "the mistake should be pointed at")


def train(client: Client, request: Any) -> str:
    """Submit, pause, change, resume, and watch to the end."""
    say("A run: paused, changed and resumed, and watched to its end.")
    run_id = client.submit_run(request)["id"]
    client.pause_run(run_id)
    wait_until(lambda: client.get_run(run_id)["status"] == "paused", "the pause")
    paused = client.get_run(run_id)
    changed = client.change_run(
        run_id,
        {
            "priority": "high",
            "max_gpu_hours": 1.5,
            "deadline": "2030-01-31T12:00:00Z",
            "metadata": {"by": "the client"},
        },
        version=paused["version"],
    )
    check(changed["metadata"]["by"] == "the client", "the metadata should be merged")
    old = paused["version"]  # changes only what the caller has seen
    refused("version_mismatch", lambda: client.resume_run(run_id, version=old))
    resumed = client.resume_run(run_id, version=changed["version"])
    later = client.get_run(run_id, wait_s=2)  # answers once the run changes, or after 2 s
    check(later["version"] >= resumed["version"], "a version should only rise")
    check("identity" in client.get_plan(run_id), "the plan should have every default filled in")
    for event in client.stream_events(run_id):
        print(f"  {event.id:3} {event.type} at step {event.step}")
    check(event.type == "run.succeeded", f"the run should succeed: {event.data}")
    check(client.list_events(run_id, after=event.id - 1).data == [event], "it is listed, too")
    (found,) = client.list_runs(status="succeeded", metadata={"by": "the client"}).data
    check((found["id"], found["step"]) == (run_id, 4), "it should have taken four steps")
    return run_id


def see_what_it_did(client: Client, run_id: str) -> None:
    """Logs, curves and attempts."""
    say("What it printed, its loss, and who worked on it.")
    printed = [piece.text for piece in client.stream_logs(run_id)]
    (tail,) = client.list_logs(run_id, tail=1).data
    check("".join(printed).endswith(tail.text), "the last line should be the last of the stream")
    (loss,) = client.get_metrics(run_id, names="loss", points=4)["series"]
    check(loss["last_step"][-1] == 4, "there should be a loss of the last step")
    (attempt,) = client.list_attempts(run_id).data
    check(attempt["outcome"] == "finished", "the attempt should be finished")


def fetch_what_it_made(client: Client, run_id: str, folder: Path) -> None:
    """Result, checkpoints and samples, by links that are valid for an hour."""
    say("What it made.")
    made = {file["path"]: file for file in client.get_result(run_id)["files"]}
    adapter = made["pytorch_lora_weights.safetensors"]
    listed = [file["path"] for file in client.list_artifacts(run_id, folder="result").data]
    check(f"result/{adapter['path']}" in listed, "the adapter should be an artifact")
    check(client.list_checkpoints(run_id).data[0]["step"] == 4, "step 4 should be stored")
    (sample,) = client.list_samples(run_id).data
    check(sample["path"] == "result/samples/0.png", "there should be a sample")
    refused("no_preview", lambda: client.get_preview(run_id))  # only while a picture is sampled
    link = client.get_artifact(run_id, sample["path"])
    check(link.startswith("http"), "an artifact should lead to a link")
    to = folder / "adapter.safetensors"
    download(client, run_id, f"result/{adapter['path']}", to)  # goes on where it broke off
    check(to.stat().st_size == adapter["size_bytes"], "the whole adapter should be here")


def publish(client: Client, run_id: str) -> None:
    """The result is published by itself, here to a folder; a checkpoint on request."""
    say("Publications.")
    target: Any = {"run_id": run_id, "checkpoint_step": 2, "target": {"kind": "folder"}}
    publication_id = client.create_publication(target)["id"]
    wait_until(
        lambda: client.get_publication(publication_id)["status"] == "succeeded", "the publication"
    )
    check(len(client.list_publications(run_id=run_id).data) == 2, "there should be two of them")


def run_it_again(client: Client, run_id: str, open_id: str) -> str:
    """A clone with changes, the difference, and a cancel; returns its id."""
    say("The run again, with another seed, waiting for a dataset that is not complete; canceled.")
    clone = client.clone_run(run_id, {"config": {"seed": 7}, "datasets": {"photos": open_id}})
    check(clone["parent_run_id"] == run_id, "a clone should know its parent")
    waiting = client.get_run(clone["id"])["waiting"]
    check(waiting is not None and waiting["code"] == "waiting_for_data", "it should wait")
    found = client.diff_runs(run_id, against=clone["id"])["request"]
    after = {difference["option"]: difference["after"] for difference in found}
    check(after == {"/config/seed": 7, "/datasets/photos": open_id}, "both should be differences")
    canceled = client.cancel_run(clone["id"], now=True)
    check(canceled["status"] == "canceled", "it should be canceled at once")
    return clone["id"]


async def sweep(url: str, key: str, request: Any) -> None:
    """A sweep with the client for asyncio, which watches both runs at once."""
    say("A sweep over the learning rate; one row of it is wrong, and refused by name.")
    rates: list[Any] = [5e-3, 2e-2, -1]
    async with AsyncClient(url, key) as client:
        batch = await client.submit_batch(
            {
                "name": "rates",
                "base": request,
                "sweep": {"method": "grid", "options": {"learning_rate": rates}},
            }
        )
        check((batch["num_runs"], batch["num_refused"]) == (2, 1), "one row should be refused")
        compared = await client.compare_batch(batch["id"])
        check(compared["options"] == ["learning_rate"], "the runs should differ in one option")

        async def last_event(run_id: str) -> str:
            async for event in client.stream_events(run_id):
                last = event.type
            return last

        watching = [asyncio.create_task(last_event(row["run_id"])) for row in batch["runs"]]
        await client.cancel_batch(batch["id"])
        ends = await asyncio.gather(*watching)
        check(set(ends) <= {"run.canceled", "run.succeeded"}, f"both should end: {ends}")
        check((await client.get_batch(batch["id"]))["num_runs"] == 2, "the batch has two runs")
        check(len((await client.list_batches()).data) == 1, "there should be one batch")
        rows = await client.list_runs(batch_id=batch["id"], limit=1)
        check(rows.has_more, "its runs should be listed in pages")


def keep_a_secret(client: Client) -> None:
    """Secrets go in and never come out; a publication to the Hub would name this one."""
    say("A secret.")
    client.put_secret("my-hub", "hub", "hf_0123456789abcdef")
    check("value" not in client.get_secret("my-hub"), "a secret should not come out")
    check(len(client.list_secrets().data) == 1, "it should be listed")
    client.delete_secret("my-hub")


def be_told_of_events(client: Client) -> None:
    """A webhook, at an address that is nobody's (RFC 2606): what is sent to it stays pending."""
    say("A webhook.")
    webhook = client.create_webhook(
        {"url": "https://hooks.example.invalid/reverie", "events": ["run.failed"]}
    )
    check(str(webhook["secret"]).startswith("whsec_"), "a new webhook should come with its secret")
    webhook_id = webhook["id"]
    events: Any = ["run.failed", "run.succeeded"]
    client.change_webhook(webhook_id, {"events": events}, version=webhook["version"])
    check(client.get_webhook(webhook_id)["events"] == events, "it should have both events")
    check(len(client.list_webhooks().data) == 1, "it should be listed")
    delivery = client.test_webhook(webhook_id)
    shown = client.get_delivery(webhook_id, delivery["id"])
    check(shown["status"] == "pending", "nobody should have taken the event")
    client.replay_delivery(webhook_id, delivery["id"])
    check(len(client.list_deliveries(webhook_id).data) == 1, "there should be one delivery")
    client.rotate_webhook_secret(webhook_id, grace_s=3600)
    client.delete_webhook(webhook_id)


def look_at_the_books(client: Client, operator: Client, tenant_id: str, run_id: str) -> None:
    """What was used, what may be used, and who did what."""
    say("Usage, quotas and the audit log, whose chain of hashes is verified.")
    (month, *_) = client.list_usage().data
    check(month["gpu_classes"][0]["charged_s"] > 0, "training should be charged")
    used = {quota["id"]: quota["used"] for quota in client.list_quotas().data}
    check(used["queued_runs"] == 0, "no run should be left")
    (event,) = client.list_audit_events(action="run.created", target=run_id).data
    check(event["actor"]["kind"] == "key", "the run should be made by a key")
    check(client.verify_audit_events()["is_whole"], "the audit log should be whole")
    verified = operator.operator_verify_audit_events(tenant_id)
    check(verified["is_whole"], "it should be whole for the operator, too")


def delete(client: Client, run_ids: tuple[str, str], dataset_id: str, name: str) -> str:
    """Runs, a dataset and the tenant; returns the id of the tenant's deletion."""
    say("Deleted: a run that never started, with the report of it; one that trained; a dataset.")
    idle_id, trained_id = run_ids
    deletion = client.delete_run(idle_id)
    refused("not_found", lambda: client.get_run(idle_id))
    wait_until(lambda: client.get_deletion(deletion["id"])["status"] == "succeeded", "the deletion")
    report = client.get_deletion(deletion["id"])["report"]
    check(not any(report["checked"].values()), f"nothing of the run should be left: {report}")
    client.delete_run(trained_id)  # waits until no worker can write any more, 20 minutes
    client.delete_dataset(dataset_id)  # and this until no address of an upload works any more
    say("And the tenant, with all that is left.")
    last = client.delete_tenant(name)["id"]
    refused("unauthenticated", client.list_runs)
    return last


def main() -> None:
    try:
        url, operator_key = os.environ["REVERIE_URL"], os.environ["REVERIE_OPERATOR_KEY"]
    except KeyError as error:
        sys.exit(f"contract.py: set {error.args[0]}; examples/README.md says how")
    name = f"tour-{secrets.token_hex(4)}"
    with Client(url, operator_key) as operator, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tenant_id, key = make_tenant(operator, name)
        run_the_service(operator, tenant_id)
        other_id, other_key = make_tenant(operator, f"{name}-other")
        with Client(url, key) as client, Client(url, other_key) as other:
            let_a_colleague_in(client)
            dataset_id = push_pictures(client, folder)
            push_a_large_picture(client, folder)
            open_id = give_up_an_upload(client)
            request = json.loads((HERE / "run.json").read_text())
            request["datasets"]["photos"] = dataset_id
            plan(client, request)
            run_id = train(client, request)
            refused("not_found", lambda: other.get_run(run_id))  # for others it does not exist
            see_what_it_did(client, run_id)
            fetch_what_it_made(client, run_id, folder)
            publish(client, run_id)
            idle_id = run_it_again(client, run_id, open_id)
            asyncio.run(sweep(url, key, request))
            keep_a_secret(client)
            be_told_of_events(client)
            look_at_the_books(client, operator, tenant_id, run_id)
            last = delete(client, (idle_id, run_id), open_id, name)
        check(operator.operator_get_deletion(last)["target"] == tenant_id, "it is the tenant's")
        operator.operator_delete_tenant(other_id, f"{name}-other")
    say("Done: every call of the API was answered as it should be.")


if __name__ == "__main__":
    main()
