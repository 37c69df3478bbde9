"""Adapters with random values, and their deltas computed in float64 without the project's code."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from lycoris.modules.lokr import LokrModule
from safetensors.torch import load
from torch import nn

from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter
from trainer_core.export.origin import ADAPTER_NAME, Origin, Weights
from trainer_core.export.parameters_in_memory import ParametersInMemory
from trainer_core.export.write_adapter import write_adapter

PATHS: Final = (
    "double_stream_blocks.0.block.attn1.to_q",
    "double_stream_blocks.0.block.attn1.to_out",
    "double_stream_blocks.0.block.attn1.to_v_t",
    "double_stream_blocks.1.block.ff_i.shared_experts.w1",
    "double_stream_blocks.1.block.ff_i.experts.2.w2",
    "double_stream_blocks.0.block.ff_t.w3",
    "single_stream_blocks.0.block.attn1.to_k",
    "single_stream_blocks.1.block.ff_i.experts.0.w1",
    "single_stream_blocks.1.block.attn1.to_v",
)
"""Square, high and wide linears of the tiny model; image, text, shared and routed ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One adapter."""

    adapter: LokrAdapter | LoraAdapter
    parameters: dict[str, torch.Tensor]
    """By logical name, fp32."""
    deltas: dict[str, torch.Tensor]
    """By path, [out, in], float64: what each module adds to the weight of its linear."""

    def write(self, folder: Path, weights: Weights = "live") -> Path:
        """The adapter's file in a new folder."""
        folder.mkdir()
        origin = Origin(base_model="hidream-tiny", step=7, weights=weights)
        write_adapter(folder, self.adapter, ParametersInMemory(self.parameters), origin)
        return folder / ADAPTER_NAME


def checkpoint_of(example: Example, folder: Path, *, has_mean: bool) -> Path:
    """A checkpoint of a run that trains the example; ``has_mean``: that keeps a running mean."""
    run = CheckpointIdentity(
        identity_digest="1" * 64,
        identity={"adapter": example.adapter.model_dump(mode="json")},
        data_digest="2" * 64,
        base_digest="3" * 64,
        matmul="auto",
    )
    others = {name: tensor + 1 for name, tensor in example.parameters.items()}
    trained = TrainedTensors(
        parameters=others if has_mean else example.parameters,
        optimizer_state={f"optim/{name}/exp_avg": each.clone() for name, each in others.items()},
        ema=example.parameters if has_mean else {},
    )
    return write_checkpoint(
        folder, CheckpointFacts(step=7, cursor=7, run=run, scalars={}), trained
    ).path


def exported(
    parameters: Mapping[str, torch.Tensor], adapter: LokrAdapter | LoraAdapter
) -> dict[str, torch.Tensor]:
    """The tensors of the adapter file that a run with these parameters would write."""
    origin = Origin(base_model="hidream-tiny", step=1, weights="live")
    with TemporaryDirectory() as folder:
        write_adapter(Path(folder), adapter, ParametersInMemory(parameters), origin)
        return load((Path(folder) / ADAPTER_NAME).read_bytes())


def lokr_example(
    model: nn.Module,
    *,
    factor: int,
    dim: int,
    alpha: float = 1.0,
    full_matrix: bool = False,
    decompose_both: bool = False,
    multiplier: float = 1.0,
    scalar: float | None = None,
    size: float = 0.3,
    paths: tuple[str, ...] = PATHS,
) -> Example:
    """LoKr on the linears ``paths`` of ``model``, with random values.

    Args:
        scalar: None where it is not trained.
        size: standard deviation of w1's entries; that of w2's is 0.3.
    """
    parameters: dict[str, torch.Tensor] = {}
    deltas = {}
    draw = torch.Generator().manual_seed(4)
    for path in paths:
        linear: Any = model.get_submodule(path)
        upstream = LokrModule(
            "upstream", nn.Linear(linear.in_features, linear.out_features, bias=False),
            lora_dim=dim, alpha=alpha, factor=factor, full_matrix=full_matrix,
            decompose_both=decompose_both,
        )  # fmt: skip
        values = _random_lokr(upstream, dim=dim, size=size, draw=draw)
        parameters |= {f"{path}.{name}": value for name, value in values.items()}
        if scalar is not None:
            parameters[f"{path}.scalar"] = torch.tensor([scalar])
        is_decomposed = "w1" not in values or "w2" not in values
        strength = multiplier * (alpha / dim if is_decomposed else 1.0)
        strength *= 1.0 if scalar is None else float(torch.tensor(scalar).double())
        deltas[path] = strength * torch.kron(_whole(values, "w1"), _whole(values, "w2"))
    adapter = LokrAdapter(
        full_matrix=full_matrix,
        factor=factor,
        linear_dim=dim,
        linear_alpha=alpha,
        decompose_both=decompose_both,
        multiplier=multiplier,
        use_scalar=scalar is not None,
        modules=tuple(
            AdaptedModule(
                path=path, factor=factor, dim=dim, alpha=alpha, full_matrix=full_matrix,
                decompose_both=decompose_both, use_scalar=scalar is not None,
            )
            for path in paths
        ),
    )  # fmt: skip
    return Example(adapter=adapter, parameters=parameters, deltas=deltas)


def _random_lokr(
    upstream: nn.Module, *, dim: int, size: float, draw: torch.Generator
) -> dict[str, torch.Tensor]:
    """Random values by name without ``lokr_``, with the shapes of LyCORIS' module."""
    values = {}
    for name, parameter in upstream.named_parameters():
        short = name.removeprefix("lokr_")
        scale = size if short.startswith("w1") else 0.3
        if "_" in short:  # one of two factors, whose product has entries like a whole matrix
            scale = math.sqrt(scale / math.sqrt(dim))
        values[short] = torch.randn(parameter.shape, generator=draw) * scale
    return values


def lora_example(model: nn.Module, *, rank: int, alpha: float, size: float = 0.3) -> Example:
    """LoRA on some linears of ``model``."""
    parameters: dict[str, torch.Tensor] = {}
    deltas = {}
    draw = torch.Generator().manual_seed(4)
    for path in PATHS:
        linear: Any = model.get_submodule(path)
        down = torch.randn(rank, linear.in_features, generator=draw) * size
        up = torch.randn(linear.out_features, rank, generator=draw) * size
        parameters |= {f"{path}.lora_A": down, f"{path}.lora_B": up}
        deltas[path] = alpha / rank * (up.double() @ down.double())
    adapter = LoraAdapter(rank=rank, alpha=alpha, dropout=0.1, init="default", modules=PATHS)
    return Example(adapter=adapter, parameters=parameters, deltas=deltas)


EXAMPLES: Final[dict[str, Callable[[nn.Module], Example]]] = {
    "lokr-full": partial(lokr_example, factor=4, dim=16384, full_matrix=True),
    "lokr-full-scalar": partial(lokr_example, factor=-1, dim=16384, full_matrix=True, scalar=-1.25),
    "lokr-low-rank": partial(lokr_example, factor=4, dim=4, alpha=1.0, size=1.2),
    "lokr-both-low-rank": partial(
        lokr_example, factor=8, dim=2, alpha=0.5, decompose_both=True, size=1.2, scalar=0.8
    ),
    "lokr-mixed": partial(lokr_example, factor=4, dim=12, alpha=5.0, multiplier=0.7, scalar=-1.3),
    "lora": partial(lora_example, rank=8, alpha=3.0),
}
"""``mixed``: w2 is whole in some modules and decomposed in others."""


def _whole(values: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in values:
        return values[name].double()
    return values[f"{name}_a"].double() @ values[f"{name}_b"].double()


def add_to_weights(model: nn.Module, deltas: dict[str, torch.Tensor]) -> None:
    """W + Δ in float64, then in the type of W."""
    with torch.no_grad():
        for path, delta in deltas.items():
            weight: Any = model.get_submodule(path).weight
            weight.copy_(weight.double() + delta)


def add_to_outputs(model: nn.Module, deltas: dict[str, torch.Tensor]) -> None:
    """x · Δᵀ beside each linear, whatever holds its weight."""
    for path, delta in deltas.items():

        def added(_: Any, inputs: Any, output: Any, delta: torch.Tensor = delta) -> torch.Tensor:
            changed: torch.Tensor = output + inputs[0] @ delta.to(inputs[0].dtype).T
            return changed

        model.get_submodule(path).register_forward_hook(added)


def inputs_of(config: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Arguments of one forward of a HiDream transformer, two samples of 8 × 8 cells."""
    draw = torch.Generator().manual_seed(9)
    t5_width, llama_width = config.caption_channels
    layers = max(config.llama_layers) + 1

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    return {
        "hidden_states": normal(2, config.in_channels, 8, 8),
        "timesteps": torch.tensor([300.0, 712.5]),
        "encoder_hidden_states_t5": normal(2, 8, t5_width),
        "encoder_hidden_states_llama3": normal(layers, 2, 8, llama_width),
        "pooled_embeds": normal(2, config.text_emb_dim),
    }


@torch.no_grad()
def forward(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The model's output for ``inputs_of``, in float64."""
    model.eval()
    arguments = inputs_of(model.config, dtype)
    answer: torch.Tensor = model(**arguments, return_dict=False)[0]
    return answer.double()
