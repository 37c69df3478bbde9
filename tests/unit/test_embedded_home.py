"""The secrets of a home: made once, and those that an older version did not have are added."""

import json
from pathlib import Path

from services.embedded.home import Home


def test_secrets_are_made_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = home.secrets()
    assert home.secrets() == first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(first.key_pepper)) == 32


def test_a_home_of_an_older_version_gets_what_is_missing(tmp_path: Path) -> None:
    older = {
        "postgres_password": "a",
        "broker_password": "b",
        "signing_key": "c",
        "api_key": "rv_of_before",
    }
    (tmp_path / "secrets.json").write_text(json.dumps(older))
    found = Home(tmp_path).secrets()
    assert found.api_key == "rv_of_before"
    assert (found.postgres_password, found.signing_key) == ("a", "c")
    assert Home(tmp_path).secrets() == found
    stored = json.loads((tmp_path / "secrets.json").read_text())
    assert stored["key_pepper"] == found.key_pepper
