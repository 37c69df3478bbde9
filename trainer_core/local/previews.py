"""The Tiny AutoEncoder that decodes the previews of a local run. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from trainer_core.base_models.resolve import is_hub_name
from trainer_core.config.plan import Plan
from trainer_core.paths import find_folder


def preview_autoencoder(
    plan: Plan, folders: Sequence[Path], *, hub_cache: Path | None = None
) -> str | None:
    """Its folder, absolute; None where the plan names none, or one that is not on this machine.

    Args:
        plan: of the run.
        folders: a relative path is looked up in each of these, in order.
        hub_cache: where a name of the Hub is looked up; None: where huggingface_hub keeps models.
    """
    pictures = plan.operation.pictures
    previews = None if pictures is None else pictures.previews
    name = None if previews is None else previews.autoencoder
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
