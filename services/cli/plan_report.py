"""The report of `reverie validate`: a resolved plan, or every error in SimpleTuner's files.

The report is made in sections, one after the other: files, base model, plan, data. Each has its own
errors and warnings, so that all of them are reported at once. Imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from services.cli.connection import CommandError
from services.cli.data_section import DataSection, OnFolders, data_section
from services.cli.documents import Documents, UsedFile, gather_documents, plain_name
from services.cli.hub_token import NOT_THERE, WAY_TO_ONE, hub_token
from services.cli.source_fetching import SourceFolders, fetch_all, surroundings
from trainer_core.base_models.describe import listed_base_models
from trainer_core.base_models.resolve import NotFound, resolve
from trainer_core.base_models.shape import BaseShape, published_shape, shape_of
from trainer_core.config.plan import Plan
from trainer_core.config.plan.problems import Notice, PlanError
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.model import base_name_of
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import Findings, escaped, read_options
from trainer_core.config.simpletuner.start import INIT_LORA, Start, start_name_of
from trainer_core.data.buckets import largest_bucket_px
from trainer_core.data.length import (
    problems_of_length,
    steps_of,
    timeline_of,
    warnings_of_length,
)
from trainer_core.data.report.model import Depth
from trainer_core.data.survey import Survey
from trainer_core.errors import BaseModelError, DocumentError
from trainer_core.export.start_file import look_up_start
from trainer_core.memory.cards import CardRow, card_rows
from trainer_core.memory.report import Memory, plan_memory
from trainer_core.memory.sharding import ShardingRow, sharding_rows
from trainer_core.memory.trained import trained_modules, trained_parameters
from trainer_core.paths import search_folders
from trainer_core.progress import Reporter, SilentReporter
from trainer_core.web.public_addresses import Network
from trainer_core.weights.start_adapter import FoundStart

Progress = Callable[[str, int, int], None]
"""Called with a backend's id and how many of its pictures are done, of how many."""

_FILE_OF: Final = {
    "config": "config",
    "lycoris_config": "lycoris_config",
    "data_backends": "data_backend_config",
    "prompt_library": "user_prompt_library",
}
"""First part of a pointer → the option that names the file."""
_BASE: Final = "pretrained_model_name_or_path"


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundError:
    """One mistake in the files."""

    pointer: str
    """JSON Pointer, its first part the document: ``/config/optimizer``."""
    code: str
    message: str
    file: Path | None
    """Where to correct it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A resolved configuration, or all its errors; both where only the data has errors."""

    used: tuple[UsedFile, ...] = ()
    errors: tuple[FoundError, ...] = ()
    notices: tuple[Notice, ...] = ()
    """About options, in three groups."""
    warnings: tuple[str, ...] = ()
    """About files and pictures."""
    plan: Plan | None = None
    plan_digest: str | None = None
    """None where the base model's digest is not known."""
    trainable_modules: int | None = None
    trainable_parameters: int | None = None
    steps: int | None = None
    """Optimizer steps; None where the length is in epochs and not every picture was looked at."""
    surveys: tuple[Survey, ...] = ()
    """One for each image folder that is on this machine."""
    pictures: DataSection = field(default_factory=DataSection)
    """What a run would do with the pictures; empty where they were not looked at."""
    memory: Memory | None = None
    cards: tuple[CardRow, ...] = ()
    """How the run would fit cards of common sizes."""
    sharding: tuple[ShardingRow, ...] = ()
    """How it would be sharded over such cards; empty where its plan says how."""


Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section(Generic[Content]):
    """One part of the report."""

    content: Content
    errors: tuple[FoundError, ...] = ()
    warnings: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


