"""The committed OpenAPI document is the service's, and breaks no client of the last release.

The check itself is shown to find each kind of break.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from services.api.describe import document
from tests.support.openapi_breaks import breaks

Json = dict[str, Any]

ROOT: Final = Path(__file__).parents[2]
COMMITTED: Final = ROOT / "docs/reference/openapi.json"
RELEASED: Final = ROOT / "tests/golden/openapi_released.json"
"""Of the last release, or of what stood in its place before there was one."""
ANNOUNCED: Final[frozenset[str]] = frozenset(
    {
        # Names that mean another file on another system, or look like one: CHANGELOG.md tells.
        "POST /v1/datasets: the body, files may not be that",
        # Names have no control characters and no invisible ones.
        "POST /v1/datasets: the body, name has another pattern",
        # Numbers are bounded where all clients mean the same number.
        "POST /v1/runs: the body, config may not be number",
        # What is no id of a run is refused, no longer answered with an empty list.
        "GET /v1/publications: query run_id has another pattern",
    }
)
"""Breaks that the changelog announces; a release empties this."""


def test_the_committed_document_is_the_services() -> None:
    assert json.loads(COMMITTED.read_text()) == document(), "run `make openapi` and commit"


def test_no_client_of_the_last_release_breaks_unannounced() -> None:
    found = breaks(json.loads(RELEASED.read_text()), document())
    assert set(found) == ANNOUNCED, "announce it in CHANGELOG.md and here, or take it back"


SMALL: Final[Json] = {
    "paths": {
        "/v1/runs": {
            "get": {
                "parameters": [
                    {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 9}},
                ],
                "responses": {
                    "200": {
                        "headers": {"ETag": {}},
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Run"}}
                        },
                    }
                },
            },
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Request"}}
                    }
                },
                "responses": {"201": {}, "422": {}},
            },
        }
    },
    "components": {
        "schemas": {
            "Run": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "status": {"enum": ["queued", "running"]},
                    "parent": {"anyOf": [{"$ref": "#/components/schemas/Run"}, {"type": "null"}]},
                },
                "required": ["id", "status"],
            },
            "Request": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "maxLength": 9},
                    "priority": {"enum": ["low", "high"]},
                    "target": {
                        "oneOf": [
                            {"type": "object", "properties": {"kind": {"const": "folder"}}},
                            {"type": "object", "properties": {"kind": {"const": "hub"}}},
                        ]
                    },
                    "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                },
                "required": ["name"],
            },
        }
    },
}


def get(document: Json) -> Json:
    found: Json = document["paths"]["/v1/runs"]["get"]
    return found


def post(document: Json) -> Json:
    found: Json = document["paths"]["/v1/runs"]["post"]
    return found


def of(name: str) -> Callable[[Json], Json]:
    def members(document: Json) -> Json:
        found: Json = document["components"]["schemas"][name]["properties"]
        return found

    return members


run, request = of("Run"), of("Request")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d["paths"].clear(), "the operation is gone"),
        (lambda d: d["paths"]["/v1/runs"].pop("post"), "the operation is gone"),
        (lambda d: get(d)["parameters"].clear(), "query limit is gone"),
        (lambda d: get(d)["parameters"][0].update(required=True), "query limit is required"),
        (
            lambda d: get(d)["parameters"].append(
                {"in": "header", "name": "X", "required": True, "schema": {}}
            ),
            "header X is new and required",
        ),
        (lambda d: get(d)["parameters"][0]["schema"].update(maximum=8), "maximum 8"),
        (lambda d: get(d)["parameters"][0]["schema"].update(type="boolean"), "may not be integer"),
        (lambda d: get(d)["responses"].clear(), "status 200 is gone"),
        (lambda d: get(d)["responses"]["200"]["headers"].clear(), "header ETag of 200 is gone"),
        (lambda d: get(d)["responses"]["200"]["content"].clear(), "no longer application/json"),
        (lambda d: post(d)["requestBody"].update(required=True), "a body is required"),
        (lambda d: run(d).pop("status"), "status is gone"),
        (lambda d: run(d)["id"].update(type="integer"), "id may be integer"),
        (lambda d: run(d)["id"].update(type=["string", "null"]), "id may be null"),
        (lambda d: d["components"]["schemas"]["Run"]["required"].pop(), "status may be missing"),
        (lambda d: run(d)["parent"]["anyOf"].append({"type": "string"}), "parent may be string"),
        (lambda d: request(d).pop("priority"), "priority is gone"),
        (lambda d: request(d)["priority"]["enum"].pop(), "priority may not be high"),
        (lambda d: request(d)["name"].update(maxLength=8), "name has maxLength 8"),
        (lambda d: request(d)["name"].update(minLength=1), "name has minLength 1"),
        (lambda d: request(d)["name"].update(pattern="^a"), "name has another pattern"),
        (lambda d: request(d)["name"].update(enum=["a"]), "name has to be one of a"),
        (lambda d: request(d)["target"]["oneOf"].pop(), "target may not be"),
        (lambda d: request(d)["seed"]["anyOf"].pop(), "seed may not be null"),
        (
            lambda d: d["components"]["schemas"]["Request"]["required"].append("seed"),
            "seed is required",
        ),
    ],
)
def test_a_break_is_found(change: Callable[[Json], object], line: str) -> None:
    new = copy.deepcopy(SMALL)
    change(new)
    found = breaks(SMALL, new)
    assert any(line in each for each in found), found


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["paths"].update({"/v1/more": {}}),
        lambda d: get(d)["parameters"].append({"in": "query", "name": "x", "schema": {}}),
        lambda d: get(d)["parameters"][0]["schema"].update(maximum=10),
        lambda d: get(d)["responses"].update({"304": {}}),
        lambda d: post(d)["responses"].pop("422"),
        lambda d: run(d).update(more={"type": "string"}),
        lambda d: run(d)["status"]["enum"].append("paused"),
        lambda d: run(d)["parent"]["anyOf"].pop(),
        lambda d: request(d).update(more={"type": "string"}),
        lambda d: request(d)["priority"]["enum"].append("normal"),
        lambda d: request(d)["name"].update(type=["string", "null"]),
        lambda d: request(d)["target"]["oneOf"].append({"type": "null"}),
        lambda d: d["components"]["schemas"]["Request"]["required"].clear(),
    ],
)
def test_what_only_adds_is_no_break(change: Callable[[Json], object]) -> None:
    new = copy.deepcopy(SMALL)
    change(new)
    assert breaks(SMALL, new) == []


def test_a_deprecated_operation_may_go() -> None:
    old = copy.deepcopy(SMALL)
    get(old)["deprecated"] = True
    new = copy.deepcopy(SMALL)
    del new["paths"]["/v1/runs"]["get"]
    assert breaks(old, new) == []
