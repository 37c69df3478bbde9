"""How a run is carried out. It changes the trained weights by their rounding at most."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trainer_core.config.plan.evaluation import Evaluation
from trainer_core.config.plan.frozen import Many, Sparse
from trainer_core.config.plan.pictures import Pictures

Device = Literal["auto", "cpu", "cuda"]
Place = Literal["cpu", "accelerator"]
ZeroOffload = Literal["none", "cpu", "auto"]
ZeroStage = Annotated[int, Field(ge=0, le=3)] | Literal["auto"]
Tracker = Literal["tensorboard", "wandb"]


class Publication(Sparse):
    """Where the result is published."""

    left_out: ClassVar = ("checkpoints",)

    hub_model_id: str | None = None
    """``name`` or ``owner/name`` on the Hugging Face Hub; None: nowhere."""
    private: bool = True
    """Whether a repository that has to be created is private."""
    checkpoints: bool = False
    """Whether the adapter of each checkpoint is published there too, while the run trains."""


class Operation(Sparse):
    """How a run is carried out."""

    left_out: ClassVar = (
        "checkpoint_epoch_interval",
        "zero_offload",
        "release_gradients",
        "sample_guidance_rescale",
        "pictures",
        "evaluation",
    )

    checkpoint_step_interval: int = Field(ge=1)
    """Optimizer steps between checkpoints. A killed run loses at most this many steps."""
    checkpoint_epoch_interval: int | None = Field(default=None, ge=1)
    """A checkpoint also falls on the step that ends every n-th epoch; None: on none for that."""
    checkpoints_total_limit: int = Field(ge=1)
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int = Field(ge=1)
    """Every n-th block is checkpointed; 1: all of them."""
    device: Device
    deterministic: bool = False
    """Whether equal inputs give equal bits on CUDA too, as they always do on a CPU."""
    quantize_via: Place
    """Where the base model's weights are quantised; ``cpu`` needs less memory on the accelerator.
    Text encoders are always quantised on the CPU."""
    zero_stage: ZeroStage | None
    """DeepSpeed ZeRO stage of full-rank training. ``auto``: the lowest that fits the cards, from 2.
    None: one process without DeepSpeed."""
    zero_offload: ZeroOffload = "none"
    """Where DeepSpeed keeps fp32 weights and optimizer state, and updates them: ``none`` is on the
    accelerator, ``cpu`` in the host's memory, and ``auto`` there where no stage fits without."""
    release_gradients: bool = False
    """Full rank without DeepSpeed: whether each weight is updated within the backward pass, and its
    gradient freed, so that never all gradients are in memory. A step then is one micro-batch, and
    is not clipped by ``norm``; it has the same result."""
    ema_device: Place
    """Where the mean of all weights is kept. An adapter's mean is always on the accelerator."""
    resume_from: str = "latest"
    """``latest``: the newest checkpoint in the output folder. Empty: start at step 0. Or a path."""
    output_dir: str | None = None
    """Folder that a local run writes to; None in the service."""
    report_to: Many[Tracker] = ()
    """Trackers of a run. In the service only wandb, to which it relays what it has stored."""
    tracker_project_name: str
    tracker_run_name: str
    text_encoder_4_source: str | None = None
    """Repository or folder of the fourth text encoder, in a local run. None: the default one."""
    data_dirs: dict[str, str] = Field(default_factory=dict)
    """Backend id → folder of images, of a local run."""
    sample_prompt: str
    """Prompt of the sample image in the result; empty: unconditional."""
    sample_negative_prompt: str
    sample_steps: int = Field(ge=1)
    sample_guidance: float
    sample_guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    """Of guidance above 1; 0: not at all."""
    sample_width_px: int = Field(ge=16)
    sample_height_px: int = Field(ge=16)
    sample_seed: int = Field(ge=0)
    pictures: Pictures | None = None
    """Pictures that are made while it trains; None: none are."""
    evaluation: Evaluation | None = None
    """None: no evaluation loss is measured."""
    publication: Publication
