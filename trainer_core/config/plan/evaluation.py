"""When the evaluation loss of a run is measured while it trains, and on what."""

from pydantic import Field

from trainer_core.config.plan.frozen import Frozen, Many


class Evaluation(Frozen):
    """Measurements before the first step, at intervals, and after the last step.

    ``validation.evaluation`` defines the loss. It changes no weight of the run.
    """

    step_interval: int | None = Field(ge=1)
    """Optimizer steps between measurements; None: no such interval."""
    epoch_interval: float | None = Field(gt=0)
    """Epochs between measurements; 0.5: two in each epoch. None: no such interval."""
    images: int = Field(ge=1)
    """At most so many images are measured: of all datasets together, or of each one."""
    sigmas: int = Field(ge=1)
    """Each image is measured at so many noise levels."""
    backends: Many[str]
    """Ids of the datasets that are measured, all held out. Empty: images that are trained on."""
    by_backend: bool
    """Whether ``images`` holds for each dataset, and each one has a mean of its own, too."""
