"""Make the report on the data of a run from what was seen in its pictures."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from trainer_core.config.plan import Backend, Identity
from trainer_core.data.buckets import Unfit, unfit
from trainer_core.data.cut_captions import CutCaptions
from trainer_core.data.index import FileItem
from trainer_core.data.length import backend_micro_batches
from trainer_core.data.mask_levels import BLACK_CROP
from trainer_core.data.reading import Reading
from trainer_core.data.report.crops import Fitted, buckets_of, fitted, uses_of
from trainer_core.data.report.examine import Examined
from trainer_core.data.report.likeness import groups_of_equal, groups_of_similar
from trainer_core.data.report.model import (
    NAMED_AT_MOST,
    Alike,
    BackendReport,
    CaptionReport,
    DataReport,
    Depth,
    EncoderCut,
    FileOf,
    Having,
    LeftOut,
    LeftOutReason,
    NamedFile,
    Trait,
)
from trainer_core.data.subset import subset_of
from trainer_core.errors import BadCaptionError, BadImageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen of the images of one backend."""

    backend: Backend
    images: int
    """In its folder."""
    readings: Sequence[Reading | BadImageError | BadCaptionError]
    """Those that were looked at, in the order of ``paths``."""
    paths: Sequence[str]
    examined: Mapping[str, Examined]
    """Path → what the picture is, of those that could be decoded."""
    used: Sequence[FileItem]
    """Those that the run uses; none of masks."""
    black: Collection[str]
    """Paths of those that it leaves out because their mask is black on all crops."""
    folder: str
    """Where the images are."""


def report_of(
    identity: Identity, seen: Sequence[Seen], captions: CutCaptions, max_px: int, depth: Depth
) -> DataReport:
    """The report.

    Args:
        identity: of the run.
        seen: for each backend.
        captions: those of all images.
        max_px: the largest area in pixels that the base model takes.
        depth: how closely the images were looked at.
    """
    crops = {each.backend.id: fitted(each.used, each.backend, max_px) for each in seen}
    uses: Counter[tuple[str, int, int]] = Counter()
    for each in seen:
        uses += uses_of(crops[each.backend.id], each.backend)
    batch = identity.micro_batch_size
    micro_batches = backend_micro_batches(uses, batch).total()
    is_whole = all(len(each.readings) == each.images for each in seen)
    return DataReport(
        depth=depth,
        backends=tuple(_backend(each, crops[each.backend.id], batch, max_px) for each in seen),
        equal=_equal(seen),
        similar=_similar(seen),
        captions=_captions(captions),
        batch=batch,
        samples_per_epoch=uses.total(),
        steps_per_epoch=micro_batches / identity.micro_batches_per_step if is_whole else None,
    )


def _backend(seen: Seen, crops: Sequence[Fitted], batch: int, max_px: int) -> BackendReport:
    backend = seen.backend
    buckets = buckets_of(crops, backend, batch)
    left_out = _left_out(seen, max_px)
    lacking = [each.repeats_to_fill for each in buckets if each.repeats_to_fill is not None]
    return BackendReport(
        backend=backend.id,
        role=backend.role,
        images=seen.images,
        looked_at=len(seen.readings),
        accepted=len(seen.readings) - sum(each.count for each in left_out),
        left_out=left_out,
        having=_having(seen),
        buckets=buckets,
        repeats=backend.repeats,
        repeats_to_fill=max(lacking, default=None),
    )


def _left_out(seen: Seen, max_px: int) -> tuple[LeftOut, ...]:
    found: dict[LeftOutReason, list[NamedFile]] = defaultdict(list)
    used = {item.path for item in seen.used}
    chosen = _chosen(seen, max_px)
    for path, reading in zip(seen.paths, seen.readings, strict=True):
        shown = path.encode(errors="backslashreplace").decode()
        match reading:
            case BadImageError():
                note = NamedFile(path=shown, note=reading.message.removeprefix(f"{shown}: "))
                found[reading.fault].append(note)
            case BadCaptionError():
                found["bad_caption"].append(NamedFile(path=shown, note=reading.message))
            case Reading():
                if seen.backend.role != "mask" and path not in used:
                    reason, why = _why_left_out(reading.item, seen, max_px, chosen)
                    found[reason].append(NamedFile(path=path, note=why))
            case _:
                assert_never(reading)
    return tuple(
        LeftOut(reason=reason, count=len(files), first=tuple(files[:NAMED_AT_MOST]))
        for reason, files in found.items()
    )


