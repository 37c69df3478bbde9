"""Turns a request into a new run, or raises one error that lists all its problems."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.api.errors import DatasetRejectedError, InvalidPlanError
from services.api.pointers import json_pointer
from services.api.runs.auxiliary import about_auxiliary
from services.api.runs.limits import KnownLimits, about_limits, find_known_limits, gpu_seconds
from services.api.runs.notices import as_json, bounded, warnings_of
from services.api.runs.shapes import RunCheck, RunRequest
from services.api.runs.starting import KnownStart, about_start, find_starts, name_in
from services.api.secrets.choosing import NOT_RELAYED, choose_hub_secret, choose_wandb_secret
from services.api.service import Service
from services.domain.errors import Problem
from services.domain.ids import is_id
from services.domain.priorities import number_of
from services.domain.starts import StoredStart, start_from_json
from services.settings.env import Settings
from services.store import datasets, secrets
from services.store.database import Connection
from services.store.datasets import Usability
from services.store.runs import NewRun
from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import Plan
from trainer_core.config.plan.problems import Notice, PlanError
from trainer_core.config.plan.work import expected_px, work_of
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.other_backend_keys import without_credentials
from trainer_core.config.simpletuner.reading import option_name
from trainer_core.config.simpletuner.start import INIT_LORA

_REJECTED: Final = "dataset_rejected"
KnownDatasets = Mapping[str, Usability]
"""Dataset id → whether runs can use it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a tenant has that its runs can name."""

    datasets: KnownDatasets
    hub_secrets: Sequence[str]
    """Names of its secrets of the kind ``hub``."""
    wandb_secrets: Sequence[str]
    """And of the kind ``wandb``."""
    limits: KnownLimits
    starts: Mapping[str, KnownStart]
    """What ``init_lora`` of the requests names, by that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """A request with everything that is wrong with it."""

    problems: list[Problem]
    notices: list[Notice]
    """The first ones, cut to a length."""
    plan: Plan | None
    """None where the configuration has problems."""
    hub_secret: str | None
    """The secret that will publish the result; None where it needs none, or has problems."""
    start: StoredStart | None
    """The adapter that it starts from; None: none, or with problems."""
    wandb_secret: str | None
    """The secret that will relay the metrics; None where they are not relayed, or it has
    problems."""


def plan_run(
    service: Service, tenant_id: str, request: RunRequest, *, parent_run_id: str | None = None
) -> NewRun:
    """The new run that a request asks for. No transaction is open during planning.

    Raises InvalidPlanError, or DatasetRejectedError where rejected datasets are the only problem.
    """
    known = known_to(service, tenant_id, request)
    return plan_request(service, request, known, parent_run_id=parent_run_id)


def known_to(service: Service, tenant_id: str, request: RunCheck) -> Known:
    """What one request names."""
    starts = find_starts(service, tenant_id, [request])
    with service.database.transaction(tenant_id) as conn:
        return find_known(conn, tenant_id, (request.datasets or {}).values(), starts)


def find_known(
    conn: Connection,
    tenant_id: str,
    dataset_ids: Iterable[str],
    starts: Mapping[str, KnownStart],
) -> Known:
    """Which of the datasets exist, the tenant's secrets, and what bounds the limits of runs.

    ``starts``: of ``find_starts``, which reads objects and therefore needs no transaction.
    """
    return Known(
        starts=starts,
        datasets=find_datasets(conn, tenant_id, dataset_ids),
        hub_secrets=secrets.names(conn, tenant_id, "hub"),
        wandb_secrets=secrets.names(conn, tenant_id, "wandb"),
        limits=find_known_limits(conn),
    )


def find_datasets(conn: Connection, tenant_id: str, dataset_ids: Iterable[str]) -> KnownDatasets:
    """Those of the datasets that exist, by id."""
    possible = {each for each in dataset_ids if is_id(each, "ds")}
    return datasets.usability(conn, tenant_id, possible)


