"""Names in DeepSpeed's own configuration that no option of the run has.

Source: DeepSpeed 0.19.8, ``runtime/config.py`` and ``runtime/zero/config.py``, and the entries that
``DeepSpeedPlugin`` of accelerate 1.15 reads.
"""

from collections.abc import Mapping
from typing import Final

from trainer_core.config.simpletuner.verdicts import words

IDLE: Final = words(
    "steps_per_print wall_clock_breakdown memory_breakdown dump_state flops_profiler comms_logger "
    "tensorboard wandb comet csv_monitor monitor_config log_level timers disable_python_gc "
    "aio activation_checkpointing autotuning checkpoint compile data_types dataloader_drop_last "
    "communication_data_type seq_parallel_communication_data_type prescale_gradients "
    "gradient_predivide_factor disable_allgather sparse_gradients managed_gradient_accumulation "
    "use_data_before_expert_parallelism zero_allow_untested_optimizer zero_force_ds_cpu_optimizer "
    "zero3_init_flag zero3_save_16bit_model deepspeed_multinode_launcher deepspeed_hostfile "
    "deepspeed_moe_layer_cls_names offload_optimizer_nvme_path offload_param_nvme_path"
)
"""What watches a run, moves its data or writes its files; the trainer does that itself."""
ZERO_IDLE: Final = words(
    "overlap_comm contiguous_gradients allgather_partitions allgather_bucket_size reduce_scatter "
    "reduce_bucket_size round_robin_gradients sub_group_size ignore_unused_parameters "
    "load_from_fp32_weights elastic_checkpoint memory_efficient_linear legacy_stage1 "
    "use_multi_rank_bucket_allreduce parameter_alignment pipeline_loading_checkpoint "
    "override_module_apply log_trace_cache_warnings enable_sanity_checks compute_grad_norm "
    "save_muon_momentum_buffer_in_memory leaf_module cpu_offload_use_pin_memory "
    "prefetch_bucket_size param_persistence_threshold model_persistence_threshold "
    "max_live_parameters max_reuse_distance gather_16bit_weights_on_model_save "
    "module_granularity_threshold use_all_reduce_for_fetch_params allgather_sequential "
    "stage3_max_live_parameters stage3_max_reuse_distance stage3_prefetch_bucket_size "
    "stage3_param_persistence_threshold stage3_model_persistence_threshold "
    "stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save "
    "stage3_module_granularity_threshold stage3_use_all_reduce_for_fetch_params "
    "stage3_allgather_sequential"
)
"""How the shards are moved; the trainer sets it."""
BF16_IDLE: Final = words("immediate_grad_update check_grad_overflow")

Off = Mapping[str, tuple[str | int, ...]]
"""Entry that is not built → values at which it requests nothing, besides none and false."""
NOT_BUILT: Final[Off] = {
    **dict.fromkeys(
        words(
            "compression_training curriculum_learning data_efficiency eigenvalue elasticity "
            "expert_parallel hybrid_engine pipeline progressive_layer_drop quantize_training "
            "sparse_attention tensor_parallel torch_autocast weight_quantization"
        ),
        (),
    ),
    "gradient_allreduce_op": ("mean",),
    "sequence_parallel_size": (1,),
}
ZERO_NOT_BUILT: Final[Off] = {
    "mics_hierarchical_params_gather": (),
    "mics_shard_size": (-1,),
    "zenflow": (),
    "zero_hpz_partition_size": (0, 1),
    "zero_quantized_gradients": (),
    "zero_quantized_nontrainable_weights": (),
    "zero_quantized_weights": (),
}
BF16_NOT_BUILT: Final[Off] = {
    "bf16_master_weights_and_grads": (),
    "bf16_optimizer_states": (),
}
OFFLOADING: Final = words("offload_optimizer_device offload_param_device")
"""Accelerate's names."""
ZERO_OFFLOADING: Final = words(
    "offload_optimizer offload_param cpu_offload cpu_offload_param cpu_offload_params"
)
OF_OPTIMIZER: Final = words("offload_optimizer_device offload_optimizer cpu_offload")
"""Those of both that offload the optimizer, and not the model's weights."""
