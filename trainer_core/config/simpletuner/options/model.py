"""Options that say what is trained, on what, and how its weights are held."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import (
    Table,
    honoured,
    not_built,
    refused,
    superseded,
    words,
)

_QUANTIZED: Final = ("no_change", "int8-quanto")
_QUANTIZED_LATER: Final = words(
    "int4-quanto int2-quanto fp8-quanto fp8uz-quanto "
    "int8-torchao int8dq-torchao int8dq-int4-torchao int4-torchao "
    "fp8-torchao fp8wo-torchao fp8-int4-torchao fp8-native "
    "fp8-transformerengine nf4-bnb int8-sdnq uint8-sdnq "
    "int16-sdnq uint16-sdnq fp16-sdnq fp8-sdnq "
    "int6-sdnq int5-sdnq int4-sdnq int3-sdnq "
    "int2-sdnq uint6-sdnq uint5-sdnq uint4-sdnq "
    "uint3-sdnq uint2-sdnq "
)

_BASE: Final[Table] = {
    "model_family": honoured("text", None, "Only hidream is trained here.", choices=("hidream",)),
    "model_type": honoured(
        "text", None, "lora trains an adapter, full all weights.", choices=("lora", "full")
    ),
    "model_flavour": honoured(
        "text",
        "full",
        "Names the base model, unless pretrained_model_name_or_path does.",
        choices=("full", "dev", "fast"),
    ),
    "pretrained_model_name_or_path": honoured(
        "text",
        None,
        "The name of a base model on the operator's list; in a local run also a folder or a "
        "repository.",
    ),
    "pretrained_text_encoder_4_model_name_or_path": honoured(
        "text",
        None,
        "Reverie's own: where a local run takes the fourth text encoder (Llama 3.1 8B Instruct) "
        "from, a repository or a folder.",
    ),
}

_ADAPTER: Final[Table] = {
    "lora_type": honoured(
        "text",
        "standard",
        "standard is LoRA; lycoris needs a LyCORIS config.",
        choices=("standard", "lycoris"),
    ),
    "lycoris_config": honoured("path", None, "Path of the LyCORIS config, in a local run."),
    "init_lokr_norm": honoured(
        "float", None, "Start LoKr near the base weights' statistics, at this scale.", above=0
    ),
    "lora_rank": honoured("int", 16, "Rank of LoRA.", at_least=1, at_most=16384),
    "lora_alpha": honoured(
        "float", None, "LoRA's scale is alpha / rank; the rank where it is not given.", above=0
    ),
    "lora_dropout": honoured(
        "float", 0.1, "How often an input of LoRA is left out.", at_least=0, at_most=0.99
    ),
    "lora_init_type": honoured(
        "text",
        "default",
        "How LoRA's first matrix starts; the second is zero.",
        choices=("default", "gaussian"),
        known=("loftq", "olora", "pissa"),
    ),
    "lora_format": honoured(
        "text",
        "diffusers",
        "Names of the tensors in LoRA's file; ComfyUI reads these too.",
        choices=("diffusers",),
        known=("comfyui",),
    ),
    "peft_lora_target_modules": honoured(
        "any", None, "Modules that LoRA adapts: a list, or the name of a preset."
    ),
    **refused("use_dora", "LoRA and LoKr are built; DoRA is not taken.", False),
    **not_built("peft_lora_mode", "Leave it out.", "standard"),
    **not_built("slider_lora_target", "Leave it out."),
}

_PRECISION: Final[Table] = {
    "base_model_precision": honoured(
        "text",
        "no_change",
        "How the frozen base is held.",
        choices=_QUANTIZED,
        known=_QUANTIZED_LATER,
    ),
    **{
        f"text_encoder_{n}_precision": honoured(
            "text",
            "no_change",
            f"How text encoder {n} is held.",
            choices=_QUANTIZED,
            known=_QUANTIZED_LATER,
        )
        for n in (1, 2, 3, 4)
    },
    "quantize_via": honoured(
        "text",
        "accelerator",
        "Where the base's weights are when they are quantised; cpu takes less of the accelerator's "
        "memory. Text encoders are always quantised on the CPU, where they are loaded.",
        choices=("cpu", "accelerator"),
        known=("pipeline",),
    ),
    "mixed_precision": honoured(
        "text",
        "bf16",
        "bf16, or no for fp32 throughout.",
        choices=("bf16", "no"),
        known=("fp16", "fp8"),
    ),
    **superseded("base_model_default_dtype", "mixed_precision decides the type.", "text"),
    **superseded("vae_dtype", "The VAE computes in fp32.", "text"),
    **superseded(
        "offload_during_startup keep_vae_loaded offload_during_save fully_unload_text_encoder "
        "delete_model_after_load",
        "Encoders, VAE and transformer are loaded when they are needed, never together.",
        "bool",
    ),
    **not_built("quantize_activations", "Leave it out.", False, type_="bool"),
    **not_built("quantization_config", "Leave it out."),
}

MODEL: Final[Table] = {**_BASE, **_ADAPTER, **_PRECISION}
