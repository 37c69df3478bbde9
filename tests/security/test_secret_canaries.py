"""Secrets of every kind are planted through the API, and searched for wherever they could be.

The API receives the values, so its memory is left out: Python cannot wipe it. The process that
publishes with a token is a child of ``results`` that ends with the publication.
"""

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from services.domain.ledger import ChildEvent
from services.objects.open import open_store
from services.processes.tree import descendants
from services.settings.env import Settings
from services.store.database import Database
from tests.support.api_keys import new_api_key
from tests.support.backups import dump_text
from tests.support.canaries import Canaries, RedisRecorder, core_limit_of
from tests.support.finished_runs import commit_whole_result
from tests.support.fleet import Fleet, command_of
from tests.support.hub import HubServer
from tests.support.redis import RedisServer
from tests.support.runs import TenantDatabase
from tests.support.service import new_tenant, push_photos, run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until
from tests.support.wandb_server import WandbServer
from tests.unit.config_examples import import_small


def values() -> Json:
    """A value of each kind that was never seen before."""
    return {
        "hub": f"hf_{secrets.token_hex(20)}",
        "s3": f"AKIA{secrets.token_hex(8)}:{secrets.token_hex(20)}",
        "wandb": secrets.token_hex(20),
    }


def plant(tenant: Tenant, planted: Json) -> str:
    """Store the values, and send them in every wrong way; returns all that was answered."""
    answers = []
    for kind, value in planted.items():
        good = {"kind": kind, "value": value}
        for body in (good, good, {**good, "kind": "git"}, {**good, "more": value}, {"kind": value}):
            answers.append(tenant.http.put(f"/v1/secrets/my-{kind}", json=body))
        answers += [
            tenant.http.put("/v1/secrets/Wrong", json=good),
            tenant.http.put("/v1/secrets/a", json={"kind": "hub", "value": [value]}),
            tenant.http.put(
                "/v1/secrets/a",
                content=f'{{"value": "{value}"',
                headers={"Content-Type": "application/json"},
            ),
            tenant.http.post("/v1/secrets", json=good),
            tenant.http.get(f"/v1/secrets/my-{kind}"),
        ]
    answers.append(tenant.http.get("/v1/secrets"))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == len(planted)
    assert max(statuses) < 500
    return "\n".join(answer.text for answer in answers)


def ended(tenant: Tenant, publication_id: str) -> Json | None:
    found = tenant.get(f"/v1/publications/{publication_id}")
    return found if found["status"] in ("succeeded", "failed") else None


def report_steps(tenant_db: TenantDatabase) -> str:
    """A run whose metrics are relayed, with a few steps; returns its id."""
    plan = import_small({"report_to": "wandb"}).plan.model_dump(mode="json")
    claim = tenant_db.held(plan=plan, wandb_secret="my-wandb")
    steps = [ChildEvent(type="step", step=n, data={"loss": 1.0 / n}) for n in range(1, 5)]
    tenant_db.ledger.event(claim.run_id, claim.fence, steps)
    return claim.run_id


def relayed(tenant: Tenant, run_id: str) -> Json | None:
    relay = tenant.run(run_id)["relay"]
    return None if relay["step"] is None else relay


def pids_of(fleet: Fleet, name: str) -> set[int]:
    first = fleet.processes[name].pid
    return {first, *(each.pid for each in descendants([first]))}


def check_nothing_is_left(canaries: Canaries, fleet: Fleet, redis: RedisRecorder) -> None:
    """In what is stored and written: logs, objects, publications, scratch, Redis, the database."""
    assert canaries.in_files(fleet.home) == {}
    assert canaries.in_bytes(redis.content) == set()
    assert redis.num_messages > 0
    dump = dump_text(fleet.env["REVERIE_DATABASE_URL"])
    assert b"my-hub" in dump
    assert canaries.in_bytes(dump) == set()
    assert canaries.in_environments() == {}


def test_the_search_finds_a_canary_in_each_form(tmp_path: Path) -> None:
    canary = f"hf_{secrets.token_hex(20)}"
    canaries = Canaries([canary])
    (tmp_path / "log").write_bytes(b"x" * 100 + canary.encode().hex().encode())
    assert canaries.in_files(tmp_path) == {str(tmp_path / "log"): {canary}}
    for before in (b"", b"a", b"ab"):
        assert canaries.in_bytes(base64.b64encode(before + canary.encode() + b"rest")) == {canary}
    assert canaries.in_bytes(b"hf_" + secrets.token_hex(20).encode()) == set()


