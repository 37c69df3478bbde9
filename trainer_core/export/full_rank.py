"""Write and read all weights of a transformer in diffusers' layout."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_NAME: Final = "diffusion_pytorch_model"
_FILE_BYTES: Final = 10 << 30
"""The largest size of one file; more weights are split into several, as in diffusers."""


def write_transformer(
    folder: Path, config: Mapping[str, Any], parameters: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Create ``folder`` with config.json and weights that `from_pretrained` loads.

    ``parameters`` are read one by one, so memory holds at most one file of them. Raises ValueError
    if there are none.
    """
    folder.mkdir(parents=True)
    drafts: list[Path] = []
    places: list[list[str]] = []
    size_bytes = 0
    for tensors in _split(parameters):
        drafts.append(folder / f"{_NAME}.part{len(drafts)}")
        save_file(tensors, drafts[-1], metadata={"format": "pt"})
        places.append(list(tensors))
        size_bytes += sum(each.nbytes for each in tensors.values())
    if not drafts:
        raise ValueError("a transformer without parameters")
    described = {name: value for name, value in config.items() if name != "_name_or_path"}
    (folder / "config.json").write_text(
        json.dumps(described, indent=2, default=list) + "\n", encoding="utf-8"
    )
    if len(drafts) == 1:
        drafts[0].rename(folder / f"{_NAME}.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, (draft, names) in enumerate(zip(drafts, places, strict=True), start=1):
        final = f"{_NAME}-{number:05d}-of-{len(drafts):05d}.safetensors"
        draft.rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
    (folder / f"{_NAME}.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def read_transformer(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The inverse of ``write_transformer``: each stored weight in its own dtype, one at a time.

    Raises OSError or ValueError if ``folder`` does not contain a transformer.
    """
    index = folder / f"{_NAME}.safetensors.index.json"
    names = {f"{_NAME}.safetensors"}
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
        if part and size_bytes + tensor.nbytes > _FILE_BYTES:
            yield part
            part, size_bytes = {}, 0
        part[name] = tensor.detach().cpu().contiguous()
        size_bytes += tensor.nbytes
    if part:
        yield part
