"""Any request is answered with a success or a problem document, never with a 500."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fleet import Fleet
from tests.support.service import new_tenant, run_request
from tests.support.tenant import Tenant

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def tenant(fleet_of: Callable[..., Fleet]) -> Tenant:
    fleet = fleet_of()
    fleet.start_api()
    return new_tenant(fleet, "ada")


def check(tenant: Tenant, method: str, path: str, body: bytes | None = None) -> None:
    headers = {"Content-Type": "application/json"}
    answer = tenant.http.request(method, path, content=body, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


@given(
    path=st.sampled_from(["/v1/runs", "/v1/datasets", "/v1/uploads", "/v1/publications"]),
    body=JSON,
)
@QUICK
def test_any_json(tenant: Tenant, path: str, body: Any) -> None:
    check(tenant, "POST", path, json.dumps(body).encode())


@given(body=st.binary(max_size=60))
@QUICK
def test_any_bytes(tenant: Tenant, body: bytes) -> None:
    check(tenant, "POST", "/v1/runs", body)


@given(data=st.data())
@QUICK
def test_a_request_with_one_field_replaced(tenant: Tenant, data: st.DataObject) -> None:
    body = run_request({"photos": "ds_" + "0" * 32})
    part = data.draw(st.sampled_from(["config", "lycoris_config", "datasets"]))
    name = data.draw(st.sampled_from(sorted(body[part])))
    body[part][name] = data.draw(JSON)
    body[data.draw(st.sampled_from(["metadata", "data_backends"]))] = data.draw(JSON)
    check(tenant, "POST", "/v1/runs", json.dumps(body).encode())


@given(text=st.text(min_size=1, max_size=40))
@QUICK
def test_any_text_in_a_path_or_a_cursor(tenant: Tenant, text: str) -> None:
    from urllib.parse import quote

    encoded = quote(text.encode("utf-8", "surrogatepass"), safe="")
    for path in (
        f"/v1/runs/{encoded}",
        f"/v1/datasets/{encoded}",
        f"/objects/{encoded}",
        f"/v1/runs?after={encoded}",
        f"/v1/runs?limit={encoded}",
        f"/v1/publications?run_id={encoded}",
        f"/objects/tenants/a?signature={encoded}&expires={encoded}&method={encoded}",
    ):
        check(tenant, "GET", path)
