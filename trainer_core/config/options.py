"""The verdict on every option of ``config.json``."""

from typing import Final

from trainer_core.config.verdicts import (
    Table,
    Verdict,
    alias,
    deferred,
    honoured,
    not_built,
    refused,
    superseded,
    words,
)

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
    "bnb-lion8bit bnb-lion-paged bnb-lion8bit-paged bnb-ademamix "
    "bnb-ademamix8bit bnb-ademamix-paged bnb-ademamix8bit-paged prodigy "
    "sdnq-adamw sdnq-adamw+no_quant sdnq-adafactor sdnq-came "
    "sdnq-lion sdnq-muon sdnq-muon+quantized_matmul "
)
_MAX_STEPS: Final = 100_000_000
_QUANTIZED: Final = ("no_change", "int8-quanto")

_MODEL: Final[Table] = {
    "model_family": honoured("text", None, "Only hidream is trained here.", choices=("hidream",)),
    "model_type": honoured(
        "text", None, "lora trains an adapter, full all weights.", choices=("lora", "full")
    ),
    "lora_type": honoured(
        "text",
        "standard",
        "Set it to lycoris and give a LyCORIS config.",
        choices=("lycoris",),
        known=("standard",),
    ),
    "model_flavour": honoured(
        "text", "full", "Names the base model.", choices=("full", "dev", "fast")
    ),
    "pretrained_model_name_or_path": honoured(
        "text", None, "The name of a base model on the operator's list."
    ),
    "lycoris_config": honoured("path", None, "Path of the LyCORIS config, in a local run."),
    "data_backend_config": honoured("path", None, "Path of the data backends, in a local run."),
    "output_dir": honoured("path", None, "Where a local run writes."),
    "init_lokr_norm": honoured(
        "float", None, "Start LoKr near the base weights' statistics, at this scale.", above=0
    ),
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
            choices=_QUANTIZED if n > 2 else ("no_change",),
            known=_QUANTIZED_LATER if n > 2 else ("int8-quanto", *_QUANTIZED_LATER),
        )
        for n in (1, 2, 3, 4)
    },
    "mixed_precision": honoured(
        "text",
        "bf16",
        "bf16, or no for fp32 throughout.",
        choices=("bf16", "no"),
        known=("fp16", "fp8"),
    ),
    "gradient_checkpointing": honoured("bool", True, "Recompute activations to save memory."),
    **superseded(
        "quantize_via", "Weights are quantised where they are loaded, module by module.", "text"
    ),
    **superseded("base_model_default_dtype", "mixed_precision decides the type.", "text"),
    **superseded("vae_dtype", "The VAE computes in fp32.", "text"),
    **superseded(
        "keep_vae_loaded offload_during_save", "Models are loaded when they are needed.", "bool"
    ),
    **refused("i_know_what_i_am_doing", "Checks of the plan cannot be switched off.", False),
}

