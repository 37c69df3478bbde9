"""The verdict on every option of ``config.json``."""

from typing import Final

from trainer_core.config.simpletuner.options.data import DATA
from trainer_core.config.simpletuner.options.model import MODEL
from trainer_core.config.simpletuner.options.objective import OBJECTIVE
from trainer_core.config.simpletuner.options.operation import OPERATION
from trainer_core.config.simpletuner.options.optimization import OPTIMIZATION
from trainer_core.config.simpletuner.options.others import OTHERS
from trainer_core.config.simpletuner.verdicts import Table

OPTIONS: Final[Table] = {**MODEL, **OBJECTIVE, **OPTIMIZATION, **DATA, **OPERATION, **OTHERS}
"""Name, without leading dashes → verdict."""
