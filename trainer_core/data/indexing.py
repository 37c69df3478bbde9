"""Make the index of a run from its files: crops, captions, masks, and their rows in shards.

An image is paired with the mask of the same name. Unusable images are left out with a warning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import PlanError, Problem
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.simpletuner.placeholders import unfilled_tokens
from trainer_core.data.assigning import ShardAssigner
from trainer_core.data.buckets import is_too_small
from trainer_core.data.index import DataIndex, FileItem, Sample
from trainer_core.data.mask_pairs import BackendMasks


def build_index(
    plan: Plan, items: Sequence[FileItem], transformer_config: Mapping[str, Any]
) -> DataIndex:
    """Choose crops, collect captions, pair images with masks, and assign all to rows of shards.

    The order of ``items`` does not matter. A shard of latents has images of one backend and one
    bucket. Prompts are in separate shards, so that changing a prompt changes no shard of captions.

    Raises:
        PlanError: a backend has no usable image (``empty_dataset``), images have no mask
            (``missing``) or several (``conflict``); names them.
        ValueError: an item's backend is not in the plan.
    """
    max_px = max_area_px(transformer_config)
    backends = plan.identity.backends
    backend_at = {backend.id: position for position, backend in enumerate(backends)}
    of_backend = _by_backend(items, backends)
    shards = ShardAssigner(plan)
    prompts = {text: shards.text_row(text) for text in _prompts_of(plan)}
    shards.close_texts()
    samples: list[Sample] = []
    warnings: list[str] = []
    problems: list[Problem] = []
    for position, backend in enumerate(backends):
        if backend.role == "mask":
            continue
        kept, why = _kept(of_backend[backend.id], backend)
        if not kept:
            reason = " ".join(why) or f"{backend.id} has no image."
            problems.append(_empty(position, reason))
            continue
        masks = None
        if backend.masks is not None:
            masks = BackendMasks(backends[backend_at[backend.masks]], of_backend[backend.masks])
            problems += masks.problems(position, kept)
            why += masks.warnings(kept)
        if not problems:
            samples += shards.samples_of(kept, backend, max_px, masks)
            warnings += [*why, *_placeholder_warnings(kept, backend)]
    if not problems and not any(backend.role == "train" for backend in backends):
        problems.append(
            _empty(
                0, "every backend is held out (dataset_type eval): there is nothing to train on."
            )
        )
    if problems:
        raise PlanError(problems)
    return DataIndex(
        samples=tuple(samples),
        shards=shards.described(),
        prompts=prompts,
        warnings=tuple(warnings),
    )


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
    return tuple(dict.fromkeys(("", operation.sample_prompt, operation.sample_negative_prompt)))


def _kept(items: Sequence[FileItem], backend: Backend) -> tuple[list[FileItem], list[str]]:
    """The usable images, and a warning for each reason why others are left out."""
    small = [i for i in items if is_too_small(i.width_px, i.height_px, backend)]
    left_out = {i.path for i in small}
    uncaptioned = [i for i in items if not i.captions and i.path not in left_out]
    left_out |= {i.path for i in uncaptioned}
    reasons = (
        (small, f"smaller than minimum_image_size ({backend.minimum_image_size_px} px squared)"),
        (uncaptioned, "without a caption"),
    )
    warnings = [
        f"{backend.id}: {len(group)} of {len(items)} images are {reason} and are left out "
        f"(first: {group[0].path})."
        for group, reason in reasons
        if group
    ]
    return [i for i in items if i.path not in left_out], warnings
