"""Options of memory, saving, resuming and publishing."""

import re
from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from trainer_core.config.plan import Operation, Publication
from trainer_core.config.simpletuner.backends import ResolvedBackends
from trainer_core.config.simpletuner.clip import with_clip_model
from trainer_core.config.simpletuner.deepspeed import uses_deepspeed, zero_offload_of, zero_stage_of
from trainer_core.config.simpletuner.ema import ema_device_of
from trainer_core.config.simpletuner.evaluation import evaluation_of
from trainer_core.config.simpletuner.full_rank import release_of
from trainer_core.config.simpletuner.model import fourth_encoder_of, is_full_rank
from trainer_core.config.simpletuner.pictures import pictures_of
from trainer_core.config.simpletuner.placeholders import USUAL_OUTPUT_DIR
from trainer_core.config.simpletuner.precision import quantize_via_of
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.reporting import trackers_of
from trainer_core.config.simpletuner.samples import prompts_of, sample_of, sizes_of
from trainer_core.config.simpletuner.steps import (
    MAX_STEPS,
    device_of,
)
from trainer_core.config.simpletuner.verdicts import Table

OPERATION: Final = Table()
_HUB_ID_PATTERN: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?"
)
_HUB_ADDRESS: Final = re.compile(r"https?://huggingface\.co/")

_OUTPUT: Final = OPERATION.path(
    "output_dir", "Where a local run writes; where it is not given: simpletuner-results."
)
_RESUME: Final = OPERATION.text(
    "resume_from_checkpoint",
    "latest",
    "latest resumes from the newest checkpoint, empty starts afresh; in a local run also a path.",
)
OPERATION.unlike(
    _RESUME, "A path is taken as it is; SimpleTuner looks for its last part in output_dir alone."
)
_DETERMINISTIC: Final = OPERATION.flag(
    "deterministic",
    False,
    "Reverie's own: bit-equal results on a GPU, so that a resumed run equals one never "
    "interrupted; a step may take longer. On a CPU results are always bit-equal.",
)
_CHECKPOINTING: Final = OPERATION.flag(
    "gradient_checkpointing",
    True,
    "Whether blocks may be computed again in the backward pass to save memory. A card recomputes "
    "an adapter's run only as far as it needs to.",
)
_CHECKPOINTING_INTERVAL: Final = OPERATION.integer(
    "gradient_checkpointing_interval",
    1,
    "Only every n-th block may be recomputed.",
    at_least=1,
    at_most=1000,
)
_INTERVAL: Final = OPERATION.integer(
    "checkpoint_step_interval", 500, "Steps between checkpoints.", at_least=1, at_most=MAX_STEPS
)
OPERATION.alias("checkpointing_steps", _INTERVAL)
_EPOCH_INTERVAL: Final = OPERATION.integer(
    "checkpoint_epoch_interval",
    0,
    "Also a checkpoint at the step that ends every n-th epoch; 0: not for that.",
    at_least=0,
    at_most=MAX_STEPS,
)
_LIMIT: Final = OPERATION.integer(
    "checkpoints_total_limit",
    5,
    "Checkpoints kept: the newest, and of two or more also that with the lowest evaluation loss.",
    at_least=1,
)
OPERATION.alias("save_total_limit", _LIMIT)
_PUSH: Final = OPERATION.flag("push_to_hub", False, "Publish the result; needs hub_model_id.")
_PUSH_CHECKPOINTS: Final = OPERATION.flag(
    "push_checkpoints_to_hub",
    False,
    "Also publish the adapter of each checkpoint, while the run trains; needs push_to_hub.",
)
_HUB_ID: Final = OPERATION.text(
    "hub_model_id", None, "Where on the Hugging Face Hub: a name, owner/name, or its address."
)
_PRIVATE: Final = OPERATION.flag("model_card_private", True, "Whether a new repository is private.")
OPERATION.handled(
    "checkpointing_use_tempdir delete_invalid_checkpoints",
    "A checkpoint appears whole or not at all.",
)
OPERATION.not_built("checkpointing_rolling_steps", "Use checkpoint_step_interval.", 0)
OPERATION.not_built("checkpoints_rolling_total_limit", "Use checkpoints_total_limit.", 1)
OPERATION.not_built(
    "publishing_config", "Results are published to the Hugging Face Hub alone: leave it out."
)
OPERATION.differs(
    "post_checkpoint_script post_upload_script disk_low_script", "no script of yours is run."
)
OPERATION.handled(
    "disk_low_threshold disk_low_action",
    "A full disk ends the run with a message; the same command resumes it once there is space.",
)
OPERATION.handled(
    "model_card_safe_for_work model_card_note model_card_documentation_url hub_model_revision "
    "modelspec_comment model_card_base_model",
    "The result and its card are written from the facts of the run.",
)
OPERATION.handled("push_to_hub_background", "Publishing never holds up the training.")


