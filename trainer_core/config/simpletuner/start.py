"""Options that start a run from an adapter, in place of start values."""

import re
from typing import Final

from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import LokrAdapter, LoraAdapter, StartAdapter
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.reading import Options, requests_nothing
from trainer_core.config.simpletuner.verdicts import Table
from trainer_core.errors import AdapterFileError
from trainer_core.weights.start_adapter import FoundStart, StartProblem, misfit, stored_adapter

START: Final = Table()

INIT_LORA: Final = START.text(
    "init_lora",
    None,
    "The adapter that the run starts from: a file (.safetensors), or the folder of a result or a "
    "checkpoint; in the service an earlier run (run_…) or an uploaded adapter (ds_…).",
)
_STEP: Final = START.integer(
    "init_lora_step", 0, "0: a run that starts from an adapter begins at step 0.", at_least=0
)
_EMA: Final = START.text(
    "init_lora_ema", None, "Not read: the running mean starts at the adapter of init_lora."
)
START.unlike(
    INIT_LORA,
    "The file has to fit the adapter that the config describes; SimpleTuner takes rank and modules "
    "from the file. The run starts at step 0.",
)
START.unlike(
    _STEP, "A run starts at step 0: max_train_steps is the number of steps that it takes itself."
)
START.unlike(_EMA, "It is a pickled file and not read: the running mean starts at init_lora.")
_GLOBAL_STEP: Final = "global_step"
"""Where SimpleTuner notes in its files for how many steps they were trained."""
_COUNT: Final = re.compile("[1-9][0-9]{0,19}")

Start = FoundStart | StartProblem | None
"""What ``init_lora`` names, or why it cannot be used; None: it names nothing."""


def start_name_of(config: Options) -> str | None:
    """What ``init_lora`` names; None where the run starts from no adapter."""
    name = config[INIT_LORA]
    return None if is_full_rank(config) or requests_nothing(name, ()) else name


def start_of(
    config: Options,
    adapter: LokrAdapter | LoraAdapter | None,
    base: BaseModel | None,
    start: Start,
) -> StartAdapter | None:
    """The adapter that the run starts from; None where it starts from none, or with a problem."""
    name = start_name_of(config)
    if name is None:
        why = "with model_type full" if is_full_rank(config) else "without init_lora"
        config.idle(why, _STEP, _EMA, *([INIT_LORA] if is_full_rank(config) else []))
        return None
    if start is None:
        start = StartProblem(code="not_found", message=f"{name[:200]} was not found")
    if isinstance(start, StartProblem):
        config.problem(INIT_LORA, start.code, f"init_lora: {start.message}.")
        return None
    _tell_of_steps(config, start)
    if config[_EMA]:
        config.differs(_EMA, "It is not read: the running mean (EMA) starts at init_lora.")
    if adapter is not None and base is not None:
        _check_fit(config, adapter, base, start)
    return StartAdapter(sha256=start.sha256)


def _tell_of_steps(config: Options, start: FoundStart) -> None:
    """Say that the run starts at step 0, where SimpleTuner would count on."""
    noted = "" if start.header is None else start.header.metadata.get(_GLOBAL_STEP, "")
    if config[_STEP]:
        config.differs(
            _STEP,
            "A run from init_lora starts at step 0 here: max_train_steps is the number of steps "
            "that it takes itself.",
        )
    elif config.is_missing(_STEP) and _COUNT.fullmatch(noted):
        config.differs(
            INIT_LORA,
            f"The run starts at step 0 and takes max_train_steps steps; SimpleTuner would count on "
            f"from step {noted}, which the file names.",
        )


def _check_fit(
    config: Options, adapter: LokrAdapter | LoraAdapter, base: BaseModel, start: FoundStart
) -> None:
    if start.header is None:
        return
    linears = hidream_linears(base.transformer_config)
    try:
        stored = stored_adapter(start.name, start.header, linears, start.state)
    except AdapterFileError as error:
        config.problem(INIT_LORA, "bad_value", f"init_lora: {error.message}.")
        return
    if why := misfit(adapter, stored, linears):
        message = f"init_lora: {start.name} does not fit the adapter of this run: {why}."
        config.problem(INIT_LORA, "conflict", message)