def plan_request(
    service: Service, request: RunRequest, known: Known, *, parent_run_id: str | None = None
) -> NewRun:
    """As ``plan_run``, without a transaction."""
    examined = examine(service, request, known)
    refuse(examined.problems)
    plan = examined.plan
    assert plan is not None  # where it is None, there are problems
    model = service.base_models.read()[plan.identity.base.name]
    work = work_of(plan, model.transformer_config, image_px=expected_px(plan))
    return NewRun(
        request={
            **_without_credentials(request.model_dump(mode="json")),
            "secrets": {"hub": examined.hub_secret, "wandb": examined.wandb_secret},
        },
        plan=plan.model_dump(mode="json"),
        plan_digest=plan.identity_digest(),
        warnings=warnings_of(examined.notices),
        notices=as_json(examined.notices),
        base_model=plan.identity.base.name,
        datasets=dict(request.datasets),
        start_adapter=None if examined.start is None else examined.start.as_json(),
        metadata=dict(request.metadata),
        gpu_class=service.settings.gpu_class,
        priority=number_of(request.priority),
        max_cost_micros=request.max_cost_micros,
        max_gpu_s=gpu_seconds(request.max_gpu_hours),
        deadline=request.deadline,
        max_steps=plan.identity.max_train_steps or 0,
        work=work.model_dump(mode="json"),
        parent_run_id=parent_run_id,
        wandb_secret=examined.wandb_secret,
    )


def _without_credentials(request: dict[str, Any]) -> dict[str, Any]:
    """The request without credentials of data backends: they have no effect, so none is stored."""
    backends = [without_credentials(each) for each in request["data_backends"]]
    return {**request, "data_backends": backends}


def examine(service: Service, request: RunCheck, known: Known) -> Examined:
    """Plan a request, and find every problem of it."""
    settings = service.settings
    name = name_in(request)
    start = None if name is None else known.starts.get(name)
    imported, problems, notices = _import(request, service.base_models.read(), start)
    hub_secret = wandb_secret = None
    if imported is not None:
        chosen = _hub_secret(request, imported, known.hub_secrets, settings)
        if isinstance(chosen, Problem):
            problems.append(chosen)
        else:
            hub_secret = chosen
        is_wanted = "wandb" in imported.plan.operation.report_to
        relaying = choose_wandb_secret(
            known.wandb_secrets,
            request.secrets.wandb,
            is_wanted=is_wanted,
            named_at="/secrets/wandb",
        )
        if isinstance(relaying, Problem):
            problems.append(relaying)
        else:
            wandb_secret = relaying
        if is_wanted and relaying is None:
            notices = [*notices, _not_relayed(request)]
        problems += _about_device(request, imported, settings)
        problems += about_auxiliary(
            imported.plan, settings.models_dir, lambda name: _option(request, name)
        )
        if request.datasets is not None:
            problems += _about_assignment(request.datasets, imported)
    problems += about_datasets(request.datasets or {}, known.datasets)
    problems += about_limits(
        known.limits,
        settings.gpu_class,
        max_cost_micros=request.max_cost_micros,
        deadline=request.deadline,
    )
    return Examined(
        problems=problems,
        notices=bounded(notices),
        plan=None if imported is None else imported.plan,
        hub_secret=hub_secret,
        start=None if start is None else start.stored,
        wandb_secret=wandb_secret,
    )


def _not_relayed(request: RunCheck) -> Notice:
    """That metrics go nowhere, because the tenant has no secret for it."""
    return Notice(
        effect="differs",
        option="report_to",
        pointers=(_option(request, "report_to"),),
        message=NOT_RELAYED,
    )


def check_again(conn: Connection, tenant_id: str, new: NewRun) -> None:
    """Check what a new run names again in the transaction that inserts it: it may have changed.

    Raises as ``plan_run`` does.
    """
    found = find_datasets(conn, tenant_id, new.datasets.values())
    refuse(about_named(conn, tenant_id, new, found))