def test_canaries_are_found_nowhere_but_where_they_are_used(
    fleet_of: Callable[..., Fleet],
    shared_redis_server: RedisServer,
    hub_server: HubServer,
    wandb_server: WandbServer,
    tmp_path: Path,
) -> None:
    fleet = fleet_of(
        fresh=True,
        REVERIE_SINGLE_TENANT="false",
        REVERIE_LOG_FORMAT="json",
        REVERIE_WANDB_URL=wandb_server.url,
        HF_ENDPOINT=hub_server.url,
        HF_HUB_DISABLE_XET="1",
    )
    for name in ("api", "dispatcher", "results"):
        fleet.start(name)
    fleet.wait_ready()
    database = Database(fleet.env["REVERIE_DATABASE_URL"], max_size=2)
    tenant_db = TenantDatabase.new(database)
    with database.transaction() as conn:
        api_key = new_api_key(conn, tenant_db.tenant_id)
    tenant = Tenant(fleet.url, api_key)
    run_id = commit_whole_result(
        tenant_db, open_store(Settings.from_env(fleet.env)), tmp_path / "result"
    )
    planted = values()
    canaries = Canaries(planted.values())
    hub_server.roles[planted["hub"]] = "write"
    hub_server.held_below = "/api/models/tester/moon/commit"
    wandb_server.keys.add(planted["wandb"])
    wandb_server.held_on = "RunHistoryKeys"
    with RedisRecorder(shared_redis_server) as redis:
        answers = plant(tenant, planted)
        relayed_id = report_steps(tenant_db)
        database.close()
        asked = tenant.post(
            "/v1/publications",
            {"run_id": run_id, "target": {"kind": "hub", "repo_id": "tester/moon"}},
        )
        assert hub_server.has_held.wait(60), fleet.tail("results")
        assert wandb_server.has_held.wait(60), fleet.tail("results")

        used = canaries.in_memory()
        api, results = pids_of(fleet, "api"), pids_of(fleet, "results")
        using = used.keys() - api
        assert using <= results - {fleet.processes["results"].pid}
        if os.geteuid() == 0:  # nobody else can read the memory of those processes
            found = [used[pid] for pid in using]
            assert found.count({planted["hub"]}) == 1
            assert found.count({planted["wandb"]}) == len(found) - 1 == 2  # one is wandb-core
        for pid in (*api, *results):
            assert core_limit_of(pid) == ("0", "0")
            if "wandb-core" in command_of(pid):
                assert b"REVERIE_" not in Path(f"/proc/{pid}/environ").read_bytes()
        hub_server.release()
        wandb_server.release()
        done = wait_until(lambda: ended(tenant, asked["id"]), what="the publication")

        assert (done["status"], done["target"]["secret"]) == ("succeeded", "my-hub"), done
        assert "README.md" in hub_server.repos["tester/moon"].files
        relay = wait_until(lambda: relayed(tenant, relayed_id), what="the relay")
        assert (relay["step"], relay["error"]) == (3, None)
        assert [step for step, _ in wandb_server.runs[relayed_id].history] == [1, 2, 3]
        assert canaries.in_memory().keys() <= api
        shown = [tenant.http.get(f"/v1/secrets/my-{kind}").text for kind in planted]
        shown += [answers, tenant.http.get(f"/v1/runs/{run_id}/events").text, str(done)]
        assert canaries.in_bytes("\n".join(shown).encode()) == set()
        check_nothing_is_left(canaries, fleet, redis)


@pytest.mark.deep
def test_canaries_are_not_found_while_a_run_trains(
    fleet_of: Callable[..., Fleet],
    shared_redis_server: RedisServer,
    hub_server: HubServer,
) -> None:
    fleet = fleet_of(
        fresh=True,
        REVERIE_SINGLE_TENANT="false",
        HF_ENDPOINT=hub_server.url,
        HF_HUB_DISABLE_XET="1",
    )
    fleet.start_all()
    tenant = new_tenant(fleet, "ada")
    planted = values()
    canaries = Canaries(planted.values())
    hub_server.roles[planted["hub"]] = "fineGrained"
    with RedisRecorder(shared_redis_server) as redis:
        plant(tenant, planted)
        request = run_request(push_photos(tenant), push_to_hub=True, hub_model_id="tester/moon")
        run_id = tenant.submit({**request, "secrets": {"hub": "my-hub"}})
        tenant.wait_for(run_id, lambda run: run["step"] > 2, deadline_s=180, what="a few steps")
        trainer = pids_of(fleet, "trainer-1")

        assert len(trainer) > 1
        assert canaries.in_memory().keys() <= pids_of(fleet, "api")
        assert canaries.in_environments() == {}
        assert tenant.wait_over(run_id, deadline_s=240)["status"] == "succeeded"
        assert tenant.wait_published(run_id)["status"] == "succeeded"
        assert "README.md" in hub_server.repos["tester/moon"].files
        assert canaries.in_memory().keys() <= pids_of(fleet, "api")
        shown = [str(tenant.events(run_id)), str(tenant.run(run_id))]
        shown.append(str(tenant.get(f"/v1/runs/{run_id}/plan")))
        assert canaries.in_bytes("\n".join(shown).encode()) == set()
        check_nothing_is_left(canaries, fleet, redis)
