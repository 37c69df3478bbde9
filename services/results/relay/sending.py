"""Send rows of a run's history to Weights & Biases with its SDK, in a process that then ends.

The SDK starts a program of its own, wandb-core, that keeps the key in memory and sends in the
background: it ends with this process. Its files are in a folder that is deleted afterwards.

What the server has counts. A run that exists there is resumed, and rows that it has are left out;
so sending the same rows again changes nothing.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import SecretStr

from services.results.relay.failures import failure_of_wandb, unconfirmed
from services.results.relay.rows import Row
from services.results.secret_process import Sealed, enter, open_here
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_ANSWER_S: Final = 20.0
"""For each request to the server."""
_START_S: Final = 45
_UPLOAD_S: Final = 60
_CONFIRM_S: Final = 20.0
"""The server may take so long to count rows that it has accepted."""
_KEPT_ENVIRONMENT: Final = (
    "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How the run ended."""

    exit_code: int
    summary: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sending:
    """What the process is told."""

    sealed: Sealed
    server: str | None
    """Base URL of the API; None: the public one."""
    project: str
    run_id: str
    name: str
    config: Mapping[str, Any]
    rows: list[Row]
    end: End | None
    """None: more rows will follow."""
    folder: Path
    """For the files of the SDK."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What it answers."""

    was_opened: bool
    """Whether the secret was."""
    url: str | None = None
    failure: Failure | None = field(default=None)


def send(work: Sending) -> Sent:
    """Runs in a process of its own."""
    enter(work.sealed)
    key = open_here(work.sealed)
    if isinstance(key, Failure):
        return Sent(was_opened=False, failure=key)
    _leave_environment(work.folder)
    try:
        return _send(work, key)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises
        log.warning("wandb_failed", error=type(error).__name__)
        failure = failure_of_wandb(error, work.sealed.place.name, work.project)
        return Sent(was_opened=True, failure=failure)


def _leave_environment(folder: Path) -> None:
    """Keep this service's settings from wandb-core, and settings of wandb from the SDK."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        os.environ[name] = str(folder)
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    os.chdir(folder)  # the SDK reads settings from the current folder


def _send(work: Sending, key: SecretStr) -> Sent:
    import wandb  # noqa: PLC0415 - an extra of its own, and a second

    server = {} if work.server is None else {"base_url": work.server}
    run = wandb.init(
        project=work.project,
        id=work.run_id,
        name=work.name,
        config=dict(work.config),
        resume="allow",
        dir=str(work.folder),
        settings=wandb.Settings(
            api_key=key.get_secret_value(),
            **server,
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            stop_fn=lambda: None,  # who stops the run there does not stop it here
            init_timeout=_START_S,
            finish_timeout=_UPLOAD_S,
            finish_timeout_raises=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_file_stream_retry_max=2,
            x_file_stream_timeout_seconds=_ANSWER_S,
            x_graphql_retry_max=2,
            x_graphql_timeout_seconds=_ANSWER_S,
            x_primary=False,  # no files beside the metrics
            x_save_requirements=False,
            x_skip_transaction_log=True,
            x_update_finish_state=work.end is not None,
        ),
    )
    for step, at, values in work.rows:
        if step >= run.starting_step:
            run.log({**values, "_timestamp": at.timestamp()}, step=step)
    if work.end is not None:
        run.summary.update(work.end.summary)
    url = run.url
    entity, path = run.entity, f"{run.entity}/{run.project}/{run.id}"
    run.finish(exit_code=0 if work.end is None else work.end.exit_code)
    # The SDK does not say whether everything arrived.
    if work.rows:
        api = wandb.Api(overrides={**server, "entity": entity}, api_key=key.get_secret_value())
        there = api.run(path)
        if not _has_step(there, work.rows[-1].step):
            return Sent(was_opened=True, url=url, failure=unconfirmed())
    return Sent(was_opened=True, url=url)


def _has_step(run: Any, step: int) -> bool:
    ends_at = time.monotonic() + _CONFIRM_S
    while run.lastHistoryStep < step:
        if time.monotonic() > ends_at:
            return False
        time.sleep(1)
    return True
