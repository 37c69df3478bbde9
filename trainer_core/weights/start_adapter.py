"""Whether an adapter file fits the adapter that a run trains, by its header. Imports no torch."""

import math
from collections.abc import KeysView, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter
from trainer_core.config.plan.problems import ProblemCode
from trainer_core.config.plan.shapes import LinearShape, lokr_shapes
from trainer_core.errors import AdapterFileError
from trainer_core.weights.adapter_keys import ALPHA, LOKR_PARTS, Kind, sort_keys
from trainer_core.weights.entries import Entry, Header, quoted
from trainer_core.weights.lora_config import lora_config

SCALAR: Final = "scalar"
MAX_HEADER_BYTES: Final = 16 << 20
"""Of an adapter file: five tensors of each linear layer take a megabyte, notes about the training
some more."""
MAX_UPLOAD_HEADER_BYTES: Final = 2 << 20
"""Of one that a tenant uploads: the API reads it with every request that names the file."""
MAX_UPLOAD_BYTES: Final = 2 << 30
"""Of such a file as a whole."""

_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_NAMES_OF_KIND: Final[Mapping[Kind, str]] = {"lokr": "LoKr", "lora": "LoRA"}
_NAMED: Final = 3

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundStart:
    """The file whose adapter a run starts from."""

    name: str
    """What messages call it."""
    sha256: str
    header: Header | None
    """None: it is not uploaded yet, and nobody can tell whether it fits."""
    path: Path | None = None
    """The file, where it is on this machine."""
    state: "StateFile | None" = None
    """Set where the file is the state of a checkpoint; None: it is an adapter file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartProblem:
    """Why no run can start from what ``init_lora`` names."""

    code: ProblemCode
    message: str
    """Without the full stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateFile:
    """How the adapter lies in the state file of a checkpoint."""

    prefix: str
    """Of the names of its tensors: ``<prefix><path>.w1``."""
    adapter: LokrAdapter | LoraAdapter
    """What it was trained as."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAdapter:
    """The tensors of an adapter by what they are."""

    kind: Kind
    modules: Mapping[str, Mapping[str, str]]
    """Path → part → name in the file, as in ``AdapterKeys``; a checkpoint may have ``scalar``."""
    entries: Mapping[str, Entry]
    """By name in the file."""

    def shapes(self, path: str) -> dict[str, Shape]:
        """Part → shape of the matrices of one module."""
        return {
            part: self.entries[name].shape
            for part, name in self.modules[path].items()
            if part not in (ALPHA, SCALAR)
        }


def stored_adapter(
    file: str, header: Header, linears: Sequence[LinearShape], state: "StateFile | None" = None
) -> StoredAdapter:
    """What the tensors of a file are.

    Args:
        file: its name, for messages.
        header: of the file.
        linears: linear layers of the base model; see ``hidream_linears``.
        state: set where the file is the state of a checkpoint.

    Raises AdapterFileError where the file holds no adapter, or one that is not whole.
    """
    if state is None:
        keys = sort_keys(file, header.entries.keys(), linears)
        found = StoredAdapter(kind=keys.kind, modules=keys.modules, entries=header.entries)
        _check_count(file, len(found.modules), header.metadata.get("modules"))
        lora_config(file, header.metadata)
    else:
        found = _of_state(file, state, header, linears)
    for path, parts in found.modules.items():
        for part, name in parts.items():
            _check_entry(f"{file}: {path}", part, found.entries[name])
        _check_pairs(file, path, found.shapes(path))
    return found


def _check_count(file: str, count: int, stated: str | None) -> None:
    if stated is not None and stated != str(count):
        raise AdapterFileError(
            f"{file} holds {count} modules and says that it has {quoted(stated)}"
        )


def _of_state(
    file: str, state: StateFile, header: Header, linears: Sequence[LinearShape]
) -> StoredAdapter:
    found: dict[str, dict[str, str]] = {}
    for name in header.entries:
        if name.startswith(state.prefix):
            path, _, part = name.removeprefix(state.prefix).rpartition(".")
            known = f"lokr_{part}"
            found.setdefault(path, {})[known if known in LOKR_PARTS else part] = name
    paths = [linear.path for linear in linears]
    if foreign := [path for path in found if path not in set(paths)]:
        raise AdapterFileError(f"{file} is of another base model: it adapts {_few(foreign)}")
    if not found:
        raise AdapterFileError(f"{file} holds no adapter")
    return StoredAdapter(
        kind=state.adapter.kind,
        modules={path: found[path] for path in paths if path in found},
        entries=header.entries,
    )


def _check_entry(module: str, part: str, entry: Entry) -> None:
    """``module``: file and path."""
    if part in (ALPHA, SCALAR):
        if math.prod(entry.shape) != 1:
            raise AdapterFileError(f"{module} has an {part} of {math.prod(entry.shape)} numbers")
        return
    if entry.dtype not in _FLOATS:
        raise AdapterFileError(f"{module} has {part} in {entry.dtype}; an adapter has floats")
    if len(entry.shape) != 2 or 0 in entry.shape:
        raise AdapterFileError(f"{module} has a factor of shape {entry.shape}, which is no matrix")


def _check_pairs(file: str, path: str, shapes: Mapping[str, Shape]) -> None:
    """Raise AdapterFileError where a matrix is missing, is there twice, or two do not fit."""
    if "lora_A" in shapes or "lora_B" in shapes:
        whole = [("lora_B", "lora_A")]
        if len(shapes) != 2:
            raise AdapterFileError(f"{file}: {path} lacks one of its two matrices")
    else:
        whole = []
        for matrix in ("lokr_w1", "lokr_w2"):
            pair = f"{matrix}_a", f"{matrix}_b"
            is_pair = pair[0] in shapes and pair[1] in shapes
            if (matrix in shapes) == is_pair or (pair[0] in shapes) != (pair[1] in shapes):
                raise AdapterFileError(f"{file}: {path} lacks {matrix}, or has it twice")
            whole += [pair] if is_pair else []
    for left, right in whole:
        if shapes[left][1] != shapes[right][0]:
            raise AdapterFileError(f"{file}: {path} has matrices of two ranks")


def misfit(
    adapter: LokrAdapter | LoraAdapter, stored: StoredAdapter, linears: Sequence[LinearShape]
) -> str | None:
    """Why a run with this adapter cannot start from the stored one, in words; None: it can."""
    if stored.kind != adapter.kind:
        return _about_kind(stored, adapter)
    by_path = {linear.path: linear for linear in linears}
    for path in stored.modules:
        linear = by_path[path]
        changed, has = _changed(stored.shapes(path)), (linear.out_features, linear.in_features)
        if changed != has:
            return (
                f"it was made for another base model: {path} is a linear layer of {_shown(changed)}"
                f" there, and of {_shown(has)} here"
            )
    wanted = _wanted(adapter, by_path)
    if different := _about_modules(wanted.keys(), stored.modules.keys(), adapter.kind):
        return different
    wrong = [path for path in wanted if wanted[path] != stored.shapes(path)]
    return _about_shapes(wrong, wanted, stored, adapter) if wrong else None


def _wanted(
    adapter: LokrAdapter | LoraAdapter, by_path: Mapping[str, LinearShape]
) -> dict[str, dict[str, Shape]]:
    """Path → part → shape, of the adapter that the run trains."""
    if isinstance(adapter, LoraAdapter):
        return {
            path: {
                "lora_A": (adapter.rank, by_path[path].in_features),
                "lora_B": (by_path[path].out_features, adapter.rank),
            }
            for path in adapter.modules
        }
    return {
        module.path: _of_module(
            module, by_path[module.path].out_features, by_path[module.path].in_features
        )
        for module in adapter.modules
    }


def _changed(shapes: Mapping[str, Shape]) -> Shape:
    """(out, in) of the weight that the matrices of a module change."""
    if "lora_A" in shapes:
        return shapes["lora_B"][0], shapes["lora_A"][1]
    sides = [
        shapes.get(matrix) or (shapes[f"{matrix}_a"][0], shapes[f"{matrix}_b"][1])
        for matrix in ("lokr_w1", "lokr_w2")
    ]
    return sides[0][0] * sides[1][0], sides[0][1] * sides[1][1]


def _about_kind(stored: StoredAdapter, adapter: LokrAdapter | LoraAdapter) -> str:
    there, here = _NAMES_OF_KIND[stored.kind], _NAMES_OF_KIND[adapter.kind]
    way = (
        "set lora_type to lycoris and describe it in the LyCORIS config"
        if stored.kind == "lokr"
        else "set lora_type to standard and lora_rank to its rank"
    )
    return f"it holds a {there}, and this run trains a {here}: {way}"


def _about_modules(wanted: KeysView[str], found: KeysView[str], kind: Kind) -> str | None:
    extra = [path for path in found if path not in wanted]
    missing = [path for path in wanted if path not in found]
    if not extra and not missing:
        return None
    differs = []
    if extra:
        differs.append(f"it has {len(extra)} modules that this run does not adapt ({_few(extra)})")
    if missing:
        differs.append(
            f"it lacks {len(missing)} of the {len(wanted)} modules that this run adapts "
            f"({_few(missing)})"
        )
    where = "apply_preset in the LyCORIS config" if kind == "lokr" else "peft_lora_target_modules"
    return f"{' and '.join(differs)}: name the file's modules in {where}"


def _about_shapes(
    wrong: Sequence[str],
    wanted: Mapping[str, Mapping[str, Shape]],
    stored: StoredAdapter,
    adapter: LokrAdapter | LoraAdapter,
) -> str:
    if isinstance(adapter, LoraAdapter):
        ranks = sorted({stored.shapes(path)["lora_A"][0] for path in stored.modules})
        if len(ranks) == 1:
            return f"its rank is {ranks[0]} and lora_rank is {adapter.rank}: set lora_rank to it"
        shown = ", ".join(str(rank) for rank in ranks)
        return f"its modules have the ranks {shown}, and all modules of a run have one rank"
    path = wrong[0]
    there, here = _matrices(stored.shapes(path)), _matrices(wanted[path])
    return (
        f"{len(wrong)} of its {len(stored.modules)} modules have other matrices than this run's, "
        f"such as {path} with {there} there and {here} here: set factor, linear_dim, full_matrix "
        f"and decompose_both as they were{_fitting_factor(wrong, stored, adapter)}"
    )


def _fitting_factor(wrong: Sequence[str], stored: StoredAdapter, adapter: LokrAdapter) -> str:
    """The factor with which the run would fit, in words; empty where the factor is not all."""
    modules = {module.path: module for module in adapter.modules}
    for factor in sorted({side for shape in stored.shapes(wrong[0]).values() for side in shape}):
        if all(
            stored.shapes(path)
            == _of_module(
                modules[path].model_copy(update={"factor": factor}), *_changed(stored.shapes(path))
            )
            for path in wrong
        ):
            return f" (factor {factor} fits)"
    return ""


def _of_module(module: AdaptedModule, out_features: int, in_features: int) -> dict[str, Shape]:
    """Part → shape of a LoKr module, without its scalar."""
    shapes = lokr_shapes(module, in_features, out_features)
    return {f"lokr_{name}": shape for name, shape in shapes.items() if name != SCALAR}


def _matrices(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(
        f"{part.removeprefix('lokr_')} {_shown(shape)}" for part, shape in sorted(shapes.items())
    )


def _few(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_NAMED]) + (", …" if len(paths) > _NAMED else "")


def _shown(shape: Shape) -> str:
    return " x ".join(str(side) for side in shape)
