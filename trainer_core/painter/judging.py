"""Paints scenes with a base model, and counts the pictures that show what was asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from PIL import Image

from trainer_core.config.plan import Precision
from trainer_core.hidream.loading import (
    load_text_encoders,
    load_transformer,
    load_vae,
)
from trainer_core.hidream.samplers import load_sampler
from trainer_core.hidream.text import encode_texts
from trainer_core.painter.grammar import PLACES, Scene, caption_of
from trainer_core.painter.recognition import Found, recognise
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import choose_compute

STEPS: Final = 24
GUIDANCE: Final = 3.0
_COLUMNS: Final = 10
_LOG_EVERY: Final = 20

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One picture: what was asked for, and what is seen."""

    scene: Scene
    size_px: tuple[int, int]
    picture: Image.Image
    found: Found

    @property
    def is_right(self) -> bool:
        """Whether both the colour and the shape are those of the scene."""
        return self.found.shows(self.scene)

    @property
    def is_in_place(self) -> bool:
        """Whether the shape is where it was asked for."""
        if self.found.centre is None:
            return False
        column, row = ((x > 0.57) - (x < 0.43) for x in self.found.centre)
        return (column, row) == PLACES[self.scene.place]


def judge(
    base: Path,
    scenes: Sequence[Scene],
    sizes_px: Sequence[tuple[int, int]],
    *,
    device: Device,
    log: Callable[[str], None],
) -> list[Judged]:
    """Paint each scene by its caption, in the sizes in turn, with its number as the seed."""
    compute = choose_compute(device, _precision(device))
    encoders = load_text_encoders(base, compute.weights, device=compute.device)
    transformer = load_transformer(base, compute.weights).to(compute.device)
    vae = load_vae(base, torch.float32).to(compute.device)
    sampler = load_sampler(base)
    judged = []
    with torch.no_grad(), compute.context():
        nothing = encode_texts(encoders, [""])
        for number, scene in enumerate(scenes):
            width, height = sizes_px[number % len(sizes_px)]
            picture = sample_image(
                transformer,
                vae,
                sampler,
                encode_texts(encoders, [caption_of(scene)]),
                nothing,
                options=SamplingOptions(
                    width_px=width, height_px=height, steps=STEPS, guidance=GUIDANCE, seed=number
                ),
            )
            seen = recognise(picture)
            judged.append(Judged(scene=scene, size_px=(width, height), picture=picture, found=seen))
            if len(judged) % _LOG_EVERY == 0:
                log(f"{len(judged)} pictures judged: {dict(shares_of(judged))}")
    return judged


def _precision(device: Device) -> Precision:
    """A CPU may multiply bf16 many times more slowly."""
    return Precision(
        base="no_change",
        compute="bf16" if device == "cuda" else "fp32",
        text_encoder_1="no_change",
        text_encoder_2="no_change",
        text_encoder_3="no_change",
        text_encoder_4="no_change",
    )


def shares_of(judged: Sequence[Judged]) -> Mapping[str, float]:
    """The share of pictures that are right in each respect."""

    def share(right: Sequence[bool]) -> float:
        return round(sum(right) / len(right), 4)

    return {
        "colour_and_shape": share([each.is_right for each in judged]),
        "colour": share([each.found.colour == each.scene.colour for each in judged]),
        "shape": share([each.found.shape == each.scene.shape for each in judged]),
        "background": share([each.found.background == each.scene.background for each in judged]),
        "place": share([each.is_in_place for each in judged]),
    }


def sheet_of(judged: Sequence[Judged]) -> Image.Image:
    """All pictures side by side, for people to look at."""
    cell = max(max(each.size_px) for each in judged)
    rows = (len(judged) + _COLUMNS - 1) // _COLUMNS
    sheet = Image.new("RGB", (_COLUMNS * cell, rows * cell), "white")
    for number, each in enumerate(judged):
        sheet.paste(each.picture, (number % _COLUMNS * cell, number // _COLUMNS * cell))
    return sheet
