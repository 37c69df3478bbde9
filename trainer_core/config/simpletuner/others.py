"""Options of memory, speed and processes, and of training methods that are not built."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import Table

OTHERS: Final = Table()
_PLANNED: Final = (
    "Memory is planned for the card: as many blocks as it needs are recomputed and offloaded."
)
_OF_NOTHING: Final = "It belongs to something that is not built and has no effect alone."

OTHERS.handled(
    "ramtorch ramtorch_text_encoder ramtorch_vae ramtorch_controlnet ramtorch_target_modules "
    "ramtorch_transformer_percent ramtorch_text_encoder_percent ramtorch_disable_sync_hooks "
    "ramtorch_disable_extensions musubi_blocks_to_swap musubi_block_swap_device "
    "enable_group_offload group_offload_text_encoder group_offload_vae group_offload_type "
    "group_offload_blocks_per_group group_offload_to_disk_path group_offload_use_stream "
    "gradient_checkpointing_offload_attention gradient_checkpointing_offload_prefetch "
    "gradient_checkpointing_offload_pin_memory_max_buckets gradient_checkpointing_segment_stride "
    "gradient_checkpointing_backend accelerator_cache_clear_interval offload_param_path "
    "enable_chunked_feed_forward feed_forward_chunk_size unet_attention_slice",
    _PLANNED,
)
OTHERS.handled(
    "fuse_qkv_projections fused_qkv_projections attention_mechanism sageattention_usage "
    "enable_xformers_memory_efficient_attention dynamo_backend dynamo_mode dynamo_fullgraph "
    "dynamo_dynamic dynamo_use_regional_compilation dynamo_wrapper dynamo_cache_export "
    "dynamo_cache_export_after_first_step dynamo_hub_repo_id disable_tf32 allow_tf32 "
    "benchmark_base_model sdnq_compile_mode",
    "Kernels, attention and graphs are chosen by the card.",
)
OTHERS.handled(
    "fsdp_enable fsdp_version fsdp_reshard_after_forward fsdp_state_dict_type "
    "fsdp_cpu_ram_efficient_loading fsdp_auto_wrap_policy fsdp_limit_all_gathers "
    "fsdp_cpu_offload fsdp_activation_checkpointing fsdp_transformer_layer_cls_to_wrap",
    "Each GPU holds an adapter and its base whole; all weights are sharded by DeepSpeed "
    "(zero_stage).",
)
OTHERS.handled(
    "accelerate_extra_args main_process_ip main_process_port machine_rank "
    "same_network num_machines local_rank find_unused_parameters torch_num_threads",
    "Processes are started by the trainer itself.",
)
OTHERS.differs(
    "accelerate_config",
    "its file is not read: set num_processes to its number of GPUs, and zero_stage to its stage.",
)
OTHERS.not_built("tread_config", "Leave it out: in SimpleTuner it fails for HiDream.")
OTHERS.not_built("layer_freeze_strategy", "Leave it out.", "none")
OTHERS.not_built("context_parallel_size", "Leave it out: all tokens are on one GPU.", 1)
OTHERS.not_built("prediction_type", "HiDream is trained by flow matching: leave it out.",
                 "flow_matching")  # fmt: skip
OTHERS.not_built("timestep_bias_strategy", "Leave it out.", "none")
OTHERS.not_built(
    "control controlnet", "ControlNet is not trained here: leave it out.", False, type_="bool"
)
OTHERS.not_built(
    "train_text_encoder", "Text encoders are frozen: leave it out.", False, type_="bool"
)
OTHERS.not_built(
    "diff2flow_enabled twinflow_enabled internal_guidance_enabled layersync_enabled urepa_enabled "
    "crepa_enabled irepa_enabled nextlat_enabled xm_enabled crepa_self_flow refiner_training "
    "use_soft_min_snr rescale_betas_zero_snr",
    "It changes the loss: leave it out to train by flow matching.",
    False,
    type_="bool",
)
OTHERS.not_built("distillation_method", "Distillation is not built: leave it out.", "none")
OTHERS.no_effect("distillation_config diffusion_blocks_config", _OF_NOTHING)
OTHERS.no_effect("text_encoder_lr", "Text encoders are frozen.")
OTHERS.no_effect("strict_epoch_limit", "A run ends at its last step.")
OTHERS.no_effect(
    "disable_assistant_lora assistant_lora_strength "
    "assistant_lora_inference_strength context_parallel_comm_strategy sdnq_weights_dtype "
    "sdnq_quantized_matmul_dtype sdnq_group_size sdnq_use_quantized_matmul sdnq_use_hadamard "
    "sdnq_hadamard_group_size sdnq_dequantize_fp32 sdnq_modules_dtype_dict "
    "sdnq_modules_quant_config sdnq_modules_to_not_convert sdnq_modules_to_not_use_matmul "
    "sdnq_svd_rank sdnq_svd_steps sdnq_use_static_quantization sdnq_use_stochastic_rounding "
    "sdnq_use_svd mixflow_gamma diff2flow_loss twinflow_target_step_count "
    "internal_guidance_loss_weight internal_guidance_block_index "
    "validation_internal_guidance_scale layersync_lambda layersync_student_block "
    "layersync_teacher_block urepa_lambda urepa_manifold_weight urepa_model "
    "urepa_encoder_image_size urepa_use_tae urepa_scheduler urepa_warmup_steps "
    "urepa_decay_steps urepa_lambda_end urepa_power urepa_cutoff_step "
    "urepa_similarity_threshold urepa_similarity_ema_decay urepa_threshold_mode "
    "crepa_block_index crepa_lambda crepa_adjacent_distance crepa_adjacent_tau crepa_encoder "
    "crepa_encoder_frames_batch_size crepa_use_backbone_features crepa_feature_source "
    "crepa_teacher_block_index crepa_self_flow_mask_ratio crepa_encoder_image_size "
    "crepa_drop_vae_encoder crepa_normalize_by_frames crepa_normalize_neighbour_sum "
    "crepa_spatial_align crepa_use_tae crepa_scheduler crepa_warmup_steps crepa_decay_steps "
    "crepa_lambda_end crepa_power crepa_cutoff_step crepa_similarity_threshold "
    "crepa_similarity_ema_decay crepa_threshold_mode irepa_spatial_norm_alpha "
    "irepa_projector_kernel_size nextlat_block_index nextlat_weight nextlat_state_loss "
    "nextlat_kl_weight xm_candidate_count xm_training_target xm_selection_scope "
    "xm_block_size refiner_training_invert_schedule refiner_training_strength "
    "singlora_ramp_up_steps controlnet_custom_config controlnet_model_name_or_path",
    _OF_NOTHING,
)
OTHERS.no_effect(
    "offset_noise noise_offset noise_offset_probability snr_gamma snr_weight "
    "soft_min_snr_sigma_data timestep_bias_begin timestep_bias_end timestep_bias_multiplier "
    "timestep_bias_portion training_scheduler_timestep_spacing "
    "inference_scheduler_timestep_spacing disable_segmented_timestep_sampling t5_padding",
    "It has no effect on HiDream's flow matching.",
)
OTHERS.no_effect(
    "configs_dir custom_tracker debug_aspect_buckets debug_dataset_loader enable_watermark "
    "freeze_encoder_after freeze_encoder_before freeze_encoder_strategy ignore_missing_files "
    "logging_dir merge_environment_config print_filenames print_sampler_statistics "
    "save_text_encoder text_encoder_limit parquet_caption_column parquet_filename_column "
    "data_aesthetic_score nsfw_check_backend_types nsfw_check_min_votes nsfw_check_models "
    "nsfw_check_sample_types nsfw_check_video_frame_count nsfw_check_video_frame_selection "
    "nsfw_check_video_min_flagged_frames validation_external_background validation_image_format "
    "validation_image_quality validation_input webhook_reporting_interval sla_config "
    "vae_enable_patch_conv",
    "It belongs to tools of SimpleTuner.",
)
OTHERS.no_effect(
    "__active_tab__ __disabled_fields__ ez_model_type", "Only SimpleTuner's web form reads it."
)
OTHERS.no_effect(
    "repeats aspect_ratio_bucketing aspect_ratio_bucket_min aspect_ratio_bucket_max",
    "SimpleTuner reads it of data backends alone, and so does Reverie.",
)
