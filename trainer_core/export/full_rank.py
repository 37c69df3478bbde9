"""Write and read all weights of a transformer in diffusers' layout, in any dtype."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer_core.export import transformer_folder
from trainer_core.export.transformer_folder import NAME, file_names, write_config, write_index


def write_transformer(
    folder: Path, config: Mapping[str, Any], parameters: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Create ``folder`` with config.json and weights that `from_pretrained` loads.

    ``parameters`` are read one by one, so memory holds at most one file of them. Raises ValueError
    if there are none.
    """
    folder.mkdir(parents=True)
    drafts: list[Path] = []
    parts: list[list[str]] = []
    size_bytes = 0
    for tensors in _split(parameters):
        drafts.append(folder / f"{NAME}.part{len(drafts)}")
        save_file(tensors, drafts[-1], metadata={"format": "pt"})
        parts.append(list(tensors))
        size_bytes += sum(each.nbytes for each in tensors.values())
    if not drafts:
        raise ValueError("a transformer without parameters")
    write_config(folder, config)
    files = file_names(len(drafts))
    for draft, file in zip(drafts, files, strict=True):
        draft.rename(folder / file)
    if len(files) > 1:
        write_index(folder, files, parts, size_bytes)


def read_transformer(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The inverse of ``write_transformer``: each stored weight in its own dtype, one at a time.

    Raises OSError or ValueError if ``folder`` does not contain a transformer.
    """
    index = folder / f"{NAME}.safetensors.index.json"
    names = {f"{NAME}.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    for name in sorted(names):
        if Path(name).name != name:
            raise ValueError(f"{index} names a file elsewhere: {name}")
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                yield key, file.get_tensor(key)


def _split(
    parameters: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[dict[str, torch.Tensor]]:
    part: dict[str, torch.Tensor] = {}
    size_bytes = 0
    for name, tensor in parameters:
        if part and size_bytes + tensor.nbytes > transformer_folder.FILE_BYTES:
            yield part
            part, size_bytes = {}, 0
        part[name] = tensor.detach().cpu().contiguous()
        size_bytes += tensor.nbytes
    if part:
        yield part
