"""Parts of a base model that compute nothing: they count what they get, and make tensors of it."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import torch
from pydantic import JsonValue

from trainer_core.hidream.parts import Part, PartName

TRUE_SHAPES: Final[Mapping[PartName, tuple[int, ...]]] = {
    "vae": (1, 16, 128, 128),
    "text_encoder_1": (1, 768),
    "text_encoder_2": (1, 1280),
    "text_encoder_3": (1, 128, 4096),
    "text_encoder_4": (1, 32, 128, 4096),
}
"""Of HiDream-I1's outputs, for an image of 1024 x 1024 pixels."""
SMALL_SHAPES: Final[Mapping[PartName, tuple[int, ...]]] = {
    "vae": (1, 16, 8, 8),
    "text_encoder_1": (1, 3),
    "text_encoder_2": (1, 5),
    "text_encoder_3": (1, 2, 4),
    "text_encoder_4": (1, 3, 2, 4),
}


class StandingParts:
    """Implements ``trainer_core.hidream.parts.Parts``: a tensor is one number, of its content."""

    def __init__(self, shapes: Mapping[PartName, tuple[int, ...]] = SMALL_SHAPES) -> None:
        self.calls: Counter[str] = Counter()
        """Part → images or captions that it got."""
        self._shapes = shapes

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        assert encoder["base_digest"]

    def load(self, name: PartName, encoder: Mapping[str, JsonValue]) -> Part:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[str(encoder["compute"])]

        def part(content: Any) -> tuple[torch.Tensor, ...]:
            self.calls[name] += 1
            body = content.encode() if isinstance(content, str) else content.numpy().tobytes()
            number = hashlib.sha256(name.encode() + body).digest()[0]
            made = torch.full(self._shapes[name], number, dtype=dtype)
            return (made, made) if name == "vae" else (made,)

        return part
