"""What the client tries again, against a real HTTP server that answers from a script."""

import asyncio
import hashlib
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.client.async_client import AsyncClient
from services.client.call import StreamCall
from services.client.client import Client
from services.client.download import download
from services.client.errors import (
    ClientError,
    ProblemError,
    ServiceUnreachableError,
    UploadFailedError,
)
from services.client.retry import Retry, Tries
from services.client.run_output_shapes import Event
from services.client.shapes import RunRequest
from services.client.stream import Reception
from services.client.upload import Uploader

QUICK = Retry(tries=5, first_wait_s=0.01, limit_s=0.05)


@dataclass
class Script:
    """Answers (status, headers, body) in order, the last for ever; and the requests' headers."""

    answers: list[tuple[int, dict[str, str], bytes]]
    asked: list[dict[str, str]] = field(default_factory=list)

    def next(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(headers)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


class Scripted:
    """A server on a free port that follows a script; status 0 hangs up without an answer."""

    def __init__(self) -> None:
        self.script = Script([])
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, body = scripted.script.next(dict(self.headers))
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.server.shutdown()
    server.server.server_close()


REQUEST: RunRequest = {"config": {}, "data_backends": [], "datasets": {}}
JSON = {"Content-Type": "application/json"}
NOW = "2026-01-01T00:00:00Z"
RUN = (200, JSON, b'{"id": "run_1", "status": "queued"}')


def test_a_post_is_repeated_under_one_key(scripted: Scripted) -> None:
    scripted.script = Script([(503, {}, b""), (0, {}, b""), (429, {}, b""), RUN])
    with Client(scripted.url, "rv_k", retry=QUICK) as client:
        assert client.submit_run(REQUEST)["id"] == "run_1"
    keys = {headers["Idempotency-Key"] for headers in scripted.script.asked}
    assert (len(scripted.script.asked), len(keys)) == (4, 1)
    assert scripted.script.asked[0]["Authorization"] == "Bearer rv_k"


def test_two_calls_have_two_keys(scripted: Scripted) -> None:
    scripted.script = Script([RUN])
    with Client(scripted.url, "rv_k", retry=QUICK) as client:
        client.submit_run(REQUEST)
        client.submit_run(REQUEST)
    assert len({headers["Idempotency-Key"] for headers in scripted.script.asked}) == 2


def test_retry_after_is_honoured(scripted: Scripted) -> None:
    scripted.script = Script([(503, {"Retry-After": "1"}, b""), RUN])
    started_s = time.monotonic()
    with Client(scripted.url, "rv_k", retry=QUICK) as client:
        client.get_run("run_1")
    assert time.monotonic() - started_s >= 1


def test_a_redirect_is_no_success(scripted: Scripted) -> None:
    scripted.script = Script([(308, {"Location": "https://elsewhere.example/v1"}, b"")])

    async def revoke() -> None:
        client = AsyncClient(scripted.url, "rv_k", retry=QUICK)
        try:
            await client.revoke_key("key_1")
        finally:
            await client.close()

    with Client(scripted.url, "rv_k", retry=QUICK) as client:
        with pytest.raises(ClientError, match="redirects to https://elsewhere"):
            client.revoke_key("key_1")
        assert client.get_artifact("run_1", "x") == "https://elsewhere.example/v1"
    with pytest.raises(ClientError, match="redirects to"):
        asyncio.run(revoke())


@pytest.mark.parametrize("key", ["rv_secret\n", "rv_secret\x00", "rv_secr\u00e9t", ""])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_that_cannot_be_sent_is_told_and_not_shown(
    kind: type[Client] | type[AsyncClient], key: str
) -> None:
    with pytest.raises(ClientError, match="the key is empty, or has") as caught:
        kind("http://127.0.0.1:9", key)
    told = "".join(traceback.format_exception(caught.value))
    assert "rv_sec" not in told


def test_a_file_is_downloaded_as_it_is_stored(scripted: Scripted, tmp_path: Path) -> None:
    """Servers and proxies compress for clients that take it; range and digest would not fit."""
    body = b"as stored" * 100
    file = {
        "path": "result/a.json",
        "size_bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "url": f"{scripted.url}/signed",
    }
    page = json.dumps({"data": [file], "has_more": False, "next_cursor": None}).encode()
    scripted.script = Script([(200, JSON, page), (503, {}, b""), (200, {}, body)])
    with Client(scripted.url, "rv_k", retry=QUICK) as client:
        download(client, "run_1", "result/a.json", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == body
    for headers in scripted.script.asked[1:]:
        assert headers["Accept-Encoding"] == "identity"
        assert "Authorization" not in headers


def test_a_push_that_is_stopped_does_not_wait_to_try_again(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.script = Script([(503, {"Retry-After": "60"}, b"")])
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    about = {"path": "a.txt", "size_bytes": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    signed = {"method": "PUT", "url": f"{scripted.url}/signed", "headers": {}}
    sent: list[int] = []
    stopping = threading.Event()
    hooks = {"response": [lambda _: stopping.set()]}  # as Ctrl-C does in another thread
    with (
        Client(scripted.url, "rv_k", retry=QUICK) as client,
        httpx.Client(event_hooks=hooks) as store,
    ):
        uploader = Uploader(
            client=client, store=store, dataset_id="ds_1", note_sent=sent.append, stopping=stopping
        )
        upload: Any = {**about, **signed, "present": False, "part_size_bytes": None}
        file: Any = about
        started_s = time.monotonic()
        with pytest.raises(UploadFailedError, match=r"a\.txt: the push was stopped"):
            uploader.send(path, file, upload)
    assert time.monotonic() - started_s < 30
    assert (sent, len(scripted.script.asked)) == ([], 1)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500])
def test_other_refusals_are_raised_at_once(scripted: Scripted, status: int) -> None:
    body = {
        "code": "invalid_plan",
        "detail": "Two things.",
        "errors": [{"pointer": "/config/x", "code": "unknown_option", "message": "No such option"}],
    }
    scripted.script = Script([(status, JSON, json.dumps(body).encode()), RUN])
    with Client(scripted.url, "rv_k", retry=QUICK) as client, pytest.raises(ProblemError) as caught:
        client.get_run("run_1")
    assert len(scripted.script.asked) == 1
    assert (caught.value.status, caught.value.code) == (status, "invalid_plan")
    assert str(caught.value).splitlines() == [
        f"Two things. [{status} invalid_plan]",
        "  /config/x: No such option [unknown_option]",
    ]


def test_a_request_in_flight_under_the_same_key_is_retried(scripted: Scripted) -> None:
    busy = json.dumps({"code": "idempotency_in_flight"}).encode()
    scripted.script = Script([(0, {}, b""), (409, JSON, busy), RUN])
    with Client(scripted.url, "rv_k", retry=QUICK) as client:
        assert client.submit_run(REQUEST)["id"] == "run_1"


def test_tries_are_bounded(scripted: Scripted) -> None:
    scripted.script = Script([(502, {}, b"<html>bad gateway")])
    with Client(scripted.url, "rv_k", retry=QUICK) as client, pytest.raises(ProblemError) as caught:
        client.get_run("run_1")
    assert (caught.value.code, len(scripted.script.asked)) == ("http_502", QUICK.tries)


def test_an_unreachable_service_is_named_by_its_address() -> None:
    url = "http://127.0.0.1:9"
    with (
        Client(url, "rv_k", retry=QUICK) as client,
        pytest.raises(ServiceUnreachableError, match=url),
    ):
        client.get_run("run_1")


def sse(*ids: int) -> bytes:
    facts = {"type": "step", "step": 1, "data": {}, "created_at": NOW}
    return b"".join(
        f"id: {n}\nevent: step\ndata: {json.dumps({'id': n, **facts})}\n\n".encode() for n in ids
    )


def of_client(url: str) -> list[Event]:
    with Client(url, "rv_k", retry=QUICK) as client:
        return list(client.stream_events("run_1"))


def of_async_client(url: str) -> list[Event]:
    async def events() -> list[Event]:
        async with AsyncClient(url, "rv_k", retry=QUICK) as client:
            return [event async for event in client.stream_events("run_1")]

    return asyncio.run(events())


@pytest.mark.parametrize("streamed", [of_client, of_async_client])
def test_a_stream_continues_where_it_was_cut(
    scripted: Scripted, streamed: Callable[[str], list[Event]]
) -> None:
    stream = {"Content-Type": "text/event-stream"}
    cut_off = sse(1, 2) + b'id: 3\ndata: {"id": 3'
    scripted.script = Script(
        [
            (200, stream, cut_off),
            (503, {}, b""),
            (0, {}, b""),
            (200, stream, sse(2, 3)),
            (204, {}, b""),
        ]
    )
    assert [event.id for event in streamed(scripted.url)] == [1, 2, 3]
    asked = [headers["Last-Event-ID"] for headers in scripted.script.asked]
    assert asked == ["0", "2", "2", "2", "3"]


def test_the_asynchronous_client_repeats_and_refuses_alike(scripted: Scripted) -> None:
    refusal = json.dumps({"code": "not_found", "detail": "no run"}).encode()
    scripted.script = Script([(503, {}, b""), (0, {}, b""), RUN, (404, JSON, refusal)])

    async def calls() -> str:
        async with AsyncClient(scripted.url, "rv_k", retry=QUICK) as client:
            run = await client.submit_run(REQUEST)
            with pytest.raises(ProblemError):
                await client.get_run("run_2")
        async with AsyncClient("http://127.0.0.1:9", "rv_k", retry=QUICK) as client:
            with pytest.raises(ServiceUnreachableError):
                await client.get_run("run_3")
        return run["id"]

    assert asyncio.run(calls()) == "run_1"
    keys = {headers.get("Idempotency-Key") for headers in scripted.script.asked[:3]}
    assert (len(scripted.script.asked), len(keys)) == (4, 1)


def test_a_stream_that_is_refused_ends_with_the_problem(scripted: Scripted) -> None:
    scripted.script = Script([(404, JSON, b'{"code": "not_found", "detail": "no run"}')])
    with Client(scripted.url, "rv_k", retry=QUICK) as client, pytest.raises(ProblemError):
        next(client.stream_events("run_1"))


def test_messages_join_lines_and_skip_comments_and_what_came_before() -> None:
    call = StreamCall(path="/", after=1, read=lambda body: body)
    reception = Reception(call, Tries(QUICK, "http://service"))
    lines = [
        ": hello",
        "",
        "id: 2",
        "data: [1,",
        "data:2]",
        "",
        "retry: 10",
        "id: 2",
        "data: 3",
        "",
    ]
    assert [item for item in map(reception.feed, [*lines, "data: cut off"]) if item] == [[1, 2]]


@pytest.mark.parametrize(("header", "wait_s"), [("3", 3.0), ("9999", 60.0)])
def test_the_wait_of_retry_after_is_bounded(header: str, wait_s: float) -> None:
    assert Retry().wait_s(1, header) == wait_s


@pytest.mark.parametrize("header", [None, "soon", "²", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_waits_double_with_jitter(header: str | None) -> None:
    retry = Retry(tries=5, first_wait_s=1, limit_s=4)
    for failed, most_s in ((1, 1), (2, 2), (3, 4), (9, 4)):
        assert most_s / 2 <= retry.wait_s(failed, header) <= most_s
