"""The table of every option of ``config.json``."""

from collections.abc import Mapping
from typing import Final

from trainer_core.config.simpletuner.adapter import ADAPTER
from trainer_core.config.simpletuner.cache import CACHE
from trainer_core.config.simpletuner.captions import RUN_CAPTIONS
from trainer_core.config.simpletuner.clip import CLIP
from trainer_core.config.simpletuner.crops import RUN_CROPS
from trainer_core.config.simpletuner.deepspeed import DEEPSPEED
from trainer_core.config.simpletuner.ema import EMA
from trainer_core.config.simpletuner.evaluation import EVALUATION
from trainer_core.config.simpletuner.full_rank import FULL_RANK
from trainer_core.config.simpletuner.lora import LORA
from trainer_core.config.simpletuner.mixing import SAMPLING
from trainer_core.config.simpletuner.model import MODEL
from trainer_core.config.simpletuner.objective import OBJECTIVE
from trainer_core.config.simpletuner.operation import OPERATION
from trainer_core.config.simpletuner.optimizer import OPTIMIZER
from trainer_core.config.simpletuner.other_names import OTHER_NAMES
from trainer_core.config.simpletuner.others import OTHERS
from trainer_core.config.simpletuner.pictures import PICTURES
from trainer_core.config.simpletuner.precision import PRECISION
from trainer_core.config.simpletuner.reporting import REPORTING
from trainer_core.config.simpletuner.samples import SAMPLES
from trainer_core.config.simpletuner.schedule import SCHEDULE
from trainer_core.config.simpletuner.sizes import RUN_SIZES
from trainer_core.config.simpletuner.start import START
from trainer_core.config.simpletuner.steps import STEPS
from trainer_core.config.simpletuner.timesteps import TIMESTEPS
from trainer_core.config.simpletuner.verdicts import Verdict, joined

OPTIONS: Final[Mapping[str, Verdict]] = joined(
    *(MODEL, ADAPTER, LORA, START, PRECISION),
    *(STEPS, DEEPSPEED, OPTIMIZER, FULL_RANK, SCHEDULE, EMA),
    *(TIMESTEPS, OBJECTIVE),
    *(RUN_SIZES, RUN_CROPS, RUN_CAPTIONS, SAMPLING, CACHE),
    *(OPERATION, REPORTING, SAMPLES, PICTURES, CLIP, EVALUATION),
    *(OTHERS, OTHER_NAMES),
)
"""Name, without leading dashes → row."""