def about_named(
    conn: Connection, tenant_id: str, new: NewRun, known: KnownDatasets
) -> Iterator[Problem]:
    """Problems with the datasets and the adapter that a new run names."""
    yield from about_datasets(new.datasets, known)
    if new.start_adapter is not None:
        start = start_from_json(new.start_adapter)
        at = json_pointer(("config", _written(new.request["config"], INIT_LORA.name)))
        yield from about_start(conn, tenant_id, start, at)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise all problems as one error, where there are any."""
    found = list(problems)
    if found and all(problem.code == _REJECTED for problem in found):
        raise DatasetRejectedError(found)
    if found:
        raise InvalidPlanError(found)


def _import(
    request: RunCheck, base_models: Mapping[str, BaseModel], start: KnownStart | None
) -> tuple[Imported | None, list[Problem], Sequence[Notice]]:
    """The plan, everything that is wrong with the configuration, and notices."""
    try:
        imported = import_run(
            config=request.config,
            lycoris_config=request.lycoris_config,
            data_backends=request.data_backends,
            prompt_library=request.prompt_library,
            base_models=base_models,
            source="http",
            start=None if start is None else start.found,
        )
    except PlanError as error:
        found = (Problem(pointer=p.pointer, code=p.code, message=p.message) for p in error.problems)
        return None, list(found), error.notices
    return imported, [], imported.notices


def _hub_secret(
    request: RunCheck, imported: Imported, known: Sequence[str], settings: Settings
) -> str | Problem | None:
    """The secret that will publish the result; None where it needs none, or what is wrong."""
    named = request.secrets.hub
    if imported.plan.operation.publication.hub_model_id is None:
        if named is None:
            return None
        message = (
            "This run is not published to the Hub: set push_to_hub and hub_model_id, or leave this "
            "out."
        )
        return Problem(pointer="/secrets/hub", code="bad_value", message=message)
    return choose_hub_secret(
        known,
        named,
        is_single_tenant=settings.single_tenant,
        named_at="/secrets/hub",
        publishes_at=_option(request, "hub_model_id"),
    )


def _about_device(request: RunCheck, imported: Imported, settings: Settings) -> Iterator[Problem]:
    """A problem where the run asks for a CPU and the service's workers have GPUs."""
    if imported.plan.operation.device == "cpu" and settings.needs_gpu:
        message = f"This service trains on GPUs ({settings.gpu_class}): leave device out."
        yield Problem(pointer=_option(request, "device"), code="refused", message=message)


def _about_assignment(chosen: Mapping[str, str], imported: Imported) -> Iterator[Problem]:
    """Problems where an image backend has no dataset, or a dataset has no image backend."""
    wanted = {backend.id for backend in imported.plan.identity.backends}
    for backend_id in sorted(wanted - chosen.keys()):
        message = (
            f"The image backend {backend_id} needs a dataset: add it to datasets (from the command "
            f"line: --dataset {backend_id}=FOLDER, where instance_data_dir names none that exists)."
        )
        yield Problem(pointer=_at(backend_id), code="missing", message=message)
    for backend_id in sorted(chosen.keys() - wanted):
        message = (
            f"{backend_id} is not an image backend of this run; "
            f"its image backends are {sorted(wanted)}."
        )
        yield Problem(pointer=_at(backend_id), code="bad_value", message=message)


def about_datasets(chosen: Mapping[str, str], known: KnownDatasets) -> Iterator[Problem]:
    """Problems where a dataset is missing or was rejected; one still uploading is accepted."""
    for backend_id, dataset_id in chosen.items():
        dataset = known.get(dataset_id)
        if dataset is None:
            message = f"There is no dataset {dataset_id[:64]}."
            yield Problem(pointer=_at(backend_id), code="not_found", message=message)
        elif dataset.status == "rejected":
            for error in dataset.errors:
                message = f"{dataset_id} was rejected: {error['pointer']}: {error['message']}"
                yield Problem(pointer=_at(backend_id), code=_REJECTED, message=message)


def _option(request: RunCheck, name: str) -> str:
    """The JSON pointer of an option, as it is written in the request: with or without dashes."""
    return json_pointer(("config", _written(request.config, name)))


def _written(config: Mapping[str, Any], name: str) -> str:
    return next((each for each in config if option_name(each) == name), name)


def _at(backend_id: str) -> str:
    return json_pointer(("datasets", backend_id))
