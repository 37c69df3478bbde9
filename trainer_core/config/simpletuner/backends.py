"""The list of data backends (``multidatabackend.json``), resolved."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from pydantic import JsonValue

from trainer_core.config.plan import Backend
from trainer_core.config.simpletuner import captions, crops, mixing, sizes
from trainer_core.config.simpletuner.bucket_keys import BUCKET_KEYS
from trainer_core.config.simpletuner.captions import BACKEND_CAPTIONS, captions_of
from trainer_core.config.simpletuner.crops import (
    BACKEND_CROPS,
    CROP,
    crops_of,
    tell_idle_threshold,
    without_idle_crops,
)
from trainer_core.config.simpletuner.masks import (
    DATA,
    MASKS,
    ReadBackend,
    link_masks,
    mask_kind_of,
    masks_backend,
)
from trainer_core.config.simpletuner.mixing import (
    BACKEND_MIXING,
    mixing_of,
    without_idle_weights,
)
from trainer_core.config.simpletuner.model import is_full_rank
from trainer_core.config.simpletuner.other_backend_keys import OTHER_BACKEND_KEYS
from trainer_core.config.simpletuner.reading import (
    Findings,
    Options,
    option_name,
    read_options,
    text_of,
)
from trainer_core.config.simpletuner.sizes import BACKEND_SIZES, sizes_of
from trainer_core.config.simpletuner.source_types import PictureSource
from trainer_core.config.simpletuner.sources import (
    FOLDER,
    KIND,
    SOURCES,
    is_refused_kind,
    refuse_kind,
    source_of,
)
from trainer_core.config.simpletuner.steps import BATCH_SIZE, written_seed_of
from trainer_core.config.simpletuner.tar_keys import TAR_KEYS
from trainer_core.config.simpletuner.text_caches import TextCaches
from trainer_core.config.simpletuner.verdicts import Option, Table, joined

_BACKEND: Final = Table()
_POINTER: Final = "/data_backends"
_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_BACKENDS: Final = 100
_MAX_REPEATS: Final = 1_000_000

_Role = Literal["train", "eval", "mask", "cache"]

_ID: Final = _BACKEND.text("id", None, "Its name, unique in the list.")
_TYPE: Final[Option[_Role]] = _BACKEND.choice(
    "dataset_type",
    {
        "image": "train",
        "eval": "eval",
        "conditioning": "mask",
        "text_embeds": "cache",
        "image_embeds": "cache",
    },
    "train",
    "image is trained on, eval is held out to measure, conditioning holds masks; text_embeds and "
    "image_embeds are not needed.",
    known=("video", "audio", "caption", "conditioning_image_embeds"),
)
_DISABLED: Final = _BACKEND.flag("disabled", False, "Leave the backend out.")
_BACKEND.alias("disable", _DISABLED)
_REPEATS: Final = _BACKEND.integer(
    "repeats", 0, "How often each image is drawn again in an epoch.", at_least=0
)
_REGULARISES: Final = _BACKEND.flag(
    "is_regularisation_data",
    False,
    "The adapter learns to leave these images as the base model has them.",
)
_BACKEND.alias("is_regularization_data", _REGULARISES)
_BATCH_SIZE: Final[Option[int | None]] = _BACKEND.integer(
    "train_batch_size", None, "Only that of the run.", at_least=1
)
_BACKEND.choice(
    "metadata_backend",
    dict.fromkeys(("discovery", "json", "parquet", "huggingface", "webshart"), "discovery"),
    "discovery",
    "Every image is read once and measured, whatever is written here.",
)
_BACKEND.not_built("grounding grounding_data", "Boxes are not trained: leave it out.")
_BACKEND.not_built("conditioning", "Masks come as files of a backend of their own.")
_BACKEND.not_built("slider_strength", "Leave it out.", 0)
_BACKEND.not_built("timestep_sampling_offset", "Leave it out.", 0, type_="float")
_BACKEND.not_built("enable_nsfw_check", "Leave it out.", False, type_="bool")

BACKEND_OPTIONS: Final = joined(
    *(_BACKEND, SOURCES, BUCKET_KEYS, TAR_KEYS, BACKEND_SIZES, BACKEND_CROPS, BACKEND_CAPTIONS),
    *(BACKEND_MIXING, MASKS, OTHER_BACKEND_KEYS),
)
"""Key of a data backend → row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedBackends:
    """The backends of images and masks, and where their files are."""

    backends: tuple[Backend, ...] = ()
    folders: dict[str, str] = field(default_factory=dict)
    """Id → folder, in local runs."""
    sources: Mapping[str, PictureSource] = field(default_factory=dict)
    """Id → what its files are fetched from first, in local runs."""


