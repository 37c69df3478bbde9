"""Merge an adapter into the weights of its base model: add in fp32, then cast.

The cast to bf16 rounds small changes away. The report says how much of the adapter is lost.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import nn

from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.errors import AdapterFileError, BaseModelError
from trainer_core.export.adapter_file import AdapterFile, ModuleDelta, read_adapter
from trainer_core.export.drafts import check_new_folder, folder_at_once
from trainer_core.export.full_rank import read_transformer, write_transformer

REPORT_NAME: Final = "merge.json"
_WEIGHT: Final = ".weight"


@dataclass(kw_only=True, slots=True)
class MergeReport:
    """How much of the adapter the cast to the target dtype loses, as squared 2-norms."""

    changed: dict[str, float] = field(default_factory=dict)
    """Module → squared norm of the adapter's change Δ."""
    lost: dict[str, float] = field(default_factory=dict)
    """Module → squared norm of cast(W + Δ) - W - Δ."""

    @property
    def share(self) -> float:
        """Norm of the loss divided by the norm of the change, over all modules."""
        return _share(sum(self.lost.values()), sum(self.changed.values()))

    def worst(self, count: int) -> list[tuple[str, float]]:
        """The ``count`` modules that lose the largest share, each with its share."""
        shares = {path: _share(self.lost[path], self.changed[path]) for path in self.changed}
        return sorted(shares.items(), key=lambda item: -item[1])[:count]


def _share(lost: float, changed: float) -> float:
    return math.sqrt(lost / changed) if changed > 0 else 0.0


def check_multiplier(multiplier: float) -> None:
    """Raise AdapterFileError if the strength is not finite: every weight would become NaN."""
    if not math.isfinite(multiplier):
        raise AdapterFileError(f"the multiplier {multiplier} is not finite; 1 is as trained")


def merge_into(model: nn.Module, adapter: AdapterFile, multiplier: float) -> MergeReport:
    """Add the adapter to the weights of a model in memory. The weights keep their dtype.

    Call it before quantisation: a change of a quantised weight has no effect.

    Raises:
        AdapterFileError: ``multiplier`` or a merged weight is not finite.
        BaseModelError: a module is missing or is not a plain linear layer, for example because it
            is quantised or has an adapter attached.
    """
    check_multiplier(multiplier)
    report = MergeReport()
    for path, delta in adapter.deltas.items():
        try:
            linear = model.get_submodule(path)
        except AttributeError as error:
            raise BaseModelError(f"the base model has no module {path}") from error
        if type(linear) is not nn.Linear:
            raise BaseModelError(
                f"{path} is a {type(linear).__name__}: an adapter is merged into plain linear "
                "layers only; merge first, then quantise"
            )
        with torch.no_grad():
            matrix = delta.matrix().to(linear.weight.device) * multiplier
            linear.weight.copy_(_merged(report, path, linear.weight, matrix, linear.weight.dtype))
    return report


def merge_folder(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    dtype: torch.dtype,
    multiplier: float,
    on_module: Callable[[int, int], None],
) -> MergeReport:
    """Write ``output/transformer``: the base model's transformer with the adapter merged in.

    The folder appears complete or not at all. Weights are merged one by one, so memory holds at
    most one output file of 10 GB.

    Args:
        base: a base model's folder in diffusers' layout.
        adapter: a LoKr or LoRA file; see ``read_adapter``.
        output: a new or an empty folder.
        dtype: type of all weights written.
        multiplier: strength; 1 is the adapter as trained.
        on_module: called after each module with the number of merged modules and of all modules.

    Raises:
        OutputError: ``output`` exists and is not an empty folder.
        BaseModelError: ``base`` is quantised or cannot be read.
        AdapterFileError: see ``read_adapter``; or ``multiplier`` or a merged weight is not finite.
    """
    check_multiplier(multiplier)
    check_new_folder(output)
    config = read_transformer_config(base)
    deltas = read_adapter(adapter, hidream_linears(config)).deltas
    report = MergeReport()

    with folder_at_once(output) as draft:
        weights = _merged_weights(
            base, deltas, report=report, dtype=dtype, multiplier=multiplier, on_module=on_module
        )
        write_transformer(draft / "transformer", config, weights)
        missing = sorted(deltas.keys() - report.changed.keys())
        if missing:
            raise BaseModelError(f"{base} lacks {len(missing)} weights, such as {missing[0]}")
        facts = _facts(report, adapter, dtype, multiplier)
        body = json.dumps(facts, indent=2, allow_nan=False) + "\n"
        (draft / REPORT_NAME).write_text(body, encoding="utf-8")
    return report


def _merged_weights(
    base: Path,
    deltas: Mapping[str, ModuleDelta],
    *,
    report: MergeReport,
    dtype: torch.dtype,
    multiplier: float,
    on_module: Callable[[int, int], None],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the base model in ``dtype``, with the adapter added; fills ``report``."""
    for name, weight in _stored(base):
        path = name.removesuffix(_WEIGHT)
        if path in deltas and name.endswith(_WEIGHT):
            matrix = deltas[path].matrix() * multiplier
            yield name, _merged(report, path, weight, matrix, dtype)
            on_module(len(report.changed), len(deltas))
        else:
            yield name, weight.to(dtype)


def read_transformer_config(base: Path) -> dict[str, Any]:
    """The transformer's config.json; raises BaseModelError for a quantised or unreadable model."""
    path = base / "transformer" / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{path} cannot be read: {error}. The base model is a folder as diffusers writes it"
        ) from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} is not an object")
    if "quantization_config" in config:
        raise _quantised(base)
    return config


def _stored(base: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The base model's weights; raises BaseModelError if one is unreadable or quantised."""
    folder = base / "transformer"
    try:
        for name, weight in read_transformer(folder):
            if not weight.is_floating_point() or weight.element_size() < 2:
                raise _quantised(base)
            yield name, weight
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BaseModelError(f"the weights in {folder} cannot be read: {error}") from error


def _quantised(base: Path) -> BaseModelError:
    return BaseModelError(
        f"{base} is quantised: an adapter is merged into the full weights; merge first, then "
        "quantise"
    )


def _merged(
    report: MergeReport,
    path: str,
    weight: torch.Tensor,
    matrix: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """cast(W + Δ). Adds the loss of the cast, computed in float64, to the report.

    Raises AdapterFileError if the sum is not finite.
    """
    cast = (weight.float() + matrix).to(dtype)
    lost = cast.double() - weight.double() - matrix.double()
    report.changed[path] = float(matrix.double().square().sum())
    report.lost[path] = float(lost.square().sum())
    if not math.isfinite(report.changed[path] + report.lost[path]):
        raise AdapterFileError(
            f"{path}: the merged weights are not finite; use a smaller multiplier"
        )
    return cast


def _facts(
    report: MergeReport, adapter: Path, dtype: torch.dtype, multiplier: float
) -> dict[str, object]:
    return {
        "adapter": adapter.name,
        "multiplier": multiplier,
        "dtype": str(dtype).removeprefix("torch."),
        "modules": len(report.changed),
        "lost_share": report.share,
        "worst": [{"module": path, "lost_share": share} for path, share in report.worst(10)],
    }