_STEPS: Final[Table] = {
    "seed": honoured("int", 42, "0 and -1 draw one, which the plan then holds.", at_least=-1),
    "resume_from_checkpoint": honoured(
        "text", "latest", "latest goes on from the newest checkpoint, empty starts afresh."
    ),
    "train_batch_size": honoured("int", 4, "Samples in a micro-batch.", at_least=1, at_most=1024),
    "gradient_accumulation_steps": honoured(
        "int", 1, "Micro-batches a rank takes in an optimizer step.", at_least=0
    ),
    "max_train_steps": honoured("int", None, "Optimizer steps.", at_least=0, at_most=_MAX_STEPS),
    "num_train_epochs": honoured("int", 0, "Only 0: set max_train_steps.", at_least=0),
    "learning_rate": honoured("float", 4e-7, "Learning rate after the warm-up.", above=0),
    "lr_scheduler": honoured(
        "text",
        "constant_with_warmup",
        "Learning rate over steps.",
        choices=("constant", "constant_with_warmup"),
        known=(
            *("linear", "sine", "cosine", "cosine_with_warmup", "cosine_with_restarts"),
            "polynomial",
        ),
    ),
    "lr_warmup_steps": honoured(
        "int",
        0,
        "Optimizer steps of linear warm-up, whatever the number of ranks.",
        at_least=0,
        at_most=_MAX_STEPS,
    ),
    "optimizer": honoured(
        "text",
        "adamw_bf16",
        "adamw_bf16 is taken as torch-adamw with fp32 weights and states.",
        choices=("optimi-lion", "torch-adamw", "adamw_bf16"),
        known=_OPTIMIZERS_LATER,
    ),
    "optimizer_beta1": honoured("float", None, "First beta.", at_least=0, at_most=0.9999999),
    "optimizer_beta2": honoured("float", None, "Second beta.", at_least=0, at_most=0.9999999),
    "adam_weight_decay": honoured("float", None, "Weight decay of torch-adamw.", at_least=0),
    "max_grad_norm": honoured("float", 2.0, "Limit of clipping; 0 for none.", at_least=0),
    "grad_clip_method": honoured(
        "text",
        "value",
        "value clamps each element, norm scales the global norm; DeepSpeed has only norm.",
        choices=("value", "norm"),
    ),
    "caption_dropout_probability": honoured(
        "float", 0.1, "How often a caption is replaced by the empty one.", at_least=0, at_most=1
    ),
    "flow_schedule_shift": honoured(
        "float", 3.0, "Shift of sigma; 0 for none.", at_least=0, at_most=1000
    ),
    "flow_sigmoid_scale": honoured("float", 1.0, "Spread of sigma.", above=0, at_most=100),
    "zero_stage": honoured(
        "int", 2, "Reverie's own: DeepSpeed ZeRO stage with model_type full.", at_least=0, at_most=3
    ),
    "world_size": honoured(
        "int",
        1,
        "Reverie's own: planned number of GPUs, above 1 with model_type full.",
        at_least=1,
        at_most=1024,
    ),
    "device": honoured(
        "text", "auto", "Reverie's own: auto takes cuda, else cpu.", choices=("auto", "cpu", "cuda")
    ),
    **superseded("seed_for_each_device", "Draws depend on step and sample, not device.", "bool"),
    **superseded("set_grads_to_none", "Gradients are always freed.", "bool"),
    **not_built("loss_type", "The loss is l2.", "l2", type_="text"),
    **not_built("huber_schedule huber_c", "The loss is l2.", "snr", 0.1),
    **not_built(
        "flow_schedule_auto_shift flow_use_uniform_schedule flow_use_beta_schedule "
        "flux_fast_schedule mixflow_enabled",
        "Set flow_schedule_shift and leave this out.",
        False,
        type_="bool",
    ),
    **not_built(
        "flow_custom_timesteps flow_timesteps_mode flow_cubic_schedule_weights "
        "flow_beta_schedule_alpha flow_beta_schedule_beta",
        "Sigma is drawn as the sigmoid of a normal; leave this out.",
    ),
    **not_built("input_perturbation input_perturbation_steps", "Leave it out.", 0),
    **not_built("lr_end lr_power lr_num_cycles", "Use a constant schedule.", 4e-7, 0.8, 1),
    **not_built("lr_scale lr_scale_sqrt", "Scale learning_rate yourself.", False, type_="bool"),
    **not_built("optimizer_config", "Use optimizer_beta1, optimizer_beta2 or leave it out.", ""),
    **not_built("gradient_precision", "Gradients are fp32 for adapters.", "unmodified", "fp32"),
    **not_built(
        "optimizer_release_gradients fuse_optimizer optimizer_offload_gradients "
        "optimizer_cpu_offload_method",
        "Leave it out.",
        False,
        "none",
    ),
    **not_built("use_ema ema_cpu_only ema_foreach_disable", "Set use_ema to false.", False),
    **not_built(
        "ema_decay ema_device ema_update_interval ema_warmup_steps ema_validation",
        "Leave it out.",
        0.995, "cpu", 1, 0, "none", "comparison",
    ),
    **not_built(
        "hidream_use_load_balancing_loss", "Set it to false.", False, type_="bool"
    ),
    **not_built("hidream_load_balancing_loss_weight", "Leave it out.", 0),
    **not_built("scheduled_sampling_max_step_offset", "Set it to 0.", 0, type_="int"),
    **not_built(
        "scheduled_sampling_probability scheduled_sampling_prob_start "
        "scheduled_sampling_ramp_steps scheduled_sampling_start_step",
        "Set it to 0.",
        0,
    ),
    **not_built(
        "scheduled_sampling_prob_end scheduled_sampling_ramp_shape scheduled_sampling_strategy "
        "scheduled_sampling_sampler scheduled_sampling_order scheduled_sampling_reflexflow "
        "scheduled_sampling_reflexflow_alpha scheduled_sampling_reflexflow_beta1 "
        "scheduled_sampling_reflexflow_beta2",
        "Scheduled sampling comes later; leave it out.",
        0.5, "linear", "uniform", "unipc", 2, False, 1, 10,
    ),
    **not_built("masked_loss_probability", "Masks come later; leave it out.", 1),
}  # fmt: skip

