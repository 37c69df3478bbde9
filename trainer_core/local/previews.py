"""The Tiny AutoEncoder that decodes the previews of a local run. Imports no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from trainer_core.base_models.resolve import is_hub_name
from trainer_core.config.plan import Plan
from trainer_core.paths import find_folder

_MISSING: Final = (
    "validation_preview_autoencoder is not used, and previews show colours only: {name} is no "
    "folder here, and no model in the Hub's cache on this machine"
)


def without_missing_autoencoder(
    plan: Plan, folders: Sequence[Path], warn: Callable[[str, str], None]
) -> Plan:
    """The plan, without the previews' autoencoder where that is not on this machine.

    Args:
        plan: of the run.
        folders: as of ``preview_autoencoder``.
        warn: gets the code and the message of a warning, where it is missing.
    """
    name = _name_in(plan)
    if name is None or preview_autoencoder(plan, folders) is not None:
        return plan
    warn("preview_autoencoder", _MISSING.format(name=name))
    operation, pictures = plan.operation, plan.operation.pictures
    assert pictures is not None
    assert pictures.previews is not None
    previews = pictures.previews.model_copy(update={"autoencoder": None})
    pictures = pictures.model_copy(update={"previews": previews})
    return plan.model_copy(
        update={"operation": operation.model_copy(update={"pictures": pictures})}
    )


def preview_autoencoder(
    plan: Plan, folders: Sequence[Path], *, hub_cache: Path | None = None
) -> str | None:
    """Its folder, absolute; None where the plan names none, or one that is not on this machine.

    Args:
        plan: of the run.
        folders: a relative path is looked up in each of these, in order.
        hub_cache: where a name of the Hub is looked up; None: where huggingface_hub keeps models.
    """
    name = _name_in(plan)
    if name is None:
        return None
    folder = find_folder(name, folders)
    if folder is not None:
        return str(folder.absolute())
    if not is_hub_name(name):
        return None
    from huggingface_hub import errors, try_to_load_from_cache  # noqa: PLC0415 - takes a second

    try:
        config = try_to_load_from_cache(name, "config.json", cache_dir=hub_cache)
    except errors.HFValidationError:  # such as a--b/c: the Hub has no such names
        return None
    return str(Path(config).parent) if isinstance(config, str) else None


def _name_in(plan: Plan) -> str | None:
    pictures = plan.operation.pictures
    previews = None if pictures is None else pictures.previews
    return None if previews is None else previews.autoencoder
