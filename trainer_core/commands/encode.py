"""`python -m trainer_core encode`: shards on request, with models that stay loaded."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer_core.base_models.describe import read_base_models
from trainer_core.data.encode import encode_shard
from trainer_core.data.index import ShardSpec
from trainer_core.errors import BaseModelError, DeviceError
from trainer_core.hidream.warm import WarmEncoders
from trainer_core.process.requests import Request, answer_requests, open_replies


def serve(*, models_dir: Path, reply_fd: int, device: str) -> int:
    """Answer until stdin ends."""
    with open_replies(reply_fd) as replies:
        desk = EncodeDesk(models_dir, _device(device))
        answer_requests(sys.stdin.buffer, replies, desk.handle)
    return 0


class EncodeDesk:
    """Encodes shards of any base model on the list; the last one's encoders stay loaded."""

    def __init__(self, models_dir: Path, device: torch.device) -> None:
        self._models_dir = models_dir
        self._device = device
        self._warm: tuple[str, WarmEncoders] | None = None

    def handle(self, request: Request) -> Mapping[str, Any]:
        """Request `{"base_model", "spec", "inputs": {sha256: local path}, "output"}`.

        Replies `{"size_bytes", "sha256"}` of the file at ``output``. Raises the errors of
        ``encode_shard``, and BaseModelError for a name that is not on the list.
        """
        spec = ShardSpec.model_validate(request["spec"])
        inputs = {sha256: Path(path) for sha256, path in request["inputs"].items()}
        models = self._encoders(request["base_model"])
        shard = encode_shard(models, spec, inputs, Path(request["output"]))
        return {"size_bytes": shard.size_bytes, "sha256": shard.sha256}

    def _encoders(self, name: str) -> WarmEncoders:
        if self._warm is None or self._warm[0] != name:
            bases = read_base_models(self._models_dir)
            if name not in bases:
                raise BaseModelError(f"no base model {name!r} in {self._models_dir}")
            self._warm = name, WarmEncoders(bases[name], self._device)
        return self._warm[1]


def _device(wish: str) -> torch.device:
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wish == "cuda" and not torch.cuda.is_available():
        raise DeviceError("cuda was asked for and is not there")
    return torch.device(wish)
