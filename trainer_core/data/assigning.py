"""Assign the images, masks and captions of an index to rows of shards."""

from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.shapes import LATENT_CELL_PX
from trainer_core.data.buckets import Geometry, geometry_of
from trainer_core.data.index import (
    FileItem,
    PictureEntry,
    Sample,
    ShardDescription,
    ShardKind,
    ShardRef,
    ShardSpec,
    TextEntry,
)
from trainer_core.data.mask_pairs import BackendMasks

LATENTS_PER_SHARD: Final = 16
"""Also the masks per shard. A mask has the same row as its image's latents, in another shard."""
TEXTS_PER_SHARD: Final = 8
MAX_TEXT_TOKENS: Final = 128


class ShardAssigner:
    """Assigns rows to shards in the order of the calls; equal captions share a row."""

    def __init__(self, plan: Plan) -> None:
        base: dict[str, JsonValue] = {"base_digest": plan.identity.base.digest}
        self._texts: dict[str, ShardRef] = {}
        self._shards: list[_ShardInProgress] = []
        self._last_text: ShardRef | None = None
        # The VAE is small, and rounding errors of its latents would affect every step.
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
        """Start a new shard with the next caption."""
        self._last_text = None

    def samples_of(
        self, items: Sequence[FileItem], backend: Backend, max_px: int, masks: BackendMasks | None
    ) -> list[Sample]:
        """One sample per item, in the same order; ``masks``, if given, has a mask for each item."""
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
            geometry = geometry_of(item.width_px, item.height_px, backend, max_px, item.sha256)
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
        """Start a new shard; returns the position before its first row."""
        self._shards.append(_ShardInProgress(kind, encoder))
        return ShardRef(shard=len(self._shards) - 1, row=-1)

    def _add(self, shard: int, entry: PictureEntry | TextEntry) -> ShardRef:
        self._shards[shard].entries.append(entry)
        return ShardRef(shard=shard, row=len(self._shards[shard].entries) - 1)


class _ShardInProgress:
    """A shard under construction."""

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
    """The precisions in a text shard's spec; those of the two CLIPs only if they are quantised."""
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