def report_on(
    config: Path,
    settings: Mapping[str, Any],
    *,
    working_dir: Path,
    env: Mapping[str, str],
    on_progress: Progress,
    allowed: tuple[Network, ...] = (),
    reporter: Reporter | None = None,
    depth: Depth = "pixels",
    on_folders: OnFolders = lambda _: None,
) -> Report:
    """Read the files in ``config`` and resolve them.

    Mistakes in the files are never raised: all of them are in ``errors``.

    Args:
        config: a folder that holds config.json, config.toml or config.env, or such a file.
        settings: options that replace those of the file.
        working_dir: the last folder that a relative path is tried from.
        env: REVERIE_MODELS_DIR, REVERIE_HOME and the variables of ``{env:NAME}`` are read.
        on_progress: called while image folders are scanned.
        allowed: networks that addresses in lists of pictures may lead to beside the public ones.
        reporter: shows the progress of pictures that are fetched.
        depth: how closely images are looked at.
        on_folders: called before an image is read; what it raises ends the work.
    """
    files = _files_section(config, settings, working_dir, env)
    documents = files.content
    if documents is None:
        return Report(errors=files.errors)
    options = read_options(documents.body["config"], OPTIONS, "/config", Findings(), "local")
    folders = search_folders(documents.config_dir, working_dir)
    base = _base_section(documents, base_name_of(options), folders, env)
    start = look_up_start(start_name_of(options), folders)
    imported = _plan_section(documents, base.content, start, reported=files.errors)
    sections: list[_Section[Any]] = [files, base, imported]
    pictures = DataSection()
    steps: int | None = None
    is_sound = not any(section.errors for section in sections)
    plan = None if imported.content is None else imported.content.plan
    if is_sound and plan is not None and imported.content is not None:
        around = surroundings(env, folders, allowed)
        fetched = fetch_all(imported.content.sources, around, reporter or SilentReporter())
        data = _data_section(
            *(plan, documents, base.content, folders),
            on_folders=on_folders,
            on_progress=on_progress,
            fetched=fetched,
            depth=depth,
        )
        pictures = data.content
        length = _length_section(plan, pictures.surveys, documents)
        sections += [data, length]
        steps = length.content
    errors = tuple(chain.from_iterable(section.errors for section in sections))
    warnings = tuple(chain.from_iterable(section.warnings for section in sections))
    notices = imported.notices
    if plan is None or not is_sound:
        return Report(used=documents.used, errors=errors, notices=notices, warnings=warnings)
    used = documents.used
    if isinstance(start, FoundStart) and start.path is not None:
        used += (UsedFile(option=INIT_LORA.name, path=start.path),)
    resolved = _resolved(plan, base.content, pictures.surveys, used, warnings)
    return replace(resolved, errors=errors, notices=notices, steps=steps, pictures=pictures)


def _files_section(
    config: Path, settings: Mapping[str, Any], working_dir: Path, env: Mapping[str, str]
) -> _Section[Documents | None]:
    """The files; None where the options themselves cannot be read."""
    try:
        documents, problems = gather_documents(config, settings, working_dir, env)
    except (CommandError, DocumentError, OSError) as error:
        wrong = FoundError(pointer="", code="bad_file", message=str(error), file=config)
        return _Section(content=None, errors=(wrong,))
    errors = [
        _found(documents, problem.pointer, "missing", str(problem.error))
        if problem.pointer is not None
        else _found(documents, _at(documents, problem.option), "bad_file", str(problem.error))
        for problem in problems
    ]
    return _Section(content=documents, errors=tuple(errors), warnings=documents.notes)


def _base_section(
    documents: Documents, name: str, folders: Sequence[Path], env: Mapping[str, str]
) -> _Section[BaseShape]:
    """The base model; the published one in place of one that cannot be read.

    So the sections below find every other mistake too.
    """
    code = "bad_file"
    try:
        meaning = resolve(name, listed_base_models(env), folders)
        if isinstance(meaning, NotFound):
            code = "bad_value"
        shape = shape_of(meaning)
    except (BaseModelError, OSError) as error:
        wrong = _found(documents, _at(documents, _BASE), code, str(error))
        return _Section(content=published_shape(name), errors=(wrong,))
    return _Section(content=shape, warnings=() if shape.warning is None else (shape.warning,))


def _plan_section(
    documents: Documents,
    base: BaseShape,
    start: Start,
    *,
    reported: Sequence[FoundError],
) -> _Section[Imported | None]:
    """The plan; ``reported``: of a file that cannot be read its missing content is no news."""
    known = {error.pointer for error in reported}
    known |= {f"/{field}" for field, option in _FILE_OF.items() if _at(documents, option) in known}
    try:
        imported = import_run(
            config=documents.body["config"],
            lycoris_config=documents.body.get("lycoris_config"),
            data_backends=documents.body.get("data_backends", []),
            prompt_library=documents.body.get("prompt_library"),
            base_models={base.model.name: base.model},
            source="local",
            start=start,
        )
    except PlanError as error:
        errors = [
            _found(documents, problem.pointer, problem.code, problem.message)
            for problem in error.problems
            if problem.pointer not in known
        ]
        return _Section(content=None, errors=tuple(errors), notices=error.notices)
    return _Section(content=imported, notices=imported.notices)


