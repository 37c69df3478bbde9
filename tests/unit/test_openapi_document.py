"""The OpenAPI document as a stranger reads it: valid, whole, and with words for everything."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from trainer_core.documents import load_document

Json = dict[str, Any]
PAGE: Final = Path(__file__).parents[2] / "docs/reference/http.md"
# As committed; test_openapi_breaks compares it with the code. Making it takes seconds.
DOCUMENT: Final[Any] = load_document(PAGE.with_name("openapi.json"))
OPERATIONS: Final[dict[str, Json]] = {
    f"{method.upper()} {path}": operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}


def nodes(value: Any) -> Iterator[Json]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from nodes(each)


def test_it_is_openapi_3_1() -> None:
    OPENAPI_31_VALIDATOR.validate(DOCUMENT)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_every_reference_leads_somewhere_and_every_shared_part_is_used() -> None:
    used = {each["$ref"] for each in nodes(DOCUMENT) if isinstance(each.get("$ref"), str)}
    mapped = [each["mapping"].values() for each in nodes(DOCUMENT) if "mapping" in each]
    used |= {address for addresses in mapped for address in addresses}
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in DOCUMENT["components"][kind]
    }
    assert used <= there
    assert there - used <= {
        # For the day on which an operation is deprecated.
        "#/components/headers/Deprecation",
        "#/components/headers/Sunset",
        "#/components/headers/Link.deprecation",
    }


def test_operations_are_named_and_explained() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(ids) == len(set(ids))
    for name, operation in OPERATIONS.items():
        assert re.fullmatch("[a-z]+(_[a-z]+)*", operation["operationId"]), name
        assert operation["description"], name
        assert len(operation["tags"]) == 1, name
        in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert in_path == re.findall(r"\{(\w+)\}", name), name
        for parameter in operation["parameters"]:
            is_id = parameter["in"] == "path" and parameter["name"].endswith("_id")
            assert is_id or parameter.get("description"), (name, parameter["name"])


def test_the_page_of_http_names_every_code_with_its_status() -> None:
    rows = dict(re.findall(r"^\| (\d{3}) \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    for name, response in DOCUMENT["components"]["responses"].items():
        for content in response.get("content", {}).values():
            told = content["schema"]["properties"]
            row = rows[str(told["status"]["const"])]
            missing = [code for code in told["code"]["enum"] if f"`{code}`" not in row]
            assert not missing, name


def test_items_of_lists_say_what_they_are_and_when() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name, page in schemas.items():
        if not name.startswith("Page_"):
            continue
        assert sorted(page["required"]) == ["data", "has_more", "next_cursor", "object"], name
        item = schemas[page["properties"]["data"]["items"]["$ref"].rpartition("/")[2]]
        assert "const" in item["properties"]["object"], name
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            kinds = [described, *described.get("anyOf", [])]
            is_moment = any(each.get("format") == "date-time" for each in kinds)
            assert is_moment == (field.endswith("_at") or field == "deadline"), (name, field)
            is_money = "cost" in field or "price" in field
            assert not is_money or "_micros" in field, (name, field)


@pytest.mark.parametrize("kind", ["schemas", "responses", "headers"])
def test_shared_parts_are_explained(kind: str) -> None:
    for name, part in DOCUMENT["components"][kind].items():
        assert part.get("description"), name
