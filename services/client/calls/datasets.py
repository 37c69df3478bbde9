"""Datasets and their files."""

from collections.abc import Sequence
from dataclasses import replace

from services.client.call import Call, Json, get, page, page_of, part, post
from services.client.dataset_shapes import Dataset, NewFile, Upload, UploadParts
from services.client.shapes import Page


def create_dataset(name: str, files: Sequence[NewFile]) -> Call[Dataset]:
    """Declare a dataset of these files; their contents are uploaded next."""
    return post("/v1/datasets", {"name": name, "files": list(files)})


def list_datasets(*, limit: int = 20, after: str | None = None) -> Call[Page[Dataset]]:
    """Newest first."""
    return page("/v1/datasets", {"limit": limit, "after": after})


def get_dataset(dataset_id: str) -> Call[Dataset]:
    """A dataset and, where it is rejected, what is wrong with which file."""
    return get(f"/v1/datasets/{part(dataset_id)}")


def sign_uploads(
    dataset_id: str, *, after: str | None = None, limit: int = 1000
) -> Call[Page[Upload]]:
    """The files after the path ``after``, each with its upload request; 1000 at most."""
    body: Json = {"dataset_id": dataset_id, "limit": limit}
    if after is not None:
        body["after"] = after
    return replace(post("/v1/uploads", body), read=page_of)


def sign_parts(dataset_id: str, path: str, sha256: list[str]) -> Call[UploadParts]:
    """The parts of a large file; once all are stored, this call joins them.

    Args:
        sha256: of each part, in order.
    """
    body = {"dataset_id": dataset_id, "path": path, "sha256": sha256}
    return post("/v1/uploads/parts", body)


def abort_parts(dataset_id: str, path: str) -> Call[None]:
    """Delete the parts of a large file that are stored; ``sign_parts`` begins anew."""
    call = post("/v1/uploads/parts:abort", {"dataset_id": dataset_id, "path": path})
    return replace(call, read=lambda _: None)


def complete_dataset(dataset_id: str) -> Call[Dataset]:
    """Close the dataset; the service verifies its files next."""
    return post(f"/v1/datasets/{part(dataset_id)}:complete")
