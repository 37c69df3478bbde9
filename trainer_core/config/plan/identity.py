"""Everything that changes the trained weights of a run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from trainer_core.config.plan.frozen import Frozen, Many, Sparse

AdapterInit = Literal["default", "gaussian"]
BackendRole = Literal["train", "eval", "mask"]
CaptionStrategy = Literal["filename", "textfile", "instanceprompt"]
ClipMethod = Literal["value", "norm", "previous_norm"]
Compute = Literal["bf16", "fp32"]
CaptionSplit = Literal["comma", "space", "period"]
CropAspect = Literal["square", "preserve", "closest", "random"]
CropStyle = Literal["center", "corner", "random"]
DataSampling = Literal["uniform", "auto-weighting"]
HuberSchedule = Literal["constant", "exponential", "snr"]
Loss = Literal["l2", "huber", "smooth_l1"]
MaskKind = Literal["mask", "segmentation"]
Matmul = Literal["auto", "fp8", "int8", "no_change"]
MatmulKind = Literal["fp8", "int8", "no_change"]
OptimizerName = Literal["optimi-lion", "optimi-adamw", "adamw", "bnb-lion8bit-paged", "prodigy"]
Quantization = Literal["no_change", "int8-quanto"]
ScheduleName = Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]
SizeBy = Literal["area", "shorter_edge"]
"""What a size measures: the edge of the square of an image's area, or the image's shorter edge."""
TextCache = Literal["no_change", "fp8"]
TimestepDistribution = Literal["sigmoid", "uniform", "beta", "list"]
TimestepOrder = Literal["random", "round-robin"]

UNSHARDED_OPTIMIZERS: Final[Mapping[OptimizerName, str]] = MappingProxyType(
    {
        "bnb-lion8bit-paged": "256 elements of its 8-bit state share a scale, wherever a part ends",
        "prodigy": "its rate depends on sums over all weights, of which a rank has a part",
    }
)
"""Optimizers that do not run with DeepSpeed, and why. The others update each element of a weight by
itself, so that weight and state can be cut anywhere."""
ROUNDING_OPTIMIZERS: Final[tuple[OptimizerName, ...]] = ("optimi-lion", "optimi-adamw", "adamw")
"""Optimizers that train weights in bf16 in one process, and round them stochastically."""
HOST_ASKING_OPTIMIZERS: Final[tuple[OptimizerName, ...]] = ("bnb-lion8bit-paged", "prodigy")
"""Optimizers whose update waits until the host has read that the step is finite."""


class Base(Frozen):
    """The frozen weights that a run starts from."""

    name: str
    """Entry on the operator's list, such as ``HiDream-ai/HiDream-I1-Full``."""
    digest: str
    """SHA-256 over the files of the base model."""


class AdaptedModule(Frozen):
    """One linear layer with a LoKr adapter. Overrides of the preset are already applied."""

    path: str
    """Path in the transformer, such as ``double_stream_blocks.0.block.attn1.to_q``."""
    factor: int
    """As in the preset; ``shapes.factorization`` splits each dimension by it."""
    dim: int
    """Rank of the decomposed matrices; ``shapes.lokr_shapes`` says which are decomposed."""
    alpha: float
    """The scale is alpha / dim, or 1 where both matrices are full."""
    full_matrix: bool
    decompose_both: bool
    use_scalar: bool


class LokrAdapter(Frozen):
    """LoKr: delta = multiplier · scalar · scale · (w1 ⊗ w2).

    Each of w1 and w2 is either a full matrix or the product of two low-rank factors.
    """

    kind: Literal["lokr"] = "lokr"
    full_matrix: bool
    factor: int
    linear_dim: int
    linear_alpha: float
    decompose_both: bool
    multiplier: float
    use_scalar: bool
    init_lokr_norm: float | None = None
    """None: the adapter starts at zero. A number: w1 starts as ones, and w2 is drawn with the mean
    and the standard deviation of the base weight, times this number."""
    modules: Many[AdaptedModule]
    """Every adapted linear layer, in the order of the model's ``named_modules()``; never empty."""


class LoraAdapter(Frozen):
    """LoRA: delta = alpha / rank · B · A, by peft."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    init: AdapterInit
    modules: Many[str]
    """Path of every adapted linear layer, in the order of ``named_modules()``; never empty."""


class TimestepSampling(Frozen):
    """The distribution of sigma, the share of noise in a sample, before any shift."""

    name: TimestepDistribution
    sigmoid_scale: float = Field(gt=0)
    """``sigmoid``: sigma = sigmoid(scale · normal)."""
    beta_alpha: float = Field(gt=0)
    beta_beta: float = Field(gt=0)
    values: Many[float]
    """``list``: sigmas, never shifted; empty for the other distributions."""
    order: TimestepOrder
    """``list``: whether a sample gets a random value, or each sample the next one."""


class Objective(Frozen):
    """Timestep sampling and loss of flow matching."""

    sigma: TimestepSampling
    shift: float = Field(gt=0)
    """sigma' = shift · sigma / (1 + (shift - 1) · sigma); 1 changes nothing."""
    auto_shift: bool
    """The shift depends on the number of image tokens, as in the sampler. Then ``shift`` is 1."""
    loss: Loss
    huber_c: float = Field(gt=0)
    huber_schedule: HuberSchedule
    masked_loss_probability: float = Field(ge=0, le=1)
    """Probability that a sample's mask is applied."""
    balance_weight: float = Field(ge=0)
    """Weight of the load-balancing loss of the experts; 0: none."""
    pad_compat: bool
    """Train non-square buckets with the padding that the stock pipeline samples them with."""


