"""The further adapter that the pictures of a local run show. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import LinearShape
from trainer_core.errors import AdapterFileError
from trainer_core.export.start_file import start_named
from trainer_core.weights.start_adapter import stored_adapter


def picture_adapter(
    plan: Plan, folders: Sequence[Path], linears: Sequence[LinearShape]
) -> str | None:
    """The file that the plan names, absolute, or the folder of a checkpoint; None: it names none.

    Args:
        plan: of the run.
        folders: a relative path is looked up in each of these, in order.
        linears: linear layers of the base model; see ``hidream_linears``.

    Raises AdapterFileError where there is none, or it does not fit the base model.
    """
    pictures = plan.operation.pictures
    adapter = None if pictures is None else pictures.adapter
    if adapter is None:
        return None
    try:
        found = start_named(adapter.path, folders)
        assert found.header is not None  # of a file on this machine
        stored_adapter(found.name, found.header, linears, found.state)
    except AdapterFileError as error:
        raise AdapterFileError(f"validation_adapter_path: {error.message}") from error
    return str(Path(found.name).absolute())