_UNFIT: Final[Mapping[Unfit, LeftOutReason]] = {
    "small": "too_small",
    "narrow": "too_narrow",
    "wide": "too_wide",
    "enlarged": "too_much_enlarged",
}


def _chosen(seen: Seen, max_px: int) -> set[str]:
    """The images that ``max_num_samples`` chooses, with a mask or without."""
    items = [each.item for each in seen.readings if isinstance(each, Reading)]
    fit = [
        item
        for item in items
        if item.captions and unfit(item.width_px, item.height_px, seen.backend, max_px) is None
    ]
    return {item.path for item in subset_of(fit, seen.backend)[0]}


def _why_left_out(
    item: FileItem, seen: Seen, max_px: int, chosen: set[str]
) -> tuple[LeftOutReason, str | None]:
    """In the order of ``choose_images``; what is chosen and not used has no mask or a black one."""
    why = unfit(item.width_px, item.height_px, seen.backend, max_px)
    if why is not None:
        return _UNFIT[why], f"{item.width_px} x {item.height_px} px"
    if not item.captions:
        return "no_caption", None
    if item.path in seen.black:
        return "black_mask", BLACK_CROP
    return ("no_mask" if item.path in chosen else "not_chosen"), None


def _having(seen: Seen) -> tuple[Having, ...]:
    found: dict[Trait, list[NamedFile]] = defaultdict(list)
    for item in seen.used:
        for trait, note in seen.examined[item.path].traits.items():
            found[trait].append(NamedFile(path=item.path, note=note))
    return tuple(
        Having(trait=trait, count=len(files), first=tuple(files[:NAMED_AT_MOST]))
        for trait, files in sorted(found.items())
    )


_Key = tuple[int, str]
"""Position of a backend, and path of an image."""


def _equal(seen: Sequence[Seen]) -> Alike:
    """Images with the same bytes; a folder that two backends read counts once."""
    keyed = [(seen[n].examined[path].sha256, (n, path)) for n, path in _once(seen)]
    return _alike(seen, groups_of_equal(keyed))


def _similar(seen: Sequence[Seen]) -> Alike:
    """Images that look the same and are not equal."""
    first: dict[str, tuple[int, _Key]] = {}
    for n, path in _once(seen):
        found = seen[n].examined[path]
        if found.likeness is not None:
            first.setdefault(found.sha256, (found.likeness, (n, path)))
    looks = list(first.values())
    groups = groups_of_similar([likeness for likeness, _ in looks])
    return _alike(seen, [[looks[position][1] for position in group] for group in groups])


def _once(seen: Sequence[Seen]) -> Iterator[_Key]:
    """The images that are used, those of a folder that two backends read once."""
    known: set[tuple[str, str]] = set()
    for n, each in enumerate(seen):
        for item in each.used:
            if (each.folder, item.path) not in known:
                known.add((each.folder, item.path))
                yield n, item.path


def _alike(seen: Sequence[Seen], groups: Sequence[Sequence[_Key]]) -> Alike:
    def named(group: Iterable[_Key]) -> tuple[FileOf, ...]:
        files = [FileOf(backend=seen[n].backend.id, path=path) for n, path in group]
        return tuple(files[:NAMED_AT_MOST])

    return Alike(
        groups=len(groups),
        images=sum(len(group) for group in groups),
        first=tuple(named(group) for group in groups[:NAMED_AT_MOST]),
    )


def _captions(cut: CutCaptions) -> CaptionReport:
    return CaptionReport(
        captions=cut.captions,
        cut=cut.cut,
        longest_tokens=cut.longest_tokens,
        images_cut=cut.num_images,
        first_cut=cut.first,
        is_exact=cut.is_exact,
        by_encoder=tuple(
            EncoderCut(encoder=encoder, captions=captions, tokens=tokens)
            for encoder, (captions, tokens) in cut.by_encoder.items()
        ),
    )