class Precision(Sparse):
    """The types in which weights and embeddings are stored, and in which weights are multiplied."""

    left_out: ClassVar = ("text_cache", "trained")

    base: Quantization
    matmul: Matmul = "no_change"
    """How products with the frozen base are computed; ``config.plan.matmul`` resolves ``auto``.
    Plans of older versions lack it; they ran without 8-bit products."""
    compute: Compute
    trained: Compute = "fp32"
    """How the weights of full rank and the optimizer's state are held. ``bf16``: rounded
    stochastically at each update, in one process, with one of ``ROUNDING_OPTIMIZERS``. With
    DeepSpeed, and for adapters, it is fp32."""
    text_encoder_1: Quantization
    text_encoder_2: Quantization
    text_encoder_3: Quantization
    text_encoder_4: Quantization
    text_cache: TextCache = "no_change"
    """How the cache has the embeddings of captions: in the type of the computation, or as rows of
    8 bits."""


class OptimizerPlan(Frozen):
    """One optimizer over all trained parameters."""

    name: OptimizerName
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = Field(strict=False)
    eps: float
    """Has no effect on Lion."""
    weight_decay: float = Field(ge=0)


class SchedulePlan(Frozen):
    """The learning rate over optimizer steps. Steps count from 1."""

    name: ScheduleName
    warmup_steps: int = Field(ge=0)
    end: float = Field(ge=0)
    """Rate at the end of ``cosine`` and ``polynomial``; ``linear`` ends at 0."""
    power: float = Field(gt=0)
    """Of ``polynomial``."""
    period_steps: int | None = Field(ge=1)
    """``cosine``: steps from one peak to the next. None: one fall over the whole run."""

    @property
    def follows_length(self) -> bool:
        """Whether the rate of a step depends on the length of the run."""
        return self.name in ("linear", "polynomial") or (
            self.name == "cosine" and self.period_steps is None
        )


class EmaPlan(Frozen):
    """A running mean of the trained parameters in fp32: mean += (1 - decay) · (value - mean)."""

    decay: float = Field(gt=0, lt=1)
    """Without warm-up, update number s (above 1) uses min(decay, (1 + s) / (10 + s))."""
    warmup_steps: int = Field(ge=0)
    """Up to this step, and at the first update, the mean is a copy of the parameters. After a
    warm-up ``decay`` is used as it is."""
    update_interval: int = Field(ge=1)
    """Optimizer steps between updates."""


class Clip(Frozen):
    """How gradients are clipped before the update."""

    method: ClipMethod
    """``value`` clamps each element to ±limit. ``norm`` scales the global 2-norm down to limit.
    ``previous_norm`` scales as ``norm`` would have scaled the gradient of the step before; it does
    not clip the first step."""
    limit: float = Field(gt=0)


class CaptionShuffle(Frozen):
    """Variants of a caption whose parts are in another order."""

    count: int = Field(ge=1)
    """Variants of each caption; equal ones count once."""
    seed: int
    split_on: CaptionSplit
    position_start: int = Field(ge=0)
    """So many parts stay in front, in their order."""
    include_original: bool


