"""The list of data backends, resolved."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.plan import Backend
from trainer_core.config.simpletuner.backend_options import BACKEND_OPTIONS
from trainer_core.config.simpletuner.masks import ReadBackend, link_masks
from trainer_core.config.simpletuner.reading import (
    Findings,
    Options,
    Source,
    read_options,
    warn_idle,
)
from trainer_core.config.simpletuner.scalars import is_full_rank, was_judged

_POINTER: Final = "/data_backends"
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_BACKENDS: Final = 100
_MAX_EDGE_PX: Final = 100_000
_MAX_REPEATS: Final = 1_000_000
_NOT_OF_MASKS: Final = (
    "resolution",
    "resolution_type",
    "crop",
    "crop_aspect",
    "crop_style",
    "minimum_image_size",
    "maximum_image_size",
    "target_downsample_size",
    "repeats",
    "caption_strategy",
    "instance_prompt",
    "conditioning_data",
    "is_regularisation_data",
)
"""Masks are cut as the images that name them, and are never drawn by themselves."""
_OF_CROP: Final = (
    "crop_style",
    "crop_aspect",
    "maximum_image_size",
    "target_downsample_size",
)
_CACHES: Final = ("text_embeds", "image_embeds")


def import_backends(
    raw: Sequence[JsonValue],
    config: Options,
    max_area_px: int,
    findings: Findings,
    source: Source,
) -> tuple[tuple[Backend, ...], dict[str, str]]:
    """The backends that hold images, and id → folder for those that name one (local runs only).

    Options that a backend does not give are those of ``config``. A resolution above what the base
    model takes (``max_area_px``) is lowered to it, with a warning.
    """
    read: list[ReadBackend] = []
    set_aside: set[str] = set()
    folders: dict[str, str] = {}
    if len(raw) > _MAX_BACKENDS:
        findings.problem(_POINTER, "bad_value", f"At most {_MAX_BACKENDS} data backends.")
        return (), {}
    seen: set[str] = set()
    for position, item in enumerate(raw):
        pointer = f"{_POINTER}/{position}"
        if not isinstance(item, dict):
            findings.problem(pointer, "bad_value", "A data backend has to be an object.")
            continue
        if holds_no_images(item):
            set_aside.add(str(item.get("id", item.get("--id"))))
            _look_at_cache(item, pointer, findings, source)
            continue
        wishes = _without_idle_wishes(item)
        options = read_options(wishes, BACKEND_OPTIONS, pointer, findings, source)
        backend = _backend(options, config, max_area_px, findings)
        if backend is None:
            continue
        if backend.id in seen:
            findings.problem(options.at("id"), "conflict", f"There are two backends {backend.id}.")
        seen.add(backend.id)
        read.append(ReadBackend(backend, options))
        folder = options.text("instance_data_dir")
        if folder:
            folders[backend.id] = folder
        elif source == "local":
            message = f"{backend.id}: instance_data_dir is missing."
            findings.problem(f"{pointer}/instance_data_dir", "missing", message)
    if not _is_broken(findings):
        backends = link_masks(read, set_aside, findings)
    else:  # links to a backend that could not be read would be told as wrong
        backends = tuple(part.backend for part in read)
    _check_some_train(raw, backends, findings)
    _say_idle_defaults(config, backends, findings)
    return backends, folders


def holds_no_images(item: Mapping[str, JsonValue]) -> bool:
    """Whether a backend has no images to read: disabled, or a cache."""
    options = _few_options(item)
    return options.flag("disabled") or options.text("dataset_type") in _CACHES


def _few_options(item: Mapping[str, JsonValue]) -> Options:
    wanted = {"disabled", "disable", "dataset_type", "crop"}
    few = {name: value for name, value in item.items() if name.removeprefix("--") in wanted}
    return read_options(few, BACKEND_OPTIONS, "", Findings(), "local")


def _without_idle_wishes(item: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Ways to cut that are not built stand at their default where nothing is cut by them."""
    few = _few_options(item)
    if few.flag("crop") and few.text("dataset_type") != "conditioning":
        return dict(item)
    changed = dict(item)
    for name, value in item.items():
        verdict = BACKEND_OPTIONS.get(name.removeprefix("--"))
        if verdict and name.removeprefix("--") in _OF_CROP and value in verdict.known:
            changed[name] = verdict.default
    return changed


def _say_idle_defaults(config: Options, backends: Sequence[Backend], findings: Findings) -> None:
    """Defaults in config.json that no backend takes up."""
    if backends and not any(backend.crop for backend in backends):
        names = ("maximum_image_size", "target_downsample_size")
        warn_idle(config, names, findings, "where no backend is cropped")
    if backends and not any(b.caption_strategy == "instanceprompt" for b in backends):
        warn_idle(config, ("instance_prompt",), findings, "where no caption_strategy takes it")


