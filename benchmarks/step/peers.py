"""The peers' training steps: SimpleTuner's transformer class or diffusers', with LyCORIS.

As SimpleTuner 4.10.1 trains: the adapter in the type of the base, optimi's Lion, gradients clipped
by value. Source: its helpers/training/trainer.py and helpers/models/hidream/model.py.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from diffusers import HiDreamImageTransformer2DModel
from lycoris import LycorisNetwork, create_lycoris
from optimi import Lion
from optimum.quanto import freeze, qint8, quantize
from torch import nn
from torch.nn import functional

from benchmarks.step.cases import Adapter, PeerName, Precision
from benchmarks.step.measure import Gradient
from benchmarks.step.plans import LEARNING_RATE, LYCORIS_CLASSES, lycoris_config
from benchmarks.step.setting import Setting
from benchmarks.step.weights import fill_adapter, random_model
from trainer_core.engine.batch import Batch

_CLIP: Final = 0.01
_DIFFUSERS_CLASSES: Final = {
    "Attention": "HiDreamAttention",
    "FeedForward": "HiDreamImageFeedForwardSwiGLU",
}
_PATCH: Final = 2


class Peer:
    """A peer's transformer with a LyCORIS adapter and Lion."""

    def __init__(
        self,
        name: PeerName,
        precision: Precision | None,
        adapter: Adapter,
        setting: Setting,
        transformer: Any = None,
    ) -> None:
        """
        Args:
            name: whose class of transformer is trained.
            precision: None for an fp32 model, with which gradients are compared.
            adapter: what is adapted.
            setting: device, types and shape.
            transformer: on the device, of the setting's type; None: one with random weights.
        """
        self._name = name
        self._drawn_on = setting.device
        self.dtype: Final = setting.dtype if precision is not None else torch.float32
        self._transformer = transformer or self._random_transformer(setting)
        start_s = time.perf_counter()
        if precision == "8bit":
            _quantize(self._transformer)
        network = _lycoris(self._transformer, name, adapter)
        network.to(device=setting.device, dtype=self.dtype)
        network.requires_grad_(True).train()
        self._network = network
        self.trained: Final = _by_logical_name(network, self._transformer)
        fill_adapter(self.trained, drawn_on=setting.device)
        self._parameters = list(self.trained.values())
        self._optimizer = _lion(self._parameters, on_card=setting.device.type == "cuda")
        self.prepared_s = time.perf_counter() - start_s

    def _random_transformer(self, setting: Setting) -> Any:
        model_class, extra = transformer_class(self._name)
        return random_model(
            model_class,
            {**setting.transformer, **extra},
            drawn_on=setting.device,
            device=setting.device,
            dtype=self.dtype,
            gain=setting.weight_gain,
        )

    def set_checkpointing(self, *, on: bool) -> None:
        """Turn gradient checkpointing of whole blocks on or off."""
        if on:
            self._transformer.enable_gradient_checkpointing()
        else:
            self._transformer.disable_gradient_checkpointing()

    @contextmanager
    def without_padding(self, image_tokens: int) -> Iterator[None]:
        """Inside, latents that are not square are as long as their patches, as in ours.

        A peer pads them to the longest sequence, and its pads take part in attention.
        """
        longest = self._transformer.max_seq
        self._transformer.max_seq = image_tokens
        try:
            yield
        finally:
            self._transformer.max_seq = longest

    def step(self, batch: Batch) -> None:
        """As ``Subject.step``."""
        self._loss(batch).backward()
        torch.nn.utils.clip_grad_value_(self._parameters, _CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def wait(self) -> None:
        """As ``Subject.wait``."""
        if self._drawn_on.type == "cuda":
            torch.cuda.synchronize()

    def gradient(self, batch: Batch) -> Gradient:
        """As ``Subject.gradient``."""
        fill_adapter(self.trained, drawn_on=self._drawn_on)
        return Gradient.of(self._loss(batch), self.trained)

    def held(self) -> Iterator[torch.Tensor]:
        """Weights, adapter and buffers."""
        yield from self._transformer.parameters()
        yield from self._transformer.buffers()
        yield from self.trained.values()

    @torch.no_grad()
    def velocity(self, batch: Batch) -> torch.Tensor:
        """The velocity from data to noise, [B, C, H, W]."""
        return self._velocity(batch)

    def _velocity(self, batch: Batch) -> torch.Tensor:
        """The network predicts the velocity's negative."""
        inputs: dict[str, Any] = {
            "timesteps": 1000 * batch.sigmas_B,
            "pooled_embeds": batch.text.pooled,
            "return_dict": False,
        }
        llama = batch.text.llama.transpose(0, 1)
        noisy = batch.noisy_BCHW
        if self._name == "diffusers":
            inputs |= {"encoder_hidden_states_t5": batch.text.t5}
            inputs |= {"encoder_hidden_states_llama3": llama}
        else:
            inputs |= {"t5_hidden_states": batch.text.t5, "llama_hidden_states": llama}
            if noisy.shape[-1] != noisy.shape[-2]:
                noisy, padding = _padded(noisy, self._transformer.max_seq)
                inputs |= padding
        output = self._transformer(hidden_states=noisy, **inputs)[0]
        return -_picture(output, batch.noisy_BCHW.shape)

    def _loss(self, batch: Batch) -> torch.Tensor:
        return functional.mse_loss(self._velocity(batch).float(), batch.target_BCHW)


def transformer_class(name: PeerName) -> tuple[Any, dict[str, Any]]:
    """The class, and arguments that it takes besides the model's config."""
    if name == "diffusers":
        return HiDreamImageTransformer2DModel, {}
    # Not installed with this project. Its import changes classes of diffusers.
    from simpletuner.helpers.models.hidream import transformer  # noqa: PLC0415

    return transformer.HiDreamImageTransformer2DModel, {"aux_loss_alpha": 0.0}


def _quantize(model: nn.Module) -> None:
    """int8-quanto, every linear, as SimpleTuner does it for HiDream."""
    quantize(model, weights=qint8)
    freeze(model)
    model.requires_grad_(False)


def _lycoris(model: nn.Module, name: PeerName, adapter: Adapter) -> LycorisNetwork:
    """A LoKr network that has replaced the forward of every linear it adapts."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    options = {**lycoris_config(adapter)}
    del options["apply_preset"]
    factors = {
        _DIFFUSERS_CLASSES[each] if name == "diffusers" else each: {"factor": factor}
        for each, factor in LYCORIS_CLASSES[adapter].items()
    }
    LycorisNetwork.apply_preset({"target_module": list(factors), "module_algo_map": factors})
    network = create_lycoris(model, options.pop("multiplier"), **options)
    network.apply_to()
    return network


def _by_logical_name(network: LycorisNetwork, model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by the names that ours have: ``<path>.w1``."""
    paths = {
        f"lycoris_{path.replace('.', '_')}": path
        for path, part in model.named_modules()
        if isinstance(part, nn.Linear)
    }
    return {
        f"{paths[lora.lora_name]}.{name.removeprefix('lokr_')}": parameter
        for lora in network.loras
        for name, parameter in lora.named_parameters(recurse=False)
    }


def _lion(parameters: list[nn.Parameter], *, on_card: bool) -> torch.optim.Optimizer:
    """SimpleTuner's optimi-lion; its grouped update does not run on a CPU."""
    optimizer: torch.optim.Optimizer = Lion(
        parameters, lr=LEARNING_RATE, kahan_sum=True, foreach=on_card, triton=False
    )
    return optimizer


def _padded(noisy_BCHW: torch.Tensor, longest: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """SimpleTuner's latents that are not square: patches [B, C, longest, 4] with zeros after them,
    and their sizes and positions."""
    B, C, H, W = noisy_BCHW.shape
    rows, columns = H // _PATCH, W // _PATCH
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None]
    padded_ids = torch.zeros(longest, 3)
    padded_ids[: rows * columns] = ids.flatten(0, 1)
    patches = noisy_BCHW.reshape(B, C, rows, _PATCH, columns, _PATCH)
    patches = patches.transpose(3, 4).reshape(B, C, rows * columns, _PATCH**2)
    device = noisy_BCHW.device
    return functional.pad(patches, (0, 0, 0, longest - rows * columns)), {
        "img_sizes": torch.tensor([[rows, columns]], device=device).repeat(B, 1),
        "img_ids": padded_ids.to(device).repeat(B, 1, 1),
    }


def _picture(output: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Patches [B, C, S, 4], as diffusers returns them in train mode, as latents of ``shape``."""
    if output.shape == shape:
        return output
    B, C, H, W = shape
    rows, columns = H // _PATCH, W // _PATCH
    cells = output[:, :, : rows * columns].reshape(B, C, rows, columns, _PATCH, _PATCH)
    return cells.transpose(3, 4).reshape(shape)
