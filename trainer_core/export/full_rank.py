"""A transformer of which every weight was trained, in diffusers' own layout."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

_NAME: Final = "diffusion_pytorch_model"
_FILE_BYTES: Final = 10 << 30
"""Above this, weights go into several files, as diffusers has it."""


def write_transformer(
    folder: Path, config: Mapping[str, Any], parameters: Mapping[str, torch.Tensor]
) -> None:
    """Make ``folder`` with config.json and weights that `from_pretrained` loads.

    Raises ValueError where there is nothing to write.
    """
    folder.mkdir(parents=True)
    files = list(_split(parameters))
    if not files:
        raise ValueError("a transformer without parameters")
    described = {name: value for name, value in config.items() if name != "_name_or_path"}
    (folder / "config.json").write_text(
        json.dumps(described, indent=2, default=list) + "\n", encoding="utf-8"
    )
    if len(files) == 1:
        _save(files[0], folder / f"{_NAME}.safetensors")
        return
    places: dict[str, str] = {}
    for number, tensors in enumerate(files, start=1):
        name = f"{_NAME}-{number:05d}-of-{len(files):05d}.safetensors"
        _save(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    size_bytes = sum(each.nbytes for each in parameters.values())
    index = {"metadata": {"total_size": size_bytes}, "weight_map": places}
    (folder / f"{_NAME}.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def _split(parameters: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    part: dict[str, torch.Tensor] = {}
    size_bytes = 0
    for name, tensor in parameters.items():
        if part and size_bytes + tensor.nbytes > _FILE_BYTES:
            yield part
            part, size_bytes = {}, 0
        part[name] = tensor
        size_bytes += tensor.nbytes
    if part:
        yield part


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    whole = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})
