"""The verdict on every option of ``config.json``."""

from typing import Final

from trainer_core.config.options.data import DATA
from trainer_core.config.options.model import MODEL
from trainer_core.config.options.objective import OBJECTIVE
from trainer_core.config.options.operation import OPERATION
from trainer_core.config.options.optimization import OPTIMIZATION
from trainer_core.config.options.others import OTHERS
from trainer_core.config.verdicts import Table

OPTIONS: Final[Table] = {**MODEL, **OBJECTIVE, **OPTIMIZATION, **DATA, **OPERATION, **OTHERS}
"""Name, without leading dashes → verdict."""
