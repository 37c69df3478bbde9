"""Runs and what they make."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.client.call import Call, StreamCall, get, page, part, patch, post
from services.client.run_output_shapes import Checkpoint, Event, Result
from services.client.shapes import (
    ClonedRun,
    Page,
    Run,
    RunDiff,
    RunPatch,
    RunRequest,
    RunStatus,
    RunSummary,
)
from services.client.validation_shapes import Validation


def submit_run(request: RunRequest) -> Call[Run]:
    """Queue a run."""
    return post("/v1/runs", request)


def validate_run(request: Any) -> Call[Validation]:
    """What the run would be, and all that is wrong with it; nothing is stored.

    Args:
        request: as for ``submit_run``, without datasets if they are not known yet; or
            ``{"clone_of": "run_…", "changes": {…}}``.
    """
    return post("/v1/runs:validate", request)


def clone_run(run_id: str, changes: dict[str, Any] | None = None) -> Call[ClonedRun]:
    """Queue a new run from the request of another one.

    Args:
        changes: a JSON Merge Patch of that request, such as ``{"config": {"seed": 7}}``.
    """
    return post(f"/v1/runs/{part(run_id)}:clone", {"changes": changes or {}})


def diff_runs(run_id: str, *, against: str) -> Call[RunDiff]:
    """What differs between two runs."""
    return get(f"/v1/runs/{part(run_id)}/diff", {"against": against})


def list_runs(
    *,
    batch_id: str | None = None,
    status: RunStatus | None = None,
    metadata: Mapping[str, str] | None = None,
    created_after: str | None = None,
    created_before: str | None = None,
    limit: int = 20,
    after: str | None = None,
) -> Call[Page[RunSummary]]:
    """Newest first: all, or those of this batch and this status, with these pairs of metadata.

    Args:
        created_after: RFC 3339, as ``created_before``.
    """
    pairs = {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
    query = {
        "batch_id": batch_id,
        "status": status,
        "created_after": created_after,
        "created_before": created_before,
        "limit": limit,
        "after": after,
    }
    return page("/v1/runs", {**query, **pairs})


def get_run(run_id: str, *, wait_s: int = 0) -> Call[Run]:
    """A run with its attempts.

    Args:
        wait_s: wait so long, of 30 s at most, until the run changes or is over.
    """
    headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
    return replace(get(f"/v1/runs/{part(run_id)}"), headers=headers, waits_s=float(wait_s))


def get_plan(run_id: str) -> Call[dict[str, Any]]:
    """The run's request, resolved: every default filled in."""
    return get(f"/v1/runs/{part(run_id)}/plan")


def pause_run(run_id: str, *, version: int | None = None) -> Call[Run]:
    """Pause a run; one that is training writes a checkpoint first.

    Args:
        version: only if it still has this one; the same below. Where an answer was lost, a further
            try meets the version that the first one made, and is refused.
    """
    return post(f"/v1/runs/{part(run_id)}:pause", version=version)


def resume_run(run_id: str, *, version: int | None = None) -> Call[Run]:
    """Let a paused run go on from its newest checkpoint."""
    return post(f"/v1/runs/{part(run_id)}:resume", version=version)


def cancel_run(run_id: str, *, now: bool = False, version: int | None = None) -> Call[Run]:
    """Cancel a run; one that is training writes a checkpoint first, unless ``now``."""
    return post(f"/v1/runs/{part(run_id)}:cancel", {"now": now}, version=version)


def change_run(run_id: str, changes: RunPatch, *, version: int | None = None) -> Call[Run]:
    """Change priority, limits or metadata; None brings a default back."""
    return patch(f"/v1/runs/{part(run_id)}", changes, version=version)


def list_events(run_id: str, *, limit: int = 100, after: int = 0) -> Call[Page[Event]]:
    """Oldest first, starting after the event ``after``."""
    query = {"limit": limit, "after": after}
    return page(f"/v1/runs/{part(run_id)}/events", query, Event.of_json)


def stream_events(run_id: str, after: int = 0) -> StreamCall[Event]:
    """Events after ``after`` as they happen, until the run is over; reconnects where needed.

    Close the iterator, or leave its loop, to release the connection.
    """
    return StreamCall(path=f"/v1/runs/{part(run_id)}/events", after=after, read=Event.of_json)


def list_checkpoints(
    run_id: str, *, limit: int = 20, after: str | None = None
) -> Call[Page[Checkpoint]]:
    """Newest first, with links to their files."""
    return page(f"/v1/runs/{part(run_id)}/checkpoints", {"limit": limit, "after": after})


def get_result(run_id: str) -> Call[Result]:
    """The files that the run made; refused with ``no_result`` until it succeeded."""
    return get(f"/v1/runs/{part(run_id)}/result")