def backends_of(raw: Sequence[JsonValue], config: Options, max_area_px: int) -> ResolvedBackends:
    """The backends of a list, and where their files are.

    ``config`` gives the defaults of their options. A resolution above the base model's
    ``max_area_px`` is lowered to it, with a warning.
    """
    findings = config.findings
    read: list[ReadBackend] = []
    set_aside: set[str] = set()
    folders: dict[str, str] = {}
    text_caches = TextCaches()
    if len(raw) > _MAX_BACKENDS:
        findings.problem(_POINTER, "bad_value", f"At most {_MAX_BACKENDS} data backends.")
        return ResolvedBackends()
    for position, item in enumerate(raw):
        pointer = f"{_POINTER}/{position}"
        if not isinstance(item, dict):
            findings.problem(pointer, "bad_value", "A data backend has to be an object.")
            continue
        first = _first_look(item)
        if _is_set_aside(first):
            set_aside.add(_id_in(item))
            _read_cache(item, first, pointer, config, text_caches)
            continue
        part = _read_backend(item, first, pointer, config, max_area_px)
        if part is None:
            continue
        id_ = part.backend.id
        if any(other.backend.id == id_ for other in read):
            part.options.problem(_ID, "conflict", f"There are two backends {id_}.")
        read.append(part)
        if folder := _folder(id_, part.options, pointer):
            folders[id_] = folder
    if _is_broken(findings):  # a link to an unreadable backend would be reported as wrong
        backends = tuple(part.backend for part in read)
    else:
        backends = without_idle_weights(link_masks(read, set_aside), read)
    if len(read) + len(set_aside) == len(raw):  # no backend has a problem of its own
        _check_some_train(raw, backends, findings)
    _tell_idle_defaults(config, backends)
    return ResolvedBackends(
        backends=text_caches.applied_to(backends, raw),
        folders=folders,
        sources={part.backend.id: part.source for part in read if part.source is not None},
    )


def _read_backend(
    item: Mapping[str, JsonValue], first: Options, pointer: str, config: Options, max_area_px: int
) -> ReadBackend | None:
    """One backend with its options; None where it has a problem.

    ``first``: the options that decide how it is read.
    """
    if refused := _refused_kind(item, first, config):
        # What its other options mean depends on it.
        options = read_options(refused, BACKEND_OPTIONS, pointer, config.findings, config.source)
        refuse_kind(options)
        return None
    is_cut = first[CROP] and first[_TYPE] != "mask"
    given = item if is_cut else without_idle_crops(item)
    options = read_options(
        given, BACKEND_OPTIONS, pointer, config.findings, config.source, backend=_id_in(item)
    )
    return _backend(options, config, max_area_px)


def _refused_kind(
    item: Mapping[str, JsonValue], first: Options, config: Options
) -> Mapping[str, JsonValue]:
    """The type and dataset_type of a backend that are not taken; empty where both are."""
    wrong = {option.name for option in (KIND, _TYPE) if first.is_wrong(option)}
    if is_refused_kind(first[KIND], config.source):
        wrong.add(KIND.name)
    return {name: value for name, value in item.items() if option_name(name) in wrong}


def _folder(id_: str, options: Options, pointer: str) -> str | None:
    """The folder of the images; None where there is none, which is a problem in a local run."""
    if options[KIND] != "local":
        return None
    folder = options[FOLDER]
    if not folder and options.source == "local":
        message = f"instance_data_dir of {id_} is missing."
        options.findings.problem(f"{pointer}/{FOLDER.name}", "missing", message)
    return folder


def _tell_idle_defaults(config: Options, backends: Sequence[Backend]) -> None:
    """Defaults in config.json that no backend uses."""
    if backends and not any(backend.crop for backend in backends):
        sizes.tell_idle_sizes(config)
    if backends:
        tell_idle_threshold(config, backends)
    if backends and not any(backend.instance_prompt for backend in backends):
        captions.tell_idle_captions(config)


def _id_in(item: Mapping[str, JsonValue]) -> str:
    """The id of a backend as far as it can be read, to name it in a notice."""
    return (text_of(item.get(_ID.name, item.get(f"--{_ID.name}"))) or "without id")[:128]


def holds_no_images(item: Mapping[str, JsonValue]) -> bool:
    """Whether a backend has no images to read: disabled, or a cache."""
    return _is_set_aside(_first_look(item))


