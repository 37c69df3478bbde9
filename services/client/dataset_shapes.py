"""Datasets and uploads, as JSON."""

from typing import Literal, TypedDict

from services.client.shapes import Problem


class NewFile(TypedDict):
    """A file that will be uploaded; its path is relative, ``/`` separated."""

    path: str
    size_bytes: int
    sha256: str


class Dataset(TypedDict):
    id: str
    object: Literal["dataset"]
    name: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    errors: list[Problem]
    num_files: int | None
    """None until the dataset is completed."""
    verified_files: int
    links: dict[str, str]
    created_at: str
    updated_at: str


class Upload(TypedDict):
    """A file of a dataset, with the request that stores it where it is not stored yet.

    A large file is sent in parts of ``part_size_bytes``, and has no request of its own.
    """

    object: Literal["upload"]
    path: str
    sha256: str
    size_bytes: int
    present: bool
    part_size_bytes: int | None
    method: str | None
    url: str | None
    headers: dict[str, str]


class Part(TypedDict):
    """A part of a large file, with the request that stores it where it is not stored yet."""

    number: int
    size_bytes: int
    present: bool
    method: str | None
    url: str | None
    headers: dict[str, str]


class UploadParts(TypedDict):
    """A large file on its way; it has no parts once it is present."""

    object: Literal["upload_parts"]
    path: str
    present: bool
    parts: list[Part]
