"""What schemathesis loads beside its own checks: run requests that can succeed, a stricter check.

JSON Schema cannot say all that the API asks of a request. ``_REFUSALS`` has the rest, each with the
condition under which it may refuse a request that the document allows. Any other refusal fails.
"""

import atexit
import copy
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.specs.openapi.checks import skips_on_unexpected_http_status

Json = dict[str, Any]

RUN_REQUEST: Final[Json] = json.loads(os.environ["FUZZ_RUN_REQUEST"])
"""A request for a run that the service accepts."""
LARGE_UPLOAD: Final[Json] = json.loads(os.environ["FUZZ_LARGE_UPLOAD"])
"""A request for the parts of a file that the service accepts."""
_UNKNOWN_HEADER: Final = "x-schemathesis-unknown-property"
SPARE: Final[Json] = json.loads(os.environ["FUZZ_SPARE"])
"""What the requests may change, and what they must not: ``command.Spare``."""
_NEEDED: Final = {
    os.environ["FUZZ_FINISHED_RUN"],
    SPARE["webhook_id"],
    LARGE_UPLOAD["dataset_id"],
    *RUN_REQUEST["datasets"].values(),
}
"""What other requests need; a link from one answer to the next request may name it."""
DEADLINE: Final = (datetime.now(UTC) + timedelta(days=30)).isoformat()
"""One that the service accepts."""
WEBHOOK_URL: Final = "https://hooks.example.com:8443/reverie"
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
                case.body = {**case.body, **_accepted()}
            case "POST /v1/webhooks", {"events": _}:
                case.body = {**case.body, "url": WEBHOOK_URL}
            case "POST /v1/uploads/parts", _:
                case.body = copy.deepcopy(LARGE_UPLOAD)
            case "POST /v1/uploads/parts:abort", _:
                names = "dataset_id", "path"
                case.body = {name: LARGE_UPLOAD[name] for name in names}
            case "POST /v1/batches", {"runs": [{"priority": _} as first, *_]}:
                case.body = {**case.body, "runs": [{**first, **_accepted()}]}
            case "POST /v1/batches", {"base": {"priority": _} as base}:
                sweep = {"method": "zip", "options": {"seed": [1, 2, 0.5]}}
                case.body = {"base": {**base, **_accepted()}, "sweep": sweep}
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


def _accepted() -> Json:
    others = {"prompt_library": None, "secrets": {}, "deadline": DEADLINE}
    return {**copy.deepcopy(RUN_REQUEST), **others}


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
    if problem["code"] in _FOR_OPERATORS and " /v1/admin/" in case.operation.label:
        return  # the key of a tenant, or none; then an operator's is tried
    is_due = _REFUSALS.get((case.operation.label, problem["code"]), _never)
    assert is_due(case, problem), f"A valid request was refused: {problem}"


