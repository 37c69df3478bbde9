"""Datasets that the service fetches itself from the Hub."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from services.cache_builder.importing import Importer
from services.processes.request_child import RequestChild
from tests.support.hub import HubServer
from tests.support.importing import FETCH, content, rung, seen, started
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase


@pytest.fixture
def hub_fetcher(hub_server: HubServer) -> Iterator[RequestChild]:
    with RequestChild((*FETCH, "--hub-endpoint", hub_server.url), env=os.environ) as child:
        yield child


def parquet(numbers: Sequence[int]) -> bytes:
    rows = [
        {"image": {"bytes": picture(n), "path": f"{n}.png"}, "caption": f"cat {n}"} for n in numbers
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def folder_files(numbers: Sequence[int]) -> dict[str, bytes]:
    lines = [{"file_name": f"{n:02d}.png", "text": f"cat {n}"} for n in numbers]
    return {
        **{f"{n:02d}.png": picture(n) for n in numbers},
        "metadata.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines).encode(),
    }


@pytest.mark.parametrize("layout", ["parquet", "pictures"])
def test_a_dataset_of_the_hub_in_portions_across_its_files(
    tenant_db: TenantDatabase,
    hub_server: HubServer,
    hub_fetcher: RequestChild,
    importer: Importer,
    layout: str,
) -> None:
    parts = {
        f"data/train-{n:05d}-of-00003.parquet": parquet(range(4 * n, 4 * n + 4)) for n in range(3)
    }
    files = parts if layout == "parquet" else folder_files(range(12))
    column = "caption" if layout == "parquet" else "text"
    hub_server.add_dataset("someone/cats", files)
    own = replace(importer, fetcher=hub_fetcher)
    dataset_id = started(
        tenant_db,
        type="huggingface",
        dataset_name="someone/cats",
        split="train[1:11]",
        caption_column=column,
    )
    own.answer_ring(tenant_db.tenant_id, dataset_id)
    # A newer commit does not mix in.
    hub_server.push("someone/cats", {"data/train-00000-of-00003.parquet": parquet([99])})
    rung(own, tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.rows_done, state.rows_total) == (
        "verifying",
        10,
        state.rows_total,
    )
    found = content(tenant_db, dataset_id, importer.objects)
    assert sorted(b for b in found.values() if isinstance(b, bytes)) == sorted(
        picture(n) for n in range(1, 11)
    )
    texts = {text for text in found.values() if isinstance(text, str)}
    assert texts == {f"cat {n}\n" for n in range(1, 11)}


def test_a_private_dataset_is_refused_with_the_way_out(
    tenant_db: TenantDatabase,
    hub_server: HubServer,
    hub_fetcher: RequestChild,
    importer: Importer,
) -> None:
    hub_server.add_dataset("someone/secret", folder_files([1])).private = True
    dataset_id = started(tenant_db, type="huggingface", dataset_name="someone/secret")
    rung(replace(importer, fetcher=hub_fetcher), tenant_db, dataset_id)
    dataset, state = seen(tenant_db, dataset_id)
    assert (dataset.status, state.status) == ("rejected", "failed")
    assert "reverie datasets push" in dataset.errors[0]["message"]
