"""The data of a run as one document: which images, which captions, and in which shards they lie.

A shard is named by the digest of its spec, that is by what goes into it, so that equal work of two
runs of one tenant meets in the cache.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import JsonValue

from trainer_core.config.frozen import Frozen, Many, digest_of
from trainer_core.config.plan import Backend, Plan
from trainer_core.config.problems import PlanError, Problem
from trainer_core.config.shapes import max_area_px
from trainer_core.data.buckets import Geometry, geometry_of, is_too_small

LATENTS_PER_SHARD: Final = 16
TEXTS_PER_SHARD: Final = 8
MAX_TEXT_TOKENS: Final = 128


class FileItem(Frozen):
    """One image of a dataset, with its captions already read."""

    backend: str
    path: str
    """Relative, ``/`` separated; unique within the backend."""
    sha256: str
    width_px: int
    """As displayed, that is after the EXIF turn."""
    height_px: int
    captions: Many[str]
    """One is drawn at each visit; an image without any is left out."""


class LatentEntry(Frozen):
    """One image and how it is cut."""

    path: str
    sha256: str
    geometry: Geometry


class TextEntry(Frozen):
    """One caption or prompt."""

    text: str


class ShardSpec(Frozen):
    """What goes into a shard, and therefore its name."""

    version: Literal[1] = 1
    kind: Literal["latents", "text"]
    encoder: dict[str, JsonValue]
    """latents: base_digest, compute. text: base_digest, compute, text_encoder_3, text_encoder_4,
    max_tokens."""
    entries: Many[LatentEntry] | Many[TextEntry]
    """Row r of the shard's tensors belongs to entry r; latents are all of one bucket."""

    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))


class ShardDescription(Frozen):
    digest: str
    kind: Literal["latents", "text"]
    spec: ShardSpec


class ShardRef(Frozen):
    """One row of one shard."""

    shard: int
    """Position in ``DataIndex.shards``."""
    row: int


class Sample(Frozen):
    """One image, encoded."""

    backend: str
    path: str
    held_out: bool
    """Never drawn for training; used to measure."""
    width_px: int
    """Of the bucket, not of the file."""
    height_px: int
    repeats: int
    """Further visits in an epoch."""
    latents: ShardRef
    texts: Many[ShardRef]
    """Its captions; never empty."""


class DataIndex(Frozen):
    """All samples of a run, in an order that depends on the data only."""

    version: Literal[1] = 1
    samples: Many[Sample]
    shards: Many[ShardDescription]
    prompts: dict[str, ShardRef]
    """Text → row, for the empty prompt and the sample image's prompts."""
    warnings: Many[str] = ()
    """What was left out and why, in words for the tenant; not part of the digest."""

    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude={"warnings"}))


def build_index(
    plan: Plan, items: Sequence[FileItem], transformer_config: Mapping[str, Any]
) -> DataIndex:
    """Cut every image, collect every caption, and deal both to shards.

    The order of ``items`` does not matter. A shard of latents holds images of one backend and one
    bucket; the prompts have shards of their own, so that another prompt disturbs no caption.

    Raises PlanError (``empty_dataset``) naming each backend of which no image is left, and
    ValueError where an item's backend is not in the plan.
    """
    max_px = max_area_px(transformer_config)
    backends = plan.identity.backends
    unknown = {item.backend for item in items} - {backend.id for backend in backends}
    if unknown:
        raise ValueError(f"items of backends that the plan does not have: {sorted(unknown)}")
    shards = _Shards(plan)
    prompts = {text: shards.text_row(text) for text in _prompts_of(plan)}
    shards.close_texts()
    samples: list[Sample] = []
    warnings: list[str] = []
    problems: list[Problem] = []
    for position, backend in enumerate(backends):
        all_items = sorted((i for i in items if i.backend == backend.id), key=lambda i: i.path)
        kept, why = _kept(all_items, backend)
        if kept:
            samples += shards.samples_of(kept, backend, max_px)
            warnings += why
        else:
            reason = " ".join(why) or f"{backend.id} has no image."
            problems.append(_empty(position, reason))
    if not problems and not any(backend.role == "train" for backend in backends):
        problems.append(_empty(0, "every backend is held out: there is nothing to train on."))
    if problems:
        raise PlanError(problems)
    return DataIndex(
        samples=tuple(samples),
        shards=shards.described(),
        prompts=prompts,
        warnings=tuple(warnings),
    )


