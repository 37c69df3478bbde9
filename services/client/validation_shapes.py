"""The JSON of a validation as types; what is not known is None, and ``unknown`` says why."""

from typing import Any, Literal, TypedDict

from services.client.shapes import Estimate, Notices, Problem, Spread, Waiting

BackendRole = Literal["train", "eval", "mask"]


class Unknown(TypedDict):
    """Something that cannot be told; the field is a JSON Pointer."""

    field: str
    reason: str


class CardPlan(TypedDict):
    """What a run does to fit a card."""

    keeps_transposed: bool
    streams_conditioning: bool
    recomputed_blocks: list[int]
    offloaded_blocks: list[int]
    host_bytes: int


class ClassMemory(TypedDict):
    """How the run would fit a GPU class of the operator."""

    gpu_class: str
    memory_bytes: int | None
    peak_estimate_bytes: int | None
    fits: bool | None
    matmul: Literal["fp8", "int8", "no_change"] | None
    plan: CardPlan | None
    largest_batch: int | None
    refusal: str | None
    sharding: str | None


class CardMemory(TypedDict):
    """How the run would fit a card of a common size."""

    card_gib: int
    peak_estimate_bytes: int | None
    plan: CardPlan | None
    largest_batch: int | None
    refusal: str | None


class Memory(TypedDict):
    parts: dict[str, int | str | None]
    gpu_classes: list[ClassMemory]
    cards: list[CardMemory]


class BackendData(TypedDict):
    """The dataset of one image backend."""

    backend: str
    role: BackendRole
    dataset_id: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    digest: str | None
    num_images: int
    num_captions: int
    is_verified: bool


class BucketCrops(TypedDict):
    """What the crop to one size does to images."""

    num_crops: int
    """What is encoded of the images: as many, and more with ``crops_per_image``."""
    loss_mean: float
    loss_worst: float
    loss_worst_path: str
    num_enlarged: int
    enlarged_worst: float | None
    enlarged_worst_path: str | None
    repeats_to_fill: int | None


class Bucket(TypedDict):
    backend: str
    role: BackendRole
    width_px: int
    height_px: int
    num_images: int
    repeats: int
    samples_per_epoch: int
    crops: BucketCrops | None


class Cache(TypedDict):
    """Cache entries that the run needs, their shards, and how many of them are stored."""

    num_shards: int
    num_stored: int
    num_entries: int
    num_entries_stored: int


class Data(TypedDict):
    """What is known of the run's pictures."""

    backends: list[BackendData]
    is_verified: bool
    buckets: list[Bucket] | None
    problems: list[Problem]
    warnings: list[str]
    cache: Cache | None


class RunQuota(TypedDict):
    """One quota, and what it would do to the run now."""

    quota: str
    limit: float
    used: float
    effect: Literal["none", "waits", "refused"]


class Validation(TypedDict):
    """What a run would be, if it were submitted now."""

    object: Literal["validation"]
    is_valid: bool
    problems: list[Problem]
    warnings: list[str]
    notices: Notices
    plan: dict[str, Any] | None
    plan_digest: str | None
    max_steps: int | None
    trainable_modules: int | None
    trainable_parameters: int | None
    memory: Memory | None
    data: Data | None
    quota: list[RunQuota]
    waiting: Waiting | None
    estimate: Estimate | None
    encoding_s: Spread | None
    unknown: list[Unknown]
