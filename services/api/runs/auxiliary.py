"""Models beside the base model that a run names: the service has to have them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from services.domain.errors import Problem
from trainer_core.base_models.auxiliary import Check, auxiliary_names, find_auxiliary
from trainer_core.base_models.clip import check_clip_folder
from trainer_core.base_models.tiny_autoencoder import check_tiny_folder
from trainer_core.config.plan import Plan
from trainer_core.config.simpletuner.clip import CLIP_MODEL
from trainer_core.config.simpletuner.pictures import PREVIEW_DECODER

_SHOWN_NAMES: Final = 20


def about_auxiliary(plan: Plan, models_dir: Path, at: Callable[[str], str]) -> Iterator[Problem]:
    """Problems with models that the operator has not put into the folder of base models.

    ``at``: the JSON pointer of an option.
    """
    pictures = plan.operation.pictures
    if pictures is None:
        return
    clip, previews = pictures.clip_model, pictures.previews
    if clip is not None:
        pointer = at(CLIP_MODEL.name)
        yield from _about(clip, "CLIP model", models_dir, check_clip_folder, pointer)
    if previews is not None and previews.autoencoder is not None:
        name, pointer = previews.autoencoder, at(PREVIEW_DECODER.name)
        yield from _about(name, "Tiny AutoEncoder", models_dir, check_tiny_folder, pointer)


def _about(name: str, kind: str, models_dir: Path, check: Check, at: str) -> Iterator[Problem]:
    if find_auxiliary(models_dir, name, check) is not None:
        return
    names = auxiliary_names(models_dir, check)
    there = f"It has {', '.join(names[:_SHOWN_NAMES])}." if names else "Its operator has none."
    message = f"The service has no {kind} {name[:200]}. {there}"
    yield Problem(pointer=at, code="bad_value", message=message)
