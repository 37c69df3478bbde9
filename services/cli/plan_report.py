"""Everything that can be said of a run before it runs, from SimpleTuner's files; without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from services.cli.connection import CommandError
from services.cli.documents import Documents, FileProblem, UsedFile, gather_documents
from services.cli.local_bases import LocalBases, find_bases, known_bases
from trainer_core.config.plan import Backend, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.simpletuner.importer import import_run
from trainer_core.config.simpletuner.reading import escaped
from trainer_core.data.survey import Survey, survey_pictures
from trainer_core.errors import BaseModelError, DocumentError
from trainer_core.memory.planner import Memory, plan_memory, trained_modules, trained_parameters
from trainer_core.paths import is_folder

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
    """One thing that is wrong."""

    pointer: str
    """JSON Pointer, its first part the document: ``/config/optimizer``."""
    code: str
    message: str
    file: Path | None
    """Where to mend it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A resolved configuration, or all that is wrong with it."""

    used: tuple[UsedFile, ...] = ()
    errors: tuple[FoundError, ...] = ()
    warnings: tuple[str, ...] = ()
    plan: Plan | None = None
    plan_digest: str | None = None
    """None where the base model's digest is not known."""
    trainable_modules: int | None = None
    trainable_parameters: int | None = None
    surveys: tuple[Survey, ...] = ()
    """Of the folders that are here."""
    memory: Memory | None = None


def report_on(
    config: Path,
    settings: Mapping[str, Any],
    *,
    working_dir: Path,
    env: Mapping[str, str],
    on_progress: Progress,
) -> Report:
    """Read the files in ``config`` (a folder, or its config.json) and resolve them.

    Nothing is raised for what is wrong with them: it is all in ``errors``.
    """
    try:
        documents, problems = gather_documents(config, settings, working_dir)
    except (CommandError, DocumentError, OSError) as error:
        file = config / "config.json" if is_folder(config) else config
        return Report(
            errors=(FoundError(pointer="", code="bad_file", message=str(error), file=file),)
        )
    errors = [_file_error(problem, documents) for problem in problems]
    folder = documents.used[0].path.resolve().parent
    folders = (folder.parent, folder, working_dir)
    options = {_plain(name): v for name, v in documents.body["config"].items()}
    try:
        bases = find_bases(options, env=env, folders=folders)
    except (BaseModelError, OSError) as error:
        errors.append(_error(_at(_BASE, documents), error, documents))
        bases = known_bases()
        # It is judged: what else is wrong is found as if it were not written.
        documents.body["config"] = {
            name: None if _plain(name) == _BASE else value
            for name, value in documents.body["config"].items()
        }
    try:
        imported = import_run(
            config=documents.body["config"],
            lycoris_config=documents.body.get("lycoris_config"),
            data_backends=documents.body.get("data_backends", []),
            prompt_library=documents.body.get("prompt_library"),
            base_models=bases.models,
            source="local",
        )
    except PlanError as error:
        # Of a file that is not there it is not worth saying that its content is missing.
        told = {f"/{field}" for field, option in _FILE_OF.items() if _names(problems, option)}
        told |= {_at(problem.option, documents) for problem in problems}
        errors += [
            FoundError(
                pointer=problem.pointer,
                code=problem.code,
                message=problem.message,
                file=_file_of(problem.pointer, documents),
            )
            for problem in error.problems
            if problem.pointer not in told
        ]
        return Report(
            used=documents.used,
            errors=tuple(errors),
            warnings=(*bases.warnings, *error.warnings),
        )
    if errors:
        return Report(
            used=documents.used,
            errors=tuple(errors),
            warnings=(*bases.warnings, *imported.warnings),
        )
    surveys, data_warnings = _survey(imported.plan, documents, bases, on_progress)
    return _resolved(
        imported.plan,
        documents,
        bases,
        surveys,
        (*bases.warnings, *imported.warnings, *data_warnings),
    )


def _resolved(
    plan: Plan,
    documents: Documents,
    bases: LocalBases,
    surveys: Sequence[Survey],
    warnings: tuple[str, ...],
) -> Report:
    transformer = bases.parts.transformer
    seen = {survey.backend.id for survey in surveys if survey.buckets}
    unseen = [b for b in plan.identity.backends if b.id not in seen and b.role != "mask"]
    largest_px = max(
        *(w * h for survey in surveys for w, h in survey.buckets),
        *(backend.resolution_px**2 for backend in unseen),
        0,
    )
    return Report(
        used=documents.used,
        warnings=warnings,
        plan=plan,
        plan_digest=plan.identity_digest() if bases.is_here else None,
        trainable_modules=trained_modules(plan.identity, transformer),
        trainable_parameters=trained_parameters(plan.identity, transformer),
        surveys=tuple(surveys),
        memory=plan_memory(plan, bases.parts, largest_image_px=largest_px),
    )


def _survey(
    plan: Plan, documents: Documents, bases: LocalBases, on_progress: Progress
) -> tuple[list[Survey], list[str]]:
    """Look into the folders that are here; missing ones are warnings."""
    surveys: list[Survey] = []
    warnings: list[str] = []
    max_px = max_area_px(bases.parts.transformer)
    for backend in plan.identity.backends:
        folder = documents.folders.get(backend.id)
        if folder is None:
            written = plan.operation.data_dirs.get(backend.id, "")
            warnings.append(f"{backend.id}: there is no folder {written[:200]} that can be read.")
        elif backend.role != "mask":
            masks = documents.folders.get(backend.masks) if backend.masks else None
            try:
                survey = survey_pictures(
                    folder,
                    backend,
                    max_px=max_px,
                    masks=masks,
                    on_progress=partial(on_progress, backend.id),
                )
            except OSError as error:
                warnings.append(f"{backend.id}: {folder} cannot be read ({error.strerror}).")
                continue
            surveys.append(survey)
            warnings += _said_of(survey, backend, folder)
    return surveys, warnings


def _said_of(survey: Survey, backend: Backend, folder: Path) -> list[str]:
    warnings = []
    if survey.looked_at < survey.pictures:
        warnings.append(
            f"{backend.id}: {survey.looked_at} of {survey.pictures} pictures were looked at, "
            "evenly spread; its buckets count these."
        )
    for group in survey.left_out:
        named = ", ".join(group.first) + (", …" if group.count > len(group.first) else "")
        warnings.append(
            f"{backend.id}: {group.count} of {survey.looked_at} pictures are {group.why}: {named}"
        )
    if not survey.buckets:
        warnings.append(f"{backend.id}: no picture in {folder} can be used; a run would fail.")
    return warnings


def _names(problems: Sequence[FileProblem], option: str) -> bool:
    return any(problem.option == option for problem in problems)


def _file_error(problem: FileProblem, documents: Documents) -> FoundError:
    return _error(_at(problem.option, documents), problem.error, documents)


def _plain(name: str) -> str:
    return name.strip().lstrip("-")


def _at(option: str, documents: Documents) -> str:
    """Pointer to an option of config.json as it was written."""
    options = documents.body["config"]
    written = next((name for name in options if _plain(name) == option), option)
    return f"/config/{escaped(written)}"


def _error(pointer: str, error: Exception, documents: Documents) -> FoundError:
    return FoundError(
        pointer=pointer,
        code="bad_file",
        message=str(error),
        file=_file_of(pointer, documents),
    )


def _file_of(pointer: str, documents: Documents) -> Path | None:
    option = _FILE_OF.get(pointer.split("/")[1] if "/" in pointer else "")
    return next((used.path for used in documents.used if used.option == option), None)
