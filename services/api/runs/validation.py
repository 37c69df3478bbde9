"""What a run would be, if it were submitted now. Nothing is stored, and no lock is taken."""

from datetime import timedelta
from typing import Any, Final

from services.api.problem_list import MAX_PROBLEMS
from services.api.runs.cloning import changed_request, parsed_request
from services.api.runs.data_report import KnownData, data_report
from services.api.runs.estimating import encoding_of, estimate_of
from services.api.runs.lookup import find_run
from services.api.runs.memory_report import memory_report
from services.api.runs.notices import as_json, notices_shape, warnings_of
from services.api.runs.planning import Examined, examine, known_to
from services.api.runs.presenting import waiting_shape
from services.api.runs.quota_report import quota_report
from services.api.runs.shapes import Estimate, RunCheck, Spread
from services.api.runs.validation_shapes import Unknown, Validation
from services.api.service import Service
from services.api.shapes import ProblemItem
from services.domain.errors import InvalidRequestError, NotFoundError, Problem
from services.domain.estimates import whole_run
from services.domain.placement import HEARTBEATS_MISSED
from services.domain.priorities import number_of
from services.store import gpu_classes, quotas, run_documents, waiting
from services.store.database import Connection
from trainer_core.base_models.resolve import Listed
from trainer_core.base_models.shape import BaseShape, shape_of
from trainer_core.config.plan import Plan
from trainer_core.config.plan.shapes import max_area_px
from trainer_core.config.plan.work import expected_px, work_of
from trainer_core.data.buckets import largest_bucket_px
from trainer_core.memory.trained import trained_modules, trained_parameters

_CLONE: Final = frozenset({"clone_of", "changes"})


def validate(service: Service, tenant_id: str, body: Any) -> Validation:
    """The answer for any JSON body."""
    try:
        request = _request_of(service, tenant_id, body)
    except InvalidRequestError as error:
        return _of_no_request(list(error.problems))
    examined = examine(service, request, known_to(service, tenant_id, request))
    base = None if examined.plan is None else _base_of(service, examined.plan)
    with service.database.transaction(tenant_id) as conn:
        found, data = _Validating(service, conn, tenant_id, request).of(examined, base)
        classes = gpu_classes.known(conn, service.settings.gpu_class)
    if examined.plan is None or base is None:
        return _explained(found, "The configuration has problems.")
    # This takes half a second for the true model, and needs no connection.
    seen_px = None if data is None else data.largest_px
    memory, unknown = memory_report(
        examined.plan, base.parts, classes, image_px=seen_px or _largest_px(examined.plan, base)
    )
    return found.model_copy(update={"memory": memory, "unknown": [*found.unknown, *unknown]})


def _request_of(service: Service, tenant_id: str, body: Any) -> RunCheck:
    """The request in a body, or the one of a run with changes; raises InvalidRequestError."""
    if not isinstance(body, dict) or "clone_of" not in body:
        return parsed_request(body, RunCheck)
    problems = [
        Problem(pointer=f"/{name}", code="unknown_field", message="It is not known.")
        for name in sorted(body.keys() - _CLONE)
    ]
    changes = body.get("changes", {})
    if not isinstance(changes, dict):
        problems.append(Problem(pointer="/changes", code="bad_value", message="No object."))
    if problems:
        raise InvalidRequestError(problems)
    try:
        with service.database.transaction(tenant_id) as conn:
            run_id = find_run(conn, tenant_id, str(body["clone_of"])).run_id
            sent, _ = run_documents.read_request(conn, tenant_id, run_id)
    except NotFoundError:
        message = "There is no such run."
        problem = Problem(pointer="/clone_of", code="not_found", message=message)
        raise InvalidRequestError([problem]) from None
    return changed_request(sent, changes, RunCheck)


def _base_of(service: Service, plan: Plan) -> BaseShape:
    """The shape of the base model; reads small files."""
    return shape_of(Listed(service.base_models.read()[plan.identity.base.name]))


def _of_no_request(problems: list[Problem]) -> Validation:
    nothing = Validation(
        is_valid=False,
        problems=_items(problems),
        warnings=[],
        notices=notices_shape([]),
        plan=None,
        plan_digest=None,
        max_steps=None,
        trainable_modules=None,
        trainable_parameters=None,
        memory=None,
        data=None,
        quota=[],
        waiting=None,
        estimate=None,
        encoding_s=None,
        unknown=[],
    )
    return _explained(nothing, "The body is no request for a run.")


def _explained(found: Validation, reason: str) -> Validation:
    """With this reason for each field that is null and has none yet."""
    named = {each.field for each in found.unknown}
    pointers = [f"/{name}" for name, value in found if value is None]
    added = [Unknown(field=each, reason=reason) for each in pointers if each not in named]
    return found.model_copy(update={"unknown": [*found.unknown, *added]})


def _items(problems: list[Problem]) -> list[ProblemItem]:
    return [
        ProblemItem(pointer=each.pointer, code=each.code, message=each.message)
        for each in problems[:MAX_PROBLEMS]
    ]


