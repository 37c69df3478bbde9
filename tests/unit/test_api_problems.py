"""Every error has a status; all problems of a body or a file list are reported together."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from services.api.api_keys.shapes import ApiKeyRequest
from services.api.datasets.checked_list import check_list, files_of
from services.api.edge import RequestEdge
from services.api.errors import InvalidJsonError
from services.api.json_body import parse_body
from services.api.problems import STATUS, UNAVAILABLE, install_handlers, shape_problem
from services.domain.errors import DomainError, InvalidRequestError
from services.objects.errors import ObjectStoreRefusedError, WrongClockError
from services.store.datasets import NewFile
from tests.support.tenant import Json


def _kinds(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def test_every_domain_error_has_a_status_and_a_code_of_its_own() -> None:
    kinds = set(_kinds(DomainError))
    assert set(STATUS) == kinds
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_a_store_that_refuses_because_of_the_clock_is_unavailable() -> None:
    app = FastAPI()
    install_handlers(app)

    @app.get("/")
    async def refuse() -> None:
        raise WrongClockError("key: the store answered 403 RequestTimeTooSkewed")

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(RequestEdge(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            return await client.get("/")

    answered = asyncio.run(answer())
    assert answered.status_code == 503
    assert answered.json()["code"] == UNAVAILABLE[ObjectStoreRefusedError]
    assert "Skewed" not in answered.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a": 1,}', "line 1, column 9"),
        (b'{"a":\n  nope}', "line 2, column 3"),
        (b'{"a": 1, "a": 2}', '"a" is given twice'),
        (b'{"a": "\xff"}', "UTF-8 (byte 7)"),
        (b"[" * 33 + b"]" * 33, "nested deeper"),
        (b"[" * 200_000, "nested deeper"),
        (b"1" * 5000, "The body has a number of too many digits."),
    ],
)
def test_invalid_json_is_refused_with_its_place(body: bytes, words: str) -> None:
    with pytest.raises(InvalidJsonError, match=r".") as caught:
        parse_body(body)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("tomorrow", "A time has to be written as in RFC 3339, such as 2030-01-31T12:00:00Z"),
        *(
            (moment, "There is no such day, hour or zone between the years 1 and 9999")
            for moment in (
                *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "2030-02-30T00:00:00Z"),
                *("2030-01-01T00:00:00+99:00", "2030-01-01T25:00:00Z"),
            )
        ),
    ],
)
def test_a_wrong_time_is_refused_in_plain_words(moment: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ApiKeyRequest.model_validate({"name": "ci", "expires_at": moment})
    (found,) = caught.value.errors()
    assert shape_problem({**found, "loc": ("body", *found["loc"])}).message == f"{words}."


def test_text_that_cannot_be_stored_is_refused_with_pointers() -> None:
    body = rb"""{"a": "\u0000", "b": [1, "\ud800"], "c/d": {"e": "\u0000"}, "fine": "\ud83d\ude00",
        "f": NaN, "g": [-Infinity], "h": 1e999, "i": [1%s]}""" % (b"0" * 400)
    with pytest.raises(InvalidRequestError) as caught:
        parse_body(body)
    assert [p.pointer for p in caught.value.problems] == [
        "/a",
        "/b/1",
        "/c~1d/e",
        "/f",
        "/g/0",
        "/h",
        "/i/0",
    ]


def _file(path: str, size_bytes: int = 3, sha256: str = "0" * 64) -> Json:
    return {"path": path, "size_bytes": size_bytes, "sha256": sha256}


def _read(body: Any) -> list[NewFile]:
    rows = io.BytesIO()
    check_list(io.BytesIO(json.dumps(body).encode()), rows)
    return list(files_of(rows))


def _read_files(*files: Any) -> list[NewFile]:
    return _read({"name": "photos", "files": files})


def test_good_files_become_rows() -> None:
    rows = _read_files(_file("a/é.JPEG"), _file("a/é.txt", 0), _file("b.webp"))
    assert [(row.path, row.media) for row in rows] == [
        ("a/é.JPEG", "image"),
        ("a/é.txt", "caption"),
        ("b.webp", "image"),
    ]


@pytest.mark.parametrize(
    ("file", "at"),
    [
        (_file("/etc/passwd.txt"), "/files/0/path"),
        (_file("../a.jpg"), "/files/0/path"),
        (_file("a/./b.jpg"), "/files/0/path"),
        (_file("a//b.jpg"), "/files/0/path"),
        (_file("a\\b.jpg"), "/files/0/path"),
        (_file("a\nb.jpg"), "/files/0/path"),
        (_file("a" * 509 + ".jpg"), "/files/0/path"),
        (_file("e\u0301.jpg"), "/files/0/path"),  # decomposed: e and a combining accent
        (_file("a.svg"), "/files/0/path"),
        (_file("a"), "/files/0/path"),
        (_file(""), "/files/0/path"),
        (_file("a.jpg", 0), "/files/0/size_bytes"),
        (_file("a.jpg", (100 << 20) + 1), "/files/0/size_bytes"),
        (_file("a.txt", (1 << 20) + 1), "/files/0/size_bytes"),
        (_file("a.txt", -1), "/files/0/size_bytes"),
        (_file("a.jpg", sha256="A" * 64), "/files/0/sha256"),
        (_file("a.jpg", sha256="../x"), "/files/0/sha256"),
    ],
)
def test_a_bad_file_is_refused_by_pointer(file: Json, at: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _read_files(file)
    assert at in {problem.pointer for problem in caught.value.problems}


def test_every_bad_file_is_named_at_once() -> None:
    files = [_file("a.jpg"), _file("A.JPG"), _file("../b.jpg"), _file("c.exe", sha256="x")]
    with pytest.raises(InvalidRequestError) as caught:
        _read_files(*files)
    assert [(p.pointer, p.code) for p in caught.value.problems] == [
        ("/files/1/path", "conflict"),
        ("/files/2/path", "bad_value"),
        ("/files/3/path", "bad_value"),
        ("/files/3/sha256", "bad_value"),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], [("", "bad_value")]),
        ({}, [("/name", "missing"), ("/files", "missing")]),
        ({"name": "", "files": []}, [("/name", "bad_value"), ("/files", "bad_value")]),
        ({"name": "a", "files": {}}, [("/files", "bad_value")]),
        ({"name": "a", "files": [3], "x": 1}, [("/files/0", "bad_value"), ("/x", "unknown_field")]),
        (
            {"name": 1, "files": [{**_file("a.jpg"), "x": 1}, {"path": 3}]},
            [
                ("/files/0/x", "unknown_field"),
                ("/files/1/path", "bad_value"),
                ("/files/1/size_bytes", "missing"),
                ("/files/1/sha256", "missing"),
                ("/name", "bad_value"),
            ],
        ),
        # What cannot be stored is told first, and alone.
        (
            {"name": "\0", "files": [{"path": "\ud800"}]},
            [("/files/0/path", "bad_value"), ("/name", "bad_value")],
        ),
        ({"name": "a", "files": [_file("a.jpg")] * 100_001}, [("/files", "bad_value")]),
    ],
)  # fmt: skip
def test_a_body_of_another_shape_is_refused_by_pointer(
    body: Any, expected: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _read(body)
    assert [(p.pointer, p.code) for p in caught.value.problems] == expected


def test_problems_are_counted_beyond_those_that_are_listed() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _read_files(*(_file(f"{n}.exe") for n in range(3000)))
    assert (len(caught.value.problems), caught.value.total) == (1000, 3000)


def test_many_files_are_read_in_order() -> None:
    names = [f"{n}.jpg" for n in range(2500)]
    assert [row.path for row in _read_files(*map(_file, names))] == names


def test_an_unexpected_error_is_a_500_that_shows_only_its_id() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("the password is hunter2")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(RequestEdge(broken))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.get("/v1/runs")

    answer = asyncio.run(ask())

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "hunter2" not in answer.text
    assert "Traceback" not in answer.text


def test_every_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()
    codes = {kind.code for kind in STATUS}
    assert {code for code in codes if f"`{code}`" not in page} == set()
