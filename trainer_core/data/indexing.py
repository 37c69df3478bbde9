"""Make the index of a run from its files: crops, captions, masks, and their cache entries.

An image is paired with the mask of the same name. Unusable images are left out with a warning.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import PlanError, Problem
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.simpletuner.placeholders import unfilled_tokens
from trainer_core.data.buckets import Unfit, bucket_size, unfit
from trainer_core.data.collecting import NONE_UNUSABLE, EntryCollector
from trainer_core.data.cut_captions import CutCaptions, cut_captions, prompt_warnings
from trainer_core.data.equal_images import equal_image_warnings
from trainer_core.data.folder import some_of
from trainer_core.data.index import DataIndex, FileItem, Sample
from trainer_core.data.length import (
    problems_of_length,
    timeline_of,
    uses_of,
    warnings_of_length,
)
from trainer_core.data.mask_pairs import BackendMasks
from trainer_core.data.reading import Broken
from trainer_core.data.several_crops import crop_cost_warnings
from trainer_core.data.small_buckets import small_bucket_warnings
from trainer_core.data.subset import subset_of
from trainer_core.errors import BadImageError
from trainer_core.in_words import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The usable images of one backend."""

    backend: Backend
    items: Sequence[FileItem]
    masks: BackendMasks | None
    """Has a mask for each item; None where the backend has no masks."""


