"""A run, resolved: two equal identities on equal data give equal weights.

``identity`` is everything that changes numbers; its digest guards resume. ``operation`` is
everything else. ``deferred`` keeps, typed, what was asked for and is not acted on yet.
"""

from typing import Literal

from pydantic import Field, JsonValue

from trainer_core.config.plan.frozen import Frozen, Many, digest_of

Quantization = Literal["no_change", "int8-quanto"]


class Base(Frozen):
    """The frozen weights that a run starts from."""

    name: str
    """Entry on the operator's list, such as ``HiDream-ai/HiDream-I1-Full``."""
    digest: str
    """SHA-256 over the files of the base model."""


class AdaptedModule(Frozen):
    """One linear layer that gets a LoKr adapter, its overrides applied."""

    path: str
    """Path in the transformer, such as ``double_stream_blocks.0.block.attn1.to_q``."""
    factor: int
    """As written in the preset; ``shapes.factorization`` splits a dimension by it."""
    dim: int
    """Rank of what is decomposed; ``shapes.lokr_shapes`` says what is."""
    alpha: float
    """Scale is alpha / dim where something is decomposed, and 1 where both matrices are full."""
    full_matrix: bool
    decompose_both: bool
    use_scalar: bool


class LokrAdapter(Frozen):
    """LoKr: delta = multiplier · scalar · scale · (w1 ⊗ w2), either matrix whole or a product."""

    kind: Literal["lokr"] = "lokr"
    full_matrix: bool
    factor: int
    linear_dim: int
    linear_alpha: float
    decompose_both: bool
    multiplier: float
    use_scalar: bool
    init_lokr_norm: float | None = None
    """Scale of a start near the base weight's own statistics (w1 ones, w2 normal); None: zero."""
    modules: Many[AdaptedModule]
    """Every adapted linear, in the order of the model's own modules; never empty."""


class LoraAdapter(Frozen):
    """LoRA: delta = alpha / rank · B · A, by peft."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    init: Literal["default", "gaussian"]
    modules: Many[str]
    """Path of every adapted linear, in the order of the model's own modules; never empty."""


class SigmaLaw(Frozen):
    """How the noise share is drawn, before any shift."""

    name: Literal["sigmoid", "uniform", "beta", "list"]
    sigmoid_scale: float = Field(gt=0)
    """``sigmoid``: sigma = sigmoid(scale · normal)."""
    beta_alpha: float = Field(gt=0)
    beta_beta: float = Field(gt=0)
    values: Many[float]
    """``list``: sigmas, never shifted; empty for the other laws."""
    order: Literal["random", "round-robin"]
    """``list``: which of the values a sample gets."""


class Objective(Frozen):
    """Flow matching: what is drawn, what is compared with what, and how."""

    sigma: SigmaLaw
    shift: float = Field(gt=0)
    """sigma' = shift · sigma / (1 + (shift - 1) · sigma); 1 changes nothing."""
    auto_shift: bool
    """The shift follows the number of image tokens, as the sampler's does; ``shift`` is 1 then."""
    loss: Literal["l2", "huber", "smooth_l1"]
    huber_c: float = Field(gt=0)
    huber_schedule: Literal["constant", "exponential", "snr"]
    masked_loss_probability: float = Field(ge=0, le=1)
    """How often a sample's mask is applied."""
    balance_weight: float = Field(ge=0)
    """Of the experts' load-balancing loss; 0: none."""
    pad_compat: bool
    """Train non-square buckets as the stock pipeline samples them: with its padding."""


class Precision(Frozen):
    """How weights are held and in what type they are multiplied."""

    base: Quantization
    compute: Literal["bf16", "fp32"]
    text_encoder_1: Quantization
    text_encoder_2: Quantization
    text_encoder_3: Quantization
    text_encoder_4: Quantization


class OptimizerPlan(Frozen):
    """One optimizer over all trained parameters."""

    name: Literal["optimi-lion", "adamw", "bnb-lion8bit-paged", "prodigy"]
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = Field(strict=False)
    eps: float
    """Without effect on Lion."""
    weight_decay: float = Field(ge=0)


