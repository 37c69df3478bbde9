import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel

from tests.support.networks import network_of
from tests.support.noisy_latents import noisy_and_target
from tests.unit.config_examples import import_small
from trainer_core.engine.batch import Batch
from trainer_core.engine.losses import batch_losses
from trainer_core.hidream.loading import load_scheduler, load_transformer, load_vae
from trainer_core.hidream.objective import write_noisy_and_target
from trainer_core.hidream.samplers import load_sampler
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.hidream.vae import Moments, decode, draw_latents, encode_images
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import pipeline_for_sampling, sample_image
from trainer_core.precision.compute import Compute

LAYERS = 3
CPU32 = Compute(device=torch.device("cpu"), weights=torch.float32, is_autocast=False)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text_of(batch: int, seed: int = 1) -> TextEmbeddings:
    return TextEmbeddings(
        draw(batch, 128, 48, seed=seed),
        draw(batch, LAYERS, 128, 64, seed=seed + 1),
        draw(batch, 64, seed=seed + 2),
    )


def velocity(
    transformer: HiDreamImageTransformer2DModel,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    text: TextEmbeddings,
    compute: Compute = CPU32,
) -> torch.Tensor:
    network = network_of(transformer, compute=compute)
    return network.velocity(noisy, timesteps, text).velocity_BCHW


@pytest.fixture(scope="module")
def transformer(tiny_folder: Path) -> HiDreamImageTransformer2DModel:
    return load_transformer(tiny_folder, torch.float32)


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (12, 6)])
def test_train_mode_gives_exactly_what_eval_mode_gives(
    transformer: HiDreamImageTransformer2DModel, size: tuple[int, int]
) -> None:
    noisy, timesteps, text = draw(2, 16, *size), torch.tensor([300.0, 700.5]), text_of(2)
    with torch.no_grad():
        trained = velocity(transformer.train(), noisy, timesteps, text)
        evaluated = velocity(transformer.eval(), noisy, timesteps, text)

    assert trained.shape == noisy.shape
    assert torch.equal(trained, evaluated)


def test_the_stock_call_has_the_opposite_sign(transformer: HiDreamImageTransformer2DModel) -> None:
    noisy, timesteps, text = draw(1, 16, 8, 8), torch.tensor([500.0]), text_of(1)
    with torch.no_grad():
        stock = transformer.eval()(
            hidden_states=noisy,
            timesteps=timesteps,
            encoder_hidden_states_t5=text.t5,
            encoder_hidden_states_llama3=text.llama.transpose(0, 1),
            pooled_embeds=text.pooled,
        ).sample
        ours = velocity(transformer, noisy, timesteps, text)

    assert (ours + stock).norm() < 1e-6 * stock.norm()


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (4, 6), (6, 3)])
def test_a_sequence_of_exact_length_equals_the_stock_call(
    transformer: HiDreamImageTransformer2DModel, rows: int, columns: int
) -> None:
    noisy = draw(2, 16, 2 * rows, 2 * columns)
    timesteps, text = torch.tensor([100.0, 900.0]), text_of(2)
    patches = noisy.reshape(2, 16, rows, 2, columns, 2).permute(0, 2, 4, 3, 5, 1)
    places = [[0, row, column] for row in range(rows) for column in range(columns)]
    with torch.no_grad():
        ours = velocity(transformer.eval(), noisy, timesteps, text)
        stock = transformer(
            hidden_states=patches.reshape(2, rows * columns, 64),
            hidden_states_masks=torch.ones(2, rows * columns),
            img_ids=torch.tensor([places, places], dtype=torch.float32),
            img_sizes=[(rows, columns)] * 2,
            timesteps=timesteps,
            encoder_hidden_states_t5=text.t5,
            encoder_hidden_states_llama3=text.llama.transpose(0, 1),
            pooled_embeds=text.pooled,
        ).sample

    assert (ours + stock).norm() < 1e-6 * stock.norm()


