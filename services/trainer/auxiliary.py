"""The models beside the base model that a plan names, on this worker. No run fails without them."""

from pathlib import Path
from typing import Final

from services.domain.ledger import ChildEvent
from services.trainer.context import HeldRun
from trainer_core.base_models.auxiliary import find_auxiliary
from trainer_core.base_models.clip import check_clip_folder
from trainer_core.base_models.tiny_autoencoder import check_tiny_folder
from trainer_core.config.plan import Plan

_NO_CLIP: Final = "No picture is scored: this worker does not have the CLIP model {name}."


def clip_folder(held: HeldRun, plan: Plan) -> Path | None:
    """Of the model that scores pictures; None where the plan names none.

    None, too, where this worker does not have it, which a warning of the run tells. Raises
    NotWantedError.
    """
    pictures = plan.operation.pictures
    name = None if pictures is None else pictures.clip_model
    if name is None:
        return None
    folder = find_auxiliary(held.context.models_dir, name, check_clip_folder)
    if folder is None:
        _warn(held, "no_clip_score", _NO_CLIP.format(name=name))
    return folder


def autoencoder_folder(held: HeldRun, plan: Plan) -> Path | None:
    """Of the Tiny AutoEncoder that decodes previews; None where the plan names none.

    None, too, where this worker does not have it: the training process warns, and shows colours.
    """
    pictures = plan.operation.pictures
    previews = None if pictures is None else pictures.previews
    name = None if previews is None else previews.autoencoder
    if name is None:
        return None
    return find_auxiliary(held.context.models_dir, name, check_tiny_folder)


def _warn(held: HeldRun, code: str, message: str) -> None:
    claim, ledger = held.claim, held.context.ledger
    data = {"code": code, "message": message}
    event = ChildEvent(type="warning", step=held.from_step, data=data)
    held.lease.until_answered(
        lambda: ledger.event(claim.run_id, claim.fence, [event]), doing="report"
    )