_DATA: Final[Table] = {
    "resolution": honoured("float", 1024, "Default of the data backends.", above=0),
    "resolution_type": honoured(
        "text",
        "pixel_area",
        "pixel_area: edge whose square is the area; area: megapixels.",
        choices=("pixel_area", "area"),
        known=("pixel",),
    ),
    "minimum_image_size": honoured(
        "float", 0, "Smaller images are left out; default of the data backends.", at_least=0
    ),
    "maximum_image_size": honoured("float", None, "Default of the data backends.", above=0),
    "target_downsample_size": honoured("float", None, "Default of the data backends.", above=0),
    "aspect_bucket_rounding": honoured(
        "int", 2, "Decimals of the aspect ratio.", at_least=1, at_most=9
    ),
    "caption_strategy": honoured(
        "text",
        None,
        "Default of the data backends.",
        choices=("filename", "textfile", "instanceprompt", "instance_prompt"),
        known=("parquet", "csv", "huggingface", "webshart"),
    ),
    "instance_prompt": honoured("text", None, "Default of the data backends."),
    **superseded("aspect_bucket_alignment", "Sides are always multiples of 64 for HiDream.", "int"),
    **superseded(
        "vae_batch_size write_batch_size read_batch_size image_processing_batch_size "
        "text_encoder_batch_size delete_problematic_images delete_unwanted_images "
        "vae_cache_scan_behaviour vae_cache_ondemand vae_cache_disable "
        "vae_cache_clear_each_epoch preserve_data_backend_cache compress_disk_cache "
        "vae_enable_tiling vae_enable_slicing",
        "Images and captions are cached in shards that are named by their content; there is "
        "nothing to set, and no image is ever deleted.",
    ),
    **superseded("cache_dir cache_dir_vae cache_dir_text", "The cache keeps itself.", "text"),
    **superseded(
        "max_workers aspect_bucket_worker_count dataloader_prefetch dataloader_prefetch_qlen "
        "dataloader_num_workers aws_max_pool_connections metadata_update_interval "
        "skip_file_discovery",
        "Shards are fetched ahead of the step; there is nothing to set.",
    ),
    **superseded(
        "data_backend_sampling",
        "An epoch visits every image 1 + repeats times.",
        "text",
    ),
    **superseded(
        "allow_dataset_oversubscription disable_bucket_pruning override_dataset_config",
        "Short buckets are topped up and nothing is pruned; a plan never changes its data.",
        "bool",
    ),
}

_SAVING: Final[Table] = {
    "checkpoint_step_interval": honoured(
        "int", 500, "Steps between checkpoints.", at_least=1, at_most=_MAX_STEPS
    ),
    "checkpoints_total_limit": honoured("int", 5, "Checkpoints kept.", at_least=1),
    "push_to_hub": honoured("bool", False, "Publish the result; needs hub_model_id."),
    "hub_model_id": honoured("text", None, "Where on the Hugging Face Hub."),
    "model_card_private": honoured("bool", True, "Whether a new repository is private."),
    **not_built("checkpoint_epoch_interval", "Use checkpoint_step_interval."),
    **not_built("push_checkpoints_to_hub", "Only results are published.", False, type_="bool"),
    **not_built("publishing_config webhook_config", "Leave it out."),
    **superseded(
        "model_card_safe_for_work model_card_note model_card_documentation_url hub_model_revision",
        "The model card is written from the facts of the run.",
    ),
}