def _is_valid(case: Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def _never(_case: Case, _problem: Json) -> bool:
    return False


def _always(_case: Case, _problem: Json) -> bool:
    return True


def _is_not_readable(case: Case, _problem: Json) -> bool:
    """Nearly every configuration is refused; the one that is known to be right is not."""
    return not _is_accepted(case.body)


def _is_accepted(request: Json) -> bool:
    known = _accepted()
    return all(request.get(name) == known[name] for name in known)


def _has_no_readable_row(case: Case, _problem: Json) -> bool:
    requests = case.body.get("runs") or [case.body["base"]]
    return not any(_is_accepted(request) for request in requests)


def _is_no_sweep(case: Case, problem: Json) -> bool:
    """What JSON Schema does not say of a sweep: numbers of values, ranges, the method's own needs.

    Its options are looked for in the base, too.
    """
    pointers = {each["pointer"].split("/")[1] for each in problem["errors"]}
    return "sweep" in case.body and pointers == {"sweep"}


def _has_key(case: Case, _problem: Json) -> bool:
    """Only one body may come under one idempotency key, and generated keys are often the same."""
    return any(name.lower() == "idempotency-key" for name in case.headers or {})


def _names_a_version(case: Case, _problem: Json) -> bool:
    """Generated versions are those of no run."""
    return "If-Match" in (case.headers or {})


def _names_no_version(case: Case, problem: Json) -> bool:
    """Schemathesis takes ``If-Match: 0`` for valid, which its own pattern excludes."""
    named = [each["pointer"] for each in problem["errors"]]
    return named == ["header:If-Match"] and '"' not in case.headers["If-Match"]


def _is_of_another_dataset(case: Case, problem: Json) -> bool:
    """A dataset that was made up lists no large file."""
    named = [each["pointer"] for each in problem["errors"]]
    return named == ["/path"] and case.body["dataset_id"] != LARGE_UPLOAD["dataset_id"]


def _has_changes(case: Case, _problem: Json) -> bool:
    """What is generated is no member of a request, or no value of one."""
    return bool(case.body.get("changes"))


def _is_not_confirmed(_case: Case, problem: Json) -> bool:
    """A name that was made up is not the tenant's."""
    return [each["code"] for each in problem["errors"]] == ["not_confirmed"]


def _has_no_result(_case: Case, problem: Json) -> bool:
    return [each["code"] for each in problem["errors"]] == ["no_result"]


def _has_no_checkpoint(case: Case, problem: Json) -> bool:
    is_asked = case.body.get("checkpoint_step") is not None
    return is_asked and [each["code"] for each in problem["errors"]] == ["no_checkpoint"]


def _is_for_the_hub(case: Case, problem: Json) -> bool:
    """Which secrets the tenant has decides what may publish to the Hub."""
    codes = [each["code"] for each in problem["errors"]]
    is_hub = case.body["target"]["kind"] == "hub"
    return is_hub and codes in (["refused"], ["not_found"], ["missing"])


def _are_too_many(_case: Case, problem: Json) -> bool:
    return [each["code"] for each in problem["errors"]] == ["too_many"]


def _has_other_address(case: Case, problem: Json) -> bool:
    """What is generated is no URL; the one that is known to be right is not refused."""
    named = [each["pointer"] for each in problem["errors"]]
    return named == ["/url"] and case.body["url"] != WEBHOOK_URL


def _has_bad_paths(case: Case, problem: Json) -> bool:
    """The paths are not in NFC, differ in case only, or are folders of others: those are named."""
    seen: dict[str, str] = {}
    expected = set()
    for position, file in enumerate(case.body["files"]):
        path = file["path"]
        if not unicodedata.is_normalized("NFC", path):
            expected.add((f"/files/{position}/path", "bad_value"))
        folded = unicodedata.normalize("NFC", path).casefold()
        if seen.setdefault(folded, path) is not path:
            expected.add((f"/files/{position}/path", "conflict"))
    if any(path.startswith(f"{file}/") for path in seen for file in seen):
        expected.add(("/files", "conflict"))
    return {(each["pointer"], each["code"]) for each in problem["errors"]} == expected


def _names_both_ends(case: Case, problem: Json) -> bool:
    """The last lines, and those after a byte."""
    named = [each["pointer"] for each in problem["errors"]]
    return named == ["query:tail"] and {"tail", "after"} <= case.query.keys()


def _has_bad_deadline(_case: Case, problem: Json) -> bool:
    """Deadlines have to lie ahead, within ten years."""
    return [each["pointer"] for each in problem["errors"]] == ["/deadline"]


def _has_much_metadata(_case: Case, problem: Json) -> bool:
    """What is merged may be too much together."""
    return [each["pointer"] for each in problem["errors"]] == ["/metadata"]


def _any(*conditions: Callable[[Case, Json], bool]) -> Callable[[Case, Json], bool]:
    return lambda case, problem: any(each(case, problem) for each in conditions)


_FOR_OPERATORS: Final = ("wrong_key", "unauthenticated")


def _is_past(case: Case, problem: Json) -> bool:
    """A key cannot expire before it is made."""
    codes = [each["code"] for each in problem["errors"]]
    moment = datetime.fromisoformat(case.body["expires_at"].upper())
    return codes == ["in_the_past"] and moment < datetime.now(UTC)


_NO_SUCH_ID: Final = {
    (f"{method} /v1/{path}", "not_found"): _always
    for method, path in [
        ("POST", "uploads"),
        ("POST", "uploads/parts"),
        ("POST", "uploads/parts:abort"),
        ("GET", "datasets/{dataset_id}"),
        ("POST", "datasets/{dataset_id}:complete"),
        ("GET", "runs/{run_id}"),
        ("GET", "runs/{run_id}/plan"),
        ("GET", "runs/{run_id}/events"),
        ("GET", "runs/{run_id}/logs"),
        ("GET", "runs/{run_id}/metrics"),
        ("GET", "runs/{run_id}/attempts"),
        ("GET", "runs/{run_id}/samples"),
        ("GET", "runs/{run_id}/artifacts"),
        ("GET", "runs/{run_id}/artifacts/{path}"),
        ("GET", "runs/{run_id}/checkpoints"),
        ("GET", "runs/{run_id}/result"),
        ("PATCH", "runs/{run_id}"),
        ("DELETE", "runs/{run_id}"),
        ("DELETE", "datasets/{dataset_id}"),
        ("GET", "deletions/{deletion_id}"),
        ("POST", "runs/{run_id}:pause"),
        ("POST", "runs/{run_id}:resume"),
        ("POST", "runs/{run_id}:cancel"),
        ("GET", "batches/{batch_id}"),
        ("GET", "batches/{batch_id}/compare"),
        ("POST", "batches/{batch_id}:cancel"),
        ("POST", "runs/{run_id}:clone"),
        ("GET", "runs/{run_id}/diff"),
        ("POST", "publications"),
        ("GET", "publications/{publication_id}"),
        ("GET", "members/{member_id}"),
        ("PATCH", "members/{member_id}"),
        ("DELETE", "members/{member_id}"),
        ("POST", "api-keys"),
        ("GET", "api-keys/{key_id}"),
        ("DELETE", "api-keys/{key_id}"),
        ("POST", "api-keys/{key_id}:rotate"),
        ("GET", "admin/tenants/{tenant_id}"),
        ("PATCH", "admin/tenants/{tenant_id}"),
        ("GET", "admin/tenants/{tenant_id}/members"),
        ("GET", "admin/tenants/{tenant_id}/api-keys"),
        ("POST", "admin/tenants/{tenant_id}/api-keys"),
        ("GET", "admin/tenants/{tenant_id}/api-keys/{key_id}"),
        ("DELETE", "admin/tenants/{tenant_id}/api-keys/{key_id}"),
        ("GET", "webhooks/{webhook_id}"),
        ("PATCH", "webhooks/{webhook_id}"),
        ("DELETE", "webhooks/{webhook_id}"),
        ("POST", "webhooks/{webhook_id}:rotate-secret"),
        ("POST", "webhooks/{webhook_id}:test"),
        ("GET", "webhooks/{webhook_id}/deliveries"),
        ("GET", "webhooks/{webhook_id}/deliveries/{delivery_id}"),
        ("POST", "webhooks/{webhook_id}/deliveries/{delivery_id}:replay"),
        ("GET", "admin/worker-keys/{worker_key_id}"),
        ("DELETE", "admin/worker-keys/{worker_key_id}"),
        ("GET", "secrets/{name}"),
        ("DELETE", "secrets/{name}"),
    ]
}
_CONTROL: Final = {
    (f"POST /v1/runs/{{run_id}}:{action}", code): is_due
    for action in ("pause", "resume", "cancel")
    for code, is_due in {
        "illegal_move": _always,
        "version_mismatch": _names_a_version,
        "invalid_request": _names_no_version,
    }.items()
}
_REFUSALS: Final[dict[tuple[str, str], Callable[[Case, Json], bool]]] = {
    **_NO_SUCH_ID,
    # The state of what the request names.
    ("POST /v1/uploads", "dataset_not_open"): _always,
    ("POST /v1/uploads/parts", "dataset_not_open"): _always,
    ("POST /v1/uploads/parts", "invalid_request"): _is_of_another_dataset,
    ("POST /v1/uploads/parts:abort", "dataset_not_open"): _always,
    ("POST /v1/uploads/parts:abort", "invalid_request"): _is_of_another_dataset,
    ("POST /v1/datasets/{dataset_id}:complete", "dataset_incomplete"): _always,
    ("GET /v1/runs/{run_id}/result", "no_result"): _always,
    ("GET /v1/runs/{run_id}/logs", "invalid_request"): _names_both_ends,
    ("PATCH /v1/runs/{run_id}", "run_over"): _always,
    ("PATCH /v1/runs/{run_id}", "version_mismatch"): _names_a_version,
    **_CONTROL,
    ("POST /v1/publications", "invalid_request"): _any(
        _has_no_result, _has_no_checkpoint, _is_for_the_hub
    ),
    ("PATCH /v1/members/{member_id}", "last_owner"): _always,
    ("DELETE /v1/members/{member_id}", "last_owner"): _always,
    ("POST /v1/api-keys/{key_id}:rotate", "key_not_active"): _always,
    ("POST /v1/api-keys", "invalid_request"): _is_past,
    ("POST /v1/api-keys/{key_id}:rotate", "invalid_request"): _is_past,
    ("POST /v1/admin/tenants/{tenant_id}/api-keys", "invalid_request"): _is_past,
    ("PUT /v1/secrets/{name}", "invalid_request"): _are_too_many,
    ("POST /v1/webhooks", "invalid_request"): _any(_are_too_many, _has_other_address),
    ("PATCH /v1/webhooks/{webhook_id}", "invalid_request"): _any(
        _has_other_address, _names_no_version
    ),
    ("PATCH /v1/webhooks/{webhook_id}", "version_mismatch"): _names_a_version,
    ("POST /v1/webhooks/{webhook_id}:test", "webhook_disabled"): _always,
    ("POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}:replay", "webhook_disabled"): _always,
    ("DELETE /v1/tenant", "invalid_request"): _is_not_confirmed,
    ("DELETE /v1/admin/tenants/{tenant_id}", "invalid_request"): _is_not_confirmed,
    # Another body came under this key.
    ("POST /v1/members", "idempotency_key_reused"): _has_key,
    ("POST /v1/api-keys", "idempotency_key_reused"): _has_key,
    ("POST /v1/api-keys/{key_id}:rotate", "idempotency_key_reused"): _has_key,
    ("POST /v1/admin/tenants", "idempotency_key_reused"): _has_key,
    ("POST /v1/admin/worker-keys", "idempotency_key_reused"): _has_key,
    ("POST /v1/admin/tenants/{tenant_id}/api-keys", "idempotency_key_reused"): _has_key,
    ("POST /v1/webhooks", "idempotency_key_reused"): _has_key,
    ("POST /v1/webhooks/{webhook_id}:rotate-secret", "idempotency_key_reused"): _has_key,
    ("POST /v1/webhooks/{webhook_id}:test", "idempotency_key_reused"): _has_key,
    ("POST /v1/datasets", "idempotency_key_reused"): _has_key,
    ("POST /v1/runs", "idempotency_key_reused"): _has_key,
    ("POST /v1/batches", "idempotency_key_reused"): _has_key,
    ("POST /v1/publications", "idempotency_key_reused"): _has_key,
    ("POST /v1/runs/{run_id}:clone", "idempotency_key_reused"): _has_key,
    # What the options of a configuration mean together, and Unicode.
    ("POST /v1/runs", "invalid_request"): _has_bad_deadline,
    ("POST /v1/runs", "invalid_plan"): _is_not_readable,
    ("POST /v1/batches", "invalid_plan"): _has_no_readable_row,
    ("POST /v1/batches", "invalid_request"): _is_no_sweep,
    ("PATCH /v1/runs/{run_id}", "invalid_request"): _any(
        _has_bad_deadline, _has_much_metadata, _names_no_version
    ),
    ("POST /v1/runs/{run_id}:clone", "invalid_request"): _has_changes,
    ("POST /v1/runs/{run_id}:clone", "invalid_plan"): _has_changes,
    ("POST /v1/datasets", "invalid_request"): _has_bad_paths,
}
