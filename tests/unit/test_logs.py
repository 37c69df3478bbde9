"""No log line shows a secret."""

import json
import subprocess
import sys

import pytest

from services.logs.setup import redact


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "hf_abc"),
        ("api_key", "x"),
        ("headers", {"Authorization": "Bearer rv_0123456789"}),
        ("url", "https://s3.example/bucket/key?X-Amz-Signature=abc123&X-Amz-Expires=5"),
        ("url", "http://127.0.0.1/objects/k?expires=1&signature=abc123"),
        ("database", "postgresql://user:abc123@db/reverie"),
        ("detail", ["key rv_abc123abc123 was refused"]),
        ("detail", "key rvo_abc123abc123 was refused"),
        ("key_pepper", "abc123"),
        ("hf_token", "abc123"),
        ("path", "/v1/secrets/hf_abc123abc123abc123"),
        ("detail", "whsec_abc123abc123abc123"),
        ("url", "https://hub.example/?to=https://s3.example/k?X-Amz-Signature=abc123"),
        ("url", "https://hub.example/https://s3.example/k?X-Amz-Signature=abc123"),
    ],
)
def test_secrets_are_redacted(name: str, value: object) -> None:
    cleaned = redact(None, "info", {"event": "x", name: value})
    text = json.dumps(cleaned)
    assert "[redacted]" in text
    for secret in ("abc123", "hf_abc", "rv_0123456789", '"x"}'):
        assert secret not in text


def test_other_values_are_not_redacted() -> None:
    event = {
        "event": "run_offered",
        "run_id": "run_1",
        "key_prefix": "tenants/t/",
        "tokens": 1,
        "setting": "hf_hub_offline",
    }
    kept = redact(None, "info", dict(event))
    assert kept["run_id"] == "run_1"
    assert kept["key_prefix"] == "tenants/t/"
    assert kept["setting"] == "hf_hub_offline"


@pytest.mark.parametrize("part", ["x", "_", "http://", "http://a?", "a://", "a@", " "])
def test_a_long_text_is_read_once(part: str) -> None:
    # If each position were a start of its own, this would take minutes.
    text = part * 500_000
    kept = redact(None, "info", {"event": text})["event"]
    assert kept == text


def test_lines_are_json_on_standard_error_with_the_service_in_each() -> None:
    program = (
        "from services.logs.setup import configure; import structlog;"
        "configure('dispatcher', 'json');"
        "structlog.get_logger().info('round_done', run_id='run_1', token='abc')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b""
    line = json.loads(done.stderr)
    assert (line["event"], line["service"], line["token"]) == (
        "round_done",
        "dispatcher",
        "[redacted]",
    )
