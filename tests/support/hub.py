"""A local server with the Hugging Face Hub's protocols, whose state a test can read.

What huggingface_hub 2.4 sends to publish: create the repository, validate the card, preupload (how
each file goes up), Git LFS batch, upload and verify for binary files, then one commit as NDJSON.
Big files take Git LFS because the server knows no Xet: set HF_HUB_DISABLE_XET=1.

And to download: what a branch points at, the tree of a commit, HEAD and GET of each file. Public
repositories are read without a token.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

USER = "tester"
ORGANIZATIONS = ("acme",)
_LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".zip", ".parquet", ".tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubCommit:
    oid: str
    summary: str
    changed: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class HubRepo:
    """A model repository with one branch, main."""

    private: bool
    is_gated: bool = False
    """Its files need a token; its metadata does not."""
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[HubCommit] = field(default_factory=list)

    @property
    def revision(self) -> str:
        return self.commits[-1].oid if self.commits else "0" * 40


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reply:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class HubServer:
    """The server, in threads of this process; ``repos`` are its repositories."""

    def __init__(self) -> None:
        self.token = f"hf_{secrets.token_hex(17)}"
        self.roles: dict[str, str] = {}
        """Further tokens that are accepted, and what ``whoami`` says of them; of ``token`` it says
        ``fineGrained``."""
        self.repos: dict[str, HubRepo] = {}
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.failing_with: int | None = None
        """While set, every request below ``failing_below`` is answered with this status."""
        self.failing_below = "/"
        self.held_below: str | None = None
        """While set, requests below it get no answer; ``has_held`` says that one came."""
        self.has_held = threading.Event()
        self._is_released = threading.Event()
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._lfs_secret = secrets.token_hex(16)
        hub = self

        class Handler(_Handler):
            def answer(self) -> _Reply:
                return hub.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self) -> None:
        """Answer what is held."""
        self.held_below = None
        self._is_released.set()

    def add_model(self, name: str, folder: Path, *, is_gated: bool = False) -> HubRepo:
        """Create a public repository with the files of a folder, in one commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        repo = HubRepo(private=False, is_gated=is_gated, files=files)
        self.repos[name] = repo
        self.push(name, files)
        return repo

    def add_dataset(self, name: str, files: Mapping[str, bytes]) -> HubRepo:
        """Create a public dataset with these files, in one commit."""
        repo = HubRepo(private=False)
        self.repos[name] = repo
        self.push(name, files)
        return repo

    def push(self, name: str, files: Mapping[str, bytes]) -> None:
        """Add a commit to the main branch."""
        repo = self.repos[name]
        repo.files = {**repo.files, **files}
        content = json.dumps([repo.revision, [_entry(*each) for each in repo.files.items()]])
        oid = hashlib.sha1(content.encode()).hexdigest()
        repo.commits.append(HubCommit(oid=oid, summary="by its owner", changed=tuple(files)))

    def answer(self, request: "_Handler") -> _Reply:
        """Check the token and answer the request; one request at a time."""
        path = unquote(urlsplit(request.path).path)
        body = request.body()
        if self.held_below is not None and path.startswith(self.held_below):
            self.has_held.set()
            assert self._is_released.wait(60)
        with self._lock:
            self.requests.append(f"{request.command} {path}")
            if self.failing_with is not None and path.startswith(self.failing_below):
                return _Reply(status=self.failing_with, body=b"<html>out of order</html>")
            for method, pattern, route, needs_token in self._routes():
                match = re.fullmatch(pattern, path)
                if match is None or method != request.command:
                    continue
                token = request.headers.get("Authorization", "").removeprefix("Bearer ")
                is_known = token == self.token or token in self.roles
                if needs_token and not is_known:
                    error = "Invalid user token."
                    return _Reply(status=401, body={"error": error}, headers=_error_header(error))
                if route in self._reading() and not is_known:
                    refused = self._refusal(match["name"], is_file=route == self._resolve)
                    if refused is not None:
                        return refused
                if route == self._whoami:
                    return self._whoami(token)
                try:
                    return route(body, **match.groupdict())
                except _RefusedError as error:
                    return _Reply(
                        status=error.status,
                        body={"error": error.message},
                        headers=_error_header(error.message),
                    )
        return _Reply(status=404, body={"error": "no such route"})

    def _routes(self) -> tuple[tuple[str, str, Callable[..., _Reply], bool], ...]:
        repo, branch = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?:main|[0-9a-f]{40})"
        return (
            ("GET", "/api/whoami-v2", self._whoami, True),
            ("POST", "/api/validate-yaml", self._validate_card, False),
            ("POST", "/api/repos/create", self._create, True),
            ("GET", rf"/api/(?:models|datasets)/{repo}(?:/revision/{branch})?", self._info, False),
            ("GET", rf"/api/(?:models|datasets)/{repo}/tree/{branch}", self._tree, False),
            ("POST", rf"/api/models/{repo}/preupload/main", self._preupload, True),
            ("POST", rf"/{repo}\.git/info/lfs/objects/batch", self._lfs_batch, True),
            ("PUT", rf"/lfs/{self._lfs_secret}/(?P<oid>[0-9a-f]{{64}})", self._lfs_put, False),
            ("POST", rf"/lfs/{repo}/verify", self._lfs_verify, True),
            ("POST", rf"/api/models/{repo}/commit/main", self._commit, True),
            ("GET", rf"/(?:datasets/)?{repo}/resolve/{branch}/(?P<path>.+)", self._resolve, False),
            ("HEAD", rf"/(?:datasets/)?{repo}/resolve/{branch}/(?P<path>.+)", self._resolve, False),
        )

    def _reading(self) -> tuple[Callable[..., _Reply], ...]:
        return self._info, self._tree, self._resolve

    def _refusal(self, name: str, *, is_file: bool) -> _Reply | None:
        """The Hub's error for a request without a token; None where it is allowed."""
        repo = self.repos.get(name)
        if repo is None or repo.private:
            error, code = "Invalid username or password.", "RepoNotFound"
        elif repo.is_gated and is_file:
            error, code = f"Access to model {name} is restricted.", "GatedRepo"
        else:
            return None
        headers = {**_error_header(error), "X-Error-Code": code}
        return _Reply(status=401, body={"error": error}, headers=headers)

    def _whoami(self, token: str) -> _Reply:
        orgs = [{"name": name, "type": "org"} for name in ORGANIZATIONS]
        role = self.roles.get(token, "fineGrained")
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": role}}
        return _Reply(body={"name": USER, "type": "user", "orgs": orgs, "auth": auth})

    def _validate_card(self, body: bytes) -> _Reply:
        """The Hub requires a card's metadata between two lines of dashes."""
        content = json.loads(body)["content"]
        if content.startswith("---\n") and "\n---" not in content[4:]:
            errors = [{"message": "the metadata does not end"}]
            return _Reply(status=400, body={"errors": errors, "warnings": []})
        return _Reply(body={"errors": [], "warnings": []})

    def _create(self, body: bytes) -> _Reply:
        request = json.loads(body)
        owner = request.get("organization") or USER
        name = f"{owner}/{request['name']}"
        if owner not in (USER, *ORGANIZATIONS):
            raise _RefusedError(403, f"You don't have the rights to create a model under {owner}")
        if name in self.repos:
            error = "You already created this model repo"
            return _Reply(status=409, body={"error": error, "url": f"{self.url}/{name}"})
        private = request.get("visibility") == "private" or request.get("private") is True
        self.repos[name] = HubRepo(private=private)
        return _Reply(body={"url": f"{self.url}/{name}", "name": name, "id": secrets.token_hex(12)})

    def _info(self, _: bytes, *, name: str) -> _Reply:
        repo = self._repo(name)
        siblings = [{"rfilename": path} for path in sorted(repo.files)]
        facts = {"id": name, "modelId": name, "sha": repo.revision, "private": repo.private}
        return _Reply(body={**facts, "siblings": siblings, "tags": []})

    def _tree(self, _: bytes, *, name: str) -> _Reply:
        files = sorted(self._repo(name).files.items())
        return _Reply(body=[_entry(path, content) for path, content in files])

    def _preupload(self, body: bytes, *, name: str) -> _Reply:
        repo = self._repo(name)
        files = []
        for each in json.loads(body)["files"]:
            path, standing = each["path"], repo.files.get(each["path"])
            is_lfs = path.endswith(_LFS_SUFFIXES)
            mode = "lfs" if is_lfs else "regular"
            known = {} if standing is None else {"oid": _oid(standing, is_lfs=is_lfs)}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return _Reply(body={"files": files})

    def _lfs_batch(self, body: bytes, *, name: str) -> _Reply:
        self._repo(name)
        objects = []
        for each in json.loads(body)["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self._blobs:
                entry["actions"] = {
                    "upload": {"href": f"{self.url}/lfs/{self._lfs_secret}/{each['oid']}"},
                    "verify": {"href": f"{self.url}/lfs/{name}/verify"},
                }
            objects.append(entry)
        return _Reply(body={"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, *, oid: str) -> _Reply:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _RefusedError(400, "the content does not match its oid")
        self._blobs[oid] = body
        return _Reply()

    def _lfs_verify(self, body: bytes, *, name: str) -> _Reply:
        request = json.loads(body)
        blob = self._blobs.get(request["oid"])
        if blob is None or len(blob) != request["size"]:
            raise _RefusedError(422, f"{request['oid']} was not uploaded to {name}")
        return _Reply(body={})

    def _commit(self, body: bytes, *, name: str) -> _Reply:
        repo = self._repo(name)
        header, *operations = (json.loads(line) for line in body.splitlines())
        files = dict(repo.files)
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile" if value["oid"] in self._blobs:
                    files[value["path"]] = self._blobs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    raise _RefusedError(400, f"cannot commit {other} {value}")
        changed = tuple(operation["value"]["path"] for operation in operations)
        seed = json.dumps([repo.revision, header, [_entry(*each) for each in files.items()]])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        repo.files = files
        repo.commits.append(HubCommit(oid=oid, summary=header["value"]["summary"], changed=changed))
        url = f"{self.url}/{name}/commit/{oid}"
        return _Reply(body={"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def _resolve(self, _: bytes, *, name: str, path: str) -> _Reply:
        repo = self._repo(name)
        content = repo.files.get(path)
        if content is None:
            raise _RefusedError(404, "Entry not found")
        etag = _oid(content, is_lfs=path.endswith(_LFS_SUFFIXES))
        return _Reply(body=content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": repo.revision})

    def _repo(self, name: str) -> HubRepo:
        if name not in self.repos:
            raise _RefusedError(404, "Repository not found")
        return self.repos[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> _Reply:
        raise NotImplementedError

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        chunks = []
        while size_bytes := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size_bytes))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *args: Any) -> None:
        """No log: tests read the state."""

    def _handle(self) -> None:
        reply = self.answer()
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(HTTPStatus(reply.status))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", secrets.token_hex(8))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # http.server wants these names


def _entry(path: str, content: bytes) -> dict[str, Any]:
    is_lfs = path.endswith(_LFS_SUFFIXES)
    lfs = {"lfs": {"oid": _oid(content, is_lfs=True), "size": len(content), "pointerSize": 130}}
    facts = {"type": "file", "path": path, "size": len(content)}
    return {**facts, "oid": _oid(content, is_lfs=False), **(lfs if is_lfs else {})}


def _oid(content: bytes, *, is_lfs: bool) -> str:
    """Git LFS names content by SHA-256, git itself by the SHA-1 of a blob."""
    if is_lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _error_header(message: str) -> dict[str, str]:
    return {"X-Error-Message": message}


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub for this test; processes that the test starts use Git LFS with it, too."""
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    server = HubServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def on_the_hub(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    """The same; what this process downloads from the Hub, without a token, comes from it."""
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = f"{hub_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub_server