def test_a_batch_as_large_as_the_layers_keeps_samples_apart(
    transformer: HiDreamImageTransformer2DModel,
) -> None:
    noisy, text = draw(LAYERS, 16, 8, 12), text_of(LAYERS)
    timesteps = torch.tensor([200.0, 500.0, 800.0])
    with torch.no_grad():
        together = velocity(transformer.train(), noisy, timesteps, text)
        alone = [
            velocity(transformer, noisy[i : i + 1], timesteps[i : i + 1], text.row(i))
            for i in range(LAYERS)
        ]

    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_gradient_reaches_routed_experts_and_gates(
    transformer: HiDreamImageTransformer2DModel, size: tuple[int, int]
) -> None:
    transformer.train().requires_grad_(True)
    transformer.zero_grad()

    prediction = velocity(transformer, draw(1, 16, *size), torch.tensor([500.0]), text_of(1))
    (prediction - draw(1, 16, *size, seed=9)).square().mean().backward()

    without = [n for n, p in transformer.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if "experts" in name or "gate" in name]


def test_the_exact_velocity_leads_from_noise_to_data_in_one_stride() -> None:
    latents, noise = draw(1, 16, 4, 4).double(), draw(1, 16, 4, 4, seed=5).double()
    sigma = torch.tensor([0.7], dtype=torch.float64)

    point, velocity = noisy_and_target(latents, noise, sigma)

    torch.testing.assert_close(point - 0.7 * velocity, latents, atol=1e-14, rtol=0)


def test_noisy_latents_are_rounded_once_to_the_type_that_the_network_reads() -> None:
    latents, noise, sigmas = draw(3, 16, 4, 6), draw(3, 16, 4, 6, seed=5), torch.rand(3)
    share = sigmas.view(-1, 1, 1, 1)
    noisy, target = torch.empty(latents.shape, dtype=torch.bfloat16), torch.empty(latents.shape)

    write_noisy_and_target(
        latents.clone(), noise.clone(), sigmas, noisy_BCHW=noisy, target_BCHW=target
    )

    assert torch.equal(noisy, ((1 - share) * latents + share * noise).bfloat16())
    assert torch.equal(target, noise - latents)


def test_the_stock_sampler_follows_our_velocity_to_the_data(
    transformer: HiDreamImageTransformer2DModel, tiny_folder: Path
) -> None:
    """A network that knew the picture would make the stock pipeline draw it."""
    latents, text = draw(1, 16, 8, 8, seed=3).double(), text_of(1)
    scheduler, vae = load_scheduler(tiny_folder), load_vae(tiny_folder, torch.float32)
    pipeline = pipeline_for_sampling(transformer.eval(), vae, scheduler)
    pipeline.default_sample_size = 8
    start = draw(1, 16, 8, 8, seed=4).double()

    class Oracle(torch.nn.Module):
        config = transformer.config
        max_seq = transformer.max_seq
        dtype = torch.float64
        device = torch.device("cpu")

        def forward(self, hidden_states: torch.Tensor, timesteps: torch.Tensor, **_: object):
            sigma = timesteps.view(-1, 1, 1, 1).double() / 1000
            velocity = (hidden_states - latents) / sigma  # noise - latents on the line
            return (-velocity,)  # the network's own sign

    pipeline.transformer = Oracle()
    result = pipeline(
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=start,
        prompt_embeds_t5=text.t5,
        prompt_embeds_llama3=text.llama.transpose(0, 1),
        pooled_prompt_embeds=text.pooled,
        output_type="latent",
    ).images

    torch.testing.assert_close(result.double(), latents, atol=1e-5, rtol=0)


def test_wrong_batches_and_odd_sides_are_refused(
    transformer: HiDreamImageTransformer2DModel,
) -> None:
    with pytest.raises(ValueError, match="2 texts"):
        velocity(transformer, draw(1, 16, 8, 8), torch.tensor([5.0]), text_of(2))
    with pytest.raises(ValueError, match="patches of 2"):
        velocity(transformer, draw(1, 16, 7, 8), torch.tensor([5.0]), text_of(1))


