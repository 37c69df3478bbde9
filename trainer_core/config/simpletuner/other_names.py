"""Options of SimpleTuner's other model families, and of its older versions."""

from typing import Final

from trainer_core.config.simpletuner.verdicts import Table

OTHER_NAMES: Final = Table()

OTHER_NAMES.no_effect(
    "acestep_lora_target audio_channels audio_duration_interval audio_flow_schedule_shift "
    "audio_max_duration_seconds audio_min_duration_seconds audio_truncation_mode "
    "cosmos3_generator_component cosmos3_reasoner_component "
    "custom_text_encoder_intermediary_layers deepfloyd_validation_pipeline_mode "
    "deepfloyd_validation_stage1_model deepfloyd_validation_stage2_model "
    "deepfloyd_validation_stage3_mode deepfloyd_validation_stage3_model "
    "deepfloyd_validation_stage3_noise_level deepfloyd_validation_stage1_guidance "
    "deepfloyd_validation_stage1_num_inference_steps deepfloyd_validation_stage2_guidance "
    "deepfloyd_validation_stage2_num_inference_steps deepfloyd_validation_stage3_guidance "
    "deepfloyd_validation_stage3_num_inference_steps flux3_prompt_upsample "
    "flux_attention_masked_training flux_guidance_max flux_guidance_min flux_guidance_mode "
    "flux_guidance_value flux_lora_target framerate ideogram_auto_json ideogram_fp8_base_upcast "
    "ideogram_load_unconditional_transformer ideogram_prompt_enhancer_head_id "
    "ideogram_prompt_upsample ideogram_schedule_mu ideogram_schedule_std ideogram_uncond_ramtorch "
    "ideogram_validation krea2_reference_latents ltx2_intrinsic_conditioning "
    "ltx2_first_frame_conditioning_probability ltx2_prefix_conditioning_frames "
    "ltx2_prefix_conditioning_probability ltx2_reference_spatial_scale_factor "
    "ltx2_reference_temporal_scale_factor ltx2_validation_audio_guidance "
    "ltx2_validation_pipeline_mode "
    "ltx2_validation_spatial_upsampler_filename ltx2_validation_spatial_upsampler_model "
    "ltx_i2v_prob ltx_partial_noise_fraction ltx_protect_first_frame ltx_train_mode "
    "lyrics_embedder_lr lyrics_embedder_lr_scheduler lyrics_embedder_optimizer "
    "lyrics_embedder_train minimax_h3_reference_mode minimax_h3_sparse_attention "
    "minimax_h3_sparse_block_shape minimax_h3_sparse_share_heads minimax_h3_sparse_start_layer "
    "minimax_h3_sparse_video_kv_fraction minimax_h3_target_mode minimax_music_lm_adapter "
    "minimax_music_lm_adapter_strength minimax_music_lm_continuation_crop_mode "
    "minimax_music_lm_max_duration_seconds minimax_music_lm_max_frames "
    "minimax_music_lm_min_duration_seconds minimax_music_lm_precache_mode "
    "minimax_music_lm_target_frames minimax_music_lm_window_mode "
    "minimax_music_rvq_encoder_model_name_or_path minimax_music_rvq_encoder_revision "
    "minimax_music_rvq_encoder_subfolder minimax_music_rvq_vae_model_name_or_path "
    "minimax_music_train_component moss_image_uncond_skip_layers moss_image_validation_shift "
    "pixart_validation_pipeline_mode pixart_validation_stage1_model "
    "pixart_validation_stage2_model pretrained_gemma_model_name_or_path "
    "pretrained_grounding_model_name_or_path qwen_text_encoder_model_name_or_path "
    "sana_complex_human_instruction sd3_clip_uncond_behaviour sd3_t5_uncond_behaviour "
    "sdxl_refiner_uses_full_range sdxl_validation_pipeline_mode sdxl_validation_stage1_model "
    "sdxl_validation_stage2_model vae_enable_temporal_roll validation_audio_duration "
    "validation_audio_only validation_ltx2_video_conditioning validation_lyrics "
    "validation_num_video_frames validation_stitch_input_location wan_force_2_1_time_embedding "
    "wan_validation_load_other_stage",
    "It belongs to another model family.",
)
OTHER_NAMES.removed(
    "adafactor_relative_step adam_bfloat16 aura_flow_first_unfrozen_dit_layer "
    "aura_flow_first_unfrozen_mmdit_layer aura_flow_freeze_direction aura_flow_target "
    "cache_clear_validation_prompts dadaptation_learning_rate disable_compel flow_matching_loss "
    "freeze_encoder freeze_unet_strategy ignore_final_epochs input_perturbation_probability "
    "logit_mean logit_std mode_scale non_ema_revision prodigy_beta3 prodigy_decouple "
    "prodigy_epsilon prodigy_learning_rate prodigy_safeguard_warmup prodigy_use_bias_correction "
    "prodigy_weight_decay sd3_t5_mask_behaviour smoldit_config validation_torch_compile_mode "
    "weighting_scheme"
)
OTHER_NAMES.refused(
    "aura_flow flux kolors legacy pixart_sigma sd3 smoldit",
    "Older versions chose a model family by it; only hidream is trained here.",
    False,
)
OTHER_NAMES.refused(
    "use_8bit_adam use_adafactor_optimizer use_dadapt_optimizer use_prodigy_optimizer",
    "Name the optimizer in optimizer.",
    False,
)
OTHER_NAMES.refused("hub_token", "A token does not belong in a file: run `hf auth login`.")