class Backend(Sparse):
    """One set of images, and how samples are made from it."""

    left_out: ClassVar = (
        "prepend_instance_prompt",
        "disable_multiline_split",
        "caption_shuffle",
        "caption_filters",
        "sizes_by",
        "crop_aspect_buckets",
        "crop_aspect_weights",
        "max_upscale_threshold",
        "crops_per_image",
        "minimum_aspect_ratio",
        "maximum_aspect_ratio",
        "probability",
        "start_step",
        "start_epoch",
        "end_step",
        "end_epoch",
        "max_num_samples",
    )

    id: str
    role: BackendRole
    """``eval``: held out, never trained on. ``mask``: weights for the loss of other images."""
    caption_strategy: CaptionStrategy
    instance_prompt: str | None
    """The only caption of every image, or what ``prepend_instance_prompt`` puts before each."""
    prepend_instance_prompt: bool = False
    disable_multiline_split: bool = False
    """``textfile``: a caption file is one caption with line breaks, in place of one a line."""
    caption_shuffle: CaptionShuffle | None = None
    caption_filters: Many[str] = ()
    """What is removed or replaced in each caption; ``caption_filters.parse_filter`` reads each."""
    resolution_px: int = Field(ge=64)
    """The size of each bucket; at most what the model takes."""
    sizes_by: SizeBy = "area"
    """How ``resolution_px`` and the three sizes of images are measured."""
    aspect_bucket_rounding: int = Field(ge=1, le=9)
    """Images share a bucket where their aspect ratios agree to this many decimals."""
    crop: bool
    crop_style: CropStyle = "center"
    """Where a crop lies: in the middle, at the top left, or where the image's SHA-256 puts it."""
    crop_aspect: CropAspect
    """Shape of a crop: square, the image's own, or one of ``crop_aspect_buckets``: that nearest to
    the image's, or one that the image's SHA-256 picks."""
    crop_aspect_buckets: Many[float] = ()
    """Ratios of width to height; those of ``closest`` and ``random``, and never empty for them."""
    crop_aspect_weights: Many[float] = ()
    """``random``: how likely each ratio is, in the same order; empty: all alike."""
    max_upscale_threshold: float | None = Field(default=None, ge=0)
    """``closest`` and ``random``: 0.2 leaves out ratios for which a side of the image would grow by
    more than 20 %, and an image for which none is left. None: no limit."""
    crops_per_image: int = Field(default=1, ge=1)
    """``crop_style`` random: so many crops of each image, all of one shape, are used in turn."""
    minimum_image_size_px: int = Field(ge=0)
    """Smaller images are left out; 0 keeps all."""
    maximum_image_size_px: int | None
    """Before a crop, larger images are scaled down."""
    target_downsample_size_px: int | None
    """The size that they are scaled down to."""
    minimum_aspect_ratio: float | None = Field(default=None, gt=0)
    """Images whose ratio of width to height, rounded, is smaller are left out."""
    maximum_aspect_ratio: float | None = Field(default=None, gt=0)
    repeats: int = Field(ge=0)
    """How often each image is drawn again in an epoch; 0: once."""
    probability: float = Field(default=1.0, gt=0)
    """Weight of its micro-batches in the mixture; see ``Identity.data_backend_sampling``."""
    start_step: int = Field(default=1, ge=1)
    """It is trained on from this optimizer step and from this epoch on; both count from 1."""
    start_epoch: int = Field(default=1, ge=1)
    end_step: int | None = Field(default=None, ge=1)
    """And up to this step and this epoch; None: to the end of the run."""
    end_epoch: int | None = Field(default=None, ge=1)
    max_num_samples: int | None = Field(default=None, ge=1)
    """So many of its usable images are chosen, by their content; None: all."""
    is_regularisation: bool = False
    """The target is the prediction of the base model instead of the image."""
    masks: str | None = None
    """Id of the ``mask`` backend whose files weigh the loss of the images of the same name."""
    mask_kind: MaskKind | None = None
    """``mask`` backends: grey values are the weights, or every pixel above black has weight 1."""


def plain_backend(id_: str, *, role: BackendRole, caption_strategy: CaptionStrategy) -> Backend:
    """A backend that scales all its images to 1024 px, leaves none out and cuts none."""
    return Backend(
        id=id_,
        role=role,
        caption_strategy=caption_strategy,
        instance_prompt=None,
        resolution_px=1024,
        aspect_bucket_rounding=2,
        crop=False,
        crop_aspect="square",
        minimum_image_size_px=0,
        maximum_image_size_px=None,
        target_downsample_size_px=None,
        repeats=0,
    )


class StartAdapter(Frozen):
    """The adapter that a run starts from, in place of start values."""

    sha256: str
    """Of the adapter file, or of the state file of a checkpoint."""


class Identity(Sparse):
    """Everything that changes the trained weights of a run."""

    left_out: ClassVar = (
        "start_adapter",
        "num_train_epochs",
        "sample_order",
        "data_backend_sampling",
    )

    base: Base
    seed: int = Field(ge=0)
    model_type: Literal["lokr", "lora", "full"]
    adapter: LokrAdapter | LoraAdapter | None = Field(discriminator="kind")
    """None if and only if ``model_type`` is ``full``."""
    start_adapter: StartAdapter | None = None
    """None: the adapter starts with values that change nothing."""
    objective: Objective
    precision: Precision
    optimizer: OptimizerPlan
    schedule: SchedulePlan
    clip: Clip | None
    ema: EmaPlan | None
    micro_batch_size: int = Field(ge=1)
    accumulation_steps: int = Field(ge=1)
    world_size: int = Field(ge=1)
    """Number of ranks that a step is planned for. It takes accumulation_steps · world_size
    micro-batches, also where fewer ranks share them."""
    max_train_steps: int | None = Field(ge=1)
    """Optimizer steps. None: the length is ``num_train_epochs``."""
    num_train_epochs: int | None = Field(default=None, ge=1)
    """The length in epochs. ``data.length`` finds the number of steps from the data."""
    caption_dropout_probability: float = Field(ge=0, le=1)
    backends: Many[Backend]
    sample_order: Literal[1, 2] = 1
    """1: by the names of the files, as in plans of older versions, which lack it. 2: by content,
    with each micro-batch of one backend."""
    data_backend_sampling: DataSampling = "auto-weighting"
    """The weight of a backend is its ``probability``, or that times its micro-batches an epoch."""

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.max_train_steps is None) == (self.num_train_epochs is None):
            raise ValueError("one of max_train_steps and num_train_epochs has to be given")
        return self

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of all ranks in one optimizer step."""
        return self.accumulation_steps * self.world_size