def _output_dir(config: Options) -> str | None:
    return (config[_OUTPUT] or USUAL_OUTPUT_DIR) if config.source == "local" else None


def operation_of(
    config: Options,
    prompt_library: Mapping[str, JsonValue] | None,
    max_area_px: int,
    data: ResolvedBackends,
) -> Operation:
    """``max_area_px``: the largest area that the base model takes."""
    prompts = prompts_of(config, prompt_library or {})
    sizes_px = sizes_of(config, max_area_px)
    pictures = with_clip_model(config, pictures_of(config, prompts, sizes_px))
    sample = sample_of(config, prompts, sizes_px, has_pictures=pictures is not None)
    if not config[_CHECKPOINTING]:
        config.idle("without gradient_checkpointing", _CHECKPOINTING_INTERVAL)
    trackers = trackers_of(config)
    return Operation(
        checkpoint_step_interval=config[_INTERVAL],
        checkpoint_epoch_interval=config[_EPOCH_INTERVAL] or None,
        checkpoints_total_limit=config[_LIMIT],
        gradient_checkpointing=config[_CHECKPOINTING],
        gradient_checkpointing_interval=config[_CHECKPOINTING_INTERVAL],
        device=device_of(config),
        deterministic=_deterministic(config),
        quantize_via=quantize_via_of(config),
        zero_stage=zero_stage_of(config),
        zero_offload=zero_offload_of(config),
        release_gradients=release_of(config),
        ema_device=ema_device_of(config),
        resume_from=_resume_from(config),
        report_to=trackers.report_to,
        tracker_project_name=trackers.project_name,
        tracker_run_name=trackers.run_name,
        text_encoder_4_source=fourth_encoder_of(config),
        output_dir=_output_dir(config),
        data_dirs=data.folders,
        sample_prompt=sample.prompt,
        sample_negative_prompt=sample.negative_prompt,
        sample_steps=sample.steps,
        sample_guidance=sample.guidance,
        sample_guidance_rescale=sample.guidance_rescale,
        sample_width_px=sample.width_px,
        sample_height_px=sample.height_px,
        sample_seed=sample.seed,
        pictures=pictures,
        evaluation=evaluation_of(config, data.backends),
        publication=_publication(config),
    )


def _deterministic(config: Options) -> bool:
    if device_of(config) == "cpu":
        config.idle("on a CPU, where results are always bit-equal", _DETERMINISTIC)
    elif config[_DETERMINISTIC] and uses_deepspeed(config):
        message = (
            "DeepSpeed does not promise equal bits on a GPU: set it to false, or train on one "
        )
        config.problem(_DETERMINISTIC, "conflict", message + "GPU without zero_stage.")
    return config[_DETERMINISTIC]


def _resume_from(config: Options) -> str:
    written = (config[_RESUME] or "").strip()
    if written.lower() in ("", "none", "null", "false"):
        return ""
    if written != "latest" and config.source == "http":
        message = "Only latest (or empty, to start afresh): a run resumes from its own checkpoints."
        config.problem(_RESUME, "refused", message)
    return written


def _publication(config: Options) -> Publication:
    hub_model_id = _HUB_ADDRESS.sub("", (config[_HUB_ID] or "").strip()).rstrip("/") or None
    private = config[_PRIVATE]
    if not config[_PUSH]:
        if hub_model_id:
            config.idle("without push_to_hub", _HUB_ID)
        if config[_PUSH_CHECKPOINTS]:
            nothing = "without push_to_hub neither checkpoints nor the result are published."
            config.differs(_PUSH_CHECKPOINTS, nothing)
        return Publication(private=private)
    if not hub_model_id:
        config.problem(_HUB_ID, "missing", "push_to_hub needs hub_model_id.")
    elif not _HUB_ID_PATTERN.fullmatch(hub_model_id):
        config.problem(_HUB_ID, "bad_value", "hub_model_id has to be a name, or owner/name.")
    checkpoints = config[_PUSH_CHECKPOINTS]
    if checkpoints and is_full_rank(config):
        config.differs(
            _PUSH_CHECKPOINTS,
            "the result is published, and no checkpoint: those of full-rank training hold the "
            "state of the training and no model that can be loaded.",
        )
        checkpoints = False
    return Publication(hub_model_id=hub_model_id, private=private, checkpoints=checkpoints)
