"""Models beside the base model that a run names: the service has to have them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.domain.errors import Problem
from trainer_core.base_models.auxiliary import Check, auxiliary_names, find_auxiliary
from trainer_core.base_models.clip import check_clip_folder
from trainer_core.config.plan import Plan

_SHOWN_NAMES: Final = 20


def about_clip_model(plan: Plan, models_dir: Path, at: str) -> Iterator[Problem]:
    """A problem where the model that scores pictures is not installed; ``at``: its option."""
    pictures = plan.operation.pictures
    if pictures is not None and pictures.clip_model is not None:
        yield from _about(pictures.clip_model, "CLIP model", models_dir, check_clip_folder, at)


def _about(name: str, kind: str, models_dir: Path, check: Check, at: str) -> Iterator[Problem]:
    if find_auxiliary(models_dir, name, check) is not None:
        return
    names = auxiliary_names(models_dir, check)
    there = f"It has {', '.join(names[:_SHOWN_NAMES])}." if names else "Its operator has none."
    message = f"The service has no {kind} {name[:200]}. {there}"
    yield Problem(pointer=at, code="bad_value", message=message)
