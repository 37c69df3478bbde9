"""The data of a run as one document: its images, its captions, and the shards that hold them.

A shard is named by the digest of its spec, which lists its content. So two runs of one tenant that
need the same shard share it in the cache.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import JsonValue

from trainer_core.config.plan.frozen import Frozen, Many, digest_of
from trainer_core.data.buckets import Geometry

ShardKind = Literal["latents", "text", "masks"]


class FileItem(Frozen):
    """One image of a dataset, with its captions already read."""

    backend: str
    path: str
    """Relative, ``/`` separated; unique within the backend."""
    sha256: str
    width_px: int
    """As displayed, with the EXIF orientation applied."""
    height_px: int
    captions: Many[str]
    """Each use of the image draws one. Images without one are left out; masks have none."""


class PictureEntry(Frozen):
    """One image or mask, and its crop."""

    path: str
    sha256: str
    geometry: Geometry


class TextEntry(Frozen):
    """One caption or prompt."""

    text: str


class ShardSpec(Frozen):
    """The content of a shard; its digest is the shard's name."""

    version: Literal[1] = 1
    kind: ShardKind
    encoder: dict[str, JsonValue]
    """latents: base_digest, compute. text: base_digest, compute, text_encoder_3, text_encoder_4,
    max_tokens; text_encoder_1 and text_encoder_2 where they are not no_change. masks: mask_kind,
    cell_px."""
    entries: Many[PictureEntry] | Many[TextEntry]
    """Row r of the shard's tensors belongs to entry r; all images are of one bucket."""

    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))

    def units(self) -> float:
        """What its encoding time is proportional to: millions of pixels, or captions."""
        return sum(
            1.0
            if isinstance(entry, TextEntry)
            else entry.geometry.width_px * entry.geometry.height_px / 1e6
            for entry in self.entries
        )


class ShardDescription(Frozen):
    """One shard of an index."""

    digest: str
    """Digest of ``spec``."""
    kind: ShardKind
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
    """Never trained on; used for the fixed validation loss."""
    width_px: int
    """Width of the bucket, not of the file."""
    height_px: int
    repeats: int
    """How often the sample is used again in an epoch, after the first time."""
    latents: ShardRef
    texts: Many[ShardRef]
    """Its captions; never empty."""
    mask: ShardRef | None = None
    """Loss weight of each latent cell; None: every cell counts fully."""


class DataIndex(Frozen):
    """All samples of a run, in an order that depends on the data only."""

    version: Literal[1] = 1
    samples: Many[Sample]
    shards: Many[ShardDescription]
    prompts: dict[str, ShardRef]
    """Text → row, for the empty prompt and the sample image's prompts."""
    warnings: Many[str] = ()
    """Say what was left out and why, for the user; not part of the digest."""

    def digest(self) -> str:
        """SHA-256 of the image, mask and captions of every sample. Computed once.

        The prompts of the sample image and the positions of rows are not part of it: changing them
        leaves the training data the same.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        encoders = [digest_of(shard.spec.encoder) for shard in self.shards]

        def content(ref: ShardRef) -> list[JsonValue]:
            entry = self.shards[ref.shard].spec.entries[ref.row]
            if isinstance(entry, TextEntry):
                return [encoders[ref.shard], entry.text]
            geometry: list[JsonValue] = list(vars(entry.geometry).values())
            return [encoders[ref.shard], entry.sha256, *geometry]

        return digest_of(
            [
                [
                    sample.backend,
                    sample.path,
                    sample.held_out,
                    sample.width_px,
                    sample.height_px,
                    sample.repeats,
                    content(sample.latents),
                    None if sample.mask is None else content(sample.mask),
                    [content(ref) for ref in sample.texts],
                ]
                for sample in self.samples
            ]
        )

    def captions_of(self, sample: Sample) -> tuple[str, ...]:
        """The captions of one of the samples."""
        entries = [self.shards[ref.shard].spec.entries[ref.row] for ref in sample.texts]
        return tuple(entry.text for entry in entries if isinstance(entry, TextEntry))

    def mean_px(self) -> float:
        """Mean area in pixels of a picture that is trained on."""
        used = [(each, 1 + each.repeats) for each in self.samples if not each.held_out]
        area = sum(each.width_px * each.height_px * times for each, times in used)
        return area / max(1, sum(times for _, times in used))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's ``model_copy``; the copy computes its own digest."""
        copy = super().model_copy(update=update, deep=deep)
        vars(copy).pop("_digest", None)
        return copy
