"""Keys: those of the builders pass the check, and no key that leads outside does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import new_id
from services.objects import keys
from services.objects.errors import InvalidKeyError

_SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        ".",
        "..",
        "a/..",
        "../a",
        "a/../../b",
        "a/./b",
        ".incoming/x",
        "-rf",
        "a\\b",
        "a b",
        "a\n",
        "a\0b",
        "a%2fb",
        "a?b",
        "ä",
        "\uff0e\uff0e/a",
        "a/" + "b" * 256,
        "a/" * 512 + "a",
    ],
)
def test_a_key_that_is_not_a_plain_path_is_refused(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        keys.check_key(key)


@given(st.text(max_size=40))
def test_a_key_that_passes_has_only_plain_parts(key: str) -> None:
    try:
        parts = keys.check_key(key)
    except InvalidKeyError:
        return
    assert "/".join(parts) == key
    assert key.isascii()
    assert all(part and not part.startswith(".") for part in parts)


def test_the_builders_make_the_documented_keys() -> None:
    tenant_id, run_id = new_id("ten"), new_id("run")
    attempt = f"tenants/{tenant_id}/runs/{run_id}/attempts/3/"

    assert keys.upload_key(tenant_id, _SHA256) == f"tenants/{tenant_id}/uploads/{_SHA256}"
    assert keys.shard_prefix(tenant_id, _SHA256) == f"tenants/{tenant_id}/cache/{_SHA256}/"
    assert keys.attempt_prefix(tenant_id, run_id, 3) == attempt
    assert keys.checkpoint_prefix(tenant_id, run_id, 3, 10) == (
        f"{attempt}checkpoints/step-00000010/"
    )
    assert keys.result_prefix(tenant_id, run_id, 3) == f"{attempt}result/"
    for prefix in (keys.result_prefix(tenant_id, run_id, 3), keys.runs_prefix(tenant_id)):
        keys.check_prefix(prefix)


@pytest.mark.parametrize("tenant_id", ["", "..", "ten_../x", "run_" + "0" * 32, "ten_" + "0" * 31])
def test_a_text_that_is_no_tenant_id_has_no_key(tenant_id: str) -> None:
    with pytest.raises(InvalidKeyError):
        keys.upload_key(tenant_id, _SHA256)


@pytest.mark.parametrize("sha256", ["", "../x", _SHA256.upper(), _SHA256[:-1], _SHA256 + "\n"])
def test_a_text_that_is_no_digest_has_no_key(sha256: str) -> None:
    with pytest.raises(InvalidKeyError):
        keys.upload_key(new_id("ten"), sha256)


def test_a_prefix_ends_in_a_slash_so_that_no_neighbour_matches() -> None:
    with pytest.raises(InvalidKeyError):
        keys.check_prefix("tenants/a")
