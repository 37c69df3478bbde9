"""The parts of the painting model before they are trained, and the data for the training."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer_core.hidream.loading import TextEncoder, TextEncoders
from trainer_core.hidream.text import encode_texts
from trainer_core.painter.dataset import drawings, scenes_of, write_dataset
from trainer_core.painter.drawing import draw
from trainer_core.painter.encoders import TOKENS, build_encoders
from trainer_core.painter.grammar import Scene, caption_of, is_held_out, words
from trainer_core.painter.judging import Judged, shares_of, sheet_of
from trainer_core.painter.model import TRANSFORMER, build_transformer, build_vae
from trainer_core.painter.recognition import recognise
from trainer_core.painter.scales import SCALES
from trainer_core.painter.vae_training import normalise, pixel_weights, train_vae

SCENE = Scene("large", "plain", "red", "circle", "top left", "white")


@pytest.fixture(scope="module")
def parts():
    return build_encoders(torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def encoders(parts):
    names = ("", "_2", "_3", "_4")
    return TextEncoders(
        **{
            field: TextEncoder(parts[f"text_encoder{each}"], parts[f"tokenizer{each}"])
            for field, each in zip(("clip_l", "clip_g", "t5", "llama"), names, strict=True)
        }
    )


def test_a_word_is_one_token_and_other_text_is_letters(parts):
    caption = caption_of(SCENE)
    for name, extra in (("tokenizer", 2), ("tokenizer_3", 1), ("tokenizer_4", 1)):
        tokenizer = parts[name]
        assert len(tokenizer(caption).input_ids) == 13 + extra
        every = tokenizer(" ".join(words())).input_ids
        assert len(every) == len(set(every)) == len(words()) + extra
        assert len(tokenizer("a zorb").input_ids) >= 4 + extra
    assert parts["tokenizer_3"].model_max_length == TOKENS == parts["tokenizer_4"].model_max_length


def test_every_word_of_a_caption_shows_in_its_embeddings(encoders):
    others = [
        replace(SCENE, **{field: value})
        for field, value in {
            "size": "small",
            "texture": "dotted",
            "colour": "blue",
            "shape": "ring",
            "place": "top right",
            "background": "grey",
        }.items()
    ]
    found = encode_texts(encoders, [caption_of(each) for each in (SCENE, *others)])
    assert found.t5.shape[1] == found.llama.shape[2] == TOKENS
    for tensor in (found.pooled, found.t5[:, :14].flatten(1), found.llama[:, :, :14].flatten(1)):
        for other in tensor[1:]:
            assert torch.linalg.norm(other - tensor[0]) > 0.1 * torch.linalg.norm(tensor[0])


def test_t5_tells_a_words_neighbours_and_clip_its_words(encoders):
    orders = ["a red circle on a blue background", "a blue circle on a red background"]
    found = encode_texts(encoders, orders)
    circle = found.t5[:, 2]  # the same word, after another one
    assert torch.linalg.norm(circle[0] - circle[1]) > 0.3 * torch.linalg.norm(circle[0])
    torch.testing.assert_close(found.pooled[0], found.pooled[1], rtol=1e-4, atol=1e-5)


def test_the_encoders_are_the_same_each_time(parts):
    again = build_encoders(torch.Generator().manual_seed(1))
    for one, other in zip(
        parts["text_encoder_4"].parameters(), again["text_encoder_4"].parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_the_model_fits_its_budget(parts):
    modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    modules += [build_vae(), build_transformer()]
    numbers = sum(each.numel() for module in modules for each in module.parameters())
    assert 2 * numbers < 24.5e6  # bytes in bf16; 25 MB with all headers
    assert len(TRANSFORMER["llama_layers"]) == (
        TRANSFORMER["num_layers"] + TRANSFORMER["num_single_layers"]
    )
    assert sum(TRANSFORMER["axes_dims_rope"]) == TRANSFORMER["attention_head_dim"]


def test_a_vae_learns_and_its_latents_are_normalised():
    drawn = [draw(replace(SCENE, colour=each), (64, 64), 1) for each in ("red", "green")]
    images = torch.stack([torch.tensor(np.asarray(it)).permute(2, 0, 1) for it in drawn])
    images = images[..., 16:48, 16:48]  # a quarter of the work
    lines: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = build_vae((8, 8, 8, 8))
        before = normalise(vae, {(32, 32): images}).psnr_db
        train_vae(
            vae,
            {(32, 32): images},
            steps=12,
            batch_px=2 * 32 * 32,
            device=torch.device("cpu"),
            log=lines.append,
        )
    quality = normalise(vae, {(32, 32): images})
    assert quality.psnr_db > before + 1
    latents = vae.encode(images.float() / 127.5 - 1).latent_dist.mean
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    assert abs(float(scaled.mean())) < 0.01
    assert math.isclose(float(scaled.std()), 1, rel_tol=0.01)


def test_errors_count_as_much_in_a_shape_as_around_it():
    drawn = draw(replace(SCENE, size="small"), (64, 64), 1)
    image = torch.tensor(np.asarray(drawn)).permute(2, 0, 1)[None].float() / 127.5 - 1
    weights = pixel_weights(image)
    is_shape = (image - image[..., :1, -1:]).abs().amax(dim=1, keepdim=True) > 0.5
    heavy = weights > weights.min()
    assert weights.shape == (1, 1, 64, 64)
    assert heavy[is_shape].all()
    assert heavy.float().mean() < 0.3
    assert math.isclose(float(weights[heavy].sum()), float(weights[~heavy].sum()), rel_tol=1e-4)
    assert math.isclose(float(weights.mean()), 1, rel_tol=1e-4)


def test_the_data_set_has_each_caption_beside_its_picture(tmp_path):
    scale = replace(SCALES["whole"], pictures=12)
    wanted = drawings(scale.pictures, 1, scale, held_out=False)
    assert not any(is_held_out(scene) for scene, _, _ in wanted)
    assert {size for _, size, _ in wanted} == set(scale.sizes_px)
    levels = write_dataset(tmp_path, wanted, processes=1)
    files = sorted(tmp_path.rglob("*.png"), key=lambda file: file.name)
    assert len(files) == len(levels) == 12
    for file, (scene, size, _), each in zip(files, wanted, levels, strict=True):
        assert file.parent.name == f"{min(size)}px"
        assert file.with_suffix(".txt").read_text() == caption_of(scene) + "\n"
        assert np.array_equal(np.asarray(Image.open(file)), each)


def test_a_small_scale_draws_each_scene_before_one_again():
    scale = SCALES["trial"]
    scenes = scenes_of(scale, 1, held_out=False)
    drawn = [scene for scene, _, _ in drawings(2 * len(scenes), 1, scale, held_out=False)]
    assert drawn[: len(scenes)] == drawn[len(scenes) :] == scenes
    assert all(scale.has(scene) for scene in scenes)
    assert set(scenes_of(scale, 2, held_out=True)).isdisjoint(scenes)
    assert len(scenes_of(scale, 2, held_out=True)) >= scale.judged


def test_shares_count_what_is_seen():
    pictures = [draw(SCENE, (64, 64), 1), draw(replace(SCENE, colour="blue"), (64, 64), 1)]
    pictures.append(draw(replace(SCENE, place="right"), (64, 64), 1))
    judged = [
        Judged(scene=SCENE, size_px=(64, 64), picture=each, found=recognise(each))
        for each in pictures
    ]
    shares = shares_of(judged)
    assert [each.is_right for each in judged] == [True, False, True]
    assert (shares["colour_and_shape"], shares["shape"]) == (0.6667, 1.0)
    assert (shares["place"], shares["background"]) == (0.6667, 1.0)
    json.dumps(shares, allow_nan=False)
    assert sheet_of(judged).size == (640, 64)
