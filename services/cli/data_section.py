"""The data of `reverie validate`: the folders of the backends, and what a run does with them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.source_fetching import SourceFolders
from trainer_core.base_models.shape import BaseShape
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.simpletuner.backend_pointers import pointers_to, repointed
from trainer_core.data.reading import folder_of
from trainer_core.data.report.contact_sheet import MAX_PAGES, PER_PAGE
from trainer_core.data.report.model import DataReport, Depth
from trainer_core.data.report.shown import Shown, shown_of
from trainer_core.data.survey import DataSurvey, OnProgress, Survey, survey_data

OnFolders = Callable[[Mapping[str, Path]], None]
"""Called with the folder of each backend that is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataProblem:
    """What would end a run."""

    pointer: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSection:
    """The data of a plan."""

    surveys: tuple[Survey, ...] = ()
    problems: tuple[DataProblem, ...] = ()
    warnings: tuple[str, ...] = ()
    report: DataReport | None = None
    shown: tuple[Shown, ...] = ()
    """Images for contact sheets: as many as their pages hold."""


def data_section(
    plan: Plan,
    written: Sequence[Any],
    base: BaseShape,
    folders: Sequence[Path],
    *,
    on_folders: OnFolders,
    on_progress: OnProgress,
    fetched: SourceFolders,
    depth: Depth,
) -> DataSection:
    """Read the image folders as a run would.

    Args:
        plan: the run.
        written: its data backends as they are in the file.
        base: the base model.
        folders: a relative folder is tried from each of these.
        on_folders: called before an image is read.
        on_progress: called after each image.
        fetched: the folders of backends whose pictures are elsewhere.
        depth: how closely images are looked at.
    """
    found: dict[str, Path] = {}
    missing: list[DataProblem] = []
    pointers = pointers_to(plan.identity.backends, written)
    for backend in plan.identity.backends:
        if (why := fetched.problems.get(backend.id)) is not None:
            pointer = f"{pointers[backend.id]}/type"
            missing.append(DataProblem(pointer=pointer, code="bad_source", message=why))
            continue
        if backend.id in fetched.folders:
            found[backend.id] = fetched.folders[backend.id]
            continue
        folder = folder_of(backend, plan.operation.data_dirs[backend.id], folders)
        if isinstance(folder, Path):
            found[backend.id] = folder
        else:
            pointer = f"{pointers[backend.id]}/instance_data_dir"
            missing.append(DataProblem(pointer=pointer, code="missing_data", message=folder))
    on_folders(found)
    part = _with_backends(plan, found)
    max_px = max_area_px(base.parts.transformer)
    survey = survey_data(
        part,
        found,
        max_px=max_px,
        base=None if base.model.folder == Path() else base.model.folder,
        own=_own_folders(plan),
        on_progress=on_progress,
        depth=depth,
    )
    at = pointers_to(part.identity.backends, written)
    problems = [*missing, *_problems(survey, at, is_whole=not missing)]
    return DataSection(
        surveys=tuple(survey.surveys),
        problems=tuple(problems),
        warnings=(*fetched.warnings, *survey.warnings),
        report=survey.report,
        shown=tuple(shown_of(survey.chosen, survey.files, max_px, MAX_PAGES * PER_PAGE)),
    )


def _with_backends(plan: Plan, found: Collection[str]) -> Plan:
    """The plan with the backends whose images, and masks, are there."""
    kept = tuple(
        backend
        for backend in plan.identity.backends
        if backend.id in found and (backend.masks is None or backend.masks in found)
    )
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"backends": kept})})


def _own_folders(plan: Plan) -> tuple[Path, ...]:
    """The folders that a local run writes to, as ``trainer_core.local`` finds them."""
    written = plan.operation.output_dir
    if written is None:
        return ()
    output_dir = Path(written).expanduser().absolute()
    return output_dir, output_dir / "cache"


def _problems(
    survey: DataSurvey, at: Mapping[str, str], *, is_whole: bool
) -> Iterator[DataProblem]:
    """``at``: pointers to the backends. ``is_whole``: all backends of the plan were surveyed."""
    for broken in survey.broken:
        code = broken.errors[0].code
        yield DataProblem(pointer=at[broken.backend.id], code=code, message=broken.message())
    for problem in repointed(survey.problems, at) if is_whole else ():
        yield DataProblem(pointer=problem.pointer, code=problem.code, message=problem.message)
