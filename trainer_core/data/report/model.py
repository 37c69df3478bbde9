"""The report on the data of a run, before anything is encoded: one document, of bounded size."""

from typing import Final, Literal

from trainer_core.config.plan.frozen import Frozen, Many
from trainer_core.config.plan.identity import BackendRole
from trainer_core.data.token_counts import EncoderName
from trainer_core.errors import ImageFault

NAMED_AT_MOST: Final = 20
"""Files of one list; each list has the number of all beside it."""

Depth = Literal["pixels", "headers"]
"""How closely images were looked at."""
LeftOutReason = (
    ImageFault
    | Literal["bad_caption", "too_small", "too_narrow", "too_wide", "too_much_enlarged"]
    | Literal["no_caption", "no_mask", "not_chosen"]
)
Trait = Literal[
    "turned", "cmyk", "more_than_8_bits", "several_frames", "colour_profile", "transparent"
]
"""``turned``: EXIF, or the format itself, turns or mirrors the picture. ``colour_profile``: the
picture has one, and its colours are not those of sRGB; it is not applied. ``transparent``: there
are transparent parts, which become white."""


class NamedFile(Frozen):
    """A file of a backend."""

    path: str
    note: str | None = None
    """What is wrong with it, or what it has."""


class LeftOut(Frozen):
    """Images that a run leaves out for one reason."""

    reason: LeftOutReason
    count: int
    first: Many[NamedFile]


class Having(Frozen):
    """Images that are used and have something that one should know."""

    trait: Trait
    count: int
    first: Many[NamedFile]


class BucketReport(Frozen):
    """The images of one backend that become one size."""

    width_px: int
    height_px: int
    images: int
    crops: int
    """What is encoded of the images: as many, and more with ``crops_per_image``."""
    samples_per_epoch: int
    """0 for images that are held out."""
    crop_loss_mean: float
    """Share of an image's area that the crop cuts away, 0 to 1."""
    crop_loss_worst: float
    crop_loss_worst_file: str
    upscaled: int
    """Images that are scaled up by more than 1 %."""
    upscale_mean: float | None
    """Factor of these images' edges; None where there are none."""
    upscale_worst: float | None
    upscale_worst_file: str | None
    repeats_to_fill: int | None
    """The least ``repeats`` with which the bucket fills a batch; None where it does already."""


class BackendReport(Frozen):
    """The images of one backend."""

    backend: str
    role: BackendRole
    images: int
    """In its folder."""
    looked_at: int
    """Of very many, a part that is evenly spread; all else counts these."""
    accepted: int
    left_out: Many[LeftOut]
    having: Many[Having]
    buckets: Many[BucketReport]
    repeats: int
    repeats_to_fill: int | None
    """The most that one of its buckets needs; None where all fill a batch."""


class FileOf(Frozen):
    """An image of one of several backends."""

    backend: str
    path: str


class Alike(Frozen):
    """Images that are the same, or look the same, in groups of two and more."""

    groups: int
    images: int
    """In all groups."""
    first: Many[Many[FileOf]]


class EncoderCut(Frozen):
    """What one text encoder does not get."""

    encoder: EncoderName
    captions: int
    """Those that it gets the first part of."""
    tokens: int
    """Cut off, of all captions together."""


class CaptionReport(Frozen):
    """The captions of all images that are used."""

    captions: int
    cut: int
    """Captions of which an encoder gets the first part only."""
    longest_tokens: int
    """Of those that are cut; 0 where none is."""
    images_cut: int
    first_cut: Many[str]
    is_exact: bool
    """False: estimated, because the base model's tokenizers are not on this machine."""
    by_encoder: Many[EncoderCut]
    """Empty where the numbers are estimated."""


class DataReport(Frozen):
    """What a run would do with its pictures and captions."""

    version: Literal[1] = 1
    depth: Depth
    """headers: the pixels were not decoded. So no damage was seen, no frames, no transparent parts,
    and nothing that is equal or similar."""
    backends: Many[BackendReport]
    equal: Alike
    """Images whose files are the same byte for byte, unless one folder is read by two backends."""
    similar: Alike
    """Other images that look the same: saved again, scaled, or a little brighter or cropped."""
    captions: CaptionReport
    batch: int
    """Samples of a micro-batch, all of one bucket."""
    samples_per_epoch: int
    steps_per_epoch: float | None
    """None where not every picture was looked at."""
