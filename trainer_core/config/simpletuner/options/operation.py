"""Options of how a run is carried out: saving, resuming, reporting, samples."""

from typing import Final

from trainer_core.config.simpletuner.options.optimization import MAX_STEPS
from trainer_core.config.simpletuner.verdicts import (
    Table,
    Verdict,
    alias,
    deferred,
    honoured,
    not_built,
    superseded,
)

_RUNNING: Final[Table] = {
    "output_dir": honoured("path", None, "Where a local run writes."),
    "resume_from_checkpoint": honoured(
        "text",
        "latest",
        "latest goes on from the newest checkpoint, empty starts afresh; in a local run also a "
        "path.",
    ),
    "gradient_checkpointing": honoured("bool", True, "Recompute activations to save memory."),
    "gradient_checkpointing_interval": honoured(
        "int", 1, "Every so many blocks one is recomputed.", at_least=1, at_most=1000
    ),
}

_SAVING: Final[Table] = {
    "checkpoint_step_interval": honoured(
        "int", 500, "Steps between checkpoints.", at_least=1, at_most=MAX_STEPS
    ),
    "checkpoints_total_limit": honoured("int", 5, "Checkpoints kept.", at_least=1),
    "push_to_hub": honoured("bool", False, "Publish the result; needs hub_model_id."),
    "hub_model_id": honoured("text", None, "Where on the Hugging Face Hub."),
    "model_card_private": honoured("bool", True, "Whether a new repository is private."),
    **superseded(
        "checkpointing_use_tempdir delete_invalid_checkpoints",
        "A checkpoint appears whole or not at all.",
        "bool",
    ),
    **not_built("checkpoint_epoch_interval", "Use checkpoint_step_interval."),
    **not_built("checkpointing_rolling_steps", "Use checkpoint_step_interval.", 0),
    **not_built("checkpoints_rolling_total_limit", "Use checkpoints_total_limit.", 1),
    **not_built("push_checkpoints_to_hub", "Only results are published.", False, type_="bool"),
    **not_built(
        "publishing_config webhook_config disk_low_threshold disk_low_script "
        "post_checkpoint_script post_upload_script",
        "Leave it out.",
    ),
    **not_built("disk_low_action", "Leave it out.", "stop"),
    **superseded(
        "model_card_safe_for_work model_card_note model_card_documentation_url hub_model_revision "
        "push_to_hub_background modelspec_comment",
        "The result and its card are written from the facts of the run.",
    ),
}

_TRACKING: Final[Table] = {
    "report_to": honoured(
        "text",
        "none",
        "Trackers of a local run, with commas between them; the service reports by events.",
        choices=("tensorboard", "wandb", "none"),
        known=("simpletuner", "swanlab", "comet_ml", "custom-tracker", "all"),
        is_list=True,
    ),
    "tracker_project_name": honoured("text", "reverie", "Project in the tracker."),
    "tracker_run_name": honoured("text", None, "Name of the run in the tracker."),
    **deferred("tracker_image_layout", "Validation comes later.", "text"),
}

_SAMPLES: Final[Table] = {
    **deferred(
        "eval_steps_interval eval_epoch_interval eval_timesteps num_eval_images "
        "num_validation_images",
        "Evaluation comes later.",
        "float",
    ),
    **deferred(
        "eval_dataset_id eval_dataset_pooling evaluation_type "
        "pretrained_evaluation_model_name_or_path",
        "Evaluation comes later.",
        "text",
    ),
    **deferred(
        "disable_benchmark eval_loss_disable validation_prompt_library validation_preview "
        "validation_randomize validation_disable_unconditional validation_disable "
        "validation_on_startup validation_using_datasets validation_torch_compile_fullgraph",
        "Validation comes later.",
        "bool",
    ),
    **deferred(
        "validation_step_interval validation_epoch_interval validate_after_step "
        "validate_after_epoch validation_preview_steps validation_guidance_rescale "
        "validation_guidance_real validation_no_cfg_until_timestep "
        "validation_guidance_skip_layers_start validation_guidance_skip_layers_stop "
        "validation_guidance_skip_scale validation_lycoris_strength",
        "Validation comes later.",
        "float",
    ),
    **deferred(
        "validation_seed_source validation_noise_scheduler validation_multigpu "
        "validation_method validation_guidance_skip_layers validation_adapter_path "
        "validation_adapter_name validation_adapter_strength validation_adapter_mode "
        "validation_adapter_config validation_external_script user_prompt_library",
        "Validation comes later.",
        "text",
    ),
    "validation_prompt": Verdict(
        kind="deferred", type="text", reason="Prompt of the sample image in the result."
    ),
    "validation_negative_prompt": Verdict(
        kind="deferred", type="text", reason="Negative prompt of the sample image."
    ),
    "validation_num_inference_steps": Verdict(
        kind="deferred", type="int", reason="Steps of the sample image.", at_least=1
    ),
    "validation_guidance": Verdict(
        kind="deferred", type="float", reason="Guidance of the sample image.", at_least=0
    ),
    "validation_resolution": Verdict(
        kind="deferred", type="text", reason="Size of the sample image."
    ),
    "validation_seed": Verdict(
        kind="deferred", type="int", reason="Seed of the sample image.", at_least=0
    ),
    **superseded(
        "validation_torch_compile", "The option was removed from SimpleTuner and has no effect."
    ),
}

OPERATION: Final[Table] = {
    **_RUNNING,
    **_SAVING,
    **_TRACKING,
    **_SAMPLES,
    "checkpointing_steps": alias("checkpoint_step_interval", _SAVING["checkpoint_step_interval"]),
    "validation_steps": alias("validation_step_interval", _SAMPLES["validation_step_interval"]),
}