def _first_look(item: Mapping[str, JsonValue]) -> Options:
    """The options that decide how the others are read, without reporting problems."""
    wanted = {_DISABLED.name, "disable", _TYPE.name, CROP.name, KIND.name}
    few = {name: value for name, value in item.items() if option_name(name) in wanted}
    return read_options(few, BACKEND_OPTIONS, "", Findings(), "local")


def _is_set_aside(first: Options) -> bool:
    return first[_DISABLED] or first[_TYPE] == "cache"


def _read_cache(
    item: Mapping[str, JsonValue],
    first: Options,
    pointer: str,
    config: Options,
    text_caches: TextCaches,
) -> None:
    """Read those options of a cache that change captions; no other has an effect.

    Options of a disabled backend are not read.
    """
    if first[_DISABLED]:
        return
    kind = item.get(_TYPE.name, item.get(f"--{_TYPE.name}"))
    if kind == "text_embeds":
        text_caches.add(item, _id_in(item), pointer, config.findings, config.source)
    message = f"{kind} is not needed: the cache keeps itself."
    config.findings.notice("handled", _TYPE.name, message, pointer, _id_in(item))


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
        findings.notice(
            "differs",
            _REGULARISES.name,
            "all data is regularisation data: the adapter learns only to predict as the base.",
            _POINTER,
        )


def _backend(options: Options, config: Options, max_area_px: int) -> ReadBackend | None:
    """One backend of images or masks; None where a problem was found."""
    before = len(config.findings.problems)
    id_ = options[_ID]
    if id_ is None:
        if options.is_missing(_ID):
            options.problem(_ID, "missing", "id is missing.")
        return None
    if not _ID_PATTERN.fullmatch(id_):
        message = "id takes letters, digits, dots, dashes and underscores (at most 128)."
        options.problem(_ID, "bad_value", message)
    _check_batch_size(options, config)
    role = options[_TYPE]
    assert role != "cache", id_
    mask_kind = mask_kind_of(options, holds_masks=role == "mask")
    if mask_kind is not None:
        of_images = (*sizes.NOT_OF_MASKS, *crops.NOT_OF_MASKS, *captions.NOT_OF_MASKS)
        idle = (*of_images, *mixing.NOT_OF_MASKS, _REPEATS, DATA, _REGULARISES)
        options.idle("on masks", *idle)
        source = source_of(options, "filename", is_mask=True)
        masks = masks_backend(id_, mask_kind)
        is_wrong = len(config.findings.problems) > before
        return None if is_wrong else ReadBackend(masks, options, source)
    words = captions_of(options, config, written_seed_of(config))
    cut = crops_of(options, config, is_trained_on=role == "train")
    size = sizes_of(options, config, max_area_px, cut)
    repeats = _repeats(role, options)
    mixed = mixing_of(options, config, is_trained_on=role == "train")
    is_regularisation = _is_regularisation(role, options, config)
    source = source_of(options, words.written, is_mask=False, are_whole_texts=words.are_whole_texts)
    if len(config.findings.problems) > before:
        return None
    backend = Backend(
        id=id_,
        role=role,
        caption_strategy=words.strategy,
        instance_prompt=words.prompt,
        prepend_instance_prompt=words.is_prepended,
        disable_multiline_split=words.are_whole_files,
        caption_shuffle=words.shuffle,
        **asdict(size),
        **asdict(cut),
        repeats=repeats,
        **asdict(mixed),
        is_regularisation=is_regularisation,
    )
    return ReadBackend(backend, options, source)


def _is_regularisation(role: _Role, options: Options, config: Options) -> bool:
    if not options[_REGULARISES]:
        return False
    if is_full_rank(config):
        message = (
            "With model_type full there is no base model left to learn from: set it to false, or "
            "train an adapter."
        )
        options.problem(_REGULARISES, "conflict", message)
    if role != "train":
        options.idle("on held-out images", _REGULARISES)
        return False
    return True


def _repeats(role: _Role, options: Options) -> int:
    repeats = options[_REPEATS]
    if repeats > _MAX_REPEATS:
        options.problem(_REPEATS, "bad_value", f"repeats is at most {_MAX_REPEATS}.")
    if role == "train" or not repeats:
        return repeats
    options.idle("on held-out images", _REPEATS)
    return 0


def _check_batch_size(options: Options, config: Options) -> None:
    own = options[_BATCH_SIZE]
    if own is None or config.is_wrong(BATCH_SIZE) or own == config[BATCH_SIZE]:
        return
    message = "A backend has the run's batch size in this version: set it for the run."
    options.problem(_BATCH_SIZE, "not_implemented", message)
