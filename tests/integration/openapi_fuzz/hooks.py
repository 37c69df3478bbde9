"""What schemathesis loads beside its own checks: requests that can succeed, a stricter check."""

import atexit
import copy
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.specs.openapi.checks import skips_on_unexpected_http_status

from tests.integration.openapi_fuzz.accepted import (
    LARGE_UPLOAD,
    RUN_REQUEST,
    SPARE,
    WEBHOOK_URL,
    Json,
    accepted,
)
from tests.integration.openapi_fuzz.refusals import FOR_OPERATORS, REFUSALS, never

_UNKNOWN_HEADER: Final = "x-schemathesis-unknown-property"
_NEEDED: Final = {
    os.environ["FUZZ_FINISHED_RUN"],
    SPARE["sampling_run_id"],
    SPARE["webhook_id"],
    LARGE_UPLOAD["dataset_id"],
    *RUN_REQUEST["datasets"].values(),
}
"""What other requests need; a link from one answer to the next request may name it."""
_SEEN: Final[defaultdict[str, Counter[int]]] = defaultdict(Counter)


@schemathesis.hook
def map_case(context: HookContext, case: Case) -> Case:
    """Let some requests succeed: what is generated is no plan, no run that has ended, no file."""
    del context
    if _is_valid(case):
        if "/v1/admin/tenants/{tenant_id}" in case.operation.label:
            case.path_parameters["tenant_id"] = SPARE["tenant_id"]
            if "key_id" in case.path_parameters:
                is_shown = case.method == "GET"
                case.path_parameters["key_id"] = SPARE["key_id" if is_shown else "revoked_id"]
        if "/deliveries" in case.operation.label:
            for name in case.path_parameters:
                case.path_parameters[name] = SPARE[name]
        match case.operation.label, case.body:
            case "POST /v1/admin/tenants/{tenant_id}/api-keys", {"member_id": _}:
                case.body = {**case.body, "member_id": None}  # a made-up one is no member
            case "POST /v1/runs", {"priority": _}:
                case.body = {**case.body, **accepted()}
            case "POST /v1/webhooks", {"events": _}:
                case.body = {**case.body, "url": WEBHOOK_URL}
            case "POST /v1/datasets", {"based_on": str(), "name": _}:
                base = next(iter(RUN_REQUEST["datasets"].values()))
                case.body = {**case.body, "based_on": base, "removed": []}
            case "GET /v1/datasets/{dataset_id}/diff", _:
                case.path_parameters["dataset_id"] = LARGE_UPLOAD["dataset_id"]
                case.query["against"] = LARGE_UPLOAD["dataset_id"]
            case "POST /v1/uploads/parts", _:
                case.body = copy.deepcopy(LARGE_UPLOAD)
            case "POST /v1/uploads/parts:abort", _:
                names = "dataset_id", "path"
                case.body = {name: LARGE_UPLOAD[name] for name in names}
            case "POST /v1/batches", {"runs": [{"priority": _} as first, *_]}:
                case.body = {**case.body, "runs": [{**first, **accepted()}]}
            case "POST /v1/batches", {"base": {"priority": _} as base}:
                sweep = {"method": "zip", "options": {"seed": [1, 2, 0.5]}}
                case.body = {"base": {**base, **accepted()}, "sweep": sweep}
            # Once more: other requests need the datasets and the finished run.
            case "DELETE /v1/runs/{run_id}", _:
                case.path_parameters["run_id"] = SPARE["deleted_run_id"]
            case "DELETE /v1/datasets/{dataset_id}", _:
                case.path_parameters["dataset_id"] = SPARE["deleted_dataset_id"]
            case "GET /v1/deletions/{deletion_id}" | "GET /v1/admin/deletions/{deletion_id}", _:
                case.path_parameters["deletion_id"] = SPARE["deletion_id"]
            case "POST /v1/runs/{run_id}:clone", _:
                case.path_parameters["run_id"] = os.environ["FUZZ_FINISHED_RUN"]
            case "GET /v1/runs/{run_id}/result", _:
                case.path_parameters["run_id"] = os.environ["FUZZ_FINISHED_RUN"]
            case "GET /v1/runs/{run_id}/preview", _:
                case.path_parameters["run_id"] = SPARE["sampling_run_id"]
            case "GET /v1/runs/{run_id}/diff", _:
                case.path_parameters["run_id"] = os.environ["FUZZ_FINISHED_RUN"]
                case.query["against"] = os.environ["FUZZ_FINISHED_RUN"]
            case "POST /v1/publications", {"target": {"kind": "folder"}}:
                run_id = os.environ["FUZZ_FINISHED_RUN"]
                case.body = {**case.body, "run_id": run_id, "checkpoint_step": None}
            case "GET /v1/runs/{run_id}/artifacts/{path}", _:
                case.path_parameters = {
                    "run_id": os.environ["FUZZ_FINISHED_RUN"],
                    "path": "result/card.json",
                }
    return case


@schemathesis.hook
def filter_case(context: HookContext, case: Case) -> bool:
    """Leave out headers that no document names: HTTP has them ignored (RFC 9110, section 5.1)."""
    del context
    return _UNKNOWN_HEADER not in (case.headers or {})


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: Json) -> None:
    """Keep the keys that the requests are sent with, their members, the tenants, and ``_NEEDED``.

    Names of tenants are found in answers, also after a change, and would confirm their deletion.
    """
    del context, kwargs
    if case.method == "DELETE" and isinstance((case.query or {}).get("name"), str):
        case.query["name"] = f"not {case.query['name']}"[:200]
    for name, value in case.path_parameters.items():
        id_ = value
        if case.operation.label.endswith(f"{{{name}}}") and ":" in unquote(str(value)):
            # An inferred link took the action behind an id, as in …:clone, for a part of it.
            id_ = case.path_parameters[name] = unquote(str(value)).partition(":")[0] or "none"
        is_kept = id_ in SPARE["kept_ids"] and case.method != "GET"
        if is_kept or (case.method == "DELETE" and id_ in _NEEDED):
            case.path_parameters[name] = f"{id_.partition('_')[0]}_{'0' * 32}"


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    """Count the answers of each operation."""
    del context
    _SEEN[case.operation.label][response.status_code] += 1


@atexit.register
def _write_seen() -> None:
    Path(os.environ["FUZZ_SEEN"]).write_text(json.dumps(_SEEN))


@schemathesis.check
@skips_on_unexpected_http_status
def refused_as_documented_only(ctx: CheckContext, response: Response, case: Case) -> None:
    """Fail where a request that the document allows is refused for any other reason."""
    del ctx
    if not _is_valid(case) or response.status_code < 400:
        return
    problem = response.json()
    if problem["code"] in FOR_OPERATORS and " /v1/admin/" in case.operation.label:
        return  # the key of a tenant, or none; then an operator's is tried
    is_due = REFUSALS.get((case.operation.label, problem["code"]), never)
    assert is_due(case, problem), f"A valid request was refused: {problem}"


def _is_valid(case: Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive
