"""A transformer with few blocks: diffusers' class with the peers' adapters, and ours.

Both get the same random weights, adapter values and batches. Device and model are arguments, so
all of it also runs with a small model on a CPU.
"""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Literal

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import MoEGate
from lycoris import LycorisNetwork, create_lycoris
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional

from benchmarks.step.measure import Gradient
from benchmarks.step.plans import quick_start
from benchmarks.step.weights import fill_adapter, random_model
from tests.support.lycoris_oracle import presets_put_back
from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter, Plan
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.engine.batch import Batch
from trainer_core.hidream.fused.blocks import FusedBlocks
from trainer_core.hidream.fused.build import fused_blocks
from trainer_core.hidream.network import Network, prepare
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.precision.compute import Compute

_DOUBLES: Final = 1
_SINGLES: Final = 2
_PATCH: Final = 2
_FACTOR: Final = 16
_RANK: Final = 16


@dataclass(frozen=True, slots=True)
class AdapterKind:
    """What is adapted, and how."""

    method: Literal["lokr", "lora"]
    parts: tuple[str, ...]
    """Every linear is adapted whose path has one of these parts."""

    def paths(self, transformer: Mapping[str, Any]) -> list[str]:
        paths = [linear.path for linear in hidream_linears(transformer)]
        return [path for path in paths if any(part in path for part in self.parts)]

    def adapter(self, transformer: Mapping[str, Any]) -> LokrAdapter | LoraAdapter:
        """The adapter of a plan."""
        paths = self.paths(transformer)
        if self.method == "lora":
            return LoraAdapter(
                rank=_RANK, alpha=_RANK, dropout=0.0, init="default", modules=tuple(paths)
            )
        stock = quick_start({}).identity.adapter
        assert isinstance(stock, LokrAdapter)
        module = stock.modules[0].model_dump()
        modules = tuple(AdaptedModule.model_validate({**module, "path": path}) for path in paths)
        return stock.model_copy(update={"modules": modules})


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a batch."""

    cells: tuple[int, int]
    """Height and width of the latents."""
    samples: int = 1
    t5_tokens: int = 128
    llama_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Model:
    """The network that is compared."""

    transformer: Mapping[str, Any]
    """Arguments of diffusers' class."""
    device: torch.device

    @classmethod
    def cut(cls, transformer: Mapping[str, Any], device: torch.device) -> "Model":
        """With one double-stream and two single-stream blocks. Both of these read the same layer of
        Llama, as the last blocks of HiDream-I1 do."""
        few = {
            "num_layers": _DOUBLES,
            "num_single_layers": _SINGLES,
            "llama_layers": [0, *([1] * _SINGLES)],
        }
        return cls({**transformer, **few}, device)

    def with_all_experts(self) -> "Model":
        """Every token gets all experts."""
        count = self.transformer["num_routed_experts"]
        return Model({**self.transformer, "num_activated_experts": count}, self.device)

    def weights(self, dtype: torch.dtype) -> HiDreamImageTransformer2DModel:
        return random_model(
            HiDreamImageTransformer2DModel,
            self.transformer,
            drawn_on=self.device,
            device=self.device,
            dtype=dtype,
        )

    def batch(self, shape: Shape, seed: int) -> Batch:
        """Random samples in float64. bf16 holds the values exactly."""
        draw = torch.Generator(self.device).manual_seed(seed)
        B, config = shape.samples, self.transformer
        t5, llama = config["caption_channels"]
        layers = max(config["llama_layers"]) + 1

        def normal(*sizes: int) -> torch.Tensor:
            drawn = torch.randn(sizes, generator=draw, device=self.device)
            return drawn.bfloat16().double()

        return Batch(
            noisy_BCHW=normal(B, config["in_channels"], *shape.cells),
            target_BCHW=normal(B, config["out_channels"], *shape.cells),
            sigmas_B=torch.rand(B, generator=draw, device=self.device),
            text=TextEmbeddings(
                normal(B, shape.t5_tokens, t5),
                normal(B, layers, shape.llama_tokens, llama),
                normal(B, config["text_emb_dim"]),
            ),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network computes of one batch."""

    velocity_BCHW: torch.Tensor
    """float64 on the CPU."""
    gradient: Gradient

    @classmethod
    def of(
        cls, velocity_BCHW: torch.Tensor, batch: Batch, trained: Mapping[str, nn.Parameter]
    ) -> "Answer":
        """Of a velocity with its graph; the loss is the mean squared error."""
        wide = torch.promote_types(velocity_BCHW.dtype, torch.float32)
        loss = functional.mse_loss(velocity_BCHW.to(wide), batch.target_BCHW.to(wide))
        return cls(velocity_BCHW.detach().double().cpu(), Gradient.of(loss, trained))


class Stock:
    """diffusers' model, adapted by LyCORIS or by peft; everything is of one type."""

    def __init__(self, model: Model, kind: AdapterKind, dtype: torch.dtype) -> None:
        self.model: Final = model
        self._transformer = model.weights(dtype)
        paths = kind.paths(model.transformer)
        adapt = _with_lora if kind.method == "lora" else _with_lokr
        self._trained = adapt(self._transformer, paths, model.device, dtype)
        fill_adapter(self._trained, drawn_on=model.device)
        self._dtype = dtype

    def answer(self, batch: Batch) -> Answer:
        return Answer.of(self._velocity(batch), batch, self._trained)

    @torch.no_grad()
    def narrowest_choice(self, batch: Batch) -> float:
        """The least difference, of all tokens and layers, between the logits of the last expert
        that is chosen and of the first one that is not; infinite where all are chosen."""
        gaps: list[float] = []

        def note(gate: MoEGate, inputs: tuple[torch.Tensor, ...], _: object) -> None:
            logits = functional.linear(inputs[0].flatten(0, -2), gate.weight)
            ordered = functional.pad(
                logits.sort(dim=-1, descending=True).values, (0, 1), value=-inf
            )
            gaps.append(float((ordered[:, gate.top_k - 1] - ordered[:, gate.top_k]).min()))

        gates = [part for part in self._transformer.modules() if isinstance(part, MoEGate)]
        handles = [gate.register_forward_hook(note) for gate in gates]
        self._velocity(batch)
        for handle in handles:
            handle.remove()
        assert len(gaps) == _DOUBLES + _SINGLES
        return min(gaps)

    def _velocity(self, batch: Batch) -> torch.Tensor:
        """The network predicts the velocity's negative, in train mode as patches."""
        text = batch.text.to(device=batch.noisy_BCHW.device, dtype=self._dtype)
        B, C, H, W = batch.noisy_BCHW.shape
        rows, columns = H // _PATCH, W // _PATCH
        with _without_padding(self._transformer, rows * columns):
            (output,) = self._transformer(
                hidden_states=batch.noisy_BCHW.to(self._dtype),
                timesteps=1000 * batch.sigmas_B,
                encoder_hidden_states_t5=text.t5,
                encoder_hidden_states_llama3=text.llama.transpose(0, 1),
                pooled_embeds=text.pooled,
                return_dict=False,
            )
        cells = output.reshape(B, C, rows, columns, _PATCH, _PATCH).transpose(3, 4)
        velocity: torch.Tensor = -cells.reshape(B, C, H, W)
        return velocity


class Ours:
    """A network as ``prepare`` makes it."""

    def __init__(
        self,
        model: Model,
        kind: AdapterKind,
        dtype: torch.dtype,
        *,
        is_fused: bool,
        checkpointing: bool,
    ) -> None:
        """
        Args:
            model: the network.
            kind: its adapter.
            dtype: of frozen weights and products.
            is_fused: which blocks; fused ones are made here where ``prepare`` makes plain ones,
                because runs have them in bf16 only.
            checkpointing: every block is computed again in the backward pass.
        """
        adapter = kind.adapter(model.transformer)
        plan = _plan(adapter, checkpointing=checkpointing)
        compute = Compute(device=model.device, weights=dtype, is_autocast=False)
        network = prepare(model.weights(dtype), plan, compute)
        fill_adapter(network.trained, drawn_on=model.device)
        if is_fused and not isinstance(network.blocks, FusedBlocks):
            network = _with_fused_blocks(network, checkpointing)
        assert isinstance(network.blocks, FusedBlocks) == is_fused
        self._network = network
        self._dtype = dtype

    def answer(self, batch: Batch) -> Answer:
        noisy_BCHW = batch.noisy_BCHW.to(self._dtype)
        text = batch.text.to(device=noisy_BCHW.device, dtype=self._dtype)
        found = self._network.velocity(noisy_BCHW, 1000 * batch.sigmas_B, text)
        return Answer.of(found.velocity_BCHW, batch, self._network.trained)


def free_memory() -> None:
    """Models refer to themselves in cycles; the next one needs the memory of the last one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _plan(adapter: LokrAdapter | LoraAdapter, *, checkpointing: bool) -> Plan:
    """The quick-start's plan with another adapter."""
    options = {"base_model_precision": "no_change", "gradient_checkpointing": checkpointing}
    plan = quick_start(options)
    return plan.model_copy(
        update={"identity": plan.identity.model_copy(update={"adapter": adapter})}
    )


def _with_fused_blocks(network: Network, checkpointing: bool) -> Network:
    every = range(_DOUBLES + _SINGLES) if checkpointing else ()
    blocks = fused_blocks(
        network.transformer,
        recomputed=frozenset(every),
        keeps_transposed=False,
    )
    return replace(network, blocks=blocks)


def _with_lokr(
    transformer: nn.Module, paths: Sequence[str], device: torch.device, dtype: torch.dtype
) -> dict[str, nn.Parameter]:
    """The trained parameters by our names: ``<path>.w1``."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    with presets_put_back():
        LycorisNetwork.apply_preset(
            {"target_module": [], "target_name": list(paths), "use_fnmatch": True}
        )
        network = create_lycoris(
            transformer,
            1.0,
            algo="lokr",
            linear_dim=2**14,
            linear_alpha=1,
            full_matrix=True,
            use_scalar=True,
            factor=_FACTOR,
        )
    network.apply_to()
    network.to(device=device, dtype=dtype).requires_grad_(True).train()
    names = {f"lycoris_{path.replace('.', '_')}": path for path in paths}
    return {
        f"{names[lora.lora_name]}.{name.removeprefix('lokr_')}": parameter
        for lora in network.loras
        for name, parameter in lora.named_parameters(recurse=False)
    }


def _with_lora(
    transformer: nn.Module, paths: Sequence[str], device: torch.device, dtype: torch.dtype
) -> dict[str, nn.Parameter]:
    """The trained parameters by our names: ``<path>.lora_A``."""
    config = LoraConfig(r=_RANK, lora_alpha=_RANK, lora_dropout=0.0, target_modules=list(paths))
    inject_adapter_in_model(config, transformer)
    nn.Module.to(transformer, device, dtype)
    return {
        f"{path}.{name}": getattr(transformer.get_submodule(path), name)["default"].weight
        for path in paths
        for name in ("lora_A", "lora_B")
    }


@contextmanager
def _without_padding(transformer: Any, patches: int) -> Iterator[None]:
    """Inside, latents that are not square are as long as their patches, as in ours."""
    longest = transformer.max_seq
    transformer.max_seq = patches
    try:
        yield
    finally:
        transformer.max_seq = longest
