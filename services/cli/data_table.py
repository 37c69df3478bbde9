"""The report on the data of a run as tables for a terminal."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from services.cli import output
from trainer_core.data.report.model import (
    Alike,
    BackendReport,
    BucketReport,
    DataReport,
    FileOf,
    LeftOutReason,
    NamedFile,
    Trait,
)

_LEFT_OUT: Final[Mapping[LeftOutReason, str]] = {
    "decode_error": "left out: cannot be read",
    "too_many_pixels": "left out: too many pixels",
    "unknown_levels": "left out: what is white is not known",
    "bad_name": "left out: its name is not text",
    "black_mask": "left out: the mask is black",
    "bad_caption": "left out: caption cannot be read",
    "too_small": "left out: too small",
    "too_narrow": "left out: too narrow",
    "too_wide": "left out: too wide",
    "too_much_enlarged": "left out: enlarged too much",
    "no_caption": "left out: no caption",
    "no_mask": "left out: no mask",
    "not_chosen": "left out: not chosen by max_num_samples",
}
_HAVING: Final[Mapping[Trait, str]] = {
    "turned": "turned as EXIF says",
    "cmyk": "CMYK, converted to RGB",
    "more_than_8_bits": "more than 8 bits, converted to 8",
    "several_frames": "several frames, the first is used",
    "colour_profile": "colour profile other than sRGB, not applied",
    "transparent": "transparent parts, become white",
}
_NAMED: Final = 3
_BUCKET_COLUMNS: Final = ("BACKEND", "ROLE", "BUCKET", "IMAGES", "AN EPOCH", "CUT AWAY", "ENLARGED")
_FOUND_COLUMNS: Final = ("BACKEND", "FOUND", "NUMBER", "FOR EXAMPLE")


def print_data(report: DataReport) -> None:
    """Its buckets, and what was found in its pictures and captions."""
    for columns, rows in (
        (_BUCKET_COLUMNS, list(_buckets(report))),
        (_FOUND_COLUMNS, list(_found(report))),
    ):
        if rows:
            sys.stdout.write("\n")
            output.print_table(columns, rows, folds=True)


def _buckets(report: DataReport) -> Iterator[tuple[object, ...]]:
    for backend in report.backends:
        for bucket in backend.buckets:
            yield (
                backend.backend,
                backend.role,
                f"{bucket.width_px} x {bucket.height_px}",
                _images(bucket),
                bucket.samples_per_epoch,
                _cut_away(bucket),
                _enlarged(bucket),
            )


def _images(bucket: BucketReport) -> str:
    crops = "" if bucket.crops == bucket.images else f", {bucket.crops} crops"
    return f"{bucket.images}{crops}"


def _cut_away(bucket: BucketReport) -> str:
    mean, worst = (
        f"{100 * each:.0f} %" for each in (bucket.crop_loss_mean, bucket.crop_loss_worst)
    )
    return mean if bucket.images == 1 or mean == worst else f"{mean}, at most {worst}"


def _enlarged(bucket: BucketReport) -> str:
    if bucket.upscale_worst is None:
        return ""
    return f"{bucket.upscaled}, at most {bucket.upscale_worst:.2g} times"


def _found(report: DataReport) -> Iterator[tuple[object, ...]]:
    for backend in report.backends:
        for out in backend.left_out:
            yield backend.backend, _LEFT_OUT[out.reason], out.count, _files(out.first, out.count)
        for having in backend.having:
            files = _files(having.first, having.count)
            yield backend.backend, _HAVING[having.trait], having.count, files
        yield from _crops(backend)
        if backend.repeats_to_fill is not None:
            short = [each for each in backend.buckets if each.repeats_to_fill is not None]
            way_out = f"repeats {backend.repeats_to_fill} would fill them"
            what = f"buckets smaller than a batch of {report.batch}"
            yield backend.backend, what, len(short), way_out
    yield from _alike("copies, byte for byte", report.equal)
    yield from _alike("look the same", report.similar)
    about = "" if report.captions.is_exact else ", estimated"
    for cut in report.captions.by_encoder:
        if cut.captions:
            what = f"captions cut by {cut.encoder}"
            yield "", what, cut.captions, f"{cut.tokens} tokens of them are lost"
    if report.captions.cut and not report.captions.by_encoder:
        named = ", ".join(report.captions.first_cut)
        yield "", f"captions cut{about}", report.captions.cut, named


def _crops(backend: BackendReport) -> Iterator[tuple[object, ...]]:
    """The picture that loses most, and the one that is enlarged most."""
    cut = max(backend.buckets, key=lambda each: each.crop_loss_worst, default=None)
    if cut is not None and cut.crop_loss_worst >= 0.005:
        worst = f"{cut.crop_loss_worst_file} ({100 * cut.crop_loss_worst:.0f} %)"
        yield backend.backend, "most cut away", 1, worst
    grown = [each for each in backend.buckets if each.upscale_worst is not None]
    if grown:
        most = max(grown, key=lambda each: each.upscale_worst or 0)
        worst = f"{most.upscale_worst_file} ({most.upscale_worst:.2g} times)"
        yield backend.backend, "enlarged", sum(each.upscaled for each in grown), worst


def _files(files: Sequence[NamedFile], count: int) -> str:
    more = ", …" if count > _NAMED else ""
    return ", ".join(file.path for file in files[:_NAMED]) + more


def _alike(what: str, alike: Alike) -> Iterator[tuple[object, ...]]:
    if alike.groups:
        more = "; …" if alike.groups > _NAMED else ""
        groups = "; ".join(_group(group) for group in alike.first[:_NAMED])
        yield "", what, alike.images, groups + more


def _group(files: Sequence[FileOf]) -> str:
    """The first files, with their backends where these differ."""
    one = len({file.backend for file in files}) == 1
    names = [file.path if one else f"{file.backend}/{file.path}" for file in files]
    return " = ".join(names[:_NAMED]) + (" = …" if len(names) > _NAMED else "")
