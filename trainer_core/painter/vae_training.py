"""Trains the painting model's VAE on drawn pictures.

Letters: N pictures of H × W pixels, C latent channels.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from trainer_core.engine.cuda_graphs import CudaRecorder
from trainer_core.engine.graphs import Graphs, Work
from trainer_core.hidream.vae import decode, encode_images

Pictures = Mapping[tuple[int, int], torch.Tensor]
"""Width and height → pictures [N, 3, H, W], uint8."""

_KL_WEIGHT: Final = 1e-4
"""Of the mean KL divergence of a latent element."""
_SQUARE_WEIGHT: Final = 2.0
"""Of the mean squared error; the mean absolute error has weight 1."""
_DIFFERS: Final = 0.33
"""Distance in RGB, of values in [-1, 1], from which on a pixel is not background."""
_AROUND_PX: Final = 2
"""Pixels around a shape that count as its own, so that its outline is learned."""
_PEAK_RATE: Final = 1.5e-3
_WARMUP_STEPS: Final = 50
_LOG_EVERY: Final = 200


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
    """Train until the steps or the seconds are over. The VAE is on ``device`` afterwards.

    Errors count as much in the shape as in the background, which has many times the pixels:
    otherwise small shapes lose their colour. On cuda each size's passes are one graph, because a
    small model's step takes the host longer than the device.

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
    vae = vae.to(device).train()
    parameters = list(vae.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_RATE, betas=(0.9, 0.99))
    sizes = sorted(pictures)
    kept = {size: pictures[size].to(device) for size in sizes}
    batches = {size: _as_input(kept[size][: _count(size, batch_px)]) for size in sizes}
    numbers = torch.zeros(2, device=device)
    run = _runner(device, log)
    for step in range(1, steps + 1):
        done = max(step / steps, (time.monotonic() - started_s) / limit_s)
        if done > 1:
            break
        size = sizes[int(torch.randint(len(sizes), (1,), generator=draw))]
        chosen = torch.randint(len(kept[size]), (len(batches[size]),), generator=draw)
        batches[size].copy_(_as_input(kept[size][chosen.to(device)]))
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * _share_of_rate(step, steps, done)
        work = partial(_set_gradients, vae, batches[size], numbers)
        run(Work(key=size, run=work, rehearse=work, changed=()))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % _LOG_EVERY == 0:  # also keeps the host from running far ahead
            loss, kl = numbers.tolist()
            log(f"VAE step {step} of {steps}: loss {loss:.4f}, KL {kl:.2f}")
    optimizer.zero_grad()
    return vae.eval()


def _runner(device: torch.device, log: Callable[[str], None]) -> Callable[[Work], None]:
    """Does work, on cuda from graphs."""
    if device.type == "cuda":
        return Graphs(CudaRecorder(device), log).run

    def run(work: Work) -> None:
        work.run()

    return run


def _set_gradients(vae: AutoencoderKL, images_N3HW: torch.Tensor, numbers: torch.Tensor) -> None:
    """Replace the gradients by those of these pictures; ``numbers`` gets the loss and the KL."""
    for parameter in vae.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    posterior = vae.encode(images_N3HW).latent_dist
    noise = torch.randn_like(posterior.mean)
    shown = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
    mean, logvar = posterior.mean, posterior.logvar
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    apart = (shown - images_N3HW).abs()
    error = (pixel_weights(images_N3HW) * (apart + _SQUARE_WEIGHT * apart.square())).mean()
    loss = error + _KL_WEIGHT * kl
    loss.backward()
    numbers.copy_(torch.stack([loss.detach(), kl.detach()]))


def pixel_weights(images_N3HW: torch.Tensor) -> torch.Tensor:
    """Weights of the pixels' errors, [N, 1, H, W], of mean 1.

    The shape in a picture weighs as much as the background, which is the median of the edge.
    """
    edges = [images_N3HW[:, :, 0], images_N3HW[:, :, -1]]
    edges += [images_N3HW[..., 0], images_N3HW[..., -1]]
    background = torch.cat(edges, dim=-1).median(dim=-1).values[..., None, None]
    differs = torch.linalg.vector_norm(images_N3HW - background, dim=1, keepdim=True) > _DIFFERS
    shape = functional.max_pool2d(differs.float(), 2 * _AROUND_PX + 1, 1, _AROUND_PX)
    share = shape.mean(dim=(1, 2, 3), keepdim=True).clamp(0.005, 0.995)
    return 0.5 * torch.where(shape > 0, 1 / share, 1 / (1 - share))


def _count(size: tuple[int, int], batch_px: int) -> int:
    """Pictures of a step."""
    return max(1, batch_px // (size[0] * size[1]))


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
