"""The answer of POST /v1/runs:validate. What is not known is null, and ``unknown`` says why."""

from typing import Literal

from services.api.runs.shapes import Estimate, Notices, Spread, Waiting
from services.api.shapes import JsonObject, ProblemItem, Shape
from trainer_core.config.plan import BackendRole, MatmulKind


class Unknown(Shape):
    """Something that cannot be told, and why."""

    field: str
    """JSON Pointer into this answer."""
    reason: str


class CardPlan(Shape):
    """What a run does to fit a card; blocks are numbered from 0, double-stream blocks first."""

    keeps_transposed: bool
    streams_conditioning: bool
    recomputed_blocks: list[int]
    offloaded_blocks: list[int]
    host_bytes: int


class ClassMemory(Shape):
    """How the run would fit a GPU class of the operator."""

    gpu_class: str
    memory_bytes: int | None
    peak_estimate_bytes: int | None
    """Null where the run does not fit with fused blocks, or the class is not known."""
    fits: bool | None
    matmul: MatmulKind | None
    plan: CardPlan | None
    """Null where the run has no fused blocks there."""
    largest_batch: int | None
    refusal: str | None
    """Why it does not fit, and which settings would."""
    sharding: str | None
    """The ZeRO stage that the run takes there, and why; null where its plan says the stage."""


class CardMemory(Shape):
    """How the run would fit a card of a common size."""

    card_gib: int
    peak_estimate_bytes: int | None
    plan: CardPlan | None
    largest_batch: int | None
    refusal: str | None


class Memory(Shape):
    """What memory the run needs, and where it fits."""

    parts: dict[str, int | str | None]
    """Bytes of each part of the run; exact except where the name says estimate."""
    gpu_classes: list[ClassMemory]
    cards: list[CardMemory]
    """Empty where the run has no fused blocks."""


class BackendData(Shape):
    """The dataset of one image backend."""

    backend: str
    role: BackendRole
    dataset_id: str
    status: Literal["uploading", "verifying", "ready", "rejected"]
    digest: str | None
    """Of the dataset, and null where that has none."""
    num_images: int
    num_captions: int
    """Caption files."""
    is_verified: bool


class BucketCrops(Shape):
    """What the crop to one size does to images; shares and factors are of 1."""

    num_crops: int
    """What is encoded of the images: as many, and more with ``crops_per_image``."""
    loss_mean: float
    """Share of an image's area that is cut away."""
    loss_worst: float
    loss_worst_path: str
    num_enlarged: int
    """Images that are enlarged by more than 1 %."""
    enlarged_worst: float | None
    """Factor of the edges; null where no image is enlarged."""
    enlarged_worst_path: str | None
    repeats_to_fill: int | None
    """The least ``repeats`` with which the images fill a batch; null where they do."""


class Bucket(Shape):
    """The images of a backend that are trained at one size."""

    backend: str
    role: BackendRole
    width_px: int
    height_px: int
    num_images: int
    repeats: int
    samples_per_epoch: int
    crops: BucketCrops | None
    """Null where the run has so many files that only their sizes are counted."""


class Cache(Shape):
    """Cache entries that the run needs, one for each crop of a picture and each caption, and their
    shards."""

    num_shards: int
    num_stored: int
    """Of the shards the tenant has these already."""
    num_entries: int
    num_entries_stored: int
    """Of the entries the tenant has these already; the others are encoded."""


class Data(Shape):
    """What is known of the run's pictures without reading them."""

    backends: list[BackendData]
    is_verified: bool
    buckets: list[Bucket] | None
    problems: list[ProblemItem]
    """For which the run would fail when its data is read."""
    warnings: list[str]
    cache: Cache | None


class RunQuota(Shape):
    """One quota that the run would count for."""

    quota: str
    limit: float
    used: float
    effect: Literal["none", "waits", "refused"]
    """What it would do to the run now."""


class Validation(Shape):
    """What a run would be, if it were submitted now. Nothing is stored."""

    object: Literal["validation"] = "validation"
    is_valid: bool
    """Whether POST /v1/runs would accept it, with the datasets where they were left out."""
    problems: list[ProblemItem]
    warnings: list[str]
    """The notices of the group ``differs`` as text."""
    notices: Notices
    plan: JsonObject | None
    """The request, resolved: every default filled in."""
    plan_digest: str | None
    max_steps: int | None
    trainable_modules: int | None
    trainable_parameters: int | None
    memory: Memory | None
    data: Data | None
    quota: list[RunQuota]
    waiting: Waiting | None
    """What it would wait for once its data is read and cached."""
    estimate: Estimate | None
    encoding_s: Spread | None
    """Seconds until what is missing in the cache is encoded by the builders that work now."""
    unknown: list[Unknown]
