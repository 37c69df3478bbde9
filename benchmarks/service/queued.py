"""Rows to measure with, made by the store's own functions."""

from collections.abc import Iterator
from typing import Any

from benchmarks.service.setting import NAME, Setting
from services.domain.ids import new_id
from services.store import admission, datasets, runs
from services.store.database import Connection
from services.store.datasets import FileFacts, NewFile
from tests.support.runs import INDEX, needed, plan
from tests.support.verifying import end_verification
from tests.unit.config_examples import import_small
from trainer_core.base_models.describe import read_base_models

_BATCH = 250


def ready_dataset(conn: Connection, tenant_id: str, pictures: int, name: str = "photos") -> str:
    """A verified dataset of pictures with captions that were never uploaded."""
    files, facts = [], []
    for number in range(pictures):
        image, text = f"{number:05d}.png", f"{number:05d}.txt"
        files.append(NewFile(path=image, media="image", size_bytes=9, sha256=f"{number:064x}"))
        files.append(
            NewFile(path=text, media="caption", size_bytes=9, sha256=f"{number + 2**32:064x}")
        )
        facts.append(FileFacts(path=image, width_px=128, height_px=128))
        facts.append(FileFacts(path=text, text=f"picture {number}"))
    dataset = datasets.create(conn, tenant_id, name, files)
    datasets.complete(conn, tenant_id, dataset.dataset_id)
    end_verification(conn, tenant_id, dataset.dataset_id, facts=facts)
    return dataset.dataset_id


def new_run(dataset_id: str, plan_json: dict[str, Any], steps: int = 10) -> runs.NewRun:
    return runs.NewRun(
        request={},
        plan=plan_json,
        plan_digest="d" * 64,
        base_model=NAME,
        datasets={"photos": dataset_id},
        gpu_class="cpu",
        max_steps=steps,
    )


def real_plan(setting: Setting) -> dict[str, Any]:
    """A plan that admission can index and a trainer can prepare."""
    options = {"id": "photos", "caption_strategy": "textfile", "minimum_image_size": 0}
    body = import_small(backends=[options]).plan.model_dump(mode="json")
    base = read_base_models(setting.folder / "models")[NAME]
    body["identity"]["base"]["digest"] = base.digest
    return body


def wait_for_admission(
    setting: Setting, tenant_ids: list[str], count: int, pictures: int
) -> Iterator[str]:
    """Create ``count`` runs, shared out among the tenants in turns; yields their ids."""
    of_tenant = {}
    with setting.database.transaction() as conn:
        for tenant_id in tenant_ids:
            of_tenant[tenant_id] = ready_dataset(conn, tenant_id, pictures)
    body = real_plan(setting)
    for first in range(0, count, _BATCH):
        with setting.database.transaction() as conn:
            for number in range(first, min(count, first + _BATCH)):
                tenant_id = tenant_ids[number % len(tenant_ids)]
                yield runs.create(conn, tenant_id, new_run(of_tenant[tenant_id], body)).run_id


def wait_for_capacity(setting: Setting, tenant_ids: list[str], count: int) -> list[str]:
    """As ``wait_for_admission``, but admitted, and without a cache: any worker may claim them."""
    datasets_of = {}
    with setting.database.transaction() as conn:
        for tenant_id in tenant_ids:
            datasets_of[tenant_id] = ready_dataset(conn, tenant_id, 1)
    body, made = plan(), []
    for first in range(0, count, _BATCH):
        with setting.database.transaction() as conn:
            for number in range(first, min(count, first + _BATCH)):
                tenant_id = tenant_ids[number % len(tenant_ids)]
                run = runs.create(conn, tenant_id, new_run(datasets_of[tenant_id], body))
                assert admission.admit(conn, run.run_id, INDEX, needed(), [])
                made.append(run.run_id)
    return made


def new_worker_id() -> str:
    return new_id("wrk")
