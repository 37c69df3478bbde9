"""Make the index of a run from its files: crops, captions, masks, and their rows in shards.

An image is paired with the mask of the same name. What cannot be used is left out with a warning.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import PlanError, Problem
from trainer_core.config.plan.shapes import LATENT_CELL_PX, max_area_px
from trainer_core.config.simpletuner.placeholders import unfilled_tokens
from trainer_core.data.buckets import Geometry, geometry_of, is_too_small
from trainer_core.data.folder import stem_of
from trainer_core.data.index import (
    DataIndex,
    FileItem,
    PictureEntry,
    Sample,
    ShardDescription,
    ShardKind,
    ShardRef,
    ShardSpec,
    TextEntry,
)

LATENTS_PER_SHARD: Final = 16
"""Also masks per shard: a mask has the same row as its image's latents, in a shard of its own."""
TEXTS_PER_SHARD: Final = 8
MAX_TEXT_TOKENS: Final = 128
_PATHS_SHOWN: Final = 5


def build_index(
    plan: Plan, items: Sequence[FileItem], transformer_config: Mapping[str, Any]
) -> DataIndex:
    """Choose crops, collect captions, pair images with masks, and assign all to rows of shards.

    The order of ``items`` does not matter. A shard of latents holds images of one backend and one
    bucket. Prompts have shards of their own, so that another prompt changes no caption's shard.

    Raises:
        PlanError: a backend has no usable image (``empty_dataset``), images have no mask
            (``missing``) or several (``conflict``); names them.
        ValueError: an item's backend is not in the plan.
    """
    max_px = max_area_px(transformer_config)
    backends = plan.identity.backends
    backend_at = {backend.id: position for position, backend in enumerate(backends)}
    of_backend: dict[str, list[FileItem]] = {backend.id: [] for backend in backends}
    unknown = {item.backend for item in items} - of_backend.keys()
    if unknown:
        raise ValueError(f"items of backends that the plan does not have: {sorted(unknown)}")
    for item in sorted(items, key=lambda i: i.path):
        of_backend[item.backend].append(item)
    shards = _Shards(plan)
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
            masks = _Masks(backends[backend_at[backend.masks]], of_backend[backend.masks])
            problems += masks.problems(position, kept)
            why += masks.warnings(kept)
        if not problems:
            samples += shards.samples_of(kept, backend, max_px, masks)
            warnings += [*why, *_placeholder_warnings(kept, backend)]
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