def _data_section(
    plan: Plan,
    documents: Documents,
    base: BaseShape,
    folders: Sequence[Path],
    *,
    on_folders: OnFolders,
    on_progress: Progress,
    fetched: SourceFolders,
    depth: Depth,
) -> _Section[DataSection]:
    """What is in the image folders, and what a run would end at."""
    data = data_section(
        *(plan, documents.body["data_backends"], base, folders),
        on_folders=on_folders,
        on_progress=on_progress,
        fetched=fetched,
        depth=depth,
    )
    errors = [_found(documents, each.pointer, each.code, each.message) for each in data.problems]
    return _Section(content=data, errors=tuple(errors), warnings=data.warnings)


def _length_section(
    plan: Plan, surveys: Sequence[Survey], documents: Documents
) -> _Section[int | None]:
    """The number of steps, and what depends on the epochs that they are."""
    identity = plan.identity
    training = {backend.id for backend in identity.backends if backend.role == "train"}
    counted = [each for each in surveys if each.backend.id in training]
    uses = {
        (survey.backend.id, *bucket): pictures * (1 + survey.backend.repeats)
        for survey in counted
        for bucket, pictures in survey.buckets.items()
    }
    is_whole = all(each.buckets and each.looked_at == each.pictures for each in counted)
    if len(counted) < len(training) or not is_whole:
        return _Section(content=identity.max_train_steps)
    timeline = timeline_of(identity, uses)
    errors = [
        _found(documents, _as_written(documents, each.pointer), each.code, each.message)
        for each in problems_of_length(identity, timeline)
    ]
    return _Section(
        content=steps_of(identity, timeline),
        errors=tuple(errors),
        warnings=tuple(warnings_of_length(identity, timeline)),
    )


def _as_written(documents: Documents, pointer: str) -> str:
    """A pointer, with an option of config.json under the name that it is written with."""
    document, _, option = pointer.removeprefix("/").partition("/")
    return _at(documents, option) if document == "config" else pointer


def _resolved(
    plan: Plan,
    base: BaseShape,
    surveys: tuple[Survey, ...],
    used: tuple[UsedFile, ...],
    warnings: tuple[str, ...],
) -> Report:
    transformer, image_px = (
        base.parts.transformer,
        _largest_px(plan, surveys, base.parts.transformer),
    )
    cards = card_rows(plan, transformer, image_px=image_px)
    return Report(
        used=used,
        warnings=warnings + _cards_warnings(cards) + _publication_warnings(plan),
        plan=plan,
        plan_digest=plan.identity_digest() if base.model.digest else None,
        trainable_modules=trained_modules(plan.identity, transformer),
        trainable_parameters=trained_parameters(plan.identity, transformer),
        surveys=surveys,
        memory=plan_memory(plan, base.parts, largest_image_px=image_px),
        cards=cards,
        sharding=sharding_rows(plan, transformer, image_px=image_px),
    )


def _cards_warnings(cards: Sequence[CardRow]) -> tuple[str, ...]:
    """That the run does not fit the largest card, or nothing."""
    return tuple(
        f"A card of {row.card_gib} GB is too small: {row.refusal}."
        for row in cards[:1]
        if row.refusal is not None
    )


def _publication_warnings(plan: Plan) -> tuple[str, ...]:
    """A warning where a run on this machine could not publish what the files ask for."""
    name = plan.operation.publication.hub_model_id
    if name is None or hub_token() is not None:
        return ()
    return (f"push_to_hub: {NOT_THERE}, so a run here publishes nothing to {name}. {WAY_TO_ONE}.",)


def _largest_px(plan: Plan, surveys: Sequence[Survey], transformer: Mapping[str, Any]) -> int:
    """Area of the largest image; of a backend whose images are not here, by its resolution."""
    max_px = max_area_px(transformer)
    seen = {survey.backend.id for survey in surveys if survey.buckets}
    unseen = [b for b in plan.identity.backends if b.id not in seen and b.role != "mask"]
    return max(
        *(width * height for survey in surveys for width, height in survey.buckets),
        *(largest_bucket_px(backend, max_px) for backend in unseen),
        0,
    )


def _at(documents: Documents, option: str) -> str:
    """Pointer to an option of config.json as it was written."""
    options = documents.body["config"]
    written = next((name for name in options if plain_name(name) == option), option)
    return f"/config/{escaped(written)}"


def _found(documents: Documents, pointer: str, code: str, message: str) -> FoundError:
    option = _FILE_OF.get(pointer.split("/")[1] if "/" in pointer else "")
    file = next((used.path for used in documents.used if used.option == option), None)
    line = (
        documents.lines.get(plain_name(pointer.rpartition("/")[2])) if option == "config" else None
    )
    if file is not None and line is not None:
        file = file.with_name(f"{file.name}:{line}")
    return FoundError(pointer=pointer, code=code, message=message, file=file)
