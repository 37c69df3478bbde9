"""Reasons to refuse a request that the OpenAPI document allows.

JSON Schema cannot say all that the API asks of a request. ``REFUSALS`` has the rest, each with the
condition under which it may refuse. Any other refusal fails.
"""

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from schemathesis import Case

from tests.integration.openapi_fuzz.accepted import LARGE_UPLOAD, WEBHOOK_URL, Json, accepted


def never(_case: Case, _problem: Json) -> bool:
    return False


def _always(_case: Case, _problem: Json) -> bool:
    return True


def _is_not_readable(case: Case, _problem: Json) -> bool:
    """Nearly every configuration is refused; the one that is known to be right is not."""
    return not _is_accepted(case.body)


def _is_accepted(request: Json) -> bool:
    known = accepted()
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
    for position, file in enumerate(case.body.get("files", [])):
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


def _has_bad_lists(case: Case, problem: Json) -> bool:
    """What it is based on was made up, lists none of what is removed, or has a twin of a file.

    Or a path is removed twice, or is in both lists.
    """
    body = case.body
    if body.get("based_on") is None:
        return False
    at = {each["pointer"].split("/")[1] for each in problem["errors"]}
    codes = {each["code"] for each in problem["errors"]}
    is_twin = at <= {"files", "removed"} and codes <= {"conflict", "not_found"}
    return at == {"based_on"} or is_twin


def _has_unreadable_source(case: Case, problem: Json) -> bool:
    """The option tables say what a source may be; what is generated is none that is imported."""
    at = {each["pointer"].split("/")[1] for each in problem["errors"]}
    return case.body.get("source") is not None and at == {"source"}


def _any(*conditions: Callable[[Case, Json], bool]) -> Callable[[Case, Json], bool]:
    return lambda case, problem: any(each(case, problem) for each in conditions)


FOR_OPERATORS: Final = ("wrong_key", "unauthenticated")


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
        ("GET", "datasets/{dataset_id}/files"),
        ("GET", "datasets/{dataset_id}/diff"),
        ("POST", "datasets/{dataset_id}:complete"),
        ("GET", "runs/{run_id}"),
        ("GET", "runs/{run_id}/plan"),
        ("GET", "runs/{run_id}/events"),
        ("GET", "runs/{run_id}/logs"),
        ("GET", "runs/{run_id}/metrics"),
        ("GET", "runs/{run_id}/attempts"),
        ("GET", "runs/{run_id}/samples"),
        ("GET", "runs/{run_id}/preview"),
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
REFUSALS: Final[dict[tuple[str, str], Callable[[Case, Json], bool]]] = {
    **_NO_SUCH_ID,
    # The state of what the request names.
    ("POST /v1/uploads", "dataset_not_open"): _always,
    ("POST /v1/uploads/parts", "dataset_not_open"): _always,
    ("POST /v1/uploads/parts", "invalid_request"): _is_of_another_dataset,
    ("POST /v1/uploads/parts:abort", "dataset_not_open"): _always,
    ("POST /v1/uploads/parts:abort", "invalid_request"): _is_of_another_dataset,
    ("POST /v1/datasets/{dataset_id}:complete", "dataset_incomplete"): _always,
    ("GET /v1/runs/{run_id}/result", "no_result"): _always,
    ("GET /v1/runs/{run_id}/preview", "no_preview"): _always,
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
    ("POST /v1/datasets", "invalid_request"): _any(
        _has_bad_paths, _has_bad_lists, _has_unreadable_source
    ),
}
