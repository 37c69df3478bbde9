"""The data of a run as one document: its images, its captions, and the cache entries they need.

A cache entry is one image with its crop, one mask, or one caption, encoded. It is named by the
digest of its content and of what encodes it, so runs with the same picture or caption share it.
"""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, Literal, Self

from pydantic import JsonValue, model_validator

from trainer_core.config.plan.frozen import Frozen, Many, Sparse, digest_of
from trainer_core.data.buckets import Geometry
from trainer_core.data.entry_digest import entry_digest
from trainer_core.data.index_version_1 import from_version_1

EntryKind = Literal["latents", "text", "masks"]


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


class Picture(Frozen):
    """One image or mask, and its crop."""

    path: str
    """For messages; a renamed image has the same entry."""
    sha256: str
    geometry: Geometry


class Caption(Frozen):
    """One caption or prompt."""

    text: str


class Encoding(Frozen):
    """How entries of a kind are encoded."""

    kind: EntryKind
    encoder: dict[str, JsonValue]
    """latents: base_digest, compute. text: base_digest, compute, text_encoder_3, text_encoder_4,
    max_tokens; text_encoder_1 and text_encoder_2 where they are not no_change; rows: fp8. masks:
    mask_kind, cell_px."""

    def digest_of(self, content: Picture | Caption) -> str:
        """The digest that names the entry of this content."""
        return entry_digest(self.kind, self.encoder, content.model_dump(mode="json"))


class Entry(Frozen):
    """One entry of the cache."""

    digest: str
    """``Encoding.digest_of`` its content."""
    encoding: int
    """Position in ``DataIndex.encodings``."""
    content: Picture | Caption


class Crop(Frozen):
    """What one crop of an image needs; the numbers are positions in ``DataIndex.entries``."""

    latents: int
    mask: int | None = None
    """Loss weight of each latent cell; None: every cell counts fully."""

    def entries(self) -> tuple[int, ...]:
        return (self.latents,) if self.mask is None else (self.latents, self.mask)


class Sample(Sparse):
    """One image, encoded. Numbers of entries are positions in ``DataIndex.entries``."""

    left_out: ClassVar = ("more_crops",)

    backend: str
    path: str
    held_out: bool
    """Never trained on; used for the fixed validation loss."""
    width_px: int
    """Width of the bucket, not of the file."""
    height_px: int
    repeats: int
    """How often the sample is used again in an epoch, after the first time."""
    latents: int
    texts: Many[int]
    """Its captions; never empty."""
    mask: int | None = None
    """As in ``Crop``; ``latents`` and ``mask`` are its first crop."""
    more_crops: Many[Crop] = ()
    """Its other crops, of the same size; all are used in turn."""

    def crop(self, number: int) -> Crop:
        """One of its crops, counted from 0."""
        if number == 0:
            return Crop(latents=self.latents, mask=self.mask)
        return self.more_crops[number - 1]

    @property
    def num_crops(self) -> int:
        return 1 + len(self.more_crops)

    def entries(self) -> tuple[int, ...]:
        """All entries of the sample."""
        pictures = (self.crop(number).entries() for number in range(self.num_crops))
        return (*chain.from_iterable(pictures), *self.texts)


class DataIndex(Frozen):
    """All samples of a run, in an order that depends on the data only."""

    version: Literal[2] = 2
    samples: Many[Sample]
    encodings: Many[Encoding]
    entries: Many[Entry]
    """Each once, whatever number of samples use it."""
    prompts: dict[str, int]
    """Text → entry, for the empty prompt and those of the sample image and of pictures."""
    warnings: Many[str] = ()
    """Say what was left out and why, for the user; not part of the digest."""

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("version") == 1:
            return from_version_1(document)
        return document

    def digest(self) -> str:
        """SHA-256 of what every sample is trained on. Computed once.

        Names of files, positions and the prompts of the sample image are not part of it: they leave
        the training data the same.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        names = [entry.digest for entry in self.entries]

        def crop_facts(crop: Crop) -> list[JsonValue]:
            return [names[crop.latents], None if crop.mask is None else names[crop.mask]]

        def facts(sample: Sample) -> list[JsonValue]:
            more: list[JsonValue] = [crop_facts(crop) for crop in sample.more_crops]
            return [
                sample.backend,
                sample.held_out,
                sample.width_px,
                sample.height_px,
                sample.repeats,
                *crop_facts(sample.crop(0)),
                [names[text] for text in sample.texts],
                *((more,) if more else ()),  # other data has the digest that it had before
            ]

        # A digest of each first: facts of different samples cannot be sorted.
        return digest_of([*sorted(digest_of(facts(sample)) for sample in self.samples)])

    def picture_digests(self) -> list[str]:
        """The digests of the entries of images and masks."""
        return [entry.digest for entry in self.entries if isinstance(entry.content, Picture)]

    def kind_of(self, entry: int) -> EntryKind:
        """The kind of an entry."""
        return self.encodings[self.entries[entry].encoding].kind

    def captions_of(self, sample: Sample) -> tuple[str, ...]:
        """The captions of one of the samples."""
        contents = [self.entries[text].content for text in sample.texts]
        return tuple(content.text for content in contents if isinstance(content, Caption))

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
