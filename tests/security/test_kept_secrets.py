"""What must not be read in a log: keys, signed addresses, and what tenants write."""

import httpx

from services.domain.api_keys import new_key
from tests.support.fleet import Fleet
from tests.support.service import run_request
from tests.support.tenant import Tenant, listed

CAPTION = "a canary caption of a yellow door"
PROMPT = "a canary prompt of a green boat"
WRITTEN = "canary-metadata"


def test_the_log_of_the_api_has_no_secret_and_nothing_private(fleet: Fleet, tenant: Tenant) -> None:
    files = {"a.jpg": b"not looked at here", "a.txt": CAPTION.encode()}
    dataset = tenant.post("/v1/datasets", {"name": WRITTEN, "files": listed(files)})["id"]
    signed = []
    for upload in tenant.post("/v1/uploads", {"dataset_id": dataset})["data"]:
        signed.append(upload["url"].partition("signature=")[2].partition("&")[0])
        body, headers = files[upload["path"]], upload["headers"]
        for content in (b"other bytes", body):  # the first is refused
            httpx.put(upload["url"], content=content, headers=headers)
    tenant.complete(dataset)
    good = run_request({"photos": dataset, "held-out": dataset}, validation_prompt=PROMPT)
    tenant.submit({**good, "metadata": {WRITTEN: WRITTEN}})
    wrong = {**good["config"], "max_train_steps": PROMPT, PROMPT: 1}
    assert tenant.http.post("/v1/runs", json={**good, "config": wrong}).status_code == 422
    assert tenant.http.get("/v1/runs", headers={"Authorization": "Bearer rv_?"}).status_code == 401

    made = tenant.post("/v1/api-keys", {"name": WRITTEN})["secret"]
    of_operator = new_key("rvo_")
    for path, key in (("runs", made[:-1]), ("admin/tenants", of_operator)):
        headers = {"Authorization": f"Bearer {key}"}
        assert tenant.http.get(f"/v1/{path}", headers=headers).status_code == 401

    log = fleet.tail("api", 1 << 24)
    assert "request" in log
    assert all(len(each) > 20 for each in signed)
    for text in (
        tenant.http.headers["Authorization"].removeprefix("Bearer "),
        fleet.env["REVERIE_SIGNING_KEY"],
        fleet.env["REVERIE_KEY_PEPPER"],
        made,
        of_operator,
        *signed,
        CAPTION,
        PROMPT,
        WRITTEN,
    ):
        assert text not in log, text


def test_an_error_names_no_host_no_path_and_no_statement(fleet: Fleet, tenant: Tenant) -> None:
    answers = [
        tenant.http.get("/v1/runs/%00"),
        tenant.http.get("/v1/runs?after='--"),
        tenant.http.post("/v1/runs", content=b"{", headers={"Content-Type": "application/json"}),
        tenant.http.post("/v1/publications", json={"run_id": "../../etc", "target": {}}),
        httpx.get(f"{fleet.url}/objects/tenants/../../etc/passwd"),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        for text in (str(fleet.home), "Traceback", "psycopg", "SELECT", "127.0.0.1", ".py"):
            assert text not in answer.text, (text, answer.text)
