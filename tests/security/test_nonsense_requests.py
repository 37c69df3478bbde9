"""Requests that mean nothing, at every route: each is refused as documented, and none is a 5xx.

Ids are nobody's, so that nothing happens where nonsense is taken for sense: that would be a 404.
"""

import gzip
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from services.api.shapes import ProblemDocument
from services.store import operator_keys
from tests.security.route_table import NOBODYS, ROUTES
from tests.support.api_keys import KEY_PEPPER
from tests.support.fleet import Fleet
from tests.support.service import EXAMPLES, database_of, new_key
from trainer_core.documents import load_document

Json = dict[str, Any]
# As committed; tests/unit/test_openapi_breaks.py compares it with the code.
DOCUMENT: Any = load_document(EXAMPLES.parent / "docs" / "reference" / "openapi.json")
IN_JSON = {"Content-Type": "application/json"}
BODIES: dict[str, bytes] = {
    "null": b"null",
    "a list": b"[]",
    "a number": b"-0",
    "a text": b'"{}"',
    "true": b"true",
    "half an object": b'{"name": ',
    "two objects": b"{}{}",
    "not UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"name": NaN}',
    "infinity": b'{"name": -Infinity}',
    "a huge number": b'{"name": 1e400}',
    "a long number": b'{"name": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"name": "a", "name": "a"}',
    "NUL": b'{"name": "\\u0000"}',
    "NUL in a key": b'{"\\u0000": 1}',
    "half a pair": b'{"name": "\\ud800"}',
    "deep": b'{"a":' * 40 + b"1" + b"}" * 40,
    "very deep": b"[" * 20_000,
    "unknown members": b'{"no such member": 9223372036854775808, "__proto__": {}}',
}
TEXTS = [
    "%00",
    "%0D%0AX:%20y",
    "%ED%A0%80",
    "'%20OR%201=1--",
    "run_" + "0" * 31,
    "run_" + "0" * 32 + "%0A",
    "x" * 4000,
]
NUMBERS = [
    "",
    "-1",
    "0",
    "1_0",
    "1.0",
    "+1",
    "%201",
    "1e1",
    "0x1",
    "%D9%A3",
    "NaN",
    "null",
    "9" * 30,
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false", REVERIE_QUOTA_REQUESTS_PER_MINUTE="1000000")
    fleet.start_api()
    return fleet


class Asker:
    """Sends a request with the key that its route needs, and checks what comes back."""

    def __init__(self, url: str, owner: str, operator: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self._keys = {"operator": operator}
        self._owner = owner

    def __call__(
        self, name: str, path: str, *, headers: Any = None, content: bytes | None = None
    ) -> httpx.Response:
        """``name``: of the operation that the request is meant for; ``path``: as sent."""
        method, template = name.split(" ")
        key = self._keys.get(str(ROUTES[name].scope), self._owner)
        fields = [("Authorization", f"Bearer {key}")]
        fields += list(headers.items() if isinstance(headers, dict) else headers or [])
        answer = self._http.request(method, path, headers=fields, content=content)
        what = f"{name} {path[:200]} {headers} {(content or b'')[:60]!r}: {answer.text[:300]}"
        operation = DOCUMENT["paths"][template][method.lower()]
        assert str(answer.status_code) in {*operation["responses"], "404", "405"}, what
        check(answer, what)
        return answer


def check(answer: httpx.Response, what: str) -> None:
    """What holds for every answer, whatever was asked."""
    assert answer.status_code < 500, what
    assert answer.headers["cache-control"] == "no-store", what
    assert answer.headers["x-content-type-options"] == "nosniff", what
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", what
        problem = ProblemDocument.model_validate_json(answer.content)
        assert problem.status == answer.status_code, what
        assert problem.detail, what
        assert problem.errors or problem.code != "invalid_request", what


@pytest.fixture(scope="module")
def ask(fleet: Fleet) -> Asker:
    with database_of(fleet) as database, database.transaction() as conn:
        operator = operator_keys.create(conn, KEY_PEPPER, name="operator")[1]
    return Asker(fleet.url, new_key(fleet.env["REVERIE_DATABASE_URL"], "ada"), operator)


def operations() -> Iterator[tuple[str, str, Json]]:
    """Name, address with nobody's ids, description."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            address = path
            for parameter, value in NOBODYS.items():
                address = address.replace(f"{{{parameter}}}", value)
            yield f"{method.upper()} {path}", address, operation


def queried(operation: Json) -> list[Json]:
    return [each for each in operation["parameters"] if each["in"] == "query"]


def pointers(answer: httpx.Response) -> list[str]:
    return [each["pointer"] for each in answer.json()["errors"]]


def test_a_body_that_is_none(ask: Asker) -> None:
    for name, path, operation in operations():
        body = operation.get("requestBody")
        if body is None:
            continue
        is_needed = body.get("required", False)
        for description, content in BODIES.items():
            answer = ask(name, path, headers=IN_JSON, content=content)
            if name == "POST /v1/runs:validate" and answer.status_code == 200:
                assert not answer.json()["is_valid"], description
            elif description != "null" or is_needed:
                assert answer.status_code in (400, 422), (name, description, answer.text)
        empty = ask(name, path, content=b"")
        assert (empty.status_code == 422) == is_needed, (name, empty.text)
        if is_needed:
            assert pointers(empty)[0] == "", name
        for headers in (
            {},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "multipart/form-data"},
            {"Content-Type": "application/jsonp"},
            {"Content-Type": "garbage"},
            {**IN_JSON, "Content-Encoding": "gzip"},
        ):
            answer = ask(name, path, headers=headers, content=gzip.compress(b"{}"))
            assert answer.status_code == 415, (name, headers, answer.text)


def test_a_body_where_none_is_read(ask: Asker) -> None:
    for name, path, operation in operations():
        if "requestBody" in operation or not name.startswith(("POST", "PUT", "PATCH")):
            continue
        told = ask(name, path, headers=IN_JSON, content=b'{"now": true, "b": 1}')
        assert (told.status_code, pointers(told)) == (422, ["/now", "/b"]), name
        assert ask(name, path, headers=IN_JSON, content=b"[]").status_code == 422, name
        assert ask(name, path, headers=IN_JSON, content=b"{").status_code == 400, name
        for nothing in (b"", b"{}", b"null"):
            assert ask(name, path, headers=IN_JSON, content=nothing).status_code == 404, name


def test_an_id_that_is_none(ask: Asker) -> None:
    for name, _, operation in operations():
        path = name.split(" ")[1]
        names = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        for wrong in names:
            for text in TEXTS:
                address = path.replace(f"{{{wrong}}}", text)
                for parameter, value in NOBODYS.items():
                    address = address.replace(f"{{{parameter}}}", value)
                answer = ask(name, address, headers=IN_JSON, content=b"{}")
                assert answer.status_code in (400, 404, 405, 422), (name, text, answer.text)


def test_a_query_that_is_none(ask: Asker) -> None:
    for name, path, operation in operations():
        if not path.startswith("/v1"):
            continue
        known = {each["name"]: each["schema"] for each in queried(operation)}
        wrong = ["?no_such=1", "?=1", "?%00=1", "?no_such", "?" + "a=b&" * 500, "?%ED%A0%80=1"]
        wrong += [f"?{each}=1&{each}=1" for each in known]
        wrong += [f"?{each.upper()}=1" for each in known]
        for each, schema in known.items():
            if schema["type"] == "integer":
                most = schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1)
                beyond = [schema.get("minimum", 1) - 1, most + 1]
                wrong += [f"?{each}={text}" for text in [*NUMBERS, *beyond] if text != "0"]
            elif "pattern" in schema and each not in {"against", "name"}:  # 404
                texts = ["", *TEXTS, NOBODYS["tenant_id"]]
                fits = re.compile(schema["pattern"]).fullmatch
                wrong += [f"?{each}={text}" for text in texts if not fits(unquote(text))]
        for query in wrong:
            answer = ask(name, path + query)
            assert answer.status_code == 422, (name, query, answer.text)
            assert pointers(answer)[0].startswith("query:"), (name, query)


def test_a_header_that_is_none(ask: Asker) -> None:
    for name, path, operation in operations():
        if not path.startswith("/v1"):
            continue
        method = name.split(" ")[0]
        taken = {each["name"] for each in operation["parameters"] if each["in"] == "header"}
        key = str(uuid.uuid4())
        twice = ask(name, path, headers=[("Idempotency-Key", key), ("Idempotency-Key", key)])
        assert (twice.status_code, twice.json()["code"]) == (400, "repeated_header"), name
        if "Idempotency-Key" in taken:
            for text in ("", "k" * 256):
                told = ask(name, path, headers=[("Idempotency-Key", text), *IN_JSON.items()])
                assert "header:Idempotency-Key" in pointers(told), (name, text)
        if method != "GET":
            for text in ("", "1", '"', "W/1", '"1" "2"', '"1",', "*, *"):
                told = ask(name, path, headers={"If-Match": text, **IN_JSON})
                assert "header:If-Match" in pointers(told), (name, text, told.text)
            if "If-Match" not in taken:
                told = ask(name, path, headers={"If-Match": "*"})
                assert pointers(told) == ["header:If-Match"], name
        if "Last-Event-ID" in taken:
            for text in [each for each in NUMBERS if "%" not in each and each != "0"]:
                told = ask(name, path, headers={"Last-Event-ID": text})
                assert pointers(told) == ["header:Last-Event-ID"], (name, text)
        for accept in ("image/png", "text/html;q=0.1", "garbage", "", "application/xml, */*;q=0"):
            told = ask(name, path, headers={"Accept": accept, **IN_JSON}, content=b"{}")
            assert told.status_code < 500, (name, accept)


def test_a_method_that_is_none(ask: Asker, fleet: Fleet) -> None:
    with httpx.Client(base_url=fleet.url) as http:
        for path, item in DOCUMENT["paths"].items():
            there = {method.upper() for method in item}
            there |= {"HEAD"} if "GET" in there else set()
            address = next(address for name, address, _ in operations() if name.endswith(path))
            for method in sorted(set(METHODS) - there):
                told = http.request(method, address)
                assert told.status_code == 405, (method, path)
                assert told.headers["allow"] == ", ".join(sorted(there)), (method, path)
                if method != "HEAD":
                    check(told, f"{method} {path}")


def test_an_address_that_is_none(ask: Asker) -> None:
    for name, path, _ in operations():
        if name == "GET /v1/runs/{run_id}/artifacts/{path}":
            continue
        for wrong in (f"{path}/", f"/{path}", f"{path}//", f"{path};a=b", path.upper()):
            answer = ask(name, wrong, headers=IN_JSON, content=b"{}")
            is_other_id = name.endswith("}") and answer.status_code == 422
            assert answer.status_code in (404, 405) or is_other_id, (name, wrong, answer.text)
        if ":" in path:
            for action in (":", "::", ":Cancel", ":cancel:pause", "%3Anothing", ":validate/"):
                wrong = path.rpartition(":")[0] + action
                answer = ask(name, wrong, headers=IN_JSON, content=b"{}")
                assert answer.status_code in (404, 405), (name, wrong, answer.text)


PATHS_AS_CURSORS = (
    "GET /v1/datasets/{dataset_id}/diff",
    "GET /v1/datasets/{dataset_id}/files",
)
"""Lists whose cursor is the path of a file, which may be any text."""


def test_a_cursor_of_another_list(ask: Asker) -> None:
    """Every id of another kind is refused as a cursor, and a number where an id is due."""
    ids = {value for value in NOBODYS.values() if "_" in value}
    cursors = [*sorted(ids), "1", "2026-11", "result/a"]
    for name, path, operation in operations():
        found = [each for each in queried(operation) if each["name"] == "after"]
        if not found or "pattern" not in found[0]["schema"] or name in PATHS_AS_CURSORS:
            continue
        taken = 0
        for cursor in cursors:
            answer = ask(name, f"{path}?after={cursor}")
            taken += answer.status_code != 422
        assert taken <= 1, name


def test_a_forged_cursor_shows_nothing_of_others(ask: Asker) -> None:
    page = ask("GET /v1/runs", "/v1/runs?after=run_" + "f" * 32).json()
    assert page == {"object": "list", "data": [], "has_more": False, "next_cursor": None}
