"""The service as Python calls. Every call is idempotent and retried where that helps."""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote

from services.client.retry import Retry
from services.client.shapes import (
    Checkpoint,
    Dataset,
    Event,
    NewFile,
    Page,
    Publication,
    Run,
    RunRequest,
    RunSummary,
    UploadPage,
)
from services.client.stream import stream
from services.client.transport import Transport

T = TypeVar("T")

MAX_PAGE: Final = 100
"""The most items that the service puts on one page."""


def _part(id_: str) -> str:
    """An id as one part of a path, with every special character escaped."""
    return quote(id_, safe="", errors="replace")


class Client:
    """The service for one tenant; a context manager that closes its connections.

    Every method raises ProblemError where the service refuses the request, and
    ServiceUnreachableError where it does not answer.
    """

    def __init__(self, url: str, api_key: str, *, retry: Retry | None = None) -> None:
        self._transport = Transport(url, api_key, retry or Retry())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self._transport.url

    @property
    def retry(self) -> Retry:
        return self._transport.retry

    def close(self) -> None:
        self._transport.close()

    def create_dataset(self, name: str, files: Sequence[NewFile]) -> Dataset:
        """Declare a dataset of these files; their contents are uploaded next."""
        body = {"name": name, "files": list(files)}
        return cast("Dataset", self._transport.post("/v1/datasets", body))

    def sign_uploads(self, dataset_id: str, *, after: str | None = None) -> UploadPage:
        """At most 1000 files after the path ``after``, each with its upload request."""
        body = {"dataset_id": dataset_id}
        if after is not None:
            body["after"] = after
        return cast("UploadPage", self._transport.post("/v1/uploads", body))

    def complete_dataset(self, dataset_id: str) -> Dataset:
        """Close the dataset; the service verifies its files next."""
        return cast("Dataset", self._transport.post(f"/v1/datasets/{_part(dataset_id)}:complete"))

    def get_dataset(self, dataset_id: str) -> Dataset:
        return cast("Dataset", self._transport.get(f"/v1/datasets/{_part(dataset_id)}"))

    def list_datasets(self, *, limit: int = 20, after: str | None = None) -> Page[Dataset]:
        """Newest first."""
        return self._page("/v1/datasets", {"limit": limit, "after": after})

    def submit_run(self, request: RunRequest) -> Run:
        """Queue a run."""
        return cast("Run", self._transport.post("/v1/runs", request))

    def get_run(self, run_id: str) -> Run:
        return cast("Run", self._transport.get(f"/v1/runs/{_part(run_id)}"))

    def get_plan(self, run_id: str) -> dict[str, Any]:
        """The run's request, resolved: every default filled in."""
        return self._transport.get(f"/v1/runs/{_part(run_id)}/plan")

    def list_runs(self, *, limit: int = 20, after: str | None = None) -> Page[RunSummary]:
        """Newest first."""
        return self._page("/v1/runs", {"limit": limit, "after": after})

    def cancel_run(self, run_id: str) -> Run:
        """Cancel a run; one that is training writes a checkpoint first."""
        return cast("Run", self._transport.post(f"/v1/runs/{_part(run_id)}:cancel"))

    def list_events(self, run_id: str, *, limit: int = 100, after: int = 0) -> Page[Event]:
        """Oldest first, starting after the event ``after``."""
        query = {"limit": limit, "after": after}
        page: Page[dict[str, Any]] = self._page(f"/v1/runs/{_part(run_id)}/events", query)
        return Page(
            data=[Event.of_json(event) for event in page.data],
            has_more=page.has_more,
            next_cursor=page.next_cursor,
        )

    def stream_events(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """Events after ``after`` as they happen, until the run is over; reconnects where needed.

        Close the iterator, or leave its loop, to release the connection.
        """
        return stream(self._transport, f"/v1/runs/{_part(run_id)}/events", after)

    def list_checkpoints(self, run_id: str) -> list[Checkpoint]:
        """All stored checkpoints, newest first."""
        found: list[Checkpoint] = []
        after: str | None = None
        while True:
            query = {"limit": MAX_PAGE, "after": after}
            page: Page[Checkpoint] = self._page(f"/v1/runs/{_part(run_id)}/checkpoints", query)
            found += page.data
            if not page.has_more or page.next_cursor is None:
                return found
            after = page.next_cursor

    def list_publications(
        self, *, run_id: str | None = None, limit: int = 20, after: str | None = None
    ) -> Page[Publication]:
        """Newest first, of one run or of all."""
        query = {"run_id": run_id, "limit": limit, "after": after}
        return self._page("/v1/publications", query)

    def get_publication(self, publication_id: str) -> Publication:
        return cast("Publication", self._transport.get(f"/v1/publications/{_part(publication_id)}"))

    def _page(self, path: str, query: Mapping[str, str | int | None]) -> Page[T]:
        """One page; a limit above MAX_PAGE counts as MAX_PAGE."""
        limit = min(int(query["limit"] or MAX_PAGE), MAX_PAGE)
        body = self._transport.get(path, {**query, "limit": limit})
        cursor = body.get("next_cursor")
        return Page(
            data=cast("list[T]", body["data"]),
            has_more=bool(body.get("has_more")),
            next_cursor=None if cursor is None else str(cursor),
        )
