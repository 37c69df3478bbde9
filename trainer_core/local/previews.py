"""The Tiny AutoEncoder that decodes the previews of a local run. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from trainer_core.config.plan import Plan
from trainer_core.paths import find_folder


def preview_autoencoder(plan: Plan, folders: Sequence[Path]) -> str | None:
    """Its folder, absolute; None where the plan names none, or one that is no folder here.

    A relative path is looked up in each of ``folders``, in order.
    """
    pictures = plan.operation.pictures
    previews = None if pictures is None else pictures.previews
    if previews is None or previews.autoencoder is None:
        return None
    folder = find_folder(previews.autoencoder, folders)
    return None if folder is None else str(folder.absolute())
