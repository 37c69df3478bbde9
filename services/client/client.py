"""The service as Python calls. Every call is idempotent and retried where that helps."""

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from services.client.call import Call, StreamCall
from services.client.calls import (
    api_keys,
    audit_log,
    batches,
    datasets,
    deletions,
    gpu_types,
    members,
    operators,
    publications,
    run_output,
    runs,
    secrets,
    tenant,
    usage,
    webhooks,
    worker_keys,
)
from services.client.retry import Retry
from services.client.stream import stream
from services.client.transport import Transport

P = ParamSpec("P")
T = TypeVar("T")


def _sent(describe: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    """A method that sends the call and returns its answer."""

    @functools.wraps(describe)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.send(describe(*args, **kwargs))

    return method


def _streamed(
    describe: Callable[P, StreamCall[T]],
) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    """A method that yields what the stream brings."""

    @functools.wraps(describe)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return stream(self._transport, describe(*args, **kwargs))

    return method


class Client:
    """The service for a tenant, or an operator; a context manager that closes its connections.

    Every method raises ProblemError where the service refuses the request, and
    ServiceUnreachableError where it does not answer. ``AsyncClient`` has the same ones.
    """

    def __init__(self, url: str, api_key: str, *, retry: Retry | None = None) -> None:
        self._transport = Transport(url, api_key, retry or Retry())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self._transport.url

    @property
    def retry(self) -> Retry:
        return self._transport.retry

    def close(self) -> None:
        self._transport.http.close()

    create_dataset = _sent(datasets.create_dataset)
    list_datasets = _sent(datasets.list_datasets)
    get_dataset = _sent(datasets.get_dataset)
    sign_uploads = _sent(datasets.sign_uploads)
    sign_parts = _sent(datasets.sign_parts)
    abort_parts = _sent(datasets.abort_parts)
    complete_dataset = _sent(datasets.complete_dataset)

    submit_run = _sent(runs.submit_run)
    validate_run = _sent(runs.validate_run)
    clone_run = _sent(runs.clone_run)
    diff_runs = _sent(runs.diff_runs)
    list_runs = _sent(runs.list_runs)
    get_run = _sent(runs.get_run)
    get_plan = _sent(runs.get_plan)
    pause_run = _sent(runs.pause_run)
    resume_run = _sent(runs.resume_run)
    cancel_run = _sent(runs.cancel_run)
    change_run = _sent(runs.change_run)
    list_events = _sent(runs.list_events)
    stream_events = _streamed(runs.stream_events)
    list_checkpoints = _sent(runs.list_checkpoints)
    get_result = _sent(runs.get_result)

    list_attempts = _sent(run_output.list_attempts)
    list_logs = _sent(run_output.list_logs)
    stream_logs = _streamed(run_output.stream_logs)
    get_metrics = _sent(run_output.get_metrics)
    list_samples = _sent(run_output.list_samples)
    list_artifacts = _sent(run_output.list_artifacts)
    get_artifact = _sent(run_output.get_artifact)

    submit_batch = _sent(batches.submit_batch)
    list_batches = _sent(batches.list_batches)
    get_batch = _sent(batches.get_batch)
    compare_batch = _sent(batches.compare_batch)
    cancel_batch = _sent(batches.cancel_batch)

    create_publication = _sent(publications.create_publication)
    list_publications = _sent(publications.list_publications)
    get_publication = _sent(publications.get_publication)

    list_members = _sent(members.list_members)
    create_member = _sent(members.create_member)
    get_member = _sent(members.get_member)
    change_member = _sent(members.change_member)
    remove_member = _sent(members.remove_member)

    list_keys = _sent(api_keys.list_keys)
    create_key = _sent(api_keys.create_key)
    get_key = _sent(api_keys.get_key)
    rotate_key = _sent(api_keys.rotate_key)
    revoke_key = _sent(api_keys.revoke_key)

    list_audit_events = _sent(audit_log.list_audit_events)
    verify_audit_events = _sent(audit_log.verify_audit_events)

    delete_run = _sent(deletions.delete_run)
    delete_dataset = _sent(deletions.delete_dataset)
    delete_tenant = _sent(deletions.delete_tenant)
    get_deletion = _sent(deletions.get_deletion)

    get_own_tenant = _sent(tenant.get_own_tenant)
    list_gpu_types = _sent(gpu_types.list_gpu_types)
    list_usage = _sent(usage.list_usage)
    list_quotas = _sent(usage.list_quotas)

    list_tenants = _sent(operators.list_tenants)
    create_tenant = _sent(operators.create_tenant)
    get_tenant = _sent(operators.get_tenant)
    change_tenant = _sent(operators.change_tenant)
    list_tenant_members = _sent(operators.list_tenant_members)
    list_tenant_keys = _sent(operators.list_tenant_keys)
    create_tenant_key = _sent(operators.create_tenant_key)
    get_tenant_key = _sent(operators.get_tenant_key)
    revoke_tenant_key = _sent(operators.revoke_tenant_key)
    list_gpu_classes = _sent(operators.list_gpu_classes)
    set_price = _sent(operators.set_price)
    list_workers = _sent(operators.list_workers)
    operator_delete_tenant = _sent(operators.operator_delete_tenant)
    operator_get_deletion = _sent(operators.operator_get_deletion)
    operator_verify_audit_events = _sent(operators.operator_verify_audit_events)
    list_worker_keys = _sent(worker_keys.list_worker_keys)
    create_worker_key = _sent(worker_keys.create_worker_key)
    get_worker_key = _sent(worker_keys.get_worker_key)
    revoke_worker_key = _sent(worker_keys.revoke_worker_key)

    put_secret = _sent(secrets.put_secret)
    list_secrets = _sent(secrets.list_secrets)
    get_secret = _sent(secrets.get_secret)
    delete_secret = _sent(secrets.delete_secret)

    list_webhooks = _sent(webhooks.list_webhooks)
    create_webhook = _sent(webhooks.create_webhook)
    get_webhook = _sent(webhooks.get_webhook)
    change_webhook = _sent(webhooks.change_webhook)
    delete_webhook = _sent(webhooks.delete_webhook)
    rotate_webhook_secret = _sent(webhooks.rotate_webhook_secret)
    test_webhook = _sent(webhooks.test_webhook)
    list_deliveries = _sent(webhooks.list_deliveries)
    get_delivery = _sent(webhooks.get_delivery)
    replay_delivery = _sent(webhooks.replay_delivery)
