"""The painting model's captions and pictures, and the recognition that judges what it paints."""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainer_core.painter.drawing import SIZES_PX, draw
from trainer_core.painter.grammar import (
    BACKGROUNDS,
    COLOURS,
    NEW_SHAPES,
    PLACES,
    SHAPES,
    Scene,
    all_scenes,
    caption_of,
    draw_scenes,
    is_held_out,
    scene_of,
    words,
)
from trainer_core.painter.recognition import recognise

RED_CIRCLE = Scene("large", "plain", "red", "circle", "centre", "white")


def test_a_caption_says_its_scene_and_no_other():
    scenes = all_scenes()
    captions = {caption_of(scene) for scene in scenes}
    assert len(captions) == len(scenes) == 24_192
    assert caption_of(RED_CIRCLE) == (
        "a large plain red circle at the centre on a white background"
    )
    assert all(scene_of(caption_of(scene)) == scene for scene in scenes[::97])
    assert {word for caption in captions for word in caption.split()} <= set(words())


@pytest.mark.parametrize("text", ["", "a red circle", "a large plain red heart at the centre"])
def test_other_texts_are_no_captions(text):
    with pytest.raises(ValueError, match="not a caption of the painting model"):
        scene_of(text)


def test_scenes_are_drawn_by_seed_and_held_out_ones_are_apart():
    trained, tested = (draw_scenes(500, 7, held_out=each) for each in (False, True))
    assert trained == draw_scenes(500, 7, held_out=False) != draw_scenes(500, 8, held_out=False)
    assert len(set(trained)) == len(set(tested)) == 500
    assert not set(trained) & set(tested)
    assert all(is_held_out(scene) for scene in tested)
    held_out = sum(map(is_held_out, all_scenes()))
    assert 0.11 < held_out / len(all_scenes()) < 0.14
    assert {scene.shape for scene in tested} == set(SHAPES)
    assert {scene.colour for scene in tested} == set(COLOURS)
    with pytest.raises(ValueError, match="not 100000"):
        draw_scenes(100_000, 7, held_out=True)


def test_recognition_finds_what_was_drawn():
    scenes = draw_scenes(150, 3, held_out=True)
    pictures = [draw(*each) for each in zip(scenes, cycle(SIZES_PX), range(150), strict=False)]
    found = [recognise(picture) for picture in pictures]
    right = [
        (it.colour, it.shape, it.background) == (scene.colour, scene.shape, scene.background)
        for it, scene in zip(found, scenes, strict=True)
    ]
    assert sum(right) >= 149
    for it, scene in zip(found, scenes, strict=True):
        assert it.centre is not None
        place = tuple((x > 0.57) - (x < 0.43) for x in it.centre)
        assert place == PLACES[scene.place], scene


@pytest.mark.parametrize(("side_px", "blur_px"), [(64, 1.2), (128, 2.2)])
def test_recognition_survives_blur_and_noise(side_px, blur_px):
    chance = np.random.default_rng(1)
    scenes = draw_scenes(70, 5, held_out=True)
    right = 0
    for number, scene in enumerate(scenes):
        blurred = draw(scene, (side_px, side_px), number).filter(ImageFilter.GaussianBlur(blur_px))
        noisy = np.asarray(blurred) + chance.normal(0, 6, (side_px, side_px, 3))
        right += recognise(Image.fromarray(noisy.clip(0, 255).astype(np.uint8))).shows(scene)
    assert right >= 0.97 * len(scenes)


def test_recognition_refuses_other_colours_and_shapes():
    found = recognise(draw(RED_CIRCLE, (128, 128), 0))
    assert found.shows(RED_CIRCLE)
    others = [replace(RED_CIRCLE, colour=each) for each in COLOURS if each != "red"]
    others += [replace(RED_CIRCLE, shape=each) for each in SHAPES if each != "circle"]
    for other in others:
        assert not found.shows(other)
        assert not recognise(draw(other, (128, 128), 0)).shows(RED_CIRCLE)


@pytest.mark.parametrize("shape", NEW_SHAPES)
def test_new_shapes_are_told_from_those_of_the_grammar(shape):
    for size_px in SIZES_PX:
        found = recognise(draw(replace(RED_CIRCLE, shape=shape), size_px, 2))
        assert (found.colour, found.shape) == ("red", shape)


def test_recognition_finds_nothing_where_nothing_is():
    chance = np.random.default_rng(0)
    noise = Image.fromarray(chance.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert recognise(noise).shape is None
    blank = recognise(Image.new("RGB", (64, 64), BACKGROUNDS["beige"]))
    assert (blank.colour, blank.shape, blank.background) == (None, None, "beige")
    two = Image.new("RGB", (256, 128))
    for x, seed in ((0, 1), (128, 2)):
        two.paste(draw(RED_CIRCLE, (128, 128), seed), (x, 0))
    assert recognise(two).shape is None
    half = draw(RED_CIRCLE, (128, 128), 0)
    half.paste((45, 80, 225), (0, 0, 64, 128))
    assert not recognise(half).shows(RED_CIRCLE)


def test_the_same_seed_draws_the_same_picture():
    scene = draw_scenes(1, 0, held_out=False)[0]
    one, same, other = (draw(scene, (128, 64), seed) for seed in (4, 4, 5))
    assert one.size == (128, 64)
    assert one.tobytes() == same.tobytes() != other.tobytes()
