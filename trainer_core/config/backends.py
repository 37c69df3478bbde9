"""The list of data backends, resolved."""

import math
import re
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.backend_options import BACKEND_OPTIONS
from trainer_core.config.plan import Backend
from trainer_core.config.reading import Findings, Options, Source, read_options

_POINTER: Final = "/data_backends"
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_BACKENDS: Final = 100
_MAX_EDGE_PX: Final = 100_000
_MAX_REPEATS: Final = 1_000_000


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
    backends: list[Backend] = []
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
        if _is_set_aside(item, pointer, findings, source):
            continue
        options = read_options(item, BACKEND_OPTIONS, pointer, findings, source)
        backend = _backend(options, config, max_area_px, findings)
        if backend is None:
            continue
        if backend.id in seen:
            findings.problem(options.at("id"), "conflict", f"There are two backends {backend.id}.")
        seen.add(backend.id)
        backends.append(backend)
        folder = options.text("instance_data_dir")
        if folder:
            folders[backend.id] = folder
        elif source == "local":
            message = f"{backend.id}: instance_data_dir is missing."
            findings.problem(f"{pointer}/instance_data_dir", "missing", message)
    _check_some_train(raw, backends, findings)
    return tuple(backends), folders


def _is_set_aside(
    item: dict[str, JsonValue], pointer: str, findings: Findings, source: Source
) -> bool:
    """Whether a backend holds no images to read: disabled, or a cache of text embeddings.

    The options of a disabled one are not looked at, as nobody would act on them. Those of a cache
    may change captions, so what is not built is refused there too.
    """
    wanted = {"disabled", "disable", "dataset_type"}
    few = {name: value for name, value in item.items() if name.removeprefix("--") in wanted}
    options = read_options(few, BACKEND_OPTIONS, "", Findings(), source)
    if options.flag("disabled"):
        return True
    if options.text("dataset_type") == "text_embeds":
        looked_at = Findings()
        read_options(item, BACKEND_OPTIONS, pointer, looked_at, source)
        findings.problems += looked_at.problems
        findings.warn("A data backend of type text_embeds is not needed: the cache keeps itself.")
        return True
    return False


def _check_some_train(
    raw: Sequence[JsonValue], backends: Sequence[Backend], findings: Findings
) -> None:
    broken = any(problem.pointer.startswith(_POINTER) for problem in findings.problems)
    if not broken and not any(backend.role == "train" for backend in backends):
        what = "every one is disabled, held out or without images" if raw else "the list is empty"
        findings.problem(_POINTER, "missing", f"No data backend to train on: {what}.")


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
    strategy, prompt = _captions(options, config, findings)
    resolution_px = _resolution_px(id_, options, config, max_area_px, findings)
    maximum_px = _edge_px("maximum_image_size", options, config, findings)
    target_px = _edge_px("target_downsample_size", options, config, findings)
    if (maximum_px is None) != (target_px is None):
        given, missing = "maximum_image_size", "target_downsample_size"
        if maximum_px is None:
            given, missing = missing, given
        findings.problem(options.at(given), "conflict", f"{given} needs {missing} as well.")
    crop = options.flag("crop")
    if crop and not options.given("crop_style"):
        findings.warn(f"{id_}: crop_style is not given; images are cut at the centre.")
    if options.integer("repeats") > _MAX_REPEATS:
        findings.problem(options.at("repeats"), "bad_value", f"repeats is at most {_MAX_REPEATS}.")
    if len(findings.problems) > before:
        return None
    aspect: Literal["square", "preserve"] = (
        "preserve" if options.text("crop_aspect") == "preserve" else "square"
    )
    return Backend(
        id=id_,
        role="eval" if options.text("dataset_type") == "eval" else "train",
        caption_strategy=strategy,
        instance_prompt=prompt,
        resolution_px=resolution_px,
        aspect_bucket_rounding=config.integer("aspect_bucket_rounding"),
        crop=crop,
        crop_aspect=aspect,
        minimum_image_size_px=_edge_px("minimum_image_size", options, config, findings) or 0,
        maximum_image_size_px=maximum_px,
        target_downsample_size_px=target_px,
        repeats=options.integer("repeats"),
    )


def _inherited(name: str, options: Options, config: Options) -> Options:
    return options if options.given(name) else config


def _captions(
    options: Options, config: Options, findings: Findings
) -> tuple[Literal["filename", "textfile", "instanceprompt"], str | None]:
    written = _inherited("caption_strategy", options, config).text("caption_strategy")
    prompt = _inherited("instance_prompt", options, config).text("instance_prompt")
    match written:
        case "textfile":
            return "textfile", None
        case "filename":
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
