"""Options that say how many steps there are and what each does to the weights."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import (
    Table,
    alias,
    deferred,
    honoured,
    not_built,
    not_built_but,
    superseded,
    words,
)

MAX_STEPS: Final = 100_000_000
_BELOW_ONE: Final = 0.9999999

_OPTIMIZERS_LATER: Final = words(
    "torch-adam torch-adamax torch-nadam torch-radam "
    "torch-sgd torch-rmsprop torch-adagrad torch-adadelta "
    "torch-asgd torch-sparseadam torch-adafactor ao-adamw8bit "
    "ao-adamw4bit ao-adamfp8 ao-adamwfp8 adamw_schedulefree "
    "adamw_schedulefree+aggressive adamw_schedulefree+no_kahan optimi-stableadamw optimi-adamw "
    "optimi-adam optimi-radam optimi-ranger optimi-adan "
    "optimi-sgd soap muon bnb-adagrad "
    "bnb-adagrad8bit bnb-adam bnb-adam8bit bnb-adamw "
    "bnb-adamw8bit bnb-adamw-paged bnb-adamw8bit-paged bnb-lion "
    "bnb-lion8bit bnb-lion-paged bnb-ademamix "
    "bnb-ademamix8bit bnb-ademamix-paged bnb-ademamix8bit-paged "
    "sdnq-adamw sdnq-adamw+no_quant sdnq-adafactor sdnq-came "
    "sdnq-lion sdnq-muon sdnq-muon+quantized_matmul "
)

_STEPS: Final[Table] = {
    "seed": honoured("int", 42, "0 and -1 draw one, which the plan then holds.", at_least=-1),
    "train_batch_size": honoured("int", 4, "Samples in a micro-batch.", at_least=1, at_most=1024),
    "gradient_accumulation_steps": honoured(
        "int", 1, "Micro-batches a rank takes in an optimizer step.", at_least=0
    ),
    "max_train_steps": honoured("int", None, "Optimizer steps.", at_least=0, at_most=MAX_STEPS),
    "num_train_epochs": honoured("int", 0, "Only 0: set max_train_steps.", at_least=0),
    **superseded("seed_for_each_device", "Draws depend on step and sample, not device.", "bool"),
    **superseded("set_grads_to_none", "Gradients are always freed.", "bool"),
}

_OPTIMIZER: Final[Table] = {
    "optimizer": honoured(
        "text",
        "adamw_bf16",
        "adamw_bf16 is taken as torch-adamw with fp32 weights and states.",
        choices=("optimi-lion", "torch-adamw", "bnb-lion8bit-paged", "prodigy", "adamw_bf16"),
        known=_OPTIMIZERS_LATER,
    ),
    "learning_rate": honoured(
        "float", 4e-7, "Learning rate after the warm-up; 1 by default with prodigy.", above=0
    ),
    "optimizer_beta1": honoured("float", None, "First beta.", at_least=0, at_most=_BELOW_ONE),
    "optimizer_beta2": honoured("float", None, "Second beta.", at_least=0, at_most=_BELOW_ONE),
    "adam_weight_decay": honoured("float", None, "Weight decay of torch-adamw.", at_least=0),
    "adam_epsilon": honoured("float", None, "eps of torch-adamw.", above=0, at_most=1),
    "optimizer_config": honoured(
        "text", None, "beta1=…,beta2=…,weight_decay=…,eps=…, as far as the optimizer has them."
    ),
    "max_grad_norm": honoured("float", 2.0, "Limit of clipping; 0 for none.", at_least=0),
    "grad_clip_method": honoured(
        "text",
        "value",
        "value clamps each element, norm scales the global norm; DeepSpeed has only norm.",
        choices=("value", "norm"),
    ),
    **not_built_but(
        {"adam_beta1": 0.9, "adam_beta2": 0.999}, "Use optimizer_beta1 and optimizer_beta2."
    ),
    **not_built("prodigy_steps", "Leave it out.", 0),
    **not_built("gradient_precision", "Gradients are fp32 for adapters.", "unmodified", "fp32"),
    **not_built(
        "optimizer_release_gradients fuse_optimizer optimizer_offload_gradients",
        "Leave it out.",
        False,
        type_="bool",
    ),
    **not_built("optimizer_cpu_offload_method", "Leave it out.", "none"),
}

_SCHEDULE: Final[Table] = {
    "lr_scheduler": honoured(
        "text",
        "constant_with_warmup",
        "Learning rate over steps; cosine_with_warmup is cosine.",
        choices=(
            "constant",
            "constant_with_warmup",
            "linear",
            "cosine",
            "cosine_with_warmup",
            "polynomial",
        ),
        known=("sine", "cosine_with_restarts"),
    ),
    "lr_warmup_steps": honoured(
        "int",
        0,
        "Optimizer steps of linear warm-up, whatever the schedule and the number of ranks.",
        at_least=0,
        at_most=MAX_STEPS,
    ),
    "lr_period_steps": honoured(
        "int",
        None,
        "Reverie's own: steps from peak to peak of cosine; it falls once over the run where this "
        "is not given.",
        at_least=1,
        at_most=MAX_STEPS,
    ),
    "lr_end": honoured("float", 4e-7, "Rate at the end of cosine and polynomial.", at_least=0),
    "lr_power": honoured("float", 0.8, "Power of polynomial.", above=0, at_most=100),
    **not_built("lr_num_cycles", "Use lr_period_steps with cosine.", 1),
    **not_built("lr_scale lr_scale_sqrt", "Scale learning_rate yourself.", False, type_="bool"),
}

_EMA: Final[Table] = {
    "use_ema": honoured("bool", False, "Keep a running mean of the trained weights, in fp32."),
    "ema_decay": honoured("float", 0.995, "Decay of the mean.", above=0, at_most=_BELOW_ONE),
    "ema_warmup_steps": honoured(
        "int", 0, "Up to this step the mean is a copy.", at_least=0, at_most=MAX_STEPS
    ),
    "ema_update_interval": honoured(
        "int", 1, "Optimizer steps between updates of the mean.", at_least=1, at_most=MAX_STEPS
    ),
    "ema_device": honoured(
        "text", "cpu", "Where the mean is kept.", choices=("cpu", "accelerator")
    ),
    "ema_cpu_only": honoured("bool", False, "The same as ema_device cpu."),
    **superseded("ema_foreach_disable", "There is one way to update the mean.", "bool"),
    **deferred("ema_validation", "Validation comes later.", "text"),
}  # fmt: skip

_DEVICES: Final[Table] = {
    "world_size": honoured(
        "int",
        1,
        "Reverie's own: planned number of GPUs, above 1 with model_type full.",
        at_least=1,
        at_most=1024,
    ),
    "zero_stage": honoured(
        "int",
        None,
        "Reverie's own: DeepSpeed ZeRO stage with model_type full; 2 by default on several GPUs, "
        "no DeepSpeed on one.",
        at_least=0,
        at_most=3,
    ),
    "device": honoured(
        "text", "auto", "Reverie's own: auto takes cuda, else cpu.", choices=("auto", "cpu", "cuda")
    ),
}

OPTIMIZATION: Final[Table] = {
    **_STEPS,
    **_OPTIMIZER,
    **_SCHEDULE,
    **_EMA,
    **_DEVICES,
    "num_processes": alias("world_size", _DEVICES["world_size"]),
}