def _look_at_cache(
    item: Mapping[str, JsonValue], pointer: str, findings: Findings, source: Source
) -> None:
    """Options of a disabled backend are not looked at, as nobody would act on them. Those of a
    cache of text may change captions, so what is not built is refused there too."""
    if _few_options(item).flag("disabled"):
        return
    looked_at = Findings()
    read_options(item, BACKEND_OPTIONS, pointer, looked_at, source)
    findings.problems += looked_at.problems
    kind = _few_options(item).text("dataset_type")
    findings.warn(f"A data backend of type {kind} is not needed: the cache keeps itself.")


def _is_broken(findings: Findings) -> bool:
    return any(problem.pointer.startswith(_POINTER) for problem in findings.problems)


def _check_some_train(
    raw: Sequence[JsonValue], backends: Sequence[Backend], findings: Findings
) -> None:
    trained = [backend for backend in backends if backend.role == "train"]
    if not trained and not _is_broken(findings):
        what = "every one is disabled, held out or without images" if raw else "the list is empty"
        findings.problem(_POINTER, "missing", f"No data backend to train on: {what}.")
    if trained and all(backend.is_regularisation for backend in trained):
        findings.warn("All data is regularisation data: the adapter learns nothing but the base.")


def _backend(
    options: Options, config: Options, max_area_px: int, findings: Findings
) -> Backend | None:
    before = len(findings.problems)
    id_ = options.text("id")
    if id_ is None:
        if "id" not in options.names:
            findings.problem(options.at("id"), "missing", "id is missing.")
        return None
    if not _ID.fullmatch(id_):
        message = "id takes letters, digits, dots, dashes and underscores (at most 128)."
        findings.problem(options.at("id"), "bad_value", message)
    _check_batch_size(options, config, findings)
    role = _role(id_, options, findings)
    if role == "mask":
        warn_idle(options, _NOT_OF_MASKS, findings, f"on the masks {id_}")
        return None if len(findings.problems) > before else _masks(id_, options)
    strategy, prompt = _captions(options, config, findings)
    resolution_px = _resolution_px(id_, options, config, max_area_px, findings)
    maximum_px = _edge_px("maximum_image_size", options, config, findings)
    target_px = _edge_px("target_downsample_size", options, config, findings)
    crop = options.flag("crop")
    if not crop:
        warn_idle(options, _OF_CROP, findings, f"on {id_} without crop")
        maximum_px = target_px = None
    elif (maximum_px is None) != (target_px is None):
        given, missing = "maximum_image_size", "target_downsample_size"
        if maximum_px is None:
            given, missing = missing, given
        findings.problem(options.at(given), "conflict", f"{given} needs {missing} as well.")
    elif maximum_px is not None and target_px is not None and target_px > maximum_px:
        findings.warn(
            f"{id_}: target_downsample_size is above maximum_image_size: images between the two "
            "are not enlarged to it, but cut as they are."
        )
    if crop and not options.given("crop_style"):
        findings.warn(f"{id_}: crop_style is not given; images are cut at the centre.")
    repeats = _repeats(id_, role, options, findings)
    is_regularisation = _is_regularisation(id_, role, options, config, findings)
    if len(findings.problems) > before:
        return None
    aspect: Literal["square", "preserve"] = (
        "preserve" if crop and options.text("crop_aspect") == "preserve" else "square"
    )
    return Backend(
        id=id_,
        role=role,
        caption_strategy=strategy,
        instance_prompt=prompt,
        resolution_px=resolution_px,
        aspect_bucket_rounding=config.integer("aspect_bucket_rounding"),
        crop=crop,
        crop_aspect=aspect,
        minimum_image_size_px=_edge_px("minimum_image_size", options, config, findings) or 0,
        maximum_image_size_px=maximum_px,
        target_downsample_size_px=target_px,
        repeats=repeats,
        is_regularisation=is_regularisation,
    )


def _role(id_: str, options: Options, findings: Findings) -> Literal["train", "eval", "mask"]:
    kind = options.text("dataset_type")
    if kind == "conditioning":
        if "conditioning_type" not in options.names:
            message = "conditioning_type is missing: mask or segmentation."
            findings.problem(options.at("conditioning_type"), "missing", message)
        return "mask"
    warn_idle(options, ("conditioning_type",), findings, f"on the images {id_}")
    return "eval" if kind == "eval" else "train"


