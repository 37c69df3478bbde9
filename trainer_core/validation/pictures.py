"""Pictures that a run makes while it trains: which there are, and their files."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import JsonValue

from trainer_core.config.plan import Objective, PicturePrompt, Pictures, PictureSize, Shown
from trainer_core.disk import writing
from trainer_core.hidream.timestep_sampling import AutoShift
from trainer_core.painting.options import SamplingOptions
from trainer_core.whole_file import draft_of

FOLDER: Final = "samples"
_SUFFIXES: Final[Mapping[Shown, str]] = {"trained": "", "ema": "-ema", "base": "-base"}
_STEP: Final = re.compile(r"step-([0-9]{6,12})")
_PATCH_PX: Final = 16
ADAPTER_FACT: Final = "adapter_sha256"
CLIP_FACT: Final = "clip_score"
SIMILARITY_FACT: Final = "similarity"
CLIP_MODEL_FACT: Final = "clip_model_digest"
"""Of the model that gave the score."""
_NOT_COMPARED: Final = (ADAPTER_FACT, CLIP_FACT, CLIP_MODEL_FACT, SIMILARITY_FACT)
"""Facts that two pictures of the same weights need not both have: the adapter's file may be gone,
and a score may have failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture of a step."""

    step: int
    shown: Shown
    prompt: PicturePrompt
    size: PictureSize
    seed: int

    @property
    def path(self) -> PurePosixPath:
        """Below the run's output folder."""
        size = f"{self.size.width_px}x{self.size.height_px}"
        name = f"{self.prompt.name}-{size}-{self.seed}{_SUFFIXES[self.shown]}.png"
        return PurePosixPath(FOLDER, f"step-{self.step:06d}", name)


def step_of(folder: str) -> int | None:
    """The step of a folder below ``FOLDER``; None where it is none."""
    found = _STEP.fullmatch(folder)
    return None if found is None else int(found[1])


def pictures_of(plan: Pictures, step: int, shown: Shown) -> Iterator[Picture]:
    """The pictures of a step that show the same weights, the first prompt's first."""
    for prompt in plan.prompts:
        for size in plan.sizes:
            for seed in plan.seeds:
                yield Picture(step=step, shown=shown, prompt=prompt, size=size, seed=seed)


def sampling_options(
    plan: Pictures, picture: Picture, objective: Objective, auto_shift: AutoShift
) -> SamplingOptions:
    """How a picture is sampled: with the shift that is trained with, where there is one."""
    return SamplingOptions(
        width_px=picture.size.width_px,
        height_px=picture.size.height_px,
        steps=plan.steps,
        guidance=plan.guidance,
        guidance_rescale=plan.guidance_rescale,
        seed=picture.seed,
        sampler=plan.sampler,
        shift=_shift(picture.size, objective, auto_shift),
    )


def _shift(size: PictureSize, objective: Objective, auto_shift: AutoShift) -> float | None:
    """None: the base model's own, where a list of sigmas is trained, which has no shift."""
    if objective.sigma.name == "list":
        return None
    if objective.auto_shift:
        return auto_shift.at(size.width_px * size.height_px // _PATCH_PX**2)
    return objective.shift


def write_picture(path: Path, image: Image.Image, facts: Mapping[str, JsonValue]) -> str:
    """Write a PNG with the facts as its text, whole or not at all; its SHA-256.

    Raises DiskError.
    """
    text = PngInfo()
    for name, value in facts.items():
        if value is not None:
            text.add_itxt(name, str(value))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft:
            image.save(draft, format="PNG", pnginfo=text)
            return hashlib.sha256(draft.read_bytes()).hexdigest()


def written_facts(path: Path, facts: Mapping[str, JsonValue]) -> dict[str, str] | None:
    """What the file says of itself, where it is a whole picture with these facts; else None."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            assert isinstance(image, PngImageFile)
            found = {name: str(value) for name, value in image.text.items()}
    except (OSError, ValueError, SyntaxError):
        return None
    wanted = {name: str(value) for name, value in facts.items() if value is not None}
    return found if _compared(found) == _compared(wanted) else None


def _compared(facts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if name not in _NOT_COMPARED}
