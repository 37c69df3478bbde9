"""A run, resolved: two equal identities on equal data give equal weights.

``identity`` is everything that changes numbers; its digest guards resume. ``operation`` is
everything else. ``deferred`` keeps, typed, what was asked for and is not acted on yet.
"""

from typing import Literal

from pydantic import Field, JsonValue

from trainer_core.config.frozen import Frozen, Many, digest_of

Quantization = Literal["no_change", "int8-quanto"]


class Base(Frozen):
    """The frozen weights that a run starts from."""

    name: str
    """Entry on the operator's list, such as ``HiDream-ai/HiDream-I1-Full``."""
    digest: str
    """SHA-256 over the files of the base model."""


class TargetRule(Frozen):
    """One rule of the adapter's preset, as resolved to the names of diffusers' classes."""

    pattern: str | None = None
    """Module path or shell pattern; None where the rule names a class."""
    module_class: str | None = None
    """Class name such as ``HiDreamAttention``: every linear inside is adapted."""
    factor: int


class AdaptedModule(Frozen):
    """One linear layer that gets an adapter."""

    path: str
    """Path in the transformer, such as ``double_stream_blocks.0.block.attn1.to_q``."""
    factor: int
    """As written in the preset; ``shapes.factorization`` splits a dimension by it."""


class LokrAdapter(Frozen):
    """LoKr with full matrices: delta = multiplier · scalar · (w1 ⊗ w2)."""

    full_matrix: bool
    factor: int
    linear_dim: int
    linear_alpha: float
    """Without effect while both matrices are full; kept for the exported file."""
    multiplier: float
    use_scalar: bool
    init_lokr_norm: float | None = None
    """Scale of a start near the base weight's own statistics (w1 ones, w2 normal); None: zero."""
    rules: Many[TargetRule]
    modules: Many[AdaptedModule]
    """Every adapted linear, in the order of the model's own modules; never empty."""


class Objective(Frozen):
    """Flow matching: sigma = shifted(sigmoid(scale · normal)), mean squared error of velocity."""

    shift: float = Field(gt=0)
    """sigma' = shift · sigma / (1 + (shift - 1) · sigma); 1 changes nothing."""
    sigma: Literal["sigmoid"] = "sigmoid"
    sigmoid_scale: float = Field(gt=0)
    loss: Literal["l2"] = "l2"


class Precision(Frozen):
    """How weights are held and in what type they are multiplied."""

    base: Quantization
    compute: Literal["bf16", "fp32"]
    text_encoder_3: Quantization
    text_encoder_4: Quantization


class OptimizerPlan(Frozen):
    """One optimizer over all trained parameters."""

    name: Literal["optimi-lion", "adamw"]
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = Field(strict=False)
    eps: float
    """Without effect on Lion."""
    weight_decay: float = Field(ge=0)


class SchedulePlan(Frozen):
    """Learning rate over optimizer steps; the first step is step 1."""

    name: Literal["constant", "constant_with_warmup"]
    warmup_steps: int = Field(ge=0)


class Clip(Frozen):
    """What happens to gradients before the update."""

    method: Literal["value", "norm"]
    """``value`` clamps each element to ±limit; ``norm`` scales the global 2-norm down to limit."""
    limit: float = Field(gt=0)


class Backend(Frozen):
    """One set of images and how they become samples."""

    id: str
    role: Literal["train", "eval"]
    """``eval``: held out, never drawn for training."""
    caption_strategy: Literal["filename", "textfile", "instanceprompt"]
    instance_prompt: str | None
    resolution_px: int = Field(ge=64)
    """Edge of the square whose area the buckets aim at; at most what the base model takes."""
    aspect_bucket_rounding: int = Field(ge=1, le=9)
    """Decimals of the aspect ratio by which images share a bucket."""
    crop: bool
    crop_style: Literal["center"] = "center"
    crop_aspect: Literal["square", "preserve"]
    minimum_image_size_px: int = Field(ge=0)
    """Images of a smaller area than this edge squared are left out; 0 keeps all."""
    maximum_image_size_px: int | None
    """Before a crop, images above this edge squared are scaled to the target below."""
    target_downsample_size_px: int | None
    repeats: int = Field(ge=0)
    """Further visits of each image in an epoch."""
    probability: float = 1.0


class Identity(Frozen):
    """Everything that changes the numbers of a run."""

    base: Base
    seed: int = Field(ge=0)
    model_type: Literal["lokr", "full"]
    adapter: LokrAdapter | None
    """None exactly where ``model_type`` is ``full``."""
    objective: Objective
    precision: Precision
    optimizer: OptimizerPlan
    schedule: SchedulePlan
    clip: Clip | None
    micro_batch_size: int = Field(ge=1)
    accumulation_steps: int = Field(ge=1)
    world_size: int = Field(ge=1)
    """Planned ranks; an optimizer step takes accumulation * world_size micro-batches."""
    max_train_steps: int = Field(ge=1)
    caption_dropout_probability: float = Field(ge=0, le=1)
    backends: Many[Backend]


class Publication(Frozen):
    """Where the result is to be published."""

    hub_model_id: str | None = None
    """``name`` or ``owner/name`` on the Hugging Face Hub; None: nowhere."""
    private: bool = True
    """Whether a repository that is made for it is private."""


class Operation(Frozen):
    """How a run is carried out; nothing here changes the trained weights."""

    checkpoint_step_interval: int = Field(ge=1)
    """Optimizer steps between checkpoints; the most a kill can cost."""
    checkpoints_total_limit: int = Field(ge=1)
    gradient_checkpointing: bool
    device: Literal["auto", "cpu", "cuda"]
    zero_stage: int | None = Field(ge=0, le=3)
    """DeepSpeed ZeRO stage of full-rank training; None where an adapter is trained."""
    resume: bool = True
    """Whether a run in a folder with checkpoints goes on from the newest one."""
    output_dir: str | None = None
    """Where a local run writes; None in the service."""
    data_dirs: dict[str, str] = Field(default_factory=dict)
    """Backend id → folder of images, of a local run."""
    sample_prompt: str
    """Prompt of the one image in the result; empty: unconditional."""
    sample_negative_prompt: str
    sample_steps: int = Field(ge=1)
    sample_guidance: float
    sample_width_px: int = Field(ge=16)
    sample_height_px: int = Field(ge=16)
    sample_seed: int = Field(ge=0)
    publication: Publication


class Plan(Frozen):
    """One run, complete."""

    version: Literal[1] = 1
    identity: Identity
    operation: Operation
    deferred: dict[str, JsonValue]
    """Options that were read and typed, and have no effect in this version."""

    def identity_digest(self) -> str:
        """SHA-256 of the identity: the name under which equal runs meet, and the guard of resume.

        ``max_train_steps`` is left out: neither schedule depends on it, so a run may be prolonged.
        """
        return digest_of(self.identity.model_dump(mode="json", exclude={"max_train_steps"}))
