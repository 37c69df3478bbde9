"""Finding a base model among those that the operator installed."""

from pathlib import Path

import structlog

from trainer_core.base_models.describe import BaseModel, read_base_models
from trainer_core.errors import BaseModelError

log = structlog.get_logger(__name__)


def find_base_model(models_dir: Path, name: str) -> BaseModel | None:
    """The base model of this name in ``models_dir``, None where it is not installed.

    A folder that cannot be read is logged for the operator and counts as not installed: the run
    waits or is retried, and another worker may have the model.
    """
    try:
        return read_base_models(models_dir).get(name)
    except (BaseModelError, OSError) as error:
        log.error("base_models_unreadable", reason=str(error))
        return None
