"""Datasets and their files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from services.client.call import Call, Json, Query, get, page, page_of, part, post
from services.client.dataset_shapes import (
    Dataset,
    DatasetDiff,
    DatasetFile,
    NewFile,
    Upload,
    UploadParts,
)
from services.client.shapes import Page

MAX_FILES_A_PAGE: Final = 1000


def create_dataset(
    name: str | None = None,
    files: Sequence[NewFile] = (),
    *,
    based_on: str | None = None,
    removed: Sequence[str] = (),
    source: dict[str, Any] | None = None,
    csv: str | None = None,
) -> Call[Dataset]:
    """Declare a dataset of these files; their contents are uploaded next.

    Or, with ``source``, of those that the service fetches.

    Args:
        name: may be None with ``based_on``: then it is the other dataset's.
        files: with ``based_on`` those that are new or have changed.
        based_on: a dataset whose other files are taken over.
        removed: paths of that dataset which are not taken over.
        source: a data backend of type csv, huggingface, webshart or webdataset, as in
            multidatabackend.json.
        csv: the content of the list of a source of type csv, where ``csv_file`` is no address.
    """
    body: Json = {"files": list(files)} if source is None else {"source": source}
    if csv is not None:
        body["csv"] = csv
    if name is not None:
        body["name"] = name
    if based_on is not None:
        body |= {"based_on": based_on, "removed": list(removed)}
    return post("/v1/datasets", body)


def list_datasets(*, limit: int = 20, after: str | None = None) -> Call[Page[Dataset]]:
    """Newest first."""
    return page("/v1/datasets", {"limit": limit, "after": after})


def get_dataset(dataset_id: str) -> Call[Dataset]:
    """A dataset, which files cannot be used and, where it is rejected, why."""
    return get(f"/v1/datasets/{part(dataset_id)}")


def list_dataset_files(
    dataset_id: str,
    *,
    limit: int = 100,
    after: str | None = None,
    left_out: Literal["only"] | None = None,
) -> Call[Page[DatasetFile]]:
    """The files of a dataset by path; 1000 a page at most.

    Args:
        left_out: ``only``: those that cannot be used.
    """
    path = f"/v1/datasets/{part(dataset_id)}/files"
    query: Query = {"limit": limit, "after": after, "left_out": left_out}
    return page(path, query, most=MAX_FILES_A_PAGE)


def diff_datasets(
    dataset_id: str, *, against: str, limit: int = 100, after: str | None = None
) -> Call[DatasetDiff]:
    """What is added, removed and changed in ``against``, a part of it; 1000 files at most."""
    query: Query = {"against": against, "limit": min(limit, MAX_FILES_A_PAGE), "after": after}
    return get(f"/v1/datasets/{part(dataset_id)}/diff", query)


def sign_uploads(
    dataset_id: str,
    *,
    after: str | None = None,
    limit: int = 1000,
    skip_verified: bool = False,
) -> Call[Page[Upload]]:
    """The files after the path ``after``, each with its upload request; 1000 at most.

    Args:
        skip_verified: leave out files that were verified in the dataset that it is based on.
    """
    body: Json = {"dataset_id": dataset_id, "limit": limit}
    if after is not None:
        body["after"] = after
    if skip_verified:
        body["skip_verified"] = True
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