_LATER: Final[Table] = {
    **deferred("report_to tracker_run_name tracker_project_name tracker_image_layout",
               "Trackers come later.", "text"),
    **deferred("offload_during_startup disable_benchmark", "Comes later.", "bool"),
    **deferred("eval_steps_interval eval_epoch_interval eval_timesteps num_eval_images "
               "num_validation_images", "Evaluation comes later.", "float"),
    **deferred("eval_dataset_id eval_dataset_pooling evaluation_type "
               "pretrained_evaluation_model_name_or_path", "Evaluation comes later.", "text"),
    **deferred("eval_loss_disable validation_prompt_library validation_preview "
               "validation_randomize validation_disable_unconditional validation_disable "
               "validation_on_startup validation_using_datasets validation_torch_compile_fullgraph",
               "Validation comes later.", "bool"),
    **deferred("validation_step_interval validation_epoch_interval validate_after_step "
               "validate_after_epoch validation_preview_steps validation_guidance_rescale "
               "validation_guidance_real validation_no_cfg_until_timestep "
               "validation_guidance_skip_layers_start validation_guidance_skip_layers_stop "
               "validation_guidance_skip_scale validation_lycoris_strength",
               "Validation comes later.", "float"),
    **deferred("validation_seed_source validation_noise_scheduler validation_multigpu "
               "validation_method validation_guidance_skip_layers validation_adapter_path "
               "validation_adapter_name validation_adapter_strength validation_adapter_mode "
               "validation_adapter_config validation_external_script user_prompt_library",
               "Validation comes later.", "text"),
    "validation_prompt": Verdict(
        kind="deferred", type="text", reason="Prompt of the sample image in the result."),
    "validation_negative_prompt": Verdict(
        kind="deferred", type="text", reason="Negative prompt of the sample image."),
    "validation_num_inference_steps": Verdict(
        kind="deferred", type="int", reason="Steps of the sample image.", at_least=1),
    "validation_guidance": Verdict(
        kind="deferred", type="float", reason="Guidance of the sample image.", at_least=0),
    "validation_resolution": Verdict(
        kind="deferred", type="text", reason="Size of the sample image."),
    "validation_seed": Verdict(
        kind="deferred", type="int", reason="Seed of the sample image.", at_least=0),
    **superseded("validation_torch_compile",
                 "The option was removed from SimpleTuner and has no effect."),
}  # fmt: skip

_NOT_YET: Final[Table] = {
    **refused("pretrained_transformer_model_name_or_path pretrained_transformer_subfolder "
              "pretrained_vae_model_name_or_path pretrained_t5_model_name_or_path "
              "pretrained_unet_model_name_or_path unet_subfolder vae_path init_lora "
              "assistant_lora_path assistant_lora_strength",
              "Base models come whole, from the operator's list, and no other weights are taken.",
              "transformer"),
    **not_built("init_lora_step init_lora_ema", "Leave it out.", False),
    **not_built("lora_rank lora_alpha lora_dropout lora_init_type lora_format peft_lora_mode "
                "peft_lora_target_modules slider_lora_target",
                "It belongs to lora_type standard; leave it out.", 16, 0.1, 0, "default",
                "diffusers", "standard", False),
    **not_built("use_dora controlnet quantize_activations fuse_qkv_projections ramtorch "
                "enable_group_offload group_offload_use_stream dynamo_fullgraph dynamo_dynamic "
                "dynamo_use_regional_compilation disable_tf32",
                "Leave it out.", False, type_="bool"),
    **not_built("gradient_checkpointing_interval gradient_checkpointing_segment_stride",
                "Whole blocks are checkpointed, every one; leave it out.", 0, 1),
    **not_built("gradient_checkpointing_backend gradient_checkpointing_offload_attention "
                "gradient_checkpointing_offload_pin_memory_max_buckets "
                "gradient_checkpointing_offload_prefetch",
                "Whole blocks are checkpointed; leave it out.", 0, 1, "torch", False, 12),
    **not_built("group_offload_type group_offload_blocks_per_group group_offload_to_disk_path "
                "dynamo_backend "
                "dynamo_mode attention_mechanism sageattention_usage tread_config "
                "layer_freeze_strategy quantization_config",
                "Leave it out.", 0, 1, "block_level", "no", "default", "diffusers", "inference",
                "none"),
    **not_built("musubi_blocks_to_swap accelerator_cache_clear_interval", "Leave it out.", 0),
    **not_built("max_grounding_entities", "Leave it out.", 0),
}  # fmt: skip


def _all() -> dict[str, Verdict]:
    table = {**_MODEL, **_STEPS, **_DATA, **_SAVING, **_LATER, **_NOT_YET}
    for name, of in {
        "checkpointing_steps": "checkpoint_step_interval",
        "validation_steps": "validation_step_interval",
        "num_processes": "world_size",
    }.items():
        table[name] = alias(of, table[of])
    return table


OPTIONS: Final[Table] = _all()
"""Name, without leading dashes → verdict."""
