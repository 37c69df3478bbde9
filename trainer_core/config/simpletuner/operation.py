"""The part of a plan that says how a run is carried out."""

import math
import re
from typing import Final, Literal

from trainer_core.config.plan import Operation, Publication
from trainer_core.config.simpletuner.optimization import ema_device_of, zero_stage_of
from trainer_core.config.simpletuner.reading import Findings, Options, Source, warn_idle

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_RESOLUTION: Final = re.compile(r"([0-9]{1,5})(?:\.0+)?(?:x([0-9]{1,5})(?:\.0+)?)?")
_SAMPLE_MULTIPLE_PX: Final = 16
_MAX_SAMPLE_STEPS: Final = 200
_MAX_TRACKER_NAME: Final = 128
_FOURTH_ENCODER: Final = "pretrained_text_encoder_4_model_name_or_path"

Tracker = Literal["tensorboard", "wandb"]


def operation_of(
    config: Options, max_area_px: int, folders: dict[str, str], findings: Findings, source: Source
) -> Operation:
    width_px, height_px = _sample_size_px(config, max_area_px, findings)
    if not config.flag("gradient_checkpointing"):
        names = ("gradient_checkpointing_interval",)
        warn_idle(config, names, findings, "without gradient_checkpointing")
    return Operation(
        checkpoint_step_interval=config.integer("checkpoint_step_interval"),
        checkpoints_total_limit=config.integer("checkpoints_total_limit"),
        gradient_checkpointing=config.flag("gradient_checkpointing"),
        gradient_checkpointing_interval=config.integer("gradient_checkpointing_interval"),
        device=_device(config),
        quantize_via="cpu" if config.text("quantize_via") == "cpu" else "accelerator",
        zero_stage=zero_stage_of(config, findings),
        ema_device=ema_device_of(config),
        resume_from=_resume_from(config, findings, source),
        report_to=_trackers(config, findings, source),
        tracker_project_name=_tracker_name(config, "tracker_project_name", findings),
        tracker_run_name=_tracker_name(config, "tracker_run_name", findings),
        text_encoder_4_source=_fourth_encoder(config, findings, source),
        output_dir=config.text("output_dir"),
        data_dirs=folders,
        sample_prompt=str(config.deferred.get("validation_prompt", "")),
        sample_negative_prompt=str(config.deferred.get("validation_negative_prompt", "")),
        sample_steps=_sample_steps(config, findings),
        sample_guidance=_deferred_number(config, "validation_guidance", 5.0),
        sample_width_px=width_px,
        sample_height_px=height_px,
        sample_seed=int(_deferred_number(config, "validation_seed", 42)),
        publication=_publication(config, findings),
    )


def _device(config: Options) -> Literal["auto", "cpu", "cuda"]:
    match config.text("device"):
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case _:
            return "auto"


def _resume_from(config: Options, findings: Findings, source: Source) -> str:
    wish = (config.text("resume_from_checkpoint") or "").strip()
    if wish.lower() in ("", "none", "null", "false"):
        return ""
    if wish != "latest" and source == "http":
        message = "Only latest (or empty, to start afresh): a run resumes from its own checkpoints."
        findings.problem(config.at("resume_from_checkpoint"), "refused", message)
    return wish


def _trackers(config: Options, findings: Findings, source: Source) -> tuple[Tracker, ...]:
    wanted: list[Tracker] = []
    for name in config.items("report_to"):
        match name:
            case "tensorboard":
                wanted.append("tensorboard")
            case "wandb":
                wanted.append("wandb")
            case _:
                pass
    if wanted and source == "http":
        findings.warn(
            f"report_to {', '.join(wanted)} is for local runs; the service reports by events."
        )
        return ()
    if not wanted:
        names = ("tracker_run_name", "tracker_project_name")
        warn_idle(config, names, findings, "without report_to")
    return tuple(wanted)


def _tracker_name(config: Options, name: str, findings: Findings) -> str:
    """Trackers make folders of these names."""
    written = (config.text(name) or "").strip()
    is_odd = written.startswith(".") or any(c in "/\\" or not c.isprintable() for c in written)
    if is_odd or len(written) > _MAX_TRACKER_NAME:
        message = (
            f"{name} has to be a plain name of at most {_MAX_TRACKER_NAME} characters, without "
            "slashes and without a dot at its start."
        )
        findings.problem(config.at(name), "bad_value", message)
    return written


def _fourth_encoder(config: Options, findings: Findings, source: Source) -> str | None:
    written = config.text(_FOURTH_ENCODER) or None
    if written is not None and source == "http":
        message = "Base models come whole, from the operator's list; leave it out."
        findings.problem(config.at(_FOURTH_ENCODER), "refused", message)
    return written


def _publication(config: Options, findings: Findings) -> Publication:
    hub_model_id = config.text("hub_model_id")
    private = config.flag("model_card_private")
    if not config.flag("push_to_hub"):
        if hub_model_id:
            findings.warn("hub_model_id has no effect without push_to_hub.")
        return Publication(private=private)
    if not hub_model_id:
        findings.problem(config.at("hub_model_id"), "missing", "push_to_hub needs hub_model_id.")
    elif not _HUB_ID.fullmatch(hub_model_id):
        message = "hub_model_id has to be a name, or owner/name."
        findings.problem(config.at("hub_model_id"), "bad_value", message)
    return Publication(hub_model_id=hub_model_id, private=private)


def _deferred_number(config: Options, name: str, default: float) -> float:
    value = config.deferred.get(name, default)
    assert isinstance(value, int | float), name
    return float(value)


def _sample_steps(config: Options, findings: Findings) -> int:
    name = "validation_num_inference_steps"
    steps = int(_deferred_number(config, name, 30))
    if steps > _MAX_SAMPLE_STEPS:
        findings.problem(config.at(name), "bad_value", f"{name} is at most {_MAX_SAMPLE_STEPS}.")
    return steps


def _sample_size_px(config: Options, max_area_px: int, findings: Findings) -> tuple[int, int]:
    """Width and height of the sample image: multiples of 16, within what the base model takes."""
    written = str(config.deferred.get("validation_resolution", 1024))
    first, *others = (part.strip() for part in written.lower().split(","))
    found = _RESOLUTION.fullmatch(first)
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (width and height):
        message = "validation_resolution has to be a number or WIDTHxHEIGHT, such as 1024x768."
        findings.problem(config.at("validation_resolution"), "bad_value", message)
        return 1024, 1024
    if others:
        findings.warn(f"validation_resolution: the sample image has the first size, {first}.")
    # Sides first: a side that is raised afterwards would leave what the model takes.
    longest = max_area_px // _SAMPLE_MULTIPLE_PX
    width = min(max(width, _SAMPLE_MULTIPLE_PX), longest)
    height = min(max(height, _SAMPLE_MULTIPLE_PX), longest)
    shrink = min(1.0, math.sqrt(max_area_px / (width * height)))
    if shrink < 1:
        findings.warn(f"validation_resolution {first} is more than the base model takes: lowered.")
    return _sample_side(width * shrink), _sample_side(height * shrink)


def _sample_side(side_px: float) -> int:
    return max(1, int(side_px / _SAMPLE_MULTIPLE_PX)) * _SAMPLE_MULTIPLE_PX
