"""The names of tensors in adapter files: which linear layer each belongs to. Imports no torch.

Several programs write adapters, each with names of its own. A name is the path of a linear layer in
diffusers' transformer, dotted or with underscores, between a prefix and the name of a part.

| written by | names |
| --- | --- |
| LyCORIS, SimpleTuner and this project (LoKr) | ``lycoris_<underscored>.lokr_w1`` |
| diffusers, SimpleTuner and this project (LoRA) | ``transformer.<dotted>.lora_A.weight`` |
| ComfyUI | ``diffusion_model.<dotted>.…``, or the dotted path alone |
| kohya's scripts | ``lora_unet_<underscored>.lora_down.weight``, ``….lokr_w1`` |

Sources: lycoris 4.1.3; diffusers 0.42.1, loaders/lora_pipeline.py; Comfy-Org/ComfyUI at a125cd84,
comfy/lora.py and comfy/weight_adapter.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

from trainer_core.config.plan.shapes import LinearShape
from trainer_core.errors import AdapterFileError

Kind = Literal["lokr", "lora"]

_DOTTED: Final = ("transformer.", "diffusion_model.", "")
_UNDERSCORED: Final = ("lycoris_", "lora_unet_", "lora_transformer_")
LOKR_PARTS: Final = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
_LORA_PARTS: Final[Mapping[str, str]] = {
    "lora_A.weight": "lora_A",
    "lora_A.default.weight": "lora_A",
    "lora_down.weight": "lora_A",
    "lora.down.weight": "lora_A",
    "lora_B.weight": "lora_B",
    "lora_B.default.weight": "lora_B",
    "lora_up.weight": "lora_B",
    "lora.up.weight": "lora_B",
}
ALPHA: Final = "alpha"
_PARTS: Final[Mapping[str, tuple[Kind | None, str]]] = {
    **{part: ("lokr", part) for part in LOKR_PARTS},
    **{written: ("lora", part) for written, part in _LORA_PARTS.items()},
    ALPHA: (None, ALPHA),
}
"""What follows the path in a name → the kind of adapter (None: either), and the part's own name."""
_OTHER_KINDS: Final[Mapping[str, str]] = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w1": "LoHa",
    "oft_": "OFT",
    "lokr_t2": "LoKr of convolutions",
    "lora_mid": "LoRA of convolutions",
}
"""A part of a name → the kind of adapter that it tells, none of which is built."""
_ADAPTERS: Final = ("lokr_", "lora_", "lora.", *_OTHER_KINDS)
"""What the name of a tensor of any adapter contains."""
_TEXT_ENCODERS: Final = ("lora_te", "text_encoder", "text_encoders.")
_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterKeys:
    """The tensors of an adapter file by what they are."""

    kind: Kind
    modules: Mapping[str, Mapping[str, str]]
    """Path of a linear layer, in the model's order → part (``lokr_w1``, ``lora_A``, ``alpha``) →
    name in the file. Never empty."""


def sort_keys(file: str, names: Collection[str], linears: Iterable[LinearShape]) -> AdapterKeys:
    """What the tensors of an adapter file are.

    Args:
        file: its name, for messages.
        names: of its tensors.
        linears: linear layers of the base model; see ``hidream_linears``.

    Raises AdapterFileError where a tensor is of no linear layer of the base model, is there twice,
    or is of another kind of adapter.
    """
    paths = [linear.path for linear in linears]
    places = _places(paths)
    found: dict[str, dict[str, str]] = {}
    kinds: dict[Kind, str] = {}
    foreign: list[str] = []
    for name in names:
        place = _place(name, places)
        if place is None:
            foreign.append(name)
            continue
        path, kind, part = place
        if part in found.setdefault(path, {}):
            raise AdapterFileError(f"{file}: {name} and {found[path][part]} are the same tensor")
        found[path][part] = name
        if kind is not None:
            kinds.setdefault(kind, name)
    if not any(part in name for name in names for part in _ADAPTERS):
        raise AdapterFileError(f"{file} contains neither a LoKr nor a LoRA")
    if foreign:
        raise AdapterFileError(_about_foreign(file, foreign, len(names)))
    if len(kinds) != 1:
        what = " and ".join(kinds.values()) or "only alphas"
        raise AdapterFileError(f"{file} holds no LoKr and no LoRA alone: {what}")
    (kind,) = kinds
    return AdapterKeys(kind=kind, modules={path: found[path] for path in paths if path in found})


def _places(paths: Iterable[str]) -> dict[str, str]:
    """Every way to write the path of a linear layer, with its prefix → the path."""
    return dict(
        chain.from_iterable(
            chain(
                ((prefix + path, path) for prefix in _DOTTED),
                ((prefix + path.replace(".", "_"), path) for prefix in _UNDERSCORED),
            )
            for path in paths
        )
    )


def _place(name: str, places: Mapping[str, str]) -> tuple[str, Kind | None, str] | None:
    """(path, kind, part) of a tensor; None where it is of no linear layer, or of no known kind."""
    for written, (kind, part) in _PARTS.items():
        if name.endswith(f".{written}"):
            path = places.get(name[: -len(written) - 1])
            if path is not None:
                return path, kind, part
    return None


def _about_foreign(file: str, foreign: list[str], total: int) -> str:
    """Why the file is refused: tensors that are nothing here."""
    for name in foreign:
        for part, kind in _OTHER_KINDS.items():
            if part in name:
                return f"{file} holds a {kind} ({name}), which is not built; LoKr and LoRA are"
    shown = ", ".join(foreign[:_NAMED]) + (", …" if len(foreign) > _NAMED else "")
    if all(name.startswith(_TEXT_ENCODERS) for name in foreign):
        return (
            f"{file} also changes text encoders, which are not trained here: {len(foreign)} of its "
            f"{total} tensors, {shown}"
        )
    return (
        f"{file}: {len(foreign)} of its {total} tensors belong to no linear layer of this base "
        f"model: {shown}"
    )
