"""``schemathesis run`` on a live API, as two tenants, and the answers that it saw."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.tenant import Json

# The checks that ``hooks.refused_as_documented_only`` is stricter than are off.
_CONFIG = """
hooks = "tests.integration.openapi_fuzz.hooks"
continue-on-failure = true
request-timeout = 20
max-stream-events = 3

[cache]
enabled = false

[auth.wfc]
path = "{keys}"
peers = [{peers}]

[checks.positive_data_acceptance]
enabled = false

# The default ones, without 5xx, and those of addresses, heads and bodies that are too long.
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429, 431]

# A new run has no result yet.
[[operations]]
include-name = "GET /v1/runs/{{run_id}}/result"
checks.ensure_resource_availability.enabled = false

[phases.fuzzing.error-feedback]
enabled = false

[dictionaries.spare-members]
values = ["{spare.member_id}"]

[dictionaries.spare-keys]
values = [{spare_keys}]

[dictionaries.finished-runs]
values = ["{finished_run}"]

[dictionaries.completed-datasets]
values = [{completed}]

[parameters]
"path.run_id" = {{ dictionary = "finished-runs", probability = 0.2 }}
"path.dataset_id" = {{ dictionary = "completed-datasets", probability = 0.2 }}
"path.key_id" = {{ dictionary = "spare-keys", probability = 0.2 }}
"path.member_id" = {{ dictionary = "spare-members", probability = 0.2 }}
"""


@dataclass(frozen=True, kw_only=True)
class Spare:
    """What the requests may change, and what they must not."""

    tenant_id: str
    """For the operator's requests only."""
    key_id: str
    """Of this tenant, to be looked at."""
    revoked_id: str
    """Of this tenant, to be revoked."""
    member_id: str
    """Of the first tenant."""
    key_ids: list[str]
    """Of the first tenant."""
    deleted_run_id: str
    sampling_run_id: str
    """Of a run that has a preview."""
    """Of the first tenant, and so is what follows."""
    deleted_dataset_id: str
    deletion_id: str
    webhook_id: str
    delivery_id: str
    """Of this webhook."""
    kept_ids: list[str]
    """Keys and members as which the requests are sent."""


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """What came of it."""

    report: str
    """The failures, each with a curl command, and a summary."""
    has_passed: bool
    answers: dict[str, dict[int, int]]
    """Operation → status → number of answers."""


def fuzz(
    url: str,
    folder: Path,
    *,
    keys: Mapping[str, str],
    operator: str,
    spare: Spare,
    run_request: Json,
    finished_run: str,
    large_upload: Json,
    phases: str,
    seed: int,
    examples: int,
) -> Fuzzed:
    """Send at most ``examples`` requests an operation in each phase that makes some up.

    Args:
        folder: for its files.
        keys: API keys of tenants that must not see each other's objects, by name.
        operator: an operator's key, which is tried where those of tenants are refused.
        run_request: one that is accepted from the first of them; its datasets are completed.
        finished_run: the id of a run of the first, with a checkpoint and a result.
        large_upload: a request for the parts of a file that the first has not uploaded.
    """
    auth = [
        {
            "name": name,
            "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {key}"}],
        }
        for name, key in {**keys, "operator": operator}.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"auth": auth}))
    config = _CONFIG.format(
        keys=folder / "keys.json",
        peers=_listed(keys),
        completed=_listed(set(run_request["datasets"].values())),
        finished_run=finished_run,
        spare=spare,
        spare_keys=_listed(spare.key_ids),
    )
    (folder / "schemathesis.toml").write_text(config)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(folder / "schemathesis.toml")),
            *("run", f"{url}/openapi.json", "--phases", phases, "--no-color"),
            *("--seed", str(seed), "--max-examples", str(examples)),
            *("--generation-database", "none"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),  # of the hooks
            "PYTHONFAULTHANDLER": "1",
            "FUZZ_FINISHED_RUN": finished_run,
            "FUZZ_LARGE_UPLOAD": json.dumps(large_upload),
            "FUZZ_RUN_REQUEST": json.dumps(run_request),
            "FUZZ_SPARE": json.dumps(asdict(spare)),
            "FUZZ_SEEN": str(folder / "seen.json"),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    report = f"{done.stdout}{done.stderr}\nThe command ended with {done.returncode}."
    seen_file = folder / "seen.json"
    assert seen_file.exists(), f"schemathesis did not come to its end: {report}"
    seen: dict[str, dict[str, int]] = json.loads(seen_file.read_text())
    return Fuzzed(
        report=report,
        has_passed=done.returncode == 0,
        answers={
            label: {int(status): number for status, number in found.items()}
            for label, found in seen.items()
        },
    )


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(f'"{text}"' for text in sorted(texts))
