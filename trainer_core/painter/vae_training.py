"""Trains the painting model's VAE on drawn pictures.

Letters: N pictures of H × W pixels, C latent channels.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from trainer_core.hidream.vae import decode, encode_images

Pictures = Mapping[tuple[int, int], torch.Tensor]
"""Width and height → pictures [N, 3, H, W], uint8."""

_KL_WEIGHT: Final = 2e-4
"""Of the mean KL divergence of a latent element; the mean absolute error has weight 1."""
_PEAK_RATE: Final = 1.5e-3
_WARMUP_STEPS: Final = 50
_LOG_EVERY: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeQuality:
    """Measured on pictures that were not trained on."""

    psnr_db: float
    latent_mean: float
    latent_std: float


def train_vae(
    vae: AutoencoderKL,
    pictures: Pictures,
    *,
    steps: int,
    batch_px: int,
    device: torch.device,
    log: Callable[[str], None],
    limit_s: float = math.inf,
) -> AutoencoderKL:
    """Train by absolute error and a small KL divergence. The VAE is on ``device`` afterwards.

    Args:
        vae: is trained.
        pictures: that are trained on.
        steps: at most; the learning rate falls until the last one.
        batch_px: pixels of a step, all of pictures of one size.
        device: to train on.
        log: gets a line now and then.
        limit_s: seconds that it may take; the learning rate then falls by the time.
    """
    started_s = time.monotonic()
    draw = torch.Generator().manual_seed(1)
    vae = vae.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.99))
    sizes = sorted(pictures)
    kept = {size: pictures[size].to(device) for size in sizes}
    for step in range(1, steps + 1):
        done = max(step / steps, (time.monotonic() - started_s) / limit_s)
        if done > 1:
            break
        size = sizes[int(torch.randint(len(sizes), (1,), generator=draw))]
        count = max(1, batch_px // (size[0] * size[1]))
        chosen = torch.randint(len(kept[size]), (count,), generator=draw)
        images = _as_input(kept[size][chosen.to(device)])
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * _share_of_rate(step, steps, done)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, device=device)
            shown = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = functional.l1_loss(shown.float(), images) + _KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % _LOG_EVERY == 0:
            told = f"loss {float(loss.detach()):.4f}, KL {float(kl.detach()):.2f}"
            log(f"VAE step {step} of {steps}: {told}")
    return vae.eval()


def normalise(vae: AutoencoderKL, pictures: Pictures) -> VaeQuality:
    """Set shift and scale so that latents have mean 0 and variance 1; measure the quality."""
    errors, latents = [], []
    for images in pictures.values():
        wanted = _as_input(images)
        moments = encode_images(vae, wanted)
        latents.append(moments.mean.flatten())
        shown = decode(vae, moments.mean)
        errors.append((shown.cpu().clamp(-1, 1) - wanted.cpu()).square().flatten())
    values = torch.cat(latents)
    mean, std = float(values.mean()), float(values.std())
    vae.register_to_config(shift_factor=round(mean, 4), scaling_factor=round(1 / std, 4))
    error = float(torch.cat(errors).mean())
    # The peak-to-peak range of the values is 2.
    return VaeQuality(
        psnr_db=10 * math.log10(4 / error),
        latent_mean=mean,
        latent_std=std,
    )


def _as_input(images_N3HW: torch.Tensor) -> torch.Tensor:
    """Levels 0..255 as fp32 in [-1, 1]."""
    return images_N3HW.float() / 127.5 - 1


def _share_of_rate(step: int, steps: int, done: float) -> float:
    """Of the peak learning rate: a short rise, then half a cosine down to 2 %.

    ``done``: share of the training, 0 to 1.
    """
    rise = min(1.0, step / min(_WARMUP_STEPS, 1 + steps // 10))
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
