"""Both clients have a method for every operation of the OpenAPI document, with its very types."""

import dataclasses
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import (
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import pytest

import services.client
from services.api import describe
from services.client import shapes
from services.client.async_client import AsyncClient
from services.client.client import Client
from services.client.methods import Calls

Json = dict[str, Any]

_OTHER_NAMES: Final = {
    "Problem": "ProblemItem",
    "NewFile": "FileDeclaration",
    "Sweep": "SweepRequest",
}
"""Client's name → schema, where they differ."""
_STREAMS: Final = {"stream_events": "list_events", "stream_logs": "list_logs"}
"""A method that reads an operation's answer as a stream → the operation."""


@pytest.fixture(scope="module")
def document() -> Json:
    return describe.document()


def operations(document: Json) -> dict[str, tuple[str, str, Json]]:
    """Operation id → method, path and operation, of those that need a key."""
    return {
        operation["operationId"]: (method, path, operation)
        for path, item in document["paths"].items()
        if path.startswith("/v1/")
        for method, operation in item.items()
    }


def methods() -> dict[str, Callable[..., Any]]:
    """The methods of the clients, as the functions that describe their calls."""
    return {name: getattr(Calls, name) for name in vars(Calls) if not name.startswith("_")}


def test_every_operation_is_a_method_of_the_clients(document: Json) -> None:
    wanted = operations(document)
    assert len(wanted) > 15
    assert wanted.keys() == methods().keys() - _STREAMS.keys()
    assert methods().keys() >= _STREAMS.keys()


def test_help_of_a_method_is_the_same_for_both_clients() -> None:
    clients: list[Any] = [Client, Client("http://x", "k"), AsyncClient("http://x", "k")]
    for name, described in methods().items():
        for client in clients:
            method = getattr(client, name)
            assert inspect.signature(method) == inspect.signature(described), name
            assert inspect.getdoc(method) == inspect.getdoc(described), name
        assert described.__doc__, f"{name} has no docstring"
        assert described.__name__ == name


def test_a_method_takes_what_its_operation_takes(document: Json) -> None:
    for name, (_, path, operation) in operations(document).items():
        takes = inspect.signature(methods()[name]).parameters
        hints = get_type_hints(methods()[name])
        named = {p["name"]: p for p in operation["parameters"] if p["in"] != "header"}
        headers = {p["name"] for p in operation["parameters"] if p["in"] == "header"}
        wanted = set(named)
        if "If-Match" in headers:
            wanted.add("version")
        if "Prefer" in headers:
            wanted.add("wait_s")
        for parameter, described in named.items():
            assert parameter in takes, (name, parameter)
            if described["in"] == "path":
                assert takes[parameter].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            wanted |= about_body(document, schema, takes.keys() - wanted, hints)
        assert wanted == set(takes), (name, path)


def about_body(document: Json, schema: Json, others: set[str], hints: Json) -> set[str]:
    """The parameters of a body: one that is all of it, or one for each of its members."""
    whole = _without_null(of_schema(schema, document))  # a body may be left out
    if len(others) == 1 and of_type(hints[next(iter(others))]) == whole:
        return others
    assert whole[0] == "object", whole
    members = dict(whole[1])
    for member in others & members.keys():
        shape = of_type(hints[member])
        assert members[member][1] in {shape, ("union", frozenset({shape, "null"}))} or (
            shape == ("union", frozenset({members[member][1], "null"}))
        ), (member, shape, members[member])
    return set(members)


def _without_null(shape: Any) -> Any:
    match shape:
        case ("union", members) if len(others := members - {"null"}) == 1:
            (shape,) = others
    return shape


def test_a_method_returns_what_its_operation_answers(document: Json) -> None:
    for name, (_, _, operation) in operations(document).items():
        hints = get_type_hints(methods()[name])
        (returned,) = get_args(hints["return"])
        answers = [
            response["content"]["application/json"]["schema"]
            for status, response in operation["responses"].items()
            if status < "300" and "application/json" in response.get("content", {})
        ]
        if "307" in operation["responses"]:
            answers = [{"type": "string"}]  # the address that it leads to
        shown = {of_schema(each, document) for each in answers} or {"null"}
        assert shown == {of_type(returned)}, name


def test_every_type_of_the_client_is_a_schema(document: Json) -> None:
    schemas = document["components"]["schemas"]
    found = list(types())
    assert len(found) > 60
    for kind in found:
        name = _OTHER_NAMES.get(kind.__name__, kind.__name__)
        assert of_type(kind) == of_schema(schemas[name], document), kind


def types() -> Iterator[type]:
    names = [
        each.name for each in pkgutil.iter_modules(services.client.__path__, "services.client.")
    ]
    for module in (import_module(name) for name in names if name.endswith("shapes")):
        for kind in vars(module).values():
            is_own = isinstance(kind, type) and kind.__module__ == module.__name__
            if is_own and kind is not shapes.Page:
                yield kind


def of_type(hint: Any) -> Any:
    """A type of the client in a form that ``of_schema`` has, too."""
    origin, args = get_origin(hint), get_args(hint)
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if hint is Any:
        return "any"
    if hint in plain:
        return plain[hint]
    if origin is Literal:
        return ("one of", frozenset(args))
    if origin is list or (inspect.isclass(origin) and issubclass(list, origin)):
        return ("list", of_type(args[0]))
    if origin is dict:
        return ("dict", of_type(args[1]))
    if origin is shapes.Page:
        return ("page", of_type(args[0]))
    if is_typeddict(hint) or dataclasses.is_dataclass(hint):
        return ("object", frozenset(members_of(hint)))
    assert args, f"no schema can be told from {hint}"
    return ("union", frozenset(of_type(each) for each in args))


def members_of(kind: Any) -> Iterator[tuple[str, tuple[bool, Any]]]:
    """Name → whether it is required, and its shape."""
    required = getattr(kind, "__required_keys__", None)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        is_marked = get_origin(hint) in (Required, NotRequired)
        shape = of_type(get_args(hint)[0] if is_marked else hint)
        yield name, (required is None or name in required, shape)


def of_schema(schema: Json, document: Json) -> Any:
    """A schema of the document in a form that can be compared with a type of the client."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any" if name == "JsonValue" else of_schema(named(name, document), document)
    if "const" in schema:
        return ("one of", frozenset({schema["const"]}))
    if "enum" in schema:
        return ("one of", frozenset(schema["enum"]))
    kind = schema.get("type")
    if "properties" in schema:  # beside them, oneOf narrows single members
        return of_object(schema, document)
    if kind == "array":
        return ("list", of_schema(schema.get("items", {}), document))
    if kind == "object":
        values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        inner = next((each for each in values if isinstance(each, dict)), {})
        return ("dict", of_schema(inner, document))
    if kind is not None:
        return kind
    inner = schema.get("anyOf") or schema.get("oneOf")
    if inner is None:
        return "any"
    return ("union", frozenset(of_schema(each, document) for each in inner))


def of_object(schema: Json, document: Json) -> Any:
    properties = schema["properties"]
    if {"data", "has_more", "next_cursor"} <= properties.keys():
        return ("page", of_schema(properties["data"]["items"], document))
    required = set(schema.get("required", ()))
    return (
        "object",
        frozenset(
            (name, (name in required, of_schema(each, document)))
            for name, each in properties.items()
        ),
    )


def named(name: str, document: Json) -> Json:
    return dict(document["components"]["schemas"][name])
