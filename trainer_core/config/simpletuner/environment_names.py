"""The names of options in ``config.env``, an older form of SimpleTuner's configuration.

Source: the names that SimpleTuner 4.10.1 and its older versions read from it; a test compares them
with the snapshot in ``tests/golden/simpletuner_names.json``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_SAME: Final = """
accelerate_extra_args allow_tf32 aspect_bucket_rounding aws_max_pool_connections
base_model_precision caption_dropout_probability checkpoint_epoch_interval
checkpoint_step_interval disable_benchmark enable_chunked_feed_forward feed_forward_chunk_size
flux_guidance_value flux_lora_target gradient_accumulation_steps
gradient_checkpointing_offload_attention gradient_checkpointing_offload_pin_memory_max_buckets
gradient_checkpointing_offload_prefetch gradient_checkpointing_segment_stride
image_processing_batch_size inference_scheduler_timestep_spacing learning_rate lora_type lr_end
lr_warmup_steps lycoris_config metadata_update_interval mixed_precision model_card_safe_for_work
model_family model_type optimizer output_dir post_checkpoint_script post_upload_script
publishing_config push_to_hub push_to_hub_background quantization_config quantize_via
qwen_text_encoder_model_name_or_path read_batch_size resolution resolution_type
text_cache_disable text_cache_ondemand text_encoder_batch_size torch_num_threads
tracker_project_name tracker_run_name train_batch_size training_scheduler_timestep_spacing
use_dora use_ema validate_after_epoch validate_after_step validation_epoch_interval
validation_external_background validation_external_script validation_guidance
validation_guidance_real validation_guidance_rescale validation_input validation_method
validation_negative_prompt validation_no_cfg_until_timestep validation_num_inference_steps
validation_prompt validation_resolution validation_seed validation_step_interval
validation_torch_compile
write_batch_size
deepfloyd_validation_pipeline_mode deepfloyd_validation_stage1_guidance
deepfloyd_validation_stage1_model deepfloyd_validation_stage1_num_inference_steps
deepfloyd_validation_stage2_guidance deepfloyd_validation_stage2_model
deepfloyd_validation_stage2_num_inference_steps deepfloyd_validation_stage3_guidance
deepfloyd_validation_stage3_mode deepfloyd_validation_stage3_model
deepfloyd_validation_stage3_noise_level
ltx2_validation_audio_guidance ltx2_validation_pipeline_mode
ltx2_validation_spatial_upsampler_filename ltx2_validation_spatial_upsampler_model
pixart_validation_pipeline_mode pixart_validation_stage1_model pixart_validation_stage2_model
sdxl_validation_pipeline_mode sdxl_validation_stage1_model sdxl_validation_stage2_model
wan_validation_load_other_stage
sdnq_compile_mode sdnq_dequantize_fp32 sdnq_group_size sdnq_hadamard_group_size
sdnq_modules_dtype_dict sdnq_modules_quant_config sdnq_modules_to_not_convert
sdnq_modules_to_not_use_matmul sdnq_quantized_matmul_dtype sdnq_svd_rank sdnq_svd_steps
sdnq_use_hadamard sdnq_use_quantized_matmul sdnq_use_static_quantization
sdnq_use_stochastic_rounding sdnq_use_svd sdnq_weights_dtype
"""
"""Options whose name in ``config.env`` is their own in capitals."""
_OTHER: Final = {
    "ACCELERATE_CONFIG_PATH": "accelerate_config",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "CHECKPOINTING_STEPS": "checkpoint_step_interval",
    "DATALOADER_CONFIG": "data_backend_config",
    "HUB_MODEL_NAME": "hub_model_id",
    "LR_SCHEDULE": "lr_scheduler",
    "MAX_NUM_STEPS": "max_train_steps",
    "MINIMUM_RESOLUTION": "minimum_image_size",
    "MODEL_NAME": "pretrained_model_name_or_path",
    "NUM_EPOCHS": "num_train_epochs",
    "PUSH_CHECKPOINTS": "push_checkpoints_to_hub",
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "TRAINER_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_NUM_MACHINES": "num_machines",
    "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_SEED": "seed",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
    "USE_XFORMERS": "enable_xformers_memory_efficient_attention",
    "VALIDATION_STEPS": "validation_step_interval",
}
ENVIRONMENT_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {**{name.upper(): name for name in _SAME.split()}, **_OTHER}
)
"""Name in ``config.env`` → option."""
BITFIT: Final = "USE_BITFIT"
"""Where it is true, ``layer_freeze_strategy`` is ``bitfit``."""
EXTRA_ARGUMENTS: Final = "TRAINER_EXTRA_ARGS"
"""Has further options as on a command line."""
FORMS: Final = ("SIMPLETUNER_CONFIG_BACKEND", "CONFIG_BACKEND", "CONFIG_TYPE")
"""Say which file has the options; the first one counts."""