class SchedulePlan(Frozen):
    """Learning rate over optimizer steps; the first step is step 1."""

    name: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]
    warmup_steps: int = Field(ge=0)
    end: float = Field(ge=0)
    """Rate at the end of ``cosine`` and ``polynomial``; ``linear`` ends at 0."""
    power: float = Field(gt=0)
    """Of ``polynomial``."""
    period_steps: int | None = Field(ge=1)
    """``cosine``: steps from the peak to the next peak; None: falls once, over the whole run."""

    @property
    def follows_length(self) -> bool:
        """Whether the rate of a step depends on how many steps there will be."""
        return self.name in ("linear", "polynomial") or (
            self.name == "cosine" and self.period_steps is None
        )


class EmaPlan(Frozen):
    """A running mean of the trained parameters, in fp32: mean += (1 - decay) · (value - mean)."""

    decay: float = Field(gt=0, lt=1)
    """At update s above 1 it is min(decay, (1 + s) / (10 + s)) where there is no warm-up."""
    warmup_steps: int = Field(ge=0)
    """Up to this step, and at the first update, the mean is a copy; then the decay is whole."""
    update_interval: int = Field(ge=1)
    """Optimizer steps between updates."""


class Clip(Frozen):
    """What happens to gradients before the update."""

    method: Literal["value", "norm"]
    """``value`` clamps each element to ±limit; ``norm`` scales the global 2-norm down to limit."""
    limit: float = Field(gt=0)


class Backend(Frozen):
    """One set of images and how they become samples."""

    id: str
    role: Literal["train", "eval", "mask"]
    """``eval``: held out, never drawn for training. ``mask``: says where other images count."""
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
    is_regularisation: bool = False
    """The adapter learns to leave these images as the base model has them."""
    masks: str | None = None
    """Id of the ``mask`` backend whose files of the same name say where these images count."""
    mask_kind: Literal["mask", "segmentation"] | None = None
    """Of a ``mask`` backend: greys as they are, or anything above black counts in full."""


class Identity(Frozen):
    """Everything that changes the numbers of a run."""

    base: Base
    seed: int = Field(ge=0)
    model_type: Literal["lokr", "lora", "full"]
    adapter: LokrAdapter | LoraAdapter | None = Field(discriminator="kind")
    """None exactly where ``model_type`` is ``full``."""
    objective: Objective
    precision: Precision
    optimizer: OptimizerPlan
    schedule: SchedulePlan
    clip: Clip | None
    ema: EmaPlan | None
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
    gradient_checkpointing_interval: int = Field(ge=1)
    """Every so many blocks one is recomputed; 1: all of them."""
    device: Literal["auto", "cpu", "cuda"]
    quantize_via: Literal["cpu", "accelerator"]
    """Where the base's weights are when they are quantised: ``cpu`` needs less of the accelerator's
    memory. Text encoders are quantised on the CPU, whichever it is."""
    zero_stage: int | None = Field(ge=0, le=3)
    """DeepSpeed ZeRO stage of full-rank training; None: one process without DeepSpeed."""
    ema_device: Literal["cpu", "accelerator"]
    resume_from: str = "latest"
    """``latest``: the newest checkpoint of the output folder; empty: start afresh; or a path."""
    output_dir: str | None = None
    """Where a local run writes; None in the service."""
    report_to: Many[Literal["tensorboard", "wandb"]] = ()
    """Trackers of a local run; the service reports by events."""
    tracker_project_name: str
    tracker_run_name: str
    text_encoder_4_source: str | None = None
    """Repository or folder of the fourth text encoder, in a local run; None: the usual one."""
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

        ``max_train_steps`` is left out where the schedule does not depend on it, so that such a run
        may be prolonged.
        """
        return digest_of(self.guarded_identity())

    def guarded_identity(self) -> dict[str, JsonValue]:
        """What has to be equal for a resume, as JSON; the base model goes by its digest alone."""
        prolongs = not self.identity.schedule.follows_length
        identity = self.identity.model_dump(
            mode="json", exclude={"max_train_steps"} if prolongs else set()
        )
        # A folder may be renamed; the digest says which base it is.
        del identity["base"]["name"]
        return identity
