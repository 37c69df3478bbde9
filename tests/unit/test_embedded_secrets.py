"""What a home keeps secret, and which of its processes sees what."""

import json
import subprocess
import sys
from pathlib import Path

from services.embedded import parts
from services.embedded.home import Home
from services.secrets.keys import parse_public, public_text


def environments(tmp_path: Path, **given: str) -> dict[str, dict[str, str]]:
    """The environment of each process, by name."""
    home = Home(tmp_path)
    urls = {"REVERIE_DATABASE_URL": "postgresql://x", "REVERIE_BROKER_URL": "redis://x"}
    env = parts.service_environment(given, home, urls=urls, port=1)
    processes = [parts.api(env, 1), *parts.workers(env, 1), parts.make_base_model(home, env)]
    return {each.name: dict(each.env) for each in processes}


def holders(found: dict[str, dict[str, str]], name: str) -> set[str]:
    return {process for process, env in found.items() if name in env}


def test_each_process_sees_only_its_own_secrets(tmp_path: Path) -> None:
    found = environments(tmp_path, HF_TOKEN="hf_x", REVERIE_LOG_FORMAT="json")
    assert holders(found, "REVERIE_LOG_FORMAT") == set(found)
    assert holders(found, "REVERIE_SECRETS_PUBLIC_KEY") == {"api"}
    assert holders(found, "REVERIE_SECRETS_PRIVATE_KEYS") == {"results"}
    assert holders(found, "HF_TOKEN") == {"results"}
    public = found["api"]["REVERIE_SECRETS_PUBLIC_KEY"]
    assert public == public_text(found["results"]["REVERIE_SECRETS_PRIVATE_KEYS"])
    assert parse_public(public)


def test_a_home_of_an_earlier_version_gets_what_is_missing_and_keeps_the_rest(
    tmp_path: Path,
) -> None:
    made = Home(tmp_path).secrets()
    file = tmp_path / "secrets.json"
    old = json.loads(file.read_text())
    del old["secrets_private_key"]
    old["api_key"] = "rv_kept"
    file.write_text(json.dumps(old))

    first, second = Home(tmp_path).secrets(), Home(tmp_path).secrets()

    assert first == second
    assert (first.api_key, first.signing_key) == ("rv_kept", made.signing_key)
    assert first.secrets_private_key != made.secrets_private_key


def test_a_process_can_forbid_core_dumps() -> None:
    program = (
        "import ctypes, resource\n"
        "from services.processes.core_dumps import forbid_core_dumps\n"
        "is_dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"  # PR_GET_DUMPABLE
        "before = is_dumpable(); forbid_core_dumps()\n"
        "print(before, is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1 0 (0, 0)"
