"""Collect the cache entries that the images, masks and captions of a run need."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.shapes import LATENT_CELL_PX
from trainer_core.data.buckets import Geometry, geometries_of
from trainer_core.data.index import Caption, Crop, Encoding, Entry, FileItem, Picture, Sample
from trainer_core.data.mask_pairs import BackendMasks

MAX_TEXT_TOKENS: Final = 128
NONE_UNUSABLE: Final[Mapping[str, str]] = MappingProxyType({})


class EntryCollector:
    """Gives each image, mask and caption its entry; equal content has the same one."""

    def __init__(self, plan: Plan, unusable: Mapping[str, str] = NONE_UNUSABLE) -> None:
        """``unusable``: digests of entries of images that cannot be encoded, and why."""
        self._unusable = unusable
        self.left_out: dict[tuple[str, str], list[str]] = {}
        """Backend and path of an image → why crops of it are left out, each reason once."""
        base: dict[str, JsonValue] = {"base_digest": plan.identity.base.digest}
        self._encodings: list[Encoding] = []
        self._entries: list[Entry] = []
        self._positions: dict[str, int] = {}
        """Digest → position of the entry."""
        # The VAE is small, and rounding errors of its latents would affect every step.
        self._latents = self._encoding(
            Encoding(kind="latents", encoder={**base, "compute": "fp32"})
        )
        text = {**base, **_text_precision(plan), "max_tokens": MAX_TEXT_TOKENS}
        if plan.identity.precision.text_cache != "no_change":
            text["rows"] = plan.identity.precision.text_cache
        self._text = self._encoding(Encoding(kind="text", encoder=text))

    def text_entry(self, text: str) -> int:
        """The position of a caption's or prompt's entry."""
        return self._position_of(self._text, Caption(text=text))

    def samples_of(
        self, items: Sequence[FileItem], backend: Backend, max_px: int, masks: BackendMasks | None
    ) -> list[Sample]:
        """One sample per item with a usable crop, in the same order.

        ``masks``, if given, has a mask for each item.
        """
        mask_encoding = None if masks is None else self._encoding(mask_encoding_of(masks.backend))
        samples = []
        for item in items:
            size = item.width_px, item.height_px
            geometries = geometries_of(*size, backend, max_px, item.sha256)
            crops = []
            for geometry in geometries:
                picture, mask = (self._latents, picture_of(item, geometry)), None
                if masks is not None and mask_encoding is not None:
                    mask = mask_encoding, picture_of(masks.of(item), geometry)
                if self._is_left_out(item, (picture,) if mask is None else (picture, mask)):
                    continue
                mask_entry = None if mask is None else self._position_of(*mask)
                crops.append(Crop(latents=self._position_of(*picture), mask=mask_entry))
            if not crops:
                continue
            sample = Sample(
                backend=backend.id,
                path=item.path,
                held_out=backend.role == "eval",
                width_px=geometries[0].width_px,
                height_px=geometries[0].height_px,
                repeats=backend.repeats,
                latents=crops[0].latents,
                texts=tuple(self.text_entry(text) for text in item.captions),
                mask=crops[0].mask,
                more_crops=tuple(crops[1:]),
            )
            samples.append(sample)
        return samples

    def encodings(self) -> tuple[Encoding, ...]:
        return tuple(self._encodings)

    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    def _encoding(self, encoding: Encoding) -> int:
        if encoding not in self._encodings:
            self._encodings.append(encoding)
        return self._encodings.index(encoding)

    def _is_left_out(self, item: FileItem, needed: Sequence[tuple[int, Picture]]) -> bool:
        """Whether one of a crop's entries cannot be encoded; notes why."""
        for encoding, picture in needed if self._unusable else ():
            reason = self._unusable.get(self._encodings[encoding].digest_of(picture))
            if reason is not None:
                why = self.left_out.setdefault((item.backend, item.path), [])
                if (message := f"{picture.path}: {reason}") not in why:
                    why.append(message)
                return True
        return False

    def _position_of(self, encoding: int, content: Picture | Caption) -> int:
        digest = self._encodings[encoding].digest_of(content)
        if digest not in self._positions:
            self._positions[digest] = len(self._entries)
            self._entries.append(Entry(digest=digest, encoding=encoding, content=content))
        return self._positions[digest]


def picture_of(item: FileItem, geometry: Geometry) -> Picture:
    """What an image's or mask's entry is made from."""
    return Picture(path=item.path, sha256=item.sha256, geometry=geometry)


def _text_precision(plan: Plan) -> dict[str, JsonValue]:
    """The precisions in a text encoding; those of the two CLIPs only if they are quantised."""
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


def mask_encoding_of(backend: Backend) -> Encoding:
    """How the masks of a backend are encoded."""
    encoder: dict[str, JsonValue] = {
        "mask_kind": backend.mask_kind or "mask",
        "cell_px": LATENT_CELL_PX,
    }
    return Encoding(kind="masks", encoder=encoder)
