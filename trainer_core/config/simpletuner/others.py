"""Options of SimpleTuner that have no effect here, or are not built."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import Table

OTHERS: Final = Table()
_NO_EFFECT_ALONE: Final = "It belongs to something that is not built and has no effect alone."

OTHERS.refused("i_know_what_i_am_doing", "Checks of the plan cannot be switched off.", False)
OTHERS.not_built(
    "fuse_qkv_projections ramtorch ramtorch_text_encoder ramtorch_vae enable_group_offload "
    "group_offload_text_encoder group_offload_vae disable_tf32 fsdp_enable "
    "gradient_checkpointing_offload_attention",
    "Leave it out.",
    False,
    type_="bool",
)
OTHERS.not_built(
    "gradient_checkpointing_segment_stride", "Use gradient_checkpointing_interval.", 0, 1
)
OTHERS.not_built(
    "gradient_checkpointing_backend", "Whole blocks are checkpointed; leave it out.", "torch"
)
OTHERS.not_built("tread_config deepspeed_config accelerate_config", "Leave it out.")
OTHERS.not_built("dynamo_backend", "Leave it out.", "no")
OTHERS.not_built("layer_freeze_strategy", "Leave it out.", "none")
OTHERS.not_built("context_parallel_size", "Leave it out.", 1)
OTHERS.no_effect(
    "attention_mechanism sageattention_usage",
    "HiDream's attention reads neither; it is torch's own here.",
)
OTHERS.not_built("musubi_blocks_to_swap accelerator_cache_clear_interval", "Leave it out.", 0)
OTHERS.no_effect(
    "ramtorch_target_modules ramtorch_transformer_percent ramtorch_text_encoder_percent "
    "ramtorch_disable_sync_hooks ramtorch_disable_extensions musubi_block_swap_device "
    "fsdp_version fsdp_reshard_after_forward fsdp_state_dict_type "
    "fsdp_cpu_ram_efficient_loading fsdp_auto_wrap_policy fsdp_limit_all_gathers "
    "fsdp_cpu_offload fsdp_activation_checkpointing fsdp_transformer_layer_cls_to_wrap "
    "group_offload_type group_offload_blocks_per_group group_offload_to_disk_path "
    "group_offload_use_stream dynamo_mode dynamo_fullgraph dynamo_dynamic "
    "dynamo_use_regional_compilation gradient_checkpointing_offload_pin_memory_max_buckets "
    "gradient_checkpointing_offload_prefetch init_lora_step init_lora_ema "
    "disable_assistant_lora assistant_lora_strength assistant_lora_inference_strength "
    "context_parallel_comm_strategy sdnq_weights_dtype sdnq_quantized_matmul_dtype "
    "sdnq_group_size sdnq_use_quantized_matmul sdnq_compile_mode",
    _NO_EFFECT_ALONE,
)
OTHERS.no_effect(
    "accelerate_extra_args main_process_ip main_process_port machine_rank same_network "
    "num_machines local_rank find_unused_parameters torch_num_threads offload_param_path",
    "Processes are started by the trainer itself.",
)
OTHERS.not_built(
    "controlnet control train_text_encoder diff2flow_enabled twinflow_enabled "
    "internal_guidance_enabled layersync_enabled urepa_enabled crepa_enabled irepa_enabled "
    "nextlat_enabled xm_enabled crepa_self_flow refiner_training use_soft_min_snr "
    "rescale_betas_zero_snr strict_epoch_limit",
    "Leave it out.",
    False,
    type_="bool",
)
OTHERS.not_built(
    "distillation_config diffusion_blocks_config tokenizer_max_length text_encoder_lr",
    "Leave it out.",
)
OTHERS.not_built("distillation_method", "Leave it out.", "none")
OTHERS.not_built("prediction_type", "Leave it out.", "flow_matching")
OTHERS.not_built("timestep_bias_strategy", "Leave it out.", "none")
OTHERS.no_effect(
    "mixflow_gamma diff2flow_loss twinflow_target_step_count internal_guidance_loss_weight "
    "internal_guidance_block_index validation_internal_guidance_scale layersync_lambda "
    "layersync_student_block layersync_teacher_block urepa_lambda urepa_manifold_weight "
    "urepa_model urepa_encoder_image_size urepa_use_tae urepa_scheduler urepa_warmup_steps "
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
    _NO_EFFECT_ALONE,
)
OTHERS.no_effect(
    "offset_noise noise_offset noise_offset_probability snr_gamma snr_weight "
    "soft_min_snr_sigma_data timestep_bias_begin timestep_bias_end timestep_bias_multiplier "
    "timestep_bias_portion training_scheduler_timestep_spacing "
    "inference_scheduler_timestep_spacing disable_segmented_timestep_sampling t5_padding",
    "It has no effect on HiDream's flow matching.",
)
OTHERS.no_effect(
    "audio_channels audio_duration_interval audio_flow_schedule_shift "
    "audio_max_duration_seconds audio_min_duration_seconds audio_truncation_mode configs_dir "
    "custom_tracker data_aesthetic_score debug_aspect_buckets debug_dataset_loader "
    "enable_watermark framerate freeze_encoder_after freeze_encoder_before "
    "freeze_encoder_strategy ignore_missing_files logging_dir merge_environment_config "
    "nsfw_check_backend_types nsfw_check_min_votes nsfw_check_models nsfw_check_sample_types "
    "nsfw_check_video_frame_count nsfw_check_video_frame_selection "
    "nsfw_check_video_min_flagged_frames parquet_caption_column parquet_filename_column "
    "pretrained_gemma_model_name_or_path pretrained_grounding_model_name_or_path "
    "print_filenames print_sampler_statistics qwen_text_encoder_model_name_or_path "
    "ramtorch_controlnet save_text_encoder sla_config text_encoder_limit "
    "unet_attention_slice vae_enable_patch_conv vae_enable_temporal_roll "
    "validation_external_background validation_image_format validation_image_quality "
    "validation_input validation_num_video_frames validation_stitch_input_location "
    "webhook_reporting_interval",
    "It belongs to other models, or to tools of SimpleTuner; it has no effect here.",
)