def _placeholder_warnings(items: Sequence[FileItem], backend: Backend) -> list[str]:
    found = [(item, tokens) for item in items if (tokens := _tokens_of(item))]
    if not found:
        return []
    item, tokens = found[0]
    warning = (
        f"{backend.id}: captions of {len(found)} images hold what looks like a placeholder "
        f"(first: {tokens[0]} of {item.path}); it is trained on as it stands."
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
    """The images that can be used, and a sentence for each reason why others cannot."""
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


class _Masks:
    """The masks of one backend, by the names of the images that they belong to."""

    def __init__(self, backend: Backend, items: Sequence[FileItem]) -> None:
        self.backend = backend
        self._by_stem: dict[str, list[FileItem]] = {}
        for item in items:
            self._by_stem.setdefault(stem_of(item.path), []).append(item)

    def of(self, image: FileItem) -> FileItem:
        """The image's mask; raises LookupError where there is none."""
        return self._by_stem[stem_of(image.path)][0]

    def problems(self, position: int, images: Sequence[FileItem]) -> list[Problem]:
        """Images without a mask, and those with two, as problems of backend ``position``."""
        pointer = f"/data_backends/{position}/conditioning_data"
        missing = [i.path for i in images if stem_of(i.path) not in self._by_stem]
        ambiguous = [i.path for i in images if len(self._by_stem.get(stem_of(i.path), ())) > 1]
        found = []
        if missing:
            message = (
                f"{len(missing)} of {len(images)} images have no mask of the same name in "
                f"{self.backend.id}: {_some(missing)}."
            )
            found.append(Problem(pointer=pointer, code="missing", message=message))
        if ambiguous:
            message = f"Several masks in {self.backend.id} have the name of: {_some(ambiguous)}."
            found.append(Problem(pointer=pointer, code="conflict", message=message))
        return found

    def warnings(self, images: Sequence[FileItem]) -> list[str]:
        """A sentence where masks have another shape than their images; they are stretched."""
        pairs = (
            (i, self._by_stem[stem_of(i.path)][0])
            for i in images
            if stem_of(i.path) in self._by_stem
        )
        mismatched = [image.path for image, mask in pairs if _differs_in_shape(image, mask)]
        if not mismatched:
            return []
        warning = (
            f"{self.backend.id}: {len(mismatched)} masks have another aspect ratio than their "
            f"images and are stretched over them: {_some(mismatched)}."
        )
        return [warning]


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
    return ", ".join(paths[:_PATHS_SHOWN]) + more


def _differs_in_shape(image: FileItem, mask: FileItem) -> bool:
    """By more than a scaled copy may: two pixels of the mask, or 2 % of it."""
    width = mask.height_px * image.width_px / image.height_px
    return abs(width - mask.width_px) > max(2.0, 0.02 * mask.width_px)


class _Shards:
    """Assigns rows to shards in the order of the calls; equal captions share a row."""

    def __init__(self, plan: Plan) -> None:
        base: dict[str, JsonValue] = {"base_digest": plan.identity.base.digest}
        self._texts: dict[str, ShardRef] = {}
        self._shards: list[_ShardInProgress] = []
        self._last_text: ShardRef | None = None
        # The VAE is small, and its errors stay in every step.
        self._latents_encoder = {**base, "compute": "fp32"}
        self._text_encoder = {**base, **_text_precision(plan), "max_tokens": MAX_TEXT_TOKENS}

    def text_row(self, text: str) -> ShardRef:
        if text not in self._texts:
            last = self._last_text
            if last is None or last.row + 1 == TEXTS_PER_SHARD:
                last = self._start("text", self._text_encoder)
            self._last_text = self._texts[text] = self._add(last.shard, TextEntry(text=text))
        return self._texts[text]

    def close_texts(self) -> None:
        """The next caption begins a new shard."""
        self._last_text = None

    def samples_of(
        self, items: Sequence[FileItem], backend: Backend, max_px: int, masks: _Masks | None
    ) -> list[Sample]:
        """One sample for each item, in the same order; ``masks`` has a mask for each."""
        newest: dict[tuple[str, int, int], ShardRef] = {}

        def row_of(
            kind: ShardKind, encoder: dict[str, JsonValue], item: FileItem, geometry: Geometry
        ) -> ShardRef:
            key = kind, geometry.width_px, geometry.height_px
            last = newest.get(key)
            if last is None or last.row + 1 == LATENTS_PER_SHARD:
                last = self._start(kind, encoder)
            entry = PictureEntry(path=item.path, sha256=item.sha256, geometry=geometry)
            newest[key] = self._add(last.shard, entry)
            return newest[key]

        samples = []
        for item in items:
            geometry = geometry_of(item.width_px, item.height_px, backend, max_px)
            sample = Sample(
                backend=backend.id,
                path=item.path,
                held_out=backend.role == "eval",
                width_px=geometry.width_px,
                height_px=geometry.height_px,
                repeats=backend.repeats,
                latents=row_of("latents", self._latents_encoder, item, geometry),
                texts=tuple(self.text_row(text) for text in item.captions),
                mask=None
                if masks is None
                else row_of("masks", _mask_encoder(masks.backend), masks.of(item), geometry),
            )
            samples.append(sample)
        return samples

    def described(self) -> tuple[ShardDescription, ...]:
        return tuple(shard.described() for shard in self._shards)

    def _start(self, kind: ShardKind, encoder: dict[str, JsonValue]) -> ShardRef:
        """Begin a new shard; returns the position before its first row."""
        self._shards.append(_ShardInProgress(kind, encoder))
        return ShardRef(shard=len(self._shards) - 1, row=-1)

    def _add(self, shard: int, entry: PictureEntry | TextEntry) -> ShardRef:
        self._shards[shard].entries.append(entry)
        return ShardRef(shard=shard, row=len(self._shards[shard].entries) - 1)


class _ShardInProgress:
    """A shard that still gets rows."""

    def __init__(self, kind: ShardKind, encoder: dict[str, JsonValue]) -> None:
        self._kind = kind
        self._encoder = encoder
        self.entries: list[PictureEntry | TextEntry] = []

    def described(self) -> ShardDescription:
        spec = ShardSpec.model_validate(
            {"kind": self._kind, "encoder": self._encoder, "entries": tuple(self.entries)}
        )
        return ShardDescription(digest=spec.digest(), kind=spec.kind, spec=spec)


def _text_precision(plan: Plan) -> dict[str, JsonValue]:
    """The precisions in a text shard's spec; of the two CLIPs only where they are quantised."""
    precision = plan.identity.precision
    clips: dict[str, JsonValue] = {
        name: quantization
        for name, quantization in (
            ("text_encoder_1", precision.text_encoder_1),
            ("text_encoder_2", precision.text_encoder_2),
        )
        if quantization != "no_change"
    }
    return {
        "compute": precision.compute,
        **clips,
        "text_encoder_3": precision.text_encoder_3,
        "text_encoder_4": precision.text_encoder_4,
    }


def _mask_encoder(backend: Backend) -> dict[str, JsonValue]:
    return {"mask_kind": backend.mask_kind or "mask", "cell_px": LATENT_CELL_PX}
