"""The calls of the service as methods, the same ones for both clients."""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

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

if TYPE_CHECKING:
    from services.client.async_client import AsyncClient
    from services.client.client import Client

P = ParamSpec("P")
T = TypeVar("T")


class Sent(Generic[P, T]):
    """A method that sends a call and returns its answer; that of an ``AsyncClient`` is awaited.

    On the class itself it is the function that describes the call.
    """

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe

    @overload
    def __get__(self, client: None, owner: type) -> Callable[P, Call[T]]: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, client: "AsyncClient", owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return self._describe if client is None else _then(client.send, self._describe)


class Streamed(Generic[P, T]):
    """As ``Sent``, but the method returns an iterator over what the stream brings."""

    def __init__(self, describe: Callable[P, StreamCall[T]]) -> None:
        self._describe = describe

    @overload
    def __get__(self, client: None, owner: type) -> Callable[P, StreamCall[T]]: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return self._describe if client is None else _then(client.receive, self._describe)


def _then(send: Callable[[Any], Any], describe: Callable[P, Any]) -> Callable[P, Any]:
    """Describe a call and send it; signature and docstring are those of ``describe``."""

    @functools.wraps(describe)
    def method(*args: P.args, **kwargs: P.kwargs) -> Any:
        return send(describe(*args, **kwargs))

    return method


class Calls:
    """Every call of the service, by the name of its operation."""

    create_dataset = Sent(datasets.create_dataset)
    list_datasets = Sent(datasets.list_datasets)
    get_dataset = Sent(datasets.get_dataset)
    list_dataset_files = Sent(datasets.list_dataset_files)
    diff_datasets = Sent(datasets.diff_datasets)
    sign_uploads = Sent(datasets.sign_uploads)
    sign_parts = Sent(datasets.sign_parts)
    abort_parts = Sent(datasets.abort_parts)
    complete_dataset = Sent(datasets.complete_dataset)

    submit_run = Sent(runs.submit_run)
    validate_run = Sent(runs.validate_run)
    clone_run = Sent(runs.clone_run)
    diff_runs = Sent(runs.diff_runs)
    list_runs = Sent(runs.list_runs)
    get_run = Sent(runs.get_run)
    get_plan = Sent(runs.get_plan)
    pause_run = Sent(runs.pause_run)
    resume_run = Sent(runs.resume_run)
    cancel_run = Sent(runs.cancel_run)
    change_run = Sent(runs.change_run)
    list_events = Sent(runs.list_events)
    stream_events = Streamed(runs.stream_events)
    list_checkpoints = Sent(runs.list_checkpoints)
    get_result = Sent(runs.get_result)

    list_attempts = Sent(run_output.list_attempts)
    list_logs = Sent(run_output.list_logs)
    stream_logs = Streamed(run_output.stream_logs)
    get_metrics = Sent(run_output.get_metrics)
    list_samples = Sent(run_output.list_samples)
    get_preview = Sent(run_output.get_preview)
    list_artifacts = Sent(run_output.list_artifacts)
    get_artifact = Sent(run_output.get_artifact)

    submit_batch = Sent(batches.submit_batch)
    list_batches = Sent(batches.list_batches)
    get_batch = Sent(batches.get_batch)
    compare_batch = Sent(batches.compare_batch)
    cancel_batch = Sent(batches.cancel_batch)

    create_publication = Sent(publications.create_publication)
    list_publications = Sent(publications.list_publications)
    get_publication = Sent(publications.get_publication)

    list_members = Sent(members.list_members)
    create_member = Sent(members.create_member)
    get_member = Sent(members.get_member)
    change_member = Sent(members.change_member)
    remove_member = Sent(members.remove_member)

    list_keys = Sent(api_keys.list_keys)
    create_key = Sent(api_keys.create_key)
    get_key = Sent(api_keys.get_key)
    rotate_key = Sent(api_keys.rotate_key)
    revoke_key = Sent(api_keys.revoke_key)

    list_audit_events = Sent(audit_log.list_audit_events)
    verify_audit_events = Sent(audit_log.verify_audit_events)

    delete_run = Sent(deletions.delete_run)
    delete_dataset = Sent(deletions.delete_dataset)
    delete_tenant = Sent(deletions.delete_tenant)
    get_deletion = Sent(deletions.get_deletion)

    get_own_tenant = Sent(tenant.get_own_tenant)
    list_gpu_types = Sent(gpu_types.list_gpu_types)
    list_usage = Sent(usage.list_usage)
    list_quotas = Sent(usage.list_quotas)

    list_tenants = Sent(operators.list_tenants)
    create_tenant = Sent(operators.create_tenant)
    get_tenant = Sent(operators.get_tenant)
    change_tenant = Sent(operators.change_tenant)
    list_tenant_members = Sent(operators.list_tenant_members)
    list_tenant_keys = Sent(operators.list_tenant_keys)
    create_tenant_key = Sent(operators.create_tenant_key)
    get_tenant_key = Sent(operators.get_tenant_key)
    revoke_tenant_key = Sent(operators.revoke_tenant_key)
    list_gpu_classes = Sent(operators.list_gpu_classes)
    set_price = Sent(operators.set_price)
    list_workers = Sent(operators.list_workers)
    operator_delete_tenant = Sent(operators.operator_delete_tenant)
    operator_get_deletion = Sent(operators.operator_get_deletion)
    operator_verify_audit_events = Sent(operators.operator_verify_audit_events)
    list_worker_keys = Sent(worker_keys.list_worker_keys)
    create_worker_key = Sent(worker_keys.create_worker_key)
    get_worker_key = Sent(worker_keys.get_worker_key)
    revoke_worker_key = Sent(worker_keys.revoke_worker_key)

    put_secret = Sent(secrets.put_secret)
    list_secrets = Sent(secrets.list_secrets)
    get_secret = Sent(secrets.get_secret)
    delete_secret = Sent(secrets.delete_secret)

    list_webhooks = Sent(webhooks.list_webhooks)
    create_webhook = Sent(webhooks.create_webhook)
    get_webhook = Sent(webhooks.get_webhook)
    change_webhook = Sent(webhooks.change_webhook)
    delete_webhook = Sent(webhooks.delete_webhook)
    rotate_webhook_secret = Sent(webhooks.rotate_webhook_secret)
    test_webhook = Sent(webhooks.test_webhook)
    list_deliveries = Sent(webhooks.list_deliveries)
    get_delivery = Sent(webhooks.get_delivery)
    replay_delivery = Sent(webhooks.replay_delivery)
