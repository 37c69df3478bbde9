"""LyCORIS' file format of a trained LoKr, without tensors; ComfyUI reads it too. Imports no torch.

At strength 1 every reader gets the adapter as trained, because scalar, alpha / dim and multiplier
are multiplied into the smallest matrix. Readers disagree on all three. LyCORIS' loader
ignores the scalar. Its ``merge_to()`` drops the loader's multiplier and applies alpha / dim twice.
ComfyUI ignores scalar and multiplier.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import AdaptedModule, LokrAdapter
from trainer_core.config.plan.shapes import lokr_scale
from trainer_core.export.file_tensors import FileTensor

CONFIG_NAME: Final = "lycoris_config.json"
PREFIX: Final = "lycoris_"

_FACTORS: Final = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
_SCALED: Final = ("w1", "w1_a")
"""The factor that is scaled: w1, the smallest matrix, or w1_a, its first factor."""


def lycoris_layout(
    adapter: LokrAdapter,
    shapes: Mapping[str, tuple[int, ...]],
    scalar_of: Callable[[str], float],
) -> list[FileTensor]:
    """``lycoris_<path with underscores>.lokr_w1`` and so on; each module also has an alpha.

    Args:
        adapter: names the modules.
        shapes: of all parameters, ``<path>.w1`` and so on.
        scalar_of: the value of a parameter of one element.

    Raises KeyError where a module lacks its matrices.
    """
    found: list[FileTensor] = []
    for module in adapter.modules:
        own = _shapes_of(shapes, module.path)
        scale = adapter.multiplier * lokr_scale(module, own)
        scalar = f"{module.path}.scalar"
        if scalar in shapes:
            scale *= scalar_of(scalar)
        found += [
            FileTensor(
                name=f"{_key_of(module)}.lokr_{name}",
                parameter=f"{module.path}.{name}",
                scale=scale if name in _SCALED else 1.0,
            )
            for name in own
        ]
    return found


def lycoris_alphas(adapter: LokrAdapter) -> dict[str, float]:
    """The alpha of each module, by its name in the file.

    It equals the rank of a decomposed matrix, so alpha / dim is 1, and a reader may apply it twice.
    """
    return {f"{_key_of(module)}.alpha": float(module.dim) for module in adapter.modules}


def lycoris_config(adapter: LokrAdapter, parameters: Collection[str]) -> dict[str, JsonValue]:
    """A LyCORIS config with which the file's matrices give the trained network.

    Every module is named, because the user's own patterns may match other classes in another model,
    and LyCORIS adapts all linear layers if ``target_module`` is missing. Names are matched as shell
    patterns: as a regular expression, ``to_q`` would match ``to_q_t`` too. ``parameters``: names.
    """
    overrides: dict[str, JsonValue] = {}
    for module in adapter.modules:
        own = _overrides(adapter, module, is_decomposed=_is_decomposed(parameters, module.path))
        if own:
            overrides[module.path] = {"algo": "lokr", **own}
    preset: dict[str, JsonValue] = {
        "target_module": [],
        "target_name": [module.path for module in adapter.modules],
        "use_fnmatch": True,
    }
    if overrides:
        preset["name_algo_map"] = overrides
    return {
        "algo": "lokr",
        "multiplier": 1.0,  # folded
        "linear_dim": adapter.linear_dim,
        "linear_alpha": adapter.linear_alpha,
        "full_matrix": adapter.full_matrix,
        "decompose_both": adapter.decompose_both,
        "use_scalar": adapter.use_scalar,
        "factor": adapter.factor,
        "apply_preset": preset,
    }


def _key_of(module: AdaptedModule) -> str:
    return PREFIX + module.path.replace(".", "_")


def _shapes_of(shapes: Mapping[str, tuple[int, ...]], path: str) -> dict[str, tuple[int, ...]]:
    found = {name: shapes[f"{path}.{name}"] for name in _FACTORS if f"{path}.{name}" in shapes}
    whole = {name.partition("_")[0] for name in found}
    if whole != {"w1", "w2"}:
        raise KeyError(f"{path}.{'w2' if 'w1' in whole else 'w1'}")
    return found


def _is_decomposed(parameters: Collection[str], path: str) -> bool:
    return f"{path}.w1_a" in parameters or f"{path}.w2_a" in parameters


def _overrides(
    adapter: LokrAdapter, module: AdaptedModule, *, is_decomposed: bool
) -> dict[str, JsonValue]:
    """The entries of this module that differ from the config's defaults."""
    # LyCORIS ignores alpha if both matrices are full; otherwise the file has alpha = dim.
    alpha = float(module.dim) if is_decomposed else adapter.linear_alpha
    pairs: tuple[tuple[str, JsonValue, JsonValue], ...] = (
        ("factor", module.factor, adapter.factor),
        ("dim", module.dim, adapter.linear_dim),
        ("alpha", alpha, adapter.linear_alpha),
        ("full_matrix", module.full_matrix, adapter.full_matrix),
        ("decompose_both", module.decompose_both, adapter.decompose_both),
        ("use_scalar", module.use_scalar, adapter.use_scalar),
    )
    return {name: value for name, value, common in pairs if value != common}
