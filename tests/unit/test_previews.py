"""Previews: what a sampler expects the picture to be, and its colours by a linear map."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from services.trainer import previews as stored_previews
from tests.support.pictures import png_text
from tests.support.previews import tiny_autoencoder
from trainer_core.config.plan import PictureSize, Sampler
from trainer_core.errors import BaseModelError
from trainer_core.hidream.latent_colours import LinearMap, fit, fitting_cells
from trainer_core.hidream.loading import load_tiny_decoder, load_vae
from trainer_core.hidream.samplers import load_sampler
from trainer_core.hidream.vae import latent_shift_and_scale
from trainer_core.validation import previews
from trainer_core.validation.previews import (
    linear_decoder,
    preview_image,
    remove_preview,
    tiny_decoder,
    write_preview,
)

CPU = torch.device("cpu")
STEPS = 5


@pytest.fixture(scope="module")
def vae(tiny_folder: Path) -> AutoencoderKL:
    return load_vae(tiny_folder, torch.float32)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_the_estimate_of_each_step_is_that_of_flow_matching(
    sampler: Sampler, shift: float, tiny_folder: Path
) -> None:
    """Where the velocity leads straight to clean latents, each step's estimate is these."""
    draw = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(1, 4, 6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    scheduler = load_sampler(tiny_folder, sampler, shift)
    if sampler == "lcm":
        scheduler.generator = torch.Generator().manual_seed(2)
    scheduler.set_timesteps(STEPS)
    latents = noise.float()
    for number, time in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[number])
        assert abs(sigma - float(time) / 1000) <= 1e-3  # UniPC rounds what the network is told
        velocity = (latents.double() - clean) / sigma
        # A random part, as of a network: it moves the estimate by sigma times itself.
        wrong = torch.randn(clean.shape, generator=draw, dtype=torch.float64) * 0.3
        given = (velocity + wrong).float()
        before = latents
        latents = scheduler.step(given, time, before, return_dict=False)[0]

        assert scheduler.taken is not None
        found = scheduler.taken.clean()
        expected = before.double() - sigma * given.double()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.double(), clean - sigma * wrong, rtol=1e-4, atol=1e-4)


def test_the_estimate_of_half_precision_is_computed_in_fp32(tiny_folder: Path) -> None:
    scheduler = load_sampler(tiny_folder, "euler", 3.0)
    scheduler.set_timesteps(STEPS)
    draw = torch.Generator().manual_seed(1)
    noisy, velocity = (torch.randn(1, 4, 2, 2, generator=draw).bfloat16() for _ in range(2))

    scheduler.step(velocity, scheduler.timesteps[0], noisy, return_dict=False)

    assert scheduler.taken is not None
    expected = noisy.double() - float(scheduler.sigmas[0]) * velocity.double()
    torch.testing.assert_close(scheduler.taken.clean().double(), expected, rtol=1e-6, atol=1e-6)


def test_the_fit_is_the_least_squares_solution() -> None:
    draw = np.random.default_rng(4)
    latents, colours = draw.standard_normal((300, 16)), draw.standard_normal((300, 3))

    found = fit(torch.from_numpy(latents), torch.from_numpy(colours))

    with_one = np.concatenate([latents, np.ones((300, 1))], axis=1)
    expected, *_ = np.linalg.lstsq(with_one, colours, rcond=None)
    assert np.allclose(found.weight_3C.numpy(), expected[:-1].T, rtol=1e-10, atol=1e-12)
    assert np.allclose(found.bias_3.numpy(), expected[-1], rtol=1e-10, atol=1e-12)


def test_channels_that_never_change_do_no_harm() -> None:
    latents = torch.randn(100, 16, generator=torch.Generator().manual_seed(5)).double()
    latents[:, 3:] = 0.25

    found = fit(latents, latents[:, :3] * 2 + 1)

    assert torch.isfinite(found.weight_3C).all()
    torch.testing.assert_close(found(latents.T.reshape(1, 16, 10, 10)), expected_of(latents))


