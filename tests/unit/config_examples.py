"""SimpleTuner's published HiDream example, and base models of true and of tiny shape."""

from pathlib import Path
from typing import Any

import pytest

from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan.problems import PlanError
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.start import Start

CONFIG_TEXT = """
{
    "validation_torch_compile": "false",
    "validation_step_interval": 200,
    "validation_seed": 42,
    "validation_resolution": "1024x1024",
    "validation_prompt": "A photo-realistic image of a cat",
    "validation_num_inference_steps": "20",
    "validation_guidance": 3.0,
    "validation_guidance_rescale": "0.0",
    "vae_batch_size": 1,
    "train_batch_size": 1,
    "tracker_run_name": "eval_loss_test1",
    "seed": 42,
    "resume_from_checkpoint": "latest",
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "report_to": "tensorboard",
    "output_dir": "output/models-hidream",
    "optimizer": "optimi-lion",
    "num_train_epochs": 0,
    "num_eval_images": 1,
    "model_type": "lora",
    "model_family": "hidream",
    "offload_during_startup": true,
    "mixed_precision": "bf16",
    "minimum_image_size": 0,
    "max_train_steps": 10000,
    "max_grad_norm": 0.01,
    "lycoris_config": "config/lycoris_config.json",
    "lr_warmup_steps": 100,
    "lr_scheduler": "constant_with_warmup",
    "lora_type": "lycoris",
    "learning_rate": "4e-5",
    "gradient_checkpointing": "true",
    "grad_clip_method": "value",
    "eval_steps_interval": 100,
    "disable_benchmark": false,
    "data_backend_config": "config/hidream/multidatabackend.json",
    "checkpoints_total_limit": 5,
    "checkpoint_step_interval": 500,
    "caption_dropout_probability": 0.0,
    "base_model_precision": "int8-quanto",
    "text_encoder_3_precision": "int8-quanto",
    "text_encoder_4_precision": "int8-quanto",
    "aspect_bucket_rounding": 2
}
"""
LYCORIS_TEXT = """
{
    "algo": "lokr",
    "multiplier": 1.0,
    "linear_dim": 16384,
    "linear_alpha": 1,
    "full_matrix": true,
    "use_scalar": true,
    "factor": 16,
    "apply_preset": {
        "target_module": [
            "Attention",
        ],
        "module_algo_map": {
            "Attention": {
                "factor": 16
            },
        }
    }
}
"""
NAMED_PRESET: dict[str, Any] = {
    "name_algo_map": {
        "double_stream_blocks.*.block.attn*": {"factor": 16},
        "double_stream_blocks.*.block.ff_t*": {"factor": 16},
        "double_stream_blocks.*.block.ff_i.shared_experts*": {"factor": 16},
        "single_stream_blocks.*.block.attn*": {"factor": 16},
        "single_stream_blocks.*.block.ff_i.shared_experts*": {"factor": 16},
    },
    "use_fnmatch": True,
}
SUBJECT: dict[str, Any] = {
    "id": "dreambooth-subject",
    "type": "local",
    "crop": False,
    "resolution": 1024,
    "minimum_image_size": 1024,
    "maximum_image_size": 1024,
    "target_downsample_size": 1024,
    "resolution_type": "pixel_area",
    "cache_dir_vae": "cache/vae/hidream/dreambooth-subject",
    "instance_data_dir": "datasets/dreambooth-subject",
    "caption_strategy": "instanceprompt",
    "instance_prompt": "the name of your subject goes here",
    "metadata_backend": "discovery",
    "repeats": 1000,
}
REGULARISATION: dict[str, Any] = {
    "id": "pseudo-camera-10k-hidream",
    "type": "local",
    "crop": True,
    "crop_aspect": "square",
    "crop_style": "center",
    "resolution": 1024,
    "minimum_image_size": 1024,
    "maximum_image_size": 1024,
    "target_downsample_size": 1024,
    "resolution_type": "pixel_area",
    "cache_dir_vae": "cache/vae/hidream/pseudo-camera-10k",
    "instance_data_dir": "datasets/pseudo-camera-10k",
    "disabled": False,
    "skip_file_discovery": "",
    "caption_strategy": "filename",
    "metadata_backend": "discovery",
    "repeats": 0,
    "is_regularisation_data": True,
}
TEXT_EMBEDS: dict[str, Any] = {
    "id": "text-embeds",
    "type": "local",
    "dataset_type": "text_embeds",
    "default": True,
    "cache_dir": "cache/text/hidream",
    "disabled": False,
    "write_batch_size": 128,
}

TRUE_CONFIG: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 16,
    "num_single_layers": 32,
    "attention_head_dim": 128,
    "num_attention_heads": 20,
    "caption_channels": [4096, 4096],
    "text_emb_dim": 2048,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "axes_dims_rope": [64, 32, 32],
    "max_resolution": [128, 128],
    "llama_layers": [*range(32), *([31] * 16)],
}
TINY_CONFIG: dict[str, Any] = {
    **TRUE_CONFIG,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "caption_channels": [32, 48],
    "text_emb_dim": 40,
    "axes_dims_rope": [8, 4, 4],
    "max_resolution": [32, 32],
    "llama_layers": [0, 1, 2],
}


def base_model(name: str, transformer_config: dict[str, Any]) -> BaseModel:
    return BaseModel(
        name=name, folder=Path(name), digest="d" * 64, transformer_config=transformer_config
    )


BASE_MODELS = {
    "HiDream-ai/HiDream-I1-Full": base_model("HiDream-ai/HiDream-I1-Full", TRUE_CONFIG),
    "hidream-tiny": base_model("hidream-tiny", TINY_CONFIG),
}

SMALL_CONFIG: dict[str, Any] = {
    "model_family": "hidream",
    "model_type": "lora",
    "lora_type": "lycoris",
    "max_train_steps": 10,
    "learning_rate": 1e-4,
    "optimizer": "optimi-lion",
    "pretrained_model_name_or_path": "hidream-tiny",
    "resolution": 256,
}
SMALL_LYCORIS: dict[str, Any] = {
    "algo": "lokr",
    "full_matrix": True,
    "factor": 4,
    "apply_preset": {"target_module": ["Attention"]},
}


def import_small(
    config: dict[str, Any] | None = None,
    *,
    lycoris: dict[str, Any] | None = None,
    backends: list[Any] | None = None,
    without: tuple[str, ...] = (),
    prompt_library: dict[str, Any] | None = None,
    source: str = "http",
    start: Start = None,
) -> Imported:
    """A small run on the tiny shape with the given changes."""
    merged = {k: v for k, v in {**SMALL_CONFIG, **(config or {})}.items() if k not in without}
    return import_run(
        config=merged,
        lycoris_config={**SMALL_LYCORIS, **(lycoris or {})},
        data_backends=[{"id": "cats", "caption_strategy": "filename"}]
        if backends is None
        else backends,
        prompt_library=prompt_library,
        base_models=BASE_MODELS,
        source="local" if source == "local" else "http",
        start=start,
    )


def problems_of(
    config: dict[str, Any] | None = None, *, messages: bool = False, **more: Any
) -> list[tuple[str, str]]:
    """Pointer and code, or message, of everything that is wrong with a small run."""
    with pytest.raises(PlanError) as caught:
        import_small(config, **more)
    return [(p.pointer, p.message if messages else p.code) for p in caught.value.problems]


def notices_of(config: dict[str, Any] | None = None, **more: Any) -> tuple[str, ...]:
    """Every notice about a small run, as text."""
    return texts(import_small(config, **more))


def texts(imported: Imported) -> tuple[str, ...]:
    return tuple(notice.text for notice in imported.notices)