def build_index(
    plan: Plan,
    items: Sequence[FileItem],
    transformer_config: Mapping[str, Any],
    notes: Sequence[str] = (),
    base: Path | None = None,
    *,
    unusable: Mapping[str, str] = NONE_UNUSABLE,
) -> DataIndex:
    """Choose crops, collect captions, pair images with masks, and name the cache entries of all.

    The order of ``items`` does not matter.

    Args:
        plan: the run.
        items: all its images and masks.
        transformer_config: of the base model.
        notes: what is already known to be left out; the first of the index's warnings.
        base: the base model's folder, whose tokenizers count the captions that are cut off; None:
            that is estimated.
        unusable: digests of entries that cannot be encoded, such as of a mask that is black on the
            whole crop of its image, and why. Crops that need them are left out with a warning, and
            so is an image of which no crop is left.

    Raises:
        PlanError: the problems of ``choose_images``; more than half of a backend is left out
            because of ``unusable`` (``mostly_unusable``); or the epochs are more steps than a run
            may have, or fewer than it needs (``bad_value``).
        ValueError: as ``choose_images``.
    """
    max_px = max_area_px(transformer_config)
    choice = choose_images(plan, items, max_px)
    if choice.problems:
        raise PlanError(choice.problems)
    collector = EntryCollector(plan, unusable)
    prompts = {text: collector.text_entry(text) for text in _prompts_of(plan)}
    usable = usable_of(plan, choice.chosen, max_px, collector)
    if usable.problems:
        raise PlanError(usable.problems)
    index = DataIndex(
        samples=usable.samples,
        encodings=collector.encodings(),
        entries=collector.entries(),
        prompts=prompts,
        warnings=(
            *notes,
            *choice.warnings,
            *usable.warnings,
            *batch_warnings(plan, usable.chosen, max_px),
            *cut_warnings(plan, captions_cut(usable.chosen, base), base),
        ),
    )
    return _with_length_checked(plan, index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The usable images of all backends that have some."""

    chosen: Sequence[Chosen]
    problems: Sequence[Problem]
    """A run cannot start with them: a backend has no usable image (``empty_dataset``), images have
    no mask (``missing``) or several (``conflict``). They name the images."""
    warnings: Sequence[str]
    """What is left out, and why."""


def choose_images(plan: Plan, items: Sequence[FileItem], max_px: int) -> Choice:
    """The images that a run uses.

    Args:
        plan: the run.
        items: all its images and masks.
        max_px: the largest area in pixels that the base model takes.

    Raises:
        ValueError: an item's backend is not in the plan.
    """
    backends = plan.identity.backends
    backend_at = {backend.id: position for position, backend in enumerate(backends)}
    of_backend = _by_backend(items, backends)
    chosen: list[Chosen] = []
    warnings: list[str] = []
    problems: list[Problem] = []
    for position, backend in enumerate(backends):
        if backend.role == "mask":
            continue
        kept, why = _kept(of_backend[backend.id], backend, max_px)
        if not kept:
            reason = " ".join(why) or f"{backend.id} has no image."
            problems.append(_empty(position, reason))
            continue
        kept, chose = subset_of(kept, backend)
        why += chose
        masks = None
        if backend.masks is not None:
            masks = BackendMasks(backends[backend_at[backend.masks]], of_backend[backend.masks])
            problems += masks.problems(position, kept)
            why += masks.warnings(backend, kept)
            kept = masks.having(kept)
        chosen.append(Chosen(backend=backend, items=kept, masks=masks))
        warnings += [*why, *_placeholder_warnings(kept, backend)]
    used = [(each.backend, each.items) for each in chosen]
    warnings += equal_image_warnings(used, plan.operation.data_dirs)
    warnings += crop_cost_warnings(used, max_px)
    if not problems and not any(backend.role == "train" for backend in backends):
        problems.append(
            _empty(
                0, "every backend is held out (dataset_type eval): there is nothing to train on."
            )
        )
    return Choice(chosen=chosen, problems=problems, warnings=warnings)


def captions_cut(chosen: Sequence[Chosen], base: Path | None) -> CutCaptions:
    """The captions of all images that are cut off."""
    captions = [(item.path, item.captions) for each in chosen for item in each.items]
    return cut_captions(captions, base)


def cut_warnings(plan: Plan, captions: CutCaptions, base: Path | None) -> list[str]:
    """Warnings of captions and prompts that are cut off; ``base``: as in ``build_index``."""
    warning = captions.warning()
    operation = plan.operation
    sample = operation.sample_prompt, operation.sample_negative_prompt
    of_pictures = () if operation.pictures is None else operation.pictures.prompts
    prompts = (
        ("The prompt of the sample image", sample[0]),
        ("The negative prompt of the sample image", sample[1]),
        *((f"The prompt {each.name}", each.text) for each in of_pictures if each.text != sample[0]),
    )
    return [*([] if warning is None else [warning]), *prompt_warnings(prompts, base)]


def batch_warnings(plan: Plan, chosen: Sequence[Chosen], max_px: int) -> list[str]:
    """Warnings of buckets with fewer images than a batch takes; ``chosen``: all of the run."""
    images: Counter[tuple[str, int, int]] = Counter()
    for each in chosen:
        if each.backend.role == "train":
            for item in each.items:
                size = item.width_px, item.height_px
                bucket = bucket_size(*size, each.backend, max_px, item.sha256)
                images[each.backend.id, *bucket] += 1
    return small_bucket_warnings(plan.identity, images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usable:
    """The images of which a crop can be encoded."""

    chosen: Sequence[Chosen]
    samples: tuple[Sample, ...]
    problems: Sequence[Problem]
    """More than half of a backend cannot be (``mostly_unusable``)."""
    warnings: Sequence[str]
    """What is left out, and why."""


def usable_of(
    plan: Plan, chosen: Sequence[Chosen], max_px: int, collector: EntryCollector
) -> Usable:
    """The samples of all chosen images, without what the collector knows to be unusable."""
    problems: list[Problem] = []
    warnings: list[str] = []
    samples: list[Sample] = []
    rest: list[Chosen] = []
    for each in chosen:
        found = collector.samples_of(each.items, each.backend, max_px, each.masks)
        used = {sample.path for sample in found}
        why = {
            item.path: reasons
            for item in each.items
            if (reasons := collector.left_out.get((each.backend.id, item.path)))
        }
        errors = [BadImageError(reasons[0]) for path, reasons in why.items() if path not in used]
        broken = Broken(
            backend=each.backend, place="its data", images=len(each.items), errors=errors
        )
        if broken.ends_run:
            at = plan.identity.backends.index(each.backend)
            pointer, message = f"/data_backends/{at}", broken.message()
            problems.append(Problem(pointer=pointer, code="mostly_unusable", message=message))
        elif errors:
            warnings += broken.warnings()
        if some := [reasons[0] for path, reasons in why.items() if path in used]:
            warnings.append(
                f"{each.backend.id}: crops of {counted(len(some), 'image')} cannot be used and are "
                f"left out, other crops stay: {some_of(some)}."
            )
        rest.append(replace(each, items=[item for item in each.items if item.path in used]))
        samples += found
    return Usable(chosen=rest, samples=tuple(samples), problems=problems, warnings=warnings)


def _with_length_checked(plan: Plan, index: DataIndex) -> DataIndex:
    """The index, with warnings about the length of the run; raises PlanError."""
    identity = plan.identity
    timeline = timeline_of(identity, uses_of(index))
    if problems := problems_of_length(identity, timeline):
        raise PlanError(problems)
    found = warnings_of_length(identity, timeline)
    return index.model_copy(update={"warnings": (*index.warnings, *found)})


def _by_backend(
    items: Sequence[FileItem], backends: Sequence[Backend]
) -> dict[str, list[FileItem]]:
    """Backend id → its items, sorted by path; raises ValueError for an item of another backend."""
    of_backend: dict[str, list[FileItem]] = {backend.id: [] for backend in backends}
    unknown = {item.backend for item in items} - of_backend.keys()
    if unknown:
        raise ValueError(f"items of backends that the plan does not have: {sorted(unknown)}")
    for item in sorted(items, key=lambda i: i.path):
        of_backend[item.backend].append(item)
    return of_backend


def _placeholder_warnings(items: Sequence[FileItem], backend: Backend) -> list[str]:
    found = [(item, tokens) for item in items if (tokens := _tokens_of(item))]
    if not found:
        return []
    item, tokens = found[0]
    warning = (
        f"{backend.id}: captions of {len(found)} images contain what looks like a placeholder "
        f"(first: {tokens[0]} of {item.path}); it is trained on unchanged."
    )
    return [warning]


def _tokens_of(item: FileItem) -> tuple[str, ...]:
    return tuple(token for caption in item.captions for token in unfilled_tokens(caption))


def _empty(position: int, reason: str) -> Problem:
    return Problem(
        pointer=f"/data_backends/{position}",
        code="empty_dataset",
        message=f"No image left: {reason}",
    )


def _prompts_of(plan: Plan) -> tuple[str, ...]:
    operation = plan.operation
    of_pictures = () if operation.pictures is None else operation.pictures.texts()
    texts = ("", operation.sample_prompt, operation.sample_negative_prompt, *of_pictures)
    return tuple(dict.fromkeys(texts))


def _kept(
    items: Sequence[FileItem], backend: Backend, max_px: int
) -> tuple[list[FileItem], list[str]]:
    """The usable images, and a warning for each reason why others are left out."""
    reasons = _reasons(backend)
    kept: list[FileItem] = []
    groups: dict[str, list[str]] = {reason: [] for reason in reasons.values()}
    uncaptioned = groups["without a caption"] = []
    for item in items:
        why = unfit(item.width_px, item.height_px, backend, max_px)
        if why is not None:
            groups[reasons[why]].append(item.path)
        elif not item.captions:
            uncaptioned.append(item.path)
        else:
            kept.append(item)
    warnings = [
        f"{backend.id}: {len(paths)} of {len(items)} images are {reason} and are left out: "
        f"{some_of(paths)}."
        for reason, paths in groups.items()
        if paths
    ]
    return kept, warnings


def _reasons(backend: Backend) -> dict[Unfit, str]:
    """Why images are left out, in words that follow "are"."""
    least_px = backend.minimum_image_size_px
    is_area = backend.sizes_by == "area"
    least = f"{least_px} px squared" if is_area else f"a shorter edge of {least_px} px"
    return {
        "small": f"smaller than minimum_image_size ({least})",
        "narrow": "narrower than minimum_aspect_ratio (width / height "
        f"{backend.minimum_aspect_ratio})",
        "wide": f"wider than maximum_aspect_ratio (width / height {backend.maximum_aspect_ratio})",
        "enlarged": "too small for each of crop_aspect_buckets by max_upscale_threshold "
        f"({backend.max_upscale_threshold})",
    }