def _empty(position: int, reason: str) -> Problem:
    return Problem(
        pointer=f"/data_backends/{position}",
        code="empty_dataset",
        message=f"No image left: {reason}",
    )


def _prompts_of(plan: Plan) -> tuple[str, ...]:
    operation = plan.operation
    return tuple(dict.fromkeys(("", operation.sample_prompt, operation.sample_negative_prompt)))


def _kept(items: Sequence[FileItem], backend: Backend) -> tuple[list[FileItem], list[str]]:
    """The images that can be used, and a sentence for each reason why others cannot."""
    small = [i for i in items if is_too_small(i.width_px, i.height_px, backend)]
    left_out = {i.path for i in small}
    silent = [i for i in items if not i.captions and i.path not in left_out]
    left_out |= {i.path for i in silent}
    reasons = (
        (small, f"smaller than minimum_image_size ({backend.minimum_image_size_px} px squared)"),
        (silent, "without a caption"),
    )
    warnings = [
        f"{backend.id}: {len(group)} of {len(items)} images are {reason} and are left out "
        f"(first: {group[0].path})."
        for group, reason in reasons
        if group
    ]
    return [i for i in items if i.path not in left_out], warnings


class _Shards:
    """Deals rows to shards in the order of asking; a caption gets one row."""

    def __init__(self, plan: Plan) -> None:
        identity = plan.identity
        self._texts: dict[str, ShardRef] = {}
        self._entries: list[list[LatentEntry] | list[TextEntry]] = []
        self._open_texts: list[TextEntry] | None = None
        self._open_texts_at = -1
        self._latents_encoder: dict[str, JsonValue] = {
            "base_digest": identity.base.digest,
            "compute": "fp32",  # the VAE is small, and its errors stay in every step
        }
        self._text_encoder: dict[str, JsonValue] = {
            "base_digest": identity.base.digest,
            "compute": identity.precision.compute,
            "text_encoder_3": identity.precision.text_encoder_3,
            "text_encoder_4": identity.precision.text_encoder_4,
            "max_tokens": MAX_TEXT_TOKENS,
        }

    def text_row(self, text: str) -> ShardRef:
        if text not in self._texts:
            if self._open_texts is None or len(self._open_texts) == TEXTS_PER_SHARD:
                self._open_texts = []
                self._open_texts_at = self._add(self._open_texts)
            self._open_texts.append(TextEntry(text=text))
            row = len(self._open_texts) - 1
            self._texts[text] = ShardRef(shard=self._open_texts_at, row=row)
        return self._texts[text]

    def close_texts(self) -> None:
        """The next caption opens a new shard."""
        self._open_texts = None

    def samples_of(self, items: Sequence[FileItem], backend: Backend, max_px: int) -> list[Sample]:
        """One sample an item, in the same order."""
        open_latents: dict[tuple[int, int], tuple[int, list[LatentEntry]]] = {}
        samples = []
        for item in items:
            geometry = geometry_of(item.width_px, item.height_px, backend, max_px)
            size = geometry.width_px, geometry.height_px
            at, entries = open_latents.get(size, (-1, []))
            if at < 0 or len(entries) == LATENTS_PER_SHARD:
                entries = []
                at = self._add(entries)
                open_latents[size] = at, entries
            entries.append(LatentEntry(path=item.path, sha256=item.sha256, geometry=geometry))
            sample = Sample(
                backend=backend.id,
                path=item.path,
                held_out=backend.role == "eval",
                width_px=geometry.width_px,
                height_px=geometry.height_px,
                repeats=backend.repeats,
                latents=ShardRef(shard=at, row=len(entries) - 1),
                texts=tuple(self.text_row(text) for text in item.captions),
            )
            samples.append(sample)
        return samples

    def described(self) -> tuple[ShardDescription, ...]:
        return tuple(self._describe(entries) for entries in self._entries)

    def _add(self, entries: list[LatentEntry] | list[TextEntry]) -> int:
        self._entries.append(entries)
        return len(self._entries) - 1

    def _describe(self, entries: list[LatentEntry] | list[TextEntry]) -> ShardDescription:
        if isinstance(entries[0], LatentEntry):
            spec = ShardSpec(kind="latents", encoder=self._latents_encoder, entries=tuple(entries))
        else:
            spec = ShardSpec(kind="text", encoder=self._text_encoder, entries=tuple(entries))
        return ShardDescription(digest=spec.digest(), kind=spec.kind, spec=spec)