class _Validating:
    """One validation; collects what cannot be told."""

    def __init__(
        self, service: Service, conn: Connection, tenant_id: str, request: RunCheck
    ) -> None:
        self._service = service
        self._conn = conn
        self._tenant_id = tenant_id
        self._request = request
        self._unknown: list[Unknown] = []

    def of(self, examined: Examined, base: BaseShape | None) -> tuple[Validation, KnownData | None]:
        """The validation without the memory, and what is known of the data."""
        settings, conn = self._service.settings, self._conn
        problems, plan = list(examined.problems), examined.plan
        refusal = quotas.refusal_of_new_run(conn, self._tenant_id, settings.quotas)
        if refusal is not None:
            problems += refusal.problems
        known = self._data(examined, base)
        max_steps = self._max_steps(plan, known)
        estimate, encoding_s = self._estimate(plan, base, known, max_steps)
        transformer = {} if base is None else base.parts.transformer
        validation = Validation(
            is_valid=not problems,
            problems=_items(problems),
            warnings=warnings_of(examined.notices),
            notices=notices_shape(as_json(examined.notices)),
            plan=None if plan is None else plan.model_dump(mode="json"),
            plan_digest=None if plan is None else plan.identity_digest(),
            max_steps=max_steps,
            trainable_modules=None if plan is None else trained_modules(plan.identity, transformer),
            trainable_parameters=None
            if plan is None
            else trained_parameters(plan.identity, transformer),
            memory=None,
            data=None if known is None else known.report,
            quota=quota_report(quotas.read(conn, self._tenant_id, settings.quotas), refusal),
            waiting=waiting_shape(
                waiting.of_new_run(
                    conn,
                    self._tenant_id,
                    settings.gpu_class,
                    priority=number_of(self._request.priority),
                    silence=self._silence,
                )
            ),
            estimate=estimate,
            encoding_s=encoding_s,
            unknown=self._unknown,
        )
        return validation, known

    @property
    def _silence(self) -> timedelta:
        return timedelta(seconds=self._service.settings.heartbeat_s) * HEARTBEATS_MISSED

    def _cannot_tell(self, field: str, reason: str) -> None:
        self._unknown.append(Unknown(field=field, reason=reason))

    def _data(self, examined: Examined, base: BaseShape | None) -> KnownData | None:
        chosen = self._request.datasets
        if chosen is None:
            self._cannot_tell("/data", "The datasets are left out.")
            return None
        if examined.plan is None or base is None or examined.problems:
            self._cannot_tell("/data", "The request has problems.")
            return None
        known = data_report(
            self._conn,
            self._tenant_id,
            examined.plan,
            base.parts.transformer,
            chosen,
            written=self._request.data_backends,
        )
        for field, reason in known.unknown.items():
            self._cannot_tell(f"/data/{field}", reason)
        return known

    def _max_steps(self, plan: Plan | None, known: KnownData | None) -> int | None:
        """The steps of the run; None where they have to be counted, and cannot be."""
        if plan is None or plan.identity.max_train_steps is not None:
            return None if plan is None else plan.identity.max_train_steps
        if known is None or known.max_steps is None:
            why = "" if known is None else known.unknown.get("buckets", known.unknown["cache"])
            reason = "The length is in epochs, whose steps are counted from the data."
            self._cannot_tell("/max_steps", f"{reason} {why}".strip())
            return None
        return known.max_steps

    def _estimate(
        self,
        plan: Plan | None,
        base: BaseShape | None,
        known: KnownData | None,
        max_steps: int | None,
    ) -> tuple[Estimate | None, Spread | None]:
        if plan is None or base is None:
            return None, None
        conn, base_model = self._conn, plan.identity.base.name
        mean_px = None if known is None else known.mean_px
        work = work_of(
            plan,
            base.parts.transformer,
            image_px=mean_px or expected_px(plan),
            epoch_steps=None if known is None else known.epoch_steps,
        )
        estimate = None
        if max_steps is None:
            self._cannot_tell("/estimate", "The number of steps is not known.")
        else:
            estimate = estimate_of(
                conn,
                whole_run(work.model_dump(mode="json"), max_steps),
                gpu_class=gpu_classes.find(conn, self._service.settings.gpu_class),
                base_model=base_model,
            )
            if estimate is None:
                self._cannot_tell("/estimate", "No run of this base model was measured here yet.")
        missing = None if known is None else known.missing_units
        encoding_s = encoding_of(conn, base_model, missing, silence=self._silence)
        if encoding_s is None:
            reason = (
                "What is missing in the cache is not known."
                if missing is None
                else "No cache builder works at the moment, or none was measured yet."
            )
            self._cannot_tell("/encoding_s", reason)
        return estimate, encoding_s


def _largest_px(plan: Plan, base: BaseShape) -> int:
    """Area of an image of the largest bucket, by the resolutions."""
    max_px = max_area_px(base.parts.transformer)
    seen = (
        largest_bucket_px(each, max_px) for each in plan.identity.backends if each.role != "mask"
    )
    return max(seen, default=1)