def test_too_few_llama_layers_are_refused(transformer: HiDreamImageTransformer2DModel) -> None:
    """Layers first would pass unnoticed where there are as many samples: text is batch first."""
    text = text_of(LAYERS)
    few = TextEmbeddings(text.t5, text.llama[:, :2], text.pooled)

    with pytest.raises(ValueError, match="2 Llama layers in the text, the network reads 3"):
        velocity(transformer, draw(LAYERS, 16, 8, 8), torch.full((LAYERS,), 5.0), few)
    with pytest.raises(ValueError, match="different batch"):
        TextEmbeddings(text.t5[:2], text.llama[:, :2].transpose(0, 1)[:1], text.pooled[:2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_timesteps_are_never_rounded(tiny_folder: Path, dtype: torch.dtype) -> None:
    """bf16 knows no number between 700 and 704."""
    model = load_transformer(tiny_folder, torch.float32).to(dtype).train()
    seen: list[torch.Tensor] = []
    model.t_embedder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    text = text_of(1).to(device=torch.device("cpu"), dtype=dtype)

    with torch.no_grad():
        velocity(model, draw(1, 16, 4, 4).to(dtype), torch.tensor([701.37]), text)

    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], torch.tensor([701.37]))


@pytest.mark.parametrize("how", ["eval", "force_inference_output"])
def test_the_stock_inference_path_gives_experts_no_gradient(tiny_folder: Path, how: str) -> None:
    """Why training insists on train mode and refuses that flag."""
    model = load_transformer(tiny_folder, torch.float32)
    if how == "force_inference_output":
        config = {**model.config, "force_inference_output": True}
        model = HiDreamImageTransformer2DModel.from_config(config).train()
    text = text_of(1)
    output = model(
        draw(1, 16, 4, 4), torch.tensor([5.0]), text.t5, text.llama.transpose(0, 1), text.pooled
    )
    output.sample.square().mean().backward()

    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert len(without) == 4 * 13
    assert all(".experts." in name or "gate" in name for name in without)


def test_training_in_eval_mode_is_refused(transformer: HiDreamImageTransformer2DModel) -> None:
    batch = Batch(
        noisy_BCHW=draw(1, 16, 4, 4),
        target_BCHW=draw(1, 16, 4, 4),
        sigmas_B=torch.tensor([0.5]),
        text=text_of(1),
    )
    objective = import_small().plan.identity.objective

    network = network_of(transformer, compute=CPU32)

    transformer.eval()
    with pytest.raises(ValueError, match=r"train\(\) mode"):
        batch_losses(network, batch, objective)
    with torch.no_grad():
        measured = batch_losses(network, batch, objective).flow_B
    transformer.train()
    assert torch.equal(measured, batch_losses(network, batch, objective).flow_B)


@pytest.mark.parametrize("size", [(256, 256), (192, 320), (64, 128), (320, 192)])
def test_a_sample_has_the_requested_size_and_restores_the_mode(
    transformer: HiDreamImageTransformer2DModel, tiny_folder: Path, size: tuple[int, int]
) -> None:
    transformer.train()
    transformer.final_layer.eval()
    vae, sampler = load_vae(tiny_folder, torch.float32), load_sampler(tiny_folder)

    picture = sample_image(
        transformer,
        vae,
        sampler,
        text_of(1),
        text_of(1, seed=20),
        options=SamplingOptions(
            width_px=size[0], height_px=size[1], steps=2, guidance=4.0, seed=11
        ),
    )

    assert picture.size == size
    assert transformer.training
    assert not transformer.final_layer.training
    transformer.train()


