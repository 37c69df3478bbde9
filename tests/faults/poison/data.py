"""Poison in a tenant's data: too much of it, files that cannot be read, objects that are gone."""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
from PIL import Image

from tests.faults.poison.host import Host, picture
from tests.support.service import small_run_request
from tests.support.waiting import wait_until


@contextlib.contextmanager
def long_captions(host: Host) -> Iterator[str]:
    """14,000 captions of 20,000 characters, as their verification leaves them."""
    dataset_id = host.ada.push(host.files(), complete=False)
    host.do(_CAPTIONS, dataset_id=dataset_id)
    yield _submitted_as_verified(host, dataset_id)


_CAPTIONS = """
INSERT INTO dataset_files
    (dataset_id, tenant_id, path, media, size_bytes, sha256, width_px, height_px, text)
SELECT dataset_id, tenant_id, 'long/' || n || suffix, media, 20000, md5(n::text) || md5(n::text),
    width_px, width_px, text
FROM datasets, generate_series(1, 14000) AS n, LATERAL (VALUES
    ('.png', 'image', 64, NULL),
    ('.txt', 'caption', NULL, left(repeat(md5(n::text), 626), 20000))
) AS file (suffix, media, width_px, text)
WHERE dataset_id = %(dataset_id)s
"""
_VERIFIED = """
WITH measured AS (
    UPDATE dataset_files SET width_px = CASE media WHEN 'image' THEN 64 END,
        height_px = CASE media WHEN 'image' THEN 64 END,
        text = CASE media WHEN 'caption' THEN coalesce(text, 'one of many') END
    WHERE dataset_id = %(dataset_id)s)
UPDATE datasets SET status = 'ready', (num_files, caption_bytes) = (
    SELECT count(*), sum(size_bytes) FILTER (WHERE media = 'caption') FROM dataset_files
    WHERE dataset_id = %(dataset_id)s)
WHERE dataset_id = %(dataset_id)s
"""


@contextlib.contextmanager
def many_files(host: Host) -> Iterator[str]:
    """100,000 files: 50,000 pictures with a caption each; two contents are stored.

    To encode all of them would take many minutes, so the run is canceled once it is admitted.
    """
    image, caption = picture(1), b"one of many"
    listed = [
        {
            "path": f"{n:06}{suffix}",
            "size_bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        for n in range(50_000)
        for suffix, body in ((".png", image), (".txt", caption))
    ]
    dataset_id = host.ada.post("/v1/datasets", {"name": "many", "files": listed})["id"]
    page = host.ada.post("/v1/uploads", {"dataset_id": dataset_id, "limit": 2})["data"]
    for upload, body in zip(page, (image, caption), strict=True):
        if not upload["present"]:
            httpx.put(upload["url"], headers=upload["headers"], content=body).raise_for_status()
    run_id = _submitted_as_verified(host, dataset_id)
    yield run_id
    assert host.row(run_id)["stage"] == "caching"
    host.ada.post(f"/v1/runs/{run_id}:cancel", {})


def _submitted_as_verified(host: Host, dataset_id: str) -> str:
    """A run whose data is being indexed. Its files are not looked at, which would take minutes."""
    host.do(_VERIFIED, dataset_id=dataset_id)
    run_id = host.submit(dataset_id)
    wait_until(
        lambda: host.ask(
            "SELECT FROM runs WHERE run_id = %(run_id)s AND index_until > clock_timestamp()",
            run_id=run_id,
        ),
        what="the index to be made",
        every_s=0.02,
    )
    return run_id


@contextlib.contextmanager
def many_pictures(host: Host) -> Iterator[str]:
    """3,000 different pictures, which are verified and encoded; their captions are equal."""
    files: dict[str, bytes] = {}
    for n in range(3000):
        files |= {f"{n:06}.png": picture(n), f"{n:06}.txt": b"one of many"}
    yield host.submit(host.ada.push(files))


@contextlib.contextmanager
def bomb(host: Host) -> Iterator[str]:
    """A small file that decodes to 400 million pixels."""
    body = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(body, "PNG")
    yield _submitted_with(host, dict.fromkeys(("bomb.png", "too.png"), body.getvalue()))


@contextlib.contextmanager
def half_a_picture(host: Host) -> Iterator[str]:
    body = picture(1)
    yield _submitted_with(host, dict.fromkeys(("half.png", "too.png"), body[: len(body) // 2]))


@contextlib.contextmanager
def undecodable_caption(host: Host) -> Iterator[str]:
    pictures = {"noise.png": picture(7), "too.png": picture(8)}
    captions = dict.fromkeys(("noise.txt", "too.txt"), b"\xff\xfe\x00")
    yield _submitted_with(host, pictures | captions)


def _submitted_with(host: Host, files: dict[str, bytes]) -> str:
    """A run with these files, most of all: it exists before they are verified."""
    dataset_id = host.ada.push({**host.files(), **files}, complete=False)
    run_id = host.submit(dataset_id)
    host.ada.complete(dataset_id)
    return run_id


@contextlib.contextmanager
def undecodable_prompts(host: Host) -> Iterator[str]:
    """Refused by the API; then in a plan, where an older release might have let it in."""
    dataset_id = host.ada.push(host.files(), complete=False)
    request = small_run_request({"photos": dataset_id})
    answer = host.ada.http.post("/v1/runs", json={**request, "prompt_library": {"cat": 5}})
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["pointer"] == "/prompt_library/cat"
    assert "has to be text" in problem["message"]
    run_id = host.ada.submit(request)
    host.do(
        "UPDATE run_documents SET plan = jsonb_set(plan, '{operation,sample_prompt}', '5')"
        " WHERE run_id = %(run_id)s",
        run_id=run_id,
    )
    host.ada.complete(dataset_id)
    yield run_id


@contextlib.contextmanager
def vanished_upload(host: Host) -> Iterator[str]:
    """The picture is deleted from the object store after it was verified."""
    files = host.files()
    dataset_id = host.push(host.ada, files)
    _stored(host, files).unlink()
    yield host.submit(dataset_id)


@contextlib.contextmanager
def altered_upload(host: Host) -> Iterator[str]:
    """The picture is overwritten in the object store after it was verified."""
    files = host.files()
    dataset_id = host.push(host.ada, files)
    stored = _stored(host, files)
    stored.write_bytes(bytes(stored.stat().st_size))
    run_id = host.submit(dataset_id)
    yield run_id
    host.end_of(run_id)
    host.push(host.ada, files)  # rejected; what is damaged is deleted
    again = host.push(host.ada, files)  # as both messages say
    assert host.ada.get(f"/v1/datasets/{again}")["status"] == "ready"


def _stored(host: Host, files: dict[str, bytes]) -> Path:
    """The picture's object."""
    (body,) = [body for path, body in files.items() if path.endswith(".png")]
    (found,) = (host.fleet.home / "objects").rglob(hashlib.sha256(body).hexdigest())
    return found
