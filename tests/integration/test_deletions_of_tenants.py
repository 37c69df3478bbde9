"""What is deleted with a tenant, and what stays of it."""

from pathlib import Path

import pytest

from services.domain.errors import InvalidRequestError
from services.store import api_keys, audit, members
from services.store.database import Database
from tests.support.deletions import KEY, Deleting


@pytest.fixture
def ada(database: Database, tmp_path: Path) -> Deleting:
    return Deleting.new(database, tmp_path)


def test_everything_of_a_tenant_goes_but_what_is_documented(ada: Deleting) -> None:
    run_id = ada.finished_run(0, 1)
    ada.finished_run(1)
    open_run = ada.open_run(0)
    publication_id = ada.publish_to_hub(run_id)
    tenant_id = ada.db.tenant_id
    _fill_every_table(ada)
    bob = Deleting(db=ada.db.neighbour(), objects=ada.objects, folder=ada.folder / "bob")
    bob.finished_run(0)
    of_bob = bob.stored(), bob.tables_with_rows()
    assert not set(_tables(ada)) - set(ada.tables_with_rows()), "a new table: fill it above"
    ada.delete_run(run_id)

    with pytest.raises(InvalidRequestError):
        ada.delete_tenant("bob")
    deletion = ada.delete_tenant()
    assert ada.delete_tenant("whatever").deletion_id == deletion.deletion_id
    with ada.db.database.transaction() as conn:
        assert api_keys.list_page(conn, tenant_id, 10) == []  # all revoked

    ada.nobody_writes_any_more()
    assert ada.work(deletion).waits_for == "its runs to stop"
    ((status,),) = ada.ask("SELECT status FROM runs WHERE run_id = %s", open_run)
    assert status == "canceled"
    ended = ada.work(deletion)
    assert ended.status == "succeeded", ended.waits_for
    assert ada.stored() == set()
    assert not (ada.folder / "publications" / tenant_id).exists()
    assert ada.tables_with_rows() == {"tenants": 1, "monthly_usage": 1, "deletions": 1}
    assert ada.ask("SELECT name, request_key FROM tenants WHERE tenant_id = %s", tenant_id) == [
        ("", None)
    ]
    assert (bob.stored(), bob.tables_with_rows()) == of_bob

    report = ended.report
    assert report["checked"] == {f"tenants/{tenant_id}/": 0}
    assert [(kept["what"], kept["id"]) for kept in report["kept"]] == [
        ("publication", publication_id),
        ("metrics", open_run),
    ]
    assert report["rows"]["api_keys"] == 1
    assert report["audit"]["seq"] == 4  # two above, and the deletion of the run
    anchors = [key for key in ada.objects.list_keys("services/") if f"/audit/{tenant_id}/" in key]
    assert anchors[-1].endswith(report["audit"]["hash"])
    assert ada.tombstone(deletion)["report"] == report


def _tables(ada: Deleting) -> list[str]:
    return [
        row[0]
        for row in ada.ask(
            "SELECT table_name FROM information_schema.columns"
            " WHERE column_name = 'tenant_id' AND table_schema = current_schema()"
        )
    ]


def _fill_every_table(ada: Deleting) -> None:
    """A row for the tenant in the tables that runs and datasets do not fill."""
    tenant_id = ada.db.tenant_id
    run_id, *_ = ada.ask("SELECT run_id FROM runs ORDER BY run_id LIMIT 1")[0]
    with ada.db.database.transaction() as conn:
        audit.record(conn, tenant_id, KEY, "a", "b")
        audit.record(conn, tenant_id, KEY, "c", "d")
        api_keys.create(conn, tenant_id, b"pepper", name="ci")
        members.create(conn, tenant_id, name="bob", role="viewer")
    for statement in (
        (
            "INSERT INTO idempotency_keys (tenant_id, method, path, key, fingerprint)"
            " VALUES (%s, 'POST', '/v1/runs', '1', 'f')"
        ),
        "INSERT INTO batches (tenant_id, batch_id, num_rows) VALUES (%s, 'bat_1', 1)",
        (
            "INSERT INTO secrets (tenant_id, secret_id, name, kind, key_id, sealed_key, ciphertext)"
            " VALUES (%s, 'sec_1', 'hub', 'hub', 'k', '', '')"
        ),
        (
            "INSERT INTO metric_relays (tenant_id, run_id, secret, url) SELECT tenant_id, run_id,"
            " 'my-wandb', 'https://wandb.ai/ada/photos/runs/1' FROM runs WHERE tenant_id = %s"
            " ORDER BY run_id DESC LIMIT 1"
        ),
        (
            "INSERT INTO webhooks (tenant_id, webhook_id, url, secret_id)"
            " VALUES (%s, 'wh_1', '', 'sec_1')"
        ),
        (
            "INSERT INTO webhook_deliveries (tenant_id, delivery_id, webhook_id, event_id, type,"
            " payload) VALUES (%s, 'whd_1', 'wh_1', 'evt_1', 'run.queued', '{}')"
        ),
        "INSERT INTO quotas (tenant_id, uploads) VALUES (%s, 1)",
        "INSERT INTO tenant_usage (tenant_id, gpu_class) VALUES (%s, 'cpu')",
        (
            "INSERT INTO monthly_usage (tenant_id, month, gpu_class, charged_s)"
            " VALUES (%s, '2026-01-01', 'cpu', 60) ON CONFLICT DO NOTHING"
        ),
        "INSERT INTO tenant_storage (tenant_id, size_bytes) VALUES (%s, 1)",
        "INSERT INTO unusable_entries (tenant_id, digest, reason) VALUES (%s, 'a', 'black')",
        (
            "INSERT INTO dataset_imports (tenant_id, dataset_id, source) SELECT tenant_id,"
            " dataset_id, '{}' FROM datasets WHERE tenant_id = %s ORDER BY dataset_id LIMIT 1"
        ),
        "INSERT INTO rate_buckets (tenant_id, policy, tokens) VALUES (%s, 'create', 1)",
        (
            "INSERT INTO deletions (tenant_id, deletion_id, kind, target, status)"
            " VALUES (%s, 'del_1', 'run', 'run_1', 'succeeded')"
        ),
    ):
        ada.do(statement, tenant_id)
    ada.do(
        "UPDATE runs SET batch_id = 'bat_1', parent_run_id = %s WHERE run_id <> %s", run_id, run_id
    )
    ada.do(
        "INSERT INTO run_samples (tenant_id, run_id, step, path, fence, name, weights, width_px,"
        " height_px, seed, sampler_steps, guidance, size_bytes, sha256)"
        " VALUES (%s, %s, 1, 'samples/step-1/x.png', 1, '', 'base', 1, 1, 1, 1, 1, 1, '')",
        tenant_id,
        run_id,
    )
    ada.do(
        "INSERT INTO run_previews (tenant_id, run_id, fence, step, picture, name, weights, seed,"
        " width_px, height_px, sampler_step, sampler_steps, size_bytes)"
        " VALUES (%s, %s, 1, 1, 'samples/step-1/x.png', '', 'base', 1, 1, 1, 1, 1, 1)",
        tenant_id,
        run_id,
    )
    ada.do(
        "INSERT INTO run_logs (tenant_id, run_id, start_byte, num_bytes, fence, text)"
        " VALUES (%s, %s, 0, 2, 1, 'hi')",
        tenant_id,
        run_id,
    )
