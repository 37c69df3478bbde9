"""The VAE and the text encoders of one base model, loaded when they are first needed."""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from pydantic import JsonValue

from trainer_core.data.token_counts import EncoderName
from trainer_core.hidream.parts import Part, PartName, Parts

TEXTS_AT_ONCE: Final = 2048
"""Captions that an encoder gets before it is freed for the next one. Until the last encoder has had
them, 1 MB of each waits in host memory."""
_ALL_BUT_LLAMA: Final[tuple[EncoderName, ...]] = (
    "text_encoder_1",
    "text_encoder_2",
    "text_encoder_3",
)


class LoadedEncoders:
    """Implements ``trainer_core.data.encode.Encoders``.

    Each image and each caption is encoded alone, so it has the same bits in either way of loading.
    """

    def __init__(
        self, parts: Parts, *, keeps_all: bool, before_each: Callable[[], None] = lambda: None
    ) -> None:
        """Args:
        parts: of the base model.
        keeps_all: a part that was loaded stays: the next call needs no time for it, but the real
            model takes 27 GB. False: one part is loaded at a time, and many captions go through one
            encoder before they go through the next.
        before_each: called before a part encodes an image or a caption; may raise.
        """
        self._parts = parts
        self._keeps_all = keeps_all
        self._before_each = before_each
        self._loaded: dict[PartName, tuple[tuple[JsonValue, ...], Part]] = {}

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError where an encoding is of other parts."""
        self._parts.check(encoder)

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Posterior moments of one image, fp32 on the CPU."""
        mean, std = self._output("vae", encoder, images_1CHW)
        return {"mean": mean, "std": std}

    def texts(
        self, encoder: Mapping[str, JsonValue], texts: Sequence[str]
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Embeddings of each caption, in the encoding's compute type, on the CPU."""
        at_once = 1 if self._keeps_all else TEXTS_AT_ONCE
        for start in range(0, len(texts), at_once):
            yield from self._some_texts(encoder, texts[start : start + at_once])

    def free(self) -> None:
        """Free all parts."""
        if self._loaded:
            self._loaded.clear()
            _release_memory()

    def _some_texts(
        self, encoder: Mapping[str, JsonValue], texts: Sequence[str]
    ) -> Iterator[dict[str, torch.Tensor]]:
        outputs = [
            deque(self._output(name, encoder, text)[0] for text in texts) for name in _ALL_BUT_LLAMA
        ]
        for text in texts:
            (llama,) = self._output("text_encoder_4", encoder, text)
            clip_l, clip_g, t5 = (waiting.popleft() for waiting in outputs)
            yield {"t5": t5, "llama": llama, "pooled": torch.cat([clip_l, clip_g], dim=-1)}

    def _output(
        self, name: PartName, encoder: Mapping[str, JsonValue], content: Any
    ) -> tuple[torch.Tensor, ...]:
        self._before_each()
        wanted = encoder.get("compute"), encoder.get(name)
        if name not in self._loaded or self._loaded[name][0] != wanted:
            self._make_room_for(name)
            self._loaded[name] = wanted, self._parts.load(name, encoder)
        return self._loaded[name][1](content)

    def _make_room_for(self, name: PartName) -> None:
        if not self._keeps_all:
            self.free()
        elif self._loaded.pop(name, None) is not None:
            _release_memory()


def _release_memory() -> None:
    gc.collect()  # modules refer to each other in cycles
    torch.cuda.empty_cache()  # does nothing without a GPU
