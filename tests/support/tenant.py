"""A tenant that uses the service by HTTP, with only a URL and a key."""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from services.domain.states import OVER
from tests.support.waiting import wait_until

Json = dict[str, Any]


def listed(files: Mapping[str, bytes]) -> list[Json]:
    """The files as a new dataset declares them."""
    return [
        {"path": path, "size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for path, body in files.items()
    ]


class Tenant:
    def __init__(self, url: str, api_key: str) -> None:
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=30
        )

    def push(
        self, files: Mapping[str, bytes], *, name: str = "photos", complete: bool = True
    ) -> str:
        """Create a dataset, upload what the store lacks by presigned PUT, and complete it."""
        dataset = self.post("/v1/datasets", {"name": name, "files": listed(files)})
        self._upload(dataset["id"], files)
        if complete:
            self.complete(dataset["id"])
        return str(dataset["id"])

    def _upload(self, dataset_id: str, files: Mapping[str, bytes]) -> None:
        """Send each content that the store lacks once."""
        sent: set[str] = set()
        after: str | None = None
        with httpx.Client(timeout=30) as store:
            while True:
                page = self.post("/v1/uploads", {"dataset_id": dataset_id, "after": after})
                for upload in page["data"]:
                    if upload["present"] or upload["sha256"] in sent:
                        continue
                    sent.add(upload["sha256"])
                    answer = store.request(
                        upload["method"],
                        upload["url"],
                        headers=upload["headers"],
                        content=files[upload["path"]],
                    )
                    assert answer.status_code in (200, 201, 204), answer.text
                if not page["has_more"]:
                    return
                after = page["next_cursor"]

    def complete(self, dataset_id: str) -> None:
        self.post(f"/v1/datasets/{dataset_id}:complete", {})

    def push_folder(self, folder: Path) -> str:
        return self.push(
            {
                p.relative_to(folder).as_posix(): p.read_bytes()
                for p in sorted(folder.rglob("*"))
                if p.is_file()
            },
            name=folder.name,
        )

    def post(self, path: str, body: Json, **headers: str) -> Json:
        answer = self.http.post(
            path, json=body, headers={"Idempotency-Key": str(uuid.uuid4()), **headers}
        )
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def get(self, path: str) -> Json:
        answer = self.http.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def submit(self, request: Json) -> str:
        return str(self.post("/v1/runs", request)["id"])

    def run(self, run_id: str) -> Json:
        return self.get(f"/v1/runs/{run_id}")

    def events(self, run_id: str, *types: str) -> list[Json]:
        """Every event of the run in order, of the given types (all where none is given)."""
        found: list[Json] = []
        path = f"/v1/runs/{run_id}/events?limit=100"
        while True:
            page = self.get(path)
            found += page["data"]
            if not page["has_more"]:
                return [e for e in found if not types or e["type"] in types]
            path = f"/v1/runs/{run_id}/events?limit=100&after={page['next_cursor']}"

    def wait_for(
        self, run_id: str, until: Callable[[Json], bool], *, deadline_s: float, what: str
    ) -> Json:
        def ask() -> Json | None:
            run = self.run(run_id)
            if until(run):
                return run
            assert run["status"] not in OVER, f"{what}: the run ended first: {run['status_reason']}"
            return None

        return wait_until(ask, deadline_s=deadline_s, what=f"{what} (run {run_id})", every_s=0.25)

    def wait_over(self, run_id: str, *, deadline_s: float = 300) -> Json:
        return self.wait_for(
            run_id, lambda run: run["status"] in OVER, deadline_s=deadline_s, what="the run to end"
        )

    def wait_published(self, run_id: str, *, deadline_s: float = 60) -> Json:
        """The publication of the result, once it has ended."""

        def ask() -> Json | None:
            for publication in self.get(f"/v1/publications?run_id={run_id}")["data"]:
                is_over = publication["status"] in ("succeeded", "failed")
                if is_over and publication["checkpoint_step"] is None:
                    return dict(publication)
            return None

        return wait_until(ask, deadline_s=deadline_s, what="the publication", every_s=0.25)
