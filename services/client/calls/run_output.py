"""What a run shows: attempts, logs, metrics, pictures and files."""

from urllib.parse import quote

import httpx

from services.client.call import Call, StreamCall, get, page, part
from services.client.run_output_shapes import File, LogPiece, Metrics, Preview, Sample
from services.client.shapes import Attempt, Page


def list_attempts(run_id: str, *, limit: int = 20, after: int | None = None) -> Call[Page[Attempt]]:
    """The work of each worker on the run, newest first."""
    return page(f"/v1/runs/{part(run_id)}/attempts", {"limit": limit, "after": after})


def list_logs(
    run_id: str, *, limit: int = 100, after: int | None = None, tail: int | None = None
) -> Call[Page[LogPiece]]:
    """What the training processes printed, oldest first.

    Args:
        after: only what follows the ``end_byte`` of a piece.
        tail: only so many lines, the last ones; not with ``after``.
    """
    query = {"limit": limit, "after": after, "tail": tail}
    return page(f"/v1/runs/{part(run_id)}/logs", query, LogPiece.of_json)


def stream_logs(run_id: str, after: int = 0) -> StreamCall[LogPiece]:
    """What follows the byte ``after``, as it is printed, until the run is over; reconnects.

    Close the iterator, or leave its loop, to release the connection.
    """
    return StreamCall(path=f"/v1/runs/{part(run_id)}/logs", after=after, read=LogPiece.of_json)


def get_metrics(run_id: str, *, names: str | None = None, points: int = 500) -> Call[Metrics]:
    """Metrics of the run's steps in at most ``points`` bins.

    ``names``: at most ten, such as ``loss,learning_rate``; None: only which there are.
    """
    return get(f"/v1/runs/{part(run_id)}/metrics", {"names": names, "points": points})


def list_samples(
    run_id: str,
    *,
    limit: int = 20,
    step: int | None = None,
    name: str | None = None,
    after: str | None = None,
) -> Call[Page[Sample]]:
    """The pictures that the run made, the newest first: at its end, then while it trained.

    Args:
        step: only those of this step.
        name: only those of the prompt of this name.
    """
    query = {"limit": limit, "step": step, "name": name, "after": after}
    return page(f"/v1/runs/{part(run_id)}/samples", query)


def get_preview(run_id: str) -> Call[Preview]:
    """Of the picture that the run is sampling; refused with ``no_preview`` where it has none."""
    return get(f"/v1/runs/{part(run_id)}/preview")


def list_artifacts(
    run_id: str, *, limit: int = 20, folder: str | None = None, after: str | None = None
) -> Call[Page[File]]:
    """The files of the result and of the checkpoints, each with a link.

    ``folder``: only of this one, ``result`` or ``checkpoints/step-00000100``.
    """
    query = {"limit": limit, "folder": folder, "after": after}
    return page(f"/v1/runs/{part(run_id)}/artifacts", query)


def get_artifact(run_id: str, path: str) -> Call[str]:
    """A link to this file; it works for an hour and needs no key."""
    address = f"/v1/runs/{part(run_id)}/artifacts/{quote(path, errors='replace')}"
    return Call(method="GET", path=address, is_redirected=True, read=_address)


def _address(answer: httpx.Response) -> str:
    return str(answer.headers["Location"])
