"""`python -m trainer_core encode`: encodes requested shards; the encoders stay loaded."""

import os
import sys
from pathlib import Path

import torch

from trainer_core.base_models.describe import home_of, read_base_models
from trainer_core.base_models.unchanged import check_described
from trainer_core.data.encode import encode_shard
from trainer_core.errors import BaseModelError, DeviceError
from trainer_core.hidream.encoders import LoadedEncoders
from trainer_core.hidream.parts import ModelParts
from trainer_core.process.requests import (
    EncodeReply,
    EncodeRequest,
    answer_requests,
    open_replies,
)
from trainer_core.progress import SilentReporter


def serve(*, models_dir: Path, reply_fd: int, device: str) -> int:
    """Answer until stdin ends."""
    with open_replies(reply_fd) as replies:
        encoder = Encoder(models_dir, _device(device))
        answer_requests(sys.stdin.buffer, replies, EncodeRequest, encoder.handle)
    return 0


class Encoder:
    """Encodes shards of any listed base model; keeps the encoders of the last one loaded."""

    def __init__(self, models_dir: Path, device: torch.device) -> None:
        self._models_dir = models_dir
        self._device = device
        self._warm: tuple[str, LoadedEncoders] | None = None

    def handle(self, request: EncodeRequest) -> EncodeReply:
        """Raises the errors of ``encode_shard``.

        BaseModelError: there is no such base model, or one of its files is damaged.
        """
        inputs = {sha256: Path(path) for sha256, path in request.inputs.items()}
        encoders = self._encoders(request.base_model)
        unusable = encode_shard(encoders, request.spec, inputs, Path(request.output))
        is_written = len(unusable) < len(request.spec.entries)
        size_bytes = Path(request.output).stat().st_size if is_written else 0
        return EncodeReply(size_bytes=size_bytes, unusable=unusable)

    def _encoders(self, name: str) -> LoadedEncoders:
        if self._warm is None or self._warm[0] != name:
            bases = read_base_models(self._models_dir)
            if name not in bases:
                raise BaseModelError(f"no base model {name!r} in {self._models_dir}")
            check_described(bases[name], home_of(os.environ), SilentReporter())
            parts = ModelParts(bases[name], self._device)
            self._warm = name, LoadedEncoders(parts, keeps_all=True)
        return self._warm[1]


def _device(requested: str) -> torch.device:
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if requested == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device is cuda, and this machine has no cuda device: use auto or cpu")
    return torch.device(requested)
