"""A local server with as much of Weights & Biases' protocol as its SDK speaks to log metrics.

What wandb 0.31 sends: GraphQL to learn the server's features, whether the run exists and how many
lines of history it has, and to create or update it; then the history in pieces, each with the
number of its first line, to the run's file stream; then GraphQL again, to read what is there.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

ENTITY = "tester"
_OF_THE_SDK = frozenset({"_step", "_runtime", "_timestamp", "_wandb"})
Json = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class WandbRun:
    """A run as the server has it."""

    project: str
    name: str = ""
    config: Json = field(default_factory=dict)
    lines: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    exit_code: int | None = None
    """None: it goes on."""
    changed: list[tuple[Json, Json]] = field(default_factory=list)
    """Lines that were sent again with other values: (before, after)."""

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        """Step and numbers of each line."""
        return [(line["_step"], _numbers(line)) for line in self.lines]


def _numbers(line: Json) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in _OF_THE_SDK}


class WandbServer:
    """The server, in threads of this process; a test reads and changes its state."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        """Keys that are accepted."""
        self.runs: dict[str, WandbRun] = {}
        self.requests: list[str] = []
        """The GraphQL operation, or ``file_stream``, of every request in order."""
        self.bodies: list[bytes] = []
        self.failing_with: int | None = None
        """While set, every request is answered with this status."""
        self.failing_on: str | None = None
        """Only requests of this name fail; None: all."""
        self.forbidden_projects: set[str] = set()
        self.held_on: str | None = None
        """While set, requests of this name, or of this project, get no answer; ``has_held`` says
        that one came."""
        self.has_held = threading.Event()
        self._is_released = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            def reply(self, name: str, body: Json) -> tuple[int, Any]:
                return server.reply(name, body, self.path, self.headers.get("Authorization", ""))

            def note(self, name: str, body: bytes) -> None:
                server.requests.append(name)
                server.bodies.append(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self) -> None:
        """Answer what is held."""
        self.held_on = None
        self._is_released.set()

    def reply(self, name: str, body: Json, path: str, authorization: str) -> tuple[int, Any]:
        project = (body.get("variables") or {}).get("project")
        if self.held_on is not None and self.held_on in (name, project):
            self.has_held.set()
            self._is_released.wait(60)
        if self.failing_with is not None and self.failing_on in (None, name):
            return self.failing_with, {"error": "out of order"}
        if _key_of(authorization) not in self.keys:
            return 401, {"error": "user is not logged in"}
        with self._lock:
            if name == "file_stream":
                return self._take(path, body)
            return self._query(name, body.get("variables") or {})

    def _query(self, name: str, variables: Json) -> tuple[int, Any]:
        project, run_id = variables.get("project"), variables.get("name")
        if project in self.forbidden_projects:
            return 403, {"errors": [{"message": "permission denied"}]}
        run = self.runs.get(str(run_id))
        match name:
            case "ServerFeaturesQuery":
                data: Json = {"serverInfo": {"features": []}}
            case "Viewer":
                data = {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}"}}
            case "RunStopStatus":
                data = {"project": {"run": {"stopped": False}}}
            case "RunResumeStatus":
                model = {"id": "1", "name": project, "entity": {"id": "1", "name": ENTITY}}
                bucket = None if run is None else _bucket(str(run_id), run)
                data = {"model": {**model, "bucket": bucket}}
            case "UpsertBucket":
                is_new = run is None
                if run is None:
                    run = self.runs[str(run_id)] = WandbRun(project=str(project))
                run.name = variables.get("displayName") or run.name
                run.config = json.loads(variables.get("config") or "null") or run.config
                bucket = _bucket(str(run_id), run)
                data = {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
            case "Run" | "RunHistoryKeys":
                found = None if run is None else _bucket(str(run_id), run)
                data = {"project": None if found is None else {"run": found}}
            case _:
                return 400, {"errors": [{"message": f"{name} is not known here"}]}
        return 200, {"data": data}

    def _take(self, path: str, body: Json) -> tuple[int, Any]:
        found = re.fullmatch(rf"/files/{ENTITY}/[^/]+/([^/]+)/file_stream", path)
        if found is None:
            return 404, {"error": "no such run"}
        run = self.runs[found[1]]
        files = body.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            for number, text in enumerate(history["content"], history["offset"]):
                line = json.loads(text)
                if number > len(run.lines):
                    return 400, {"error": f"line {len(run.lines)} is missing"}
                if number == len(run.lines):
                    run.lines.append(line)
                elif _numbers(run.lines[number]) != _numbers(line):
                    run.changed.append((run.lines[number], line))
                    run.lines[number] = line
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
        return 200, {"exitcode": None, "limits": {}}


def _bucket(run_id: str, run: WandbRun) -> Json:
    last_step = run.lines[-1]["_step"] if run.lines else -1
    return {
        "id": f"storage-{run_id}",
        "name": run_id,
        "displayName": run.name,
        "projectId": "1",
        "project": {"id": "1", "name": run.project, "entity": {"id": "1", "name": ENTITY}},
        "config": json.dumps(run.config),
        "wandbConfig": json.dumps({"t": 1}),
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(run.lines),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(line) for line in run.lines[-1:]]),
        "eventsTail": "[]",
        "historyKeys": {"lastStep": last_step},
        "state": "running" if run.exit_code is None else "finished",
        "tags": [],
    }


def _key_of(authorization: str) -> str:
    """Of HTTP's basic authentication, whose user is ``api``."""
    coded = authorization.removeprefix("Basic ")
    return base64.b64decode(coded).decode().removeprefix("api:")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, name: str, body: Json) -> tuple[int, Any]:
        raise NotImplementedError

    def note(self, name: str, body: bytes) -> None:
        raise NotImplementedError

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw or b"{}")
        name = "file_stream" if self.path.startswith("/files/") else _operation(body)
        self.note(name, raw)
        status, answer = self.reply(name, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _operation(body: Json) -> str:
    """The name of a GraphQL operation."""
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", body.get("query", ""))
    return str(body.get("operationName") or (found[1] if found else ""))


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    server.start()
    yield server
    server.stop()