def expected_of(latents: torch.Tensor) -> torch.Tensor:
    return (latents[:, :3] * 2 + 1).T.reshape(3, 10, 10)


def test_the_map_of_a_vae_is_the_best_one_for_what_it_decodes(vae: AutoencoderKL) -> None:
    """Of the pictures that it is fitted to, no other map of the same kind is nearer."""
    before = torch.get_rng_state()
    found = linear_decoder(vae, CPU)

    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(found, LinearMap)
    latents, colours = (each.numpy() for each in fitting_cells(vae))  # the same ones again
    assert latents.dtype == colours.dtype == np.float64
    expected, *_ = np.linalg.lstsq(np.c_[latents, np.ones(len(latents))], colours, rcond=None)
    assert np.allclose(found.weight_3C.numpy(), expected[:-1].T, rtol=1e-6, atol=1e-8)
    assert np.allclose(found.bias_3.numpy(), expected[-1], rtol=1e-6, atol=1e-8)
    shift, scale = latent_shift_and_scale(vae)
    with torch.no_grad():
        cell = torch.from_numpy(latents[:1]).float().reshape(1, -1, 1, 1) / scale + shift
        assert vae.decode(cell).sample.shape == (1, 3, 8, 8)  # a cell is 8 px wide
    several = torch.randn(1, latents.shape[1], 4, 6)
    decoded = found(several)
    assert decoded.shape == (3, 4, 6)
    one = found.weight_3C @ several[0, :, 2, 5].double() + found.bias_3
    torch.testing.assert_close(decoded[:, 2, 5], one)


def test_a_tiny_autoencoder_decodes_as_diffusers_does(vae: AutoencoderKL, tmp_path: Path) -> None:
    channels = vae.config.latent_channels
    own = tiny_autoencoder(channels)
    own.save_pretrained(tmp_path / "tiny")
    latents = torch.randn(1, channels, 4, 6)
    before = torch.get_rng_state()

    decoded = tiny_decoder(tmp_path / "tiny", vae, CPU)(latents)

    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        expected = own.decode(latents / own.config.scaling_factor + own.config.shift_factor).sample
    torch.testing.assert_close(decoded, expected[0])


def test_a_tiny_autoencoder_of_another_kind_is_refused(vae: AutoencoderKL, tmp_path: Path) -> None:
    tiny_autoencoder(vae.config.latent_channels + 1).save_pretrained(tmp_path / "other")
    pickled = tmp_path / "pickled"
    tiny_autoencoder(vae.config.latent_channels).save_pretrained(pickled, safe_serialization=False)

    with pytest.raises(BaseModelError, match="latents of 17 channels, and those of the VAE have"):
        tiny_decoder(tmp_path / "other", vae, CPU)
    (tmp_path / "nothing").mkdir()
    for missing in (pickled, tmp_path / "nothing"):
        with pytest.raises(BaseModelError, match=f"{missing.name}: no AutoencoderTiny in safetens"):
            load_tiny_decoder(missing)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 32), (64, 32)), ((1024, 1024), (256, 256)), ((2048, 512), (256, 64))],
)
def test_a_preview_is_a_small_picture_of_the_same_shape(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    wanted = PictureSize(width_px=size[0], height_px=size[1])
    decoded = torch.full((3, size[1] // 8, size[0] // 8), 9.0)
    decoded[1:] = torch.tensor(-9.0)

    image = preview_image(decoded, wanted)

    assert image.size == expected
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_a_preview_replaces_the_one_before_and_goes(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    killed = tmp_path / "samples" / ".preview.png.77.tmp"
    killed.write_bytes(b"half a pic")
    for colour in ("red", "blue"):
        write_preview(tmp_path, Image.new("RGB", (8, 4), colour), {"picture": "a.png"})
        assert tuple(previews.FILE.split("/")) == stored_previews.FILE
        with Image.open(tmp_path / previews.FILE) as image:
            assert image.getpixel((0, 0)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
            text = png_text(image)
            assert text == {"picture": "a.png"}

    remove_preview(tmp_path)
    assert list((tmp_path / "samples").iterdir()) == []
    remove_preview(tmp_path)