def test_a_sample_equals_the_image_of_diffusers_own_pipeline(
    transformer: HiDreamImageTransformer2DModel, tiny_folder: Path
) -> None:
    text, negative = text_of(1), text_of(1, seed=20)
    ours = sample_image(
        transformer,
        load_vae(tiny_folder, torch.float32),
        load_sampler(tiny_folder),
        text,
        negative,
        options=SamplingOptions(
            width_px=256,
            height_px=256,
            steps=2,
            guidance=3.0,
            seed=5,
        ),
    )
    stock = HiDreamImagePipeline.from_pretrained(tiny_folder, local_files_only=True)
    stock.default_sample_size = 32
    expected = stock(
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
        prompt_embeds_t5=text.t5,
        prompt_embeds_llama3=text.llama.transpose(0, 1),
        pooled_prompt_embeds=text.pooled,
        negative_prompt_embeds_t5=negative.t5,
        negative_prompt_embeds_llama3=negative.llama.transpose(0, 1),
        negative_pooled_prompt_embeds=negative.pooled,
    ).images[0]

    assert ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bf16_is_near_fp32_and_samples_with_an_fp32_vae(
    transformer: HiDreamImageTransformer2DModel, tiny_folder: Path, size: tuple[int, int], how: str
) -> None:
    noisy, timesteps, text = draw(2, 16, *size), torch.tensor([300.0, 700.5]), text_of(2)
    with torch.no_grad():
        exact = velocity(transformer.train(), noisy, timesteps, text)
    autocast = how == "autocast"
    kind = torch.float32 if autocast else torch.bfloat16
    model = transformer if autocast else load_transformer(tiny_folder, kind).train()
    given = text.to(device=torch.device("cpu"), dtype=kind)
    compute = Compute(device=torch.device("cpu"), weights=kind, is_autocast=autocast)
    with torch.no_grad(), compute.context():
        rounded = velocity(model, noisy.to(kind), timesteps, given, compute)
        picture = sample_image(
            model,
            load_vae(tiny_folder, torch.float32),
            load_sampler(tiny_folder),
            given.row(0),
            given.row(1),
            options=SamplingOptions(
                width_px=64,
                height_px=128,
                steps=1,
                guidance=2.0,
                seed=1,
            ),
        )

    assert float((rounded.float() - exact).abs().mean()) < 0.05
    assert picture.size == (64, 128)


def test_every_size_on_the_grid_survives_the_pipelines_rounding(tiny_folder: Path) -> None:
    for width in range(64, 2049, 16):
        for height in range(64, 2049, 16):
            side = math.sqrt(width * height) * (1 + 1e-9) / 8
            scale = math.sqrt((side * 8) ** 2 / (width * height))
            assert (int(width * scale // 16 * 16), int(height * scale // 16 * 16)) == (
                width,
                height,
            )


def test_latents_are_drawn_from_the_posterior_and_scaled_and_come_back(tiny_folder: Path) -> None:
    vae = load_vae(tiny_folder, torch.float32)
    moments = encode_images(vae, draw(2, 3, 64, 96).clamp(-1, 1))
    assert isinstance(moments, Moments)
    assert moments.mean.shape == moments.std.shape == (2, 16, 8, 12)

    images = [Moments(mean, std) for mean, std in zip(*(m.split(1) for m in moments), strict=True)]

    def drawn(of: Sequence[Moments], *seeds: int) -> torch.Tensor:
        latents = torch.empty(moments.mean.shape)
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        draw_latents(vae, of, generators, out=latents)
        return latents

    found = drawn(images, 1, 2)
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    for seed, row, image in zip((1, 2), found.split(1), images, strict=True):
        noise = torch.randn(row.shape, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(row, (image.mean + image.std * noise - shift) * scale)
    mean = drawn([Moments(image.mean, torch.zeros_like(image.std)) for image in images], 1, 1)
    with torch.no_grad():
        expected = vae.decode(moments.mean).sample
    torch.testing.assert_close(decode(vae, mean), expected, atol=1e-4, rtol=1e-4)
