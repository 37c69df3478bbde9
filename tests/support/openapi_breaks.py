"""What in a new OpenAPI document breaks a client that was written for an old one.

A request that was accepted must be accepted, and what a client reads in an answer must be there, of
a type that it knows. Operations that the old document calls deprecated may go.
"""

from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]

_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")


def breaks(old: Json, new: Json) -> list[str]:
    """A line for each break, such as ``GET /v1/runs: the operation is gone``; sorted."""
    found: set[str] = set()
    for path, item in old["paths"].items():
        for method, operation in item.items():
            name = f"{method.upper()} {path}"
            now = new["paths"].get(path, {}).get(method)
            if now is not None:
                found |= {f"{name}: {what}" for what in _of_operation(operation, now, old, new)}
            elif not operation.get("deprecated"):
                found.add(f"{name}: the operation is gone")
    return sorted(found)


def _of_operation(was: Json, now: Json, old: Json, new: Json) -> Iterator[str]:
    requests, answers = _Schemas(old, new, answers=False), _Schemas(old, new, answers=True)
    before, after = _parameters(was), _parameters(now)
    for key, parameter in before.items():
        name = f"{key[0]} {key[1]}"
        if key not in after:
            yield f"{name} is gone"
            continue
        if after[key].get("required") and not parameter.get("required"):
            yield f"{name} is required"
        yield from requests.compare(parameter["schema"], after[key]["schema"], name)
    for key, parameter in after.items():
        if key not in before and parameter.get("required"):
            yield f"{key[0]} {key[1]} is new and required"
    body, body_now = was.get("requestBody"), now.get("requestBody")
    if body_now is not None and body_now.get("required") and not (body or {}).get("required"):
        yield "a body is required"
    if body is not None and body_now is not None:
        yield from requests.contents(body, body_now, "the body")
    for status, answer in was["responses"].items():
        if status >= "300":
            continue
        answer_now = now["responses"].get(status)
        if answer_now is None:
            yield f"status {status} is gone"
            continue
        for header in answer.get("headers", {}).keys() - answer_now.get("headers", {}).keys():
            yield f"header {header} of {status} is gone"
        yield from answers.contents(answer, answer_now, f"the answer {status}")


def _parameters(operation: Json) -> dict[tuple[str, str], Json]:
    return {(each["in"], each["name"]): each for each in operation.get("parameters", [])}


class _Schemas:
    """Compares schemas of two documents, of what clients send or of what they read."""

    def __init__(self, old: Json, new: Json, *, answers: bool) -> None:
        self._old, self._new = old, new
        self._answers = answers
        self._seen: set[tuple[str, str]] = set()

    def contents(self, was: Json, now: Json, where: str) -> Iterator[str]:
        """Of a body, by media type."""
        for kind, content in was.get("content", {}).items():
            now_content = now.get("content", {}).get(kind)
            if now_content is None:
                yield f"{where} is no longer {kind}"
            else:
                yield from self.compare(
                    content.get("schema", {}), now_content.get("schema", {}), where
                )

    def compare(self, was: Json, now: Json, where: str) -> Iterator[str]:
        if "$ref" in was and "$ref" in now:
            if (was["$ref"], now["$ref"]) in self._seen:
                return
            self._seen.add((was["$ref"], now["$ref"]))
        was, now = _resolved(was, self._old), _resolved(now, self._new)
        variants, variants_now = _variants(was), _variants(now)
        if len(variants) > 1 or len(variants_now) > 1:
            yield from self._of_variants(variants, variants_now, where)
            was, now = _beside_variants(was), _beside_variants(now)
        if self._answers:
            yield from self._of_answer(was, now, where)
        else:
            yield from self._of_request(was, now, where)
        for kind in ("properties", "patternProperties"):
            for name, member in was.get(kind, {}).items():
                if name in now.get(kind, {}):
                    yield from self.compare(member, now[kind][name], f"{where}, {name}")
        for inner in ("items", "additionalProperties"):
            if isinstance(was.get(inner), dict) and isinstance(now.get(inner), dict):
                yield from self.compare(was[inner], now[inner], where)

    def _of_variants(self, was: list[Json], now: list[Json], where: str) -> Iterator[str]:
        """Each that may be sent has to have its like, and so has each that may be read."""
        given, taken = (now, was) if self._answers else (was, now)
        for each in given:
            pairs = [(other, each) if self._answers else (each, other) for other in taken]
            if not any(self._fits(old, new, where) for old, new in pairs):
                yield (
                    f"{where} may be {_name(each)}"
                    if self._answers
                    else (f"{where} may not be {_name(each)}")
                )

    def _fits(self, was: Json, now: Json, where: str) -> bool:
        seen = set(self._seen)
        fits = not list(self.compare(was, now, where))
        self._seen = seen
        return fits

    def _of_request(self, was: Json, now: Json, where: str) -> Iterator[str]:
        if not _types(was) <= _types(now):
            yield f"{where} may not be {', '.join(sorted(_types(was) - _types(now)))}"
        if (gone := _values(was) - _values(now)) and _values(now):
            yield f"{where} may not be {', '.join(sorted(map(str, gone)))}"
        elif _values(now) and not _values(was):
            yield f"{where} has to be one of {', '.join(sorted(map(str, _values(now))))}"
        for bound in _UPPER:
            if bound in now and now[bound] < was.get(bound, float("inf")):
                yield f"{where} has {bound} {now[bound]}"
        for bound in _LOWER:
            if bound in now and now[bound] > was.get(bound, float("-inf")):
                yield f"{where} has {bound} {now[bound]}"
        if "pattern" in now and now["pattern"] != was.get("pattern"):
            yield f"{where} has another pattern"
        for name in set(now.get("required", [])) - set(was.get("required", [])):
            yield f"{where}, {name} is required"
        if now.get("additionalProperties") is False:
            for name in was.get("properties", {}).keys() - now.get("properties", {}).keys():
                yield f"{where}, {name} is gone"

    def _of_answer(self, was: Json, now: Json, where: str) -> Iterator[str]:
        if not _types(now) <= _types(was):
            yield f"{where} may be {', '.join(sorted(_types(now) - _types(was)))}"
        for name in was.get("properties", {}).keys() - now.get("properties", {}).keys():
            yield f"{where}, {name} is gone"
        for name in set(was.get("required", [])) - set(now.get("required", [])):
            if name in now.get("properties", {}):
                yield f"{where}, {name} may be missing"


def _resolved(schema: Json, document: Json) -> Json:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = {
            **document["components"]["schemas"][name],
            **{key: value for key, value in schema.items() if key != "$ref"},
        }
    return schema


def _variants(schema: Json) -> list[Json]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def _beside_variants(schema: Json) -> Json:
    return {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}


_ANY: Final = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


def _types(schema: Json) -> frozenset[str]:
    """The JSON types that it allows; an integer is a number."""
    kind = schema.get("type")
    if kind is None:
        values = _values(schema)
        return frozenset({"string"}) if values else _ANY
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return frozenset(kinds | ({"integer"} if "number" in kinds else set()))


def _values(schema: Json) -> set[Any]:
    return {schema["const"]} if "const" in schema else set(schema.get("enum", ()))


def _name(schema: Json) -> str:
    return str(
        schema.get("$ref") or schema.get("const") or schema.get("type") or "that"
    ).rpartition("/")[2]