def _masks(id_: str, options: Options) -> Backend:
    """A backend of masks; ``link_masks`` puts in the sizes of the images that name it."""
    is_segmentation = options.text("conditioning_type") == "segmentation"
    return Backend(
        id=id_,
        role="mask",
        caption_strategy="filename",
        instance_prompt=None,
        resolution_px=1024,
        aspect_bucket_rounding=2,
        crop=False,
        crop_aspect="square",
        minimum_image_size_px=0,
        maximum_image_size_px=None,
        target_downsample_size_px=None,
        repeats=0,
        mask_kind="segmentation" if is_segmentation else "mask",
    )


def _is_regularisation(
    id_: str, role: str, options: Options, config: Options, findings: Findings
) -> bool:
    if not options.flag("is_regularisation_data"):
        return False
    if is_full_rank(config):
        message = (
            "With model_type full there is no base model left to learn from: set it to false, or "
            "train an adapter."
        )
        findings.problem(options.at("is_regularisation_data"), "conflict", message)
    if role != "train":
        findings.warn(f"is_regularisation_data has no effect on {id_}, which is held out.")
        return False
    return True


def _repeats(id_: str, role: str, options: Options, findings: Findings) -> int:
    repeats = options.integer("repeats")
    if repeats > _MAX_REPEATS:
        findings.problem(options.at("repeats"), "bad_value", f"repeats is at most {_MAX_REPEATS}.")
    if role == "train" or not repeats:
        return repeats
    findings.warn(f"repeats has no effect on {id_}, which is held out.")
    return 0


def _check_batch_size(options: Options, config: Options, findings: Findings) -> None:
    if not options.given("train_batch_size") or was_judged(config, "train_batch_size"):
        return
    if options.integer("train_batch_size") != config.integer("train_batch_size"):
        message = "A backend has the run's batch size in this version: set it for the run."
        findings.problem(options.at("train_batch_size"), "not_implemented", message)


def _inherited(name: str, options: Options, config: Options) -> Options:
    return options if options.given(name) else config


def _captions(
    options: Options, config: Options, findings: Findings
) -> tuple[Literal["filename", "textfile", "instanceprompt"], str | None]:
    written = _inherited("caption_strategy", options, config).text("caption_strategy")
    prompt = _inherited("instance_prompt", options, config).text("instance_prompt")
    match written:
        case "textfile":
            warn_idle(options, ("instance_prompt",), findings, "with caption_strategy textfile")
            return "textfile", None
        case "filename":
            warn_idle(options, ("instance_prompt",), findings, "with caption_strategy filename")
            return "filename", None
        case "instanceprompt" | "instance_prompt":
            if not prompt:
                message = "caption_strategy instanceprompt needs an instance_prompt."
                findings.problem(options.at("instance_prompt"), "missing", message)
            return "instanceprompt", prompt
        case _:
            if "caption_strategy" not in options.names:
                message = "caption_strategy is missing: filename, textfile or instanceprompt."
                findings.problem(options.at("caption_strategy"), "missing", message)
            return "filename", None


def _edge_px(name: str, options: Options, config: Options, findings: Findings) -> int | None:
    """The edge of the square whose area a size option names; None where it is not given.

    Under ``pixel_area`` that is the number itself, under ``area`` it is in megapixels. Numbers and
    their unit are taken from where the number stands.
    """
    owner = _inherited(name, options, config)
    value = owner.number(name)
    if value is None:
        return None
    unit_of = options if owner is options and options.given("resolution_type") else config
    kind = unit_of.text("resolution_type")
    edge = math.sqrt(value * 1e6) if kind == "area" else value
    if edge > _MAX_EDGE_PX:
        message = f"{name}: {value:g} is too large ({kind})."
        findings.problem(owner.at(name), "bad_value", message)
        return None
    if 0 < edge < 1:
        message = f"{name}: {value:g} is less than a pixel ({kind})."
        findings.problem(owner.at(name), "bad_value", message)
        return None
    return round(edge)


def _resolution_px(
    id_: str, options: Options, config: Options, max_area_px: int, findings: Findings
) -> int:
    edge_px = _edge_px("resolution", options, config, findings)
    wanted = 1024 if edge_px is None else edge_px
    largest = math.isqrt(max_area_px)
    if wanted > largest:
        findings.warn(
            f"{id_}: resolution {wanted} is more than the base model takes; it is lowered to "
            f"{largest}."
        )
        return largest
    if wanted < 64:
        owner = _inherited("resolution", options, config)
        kind = _inherited("resolution_type", options, config).text("resolution_type")
        message = f"resolution has to be at least 64 pixels, this is {wanted} ({kind})."
        findings.problem(owner.at("resolution"), "bad_value", message)
        return 64
    return wanted
