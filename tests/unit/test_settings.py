"""Settings come from the environment once, and wrong ones are named."""

from pathlib import Path

import pytest

from services.settings.env import Settings, SettingsError


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({"REVERIE_HOME": "/srv/reverie", "REVERIE_GPU_CLASS": ""})
    assert settings.models_dir == Path("/srv/reverie/models")
    assert (settings.lease_s, settings.renew_s, settings.gpu_class) == (60, 15, "cpu")


def test_given_settings_are_read() -> None:
    settings = Settings.from_env(
        {
            "REVERIE_DATABASE_URL": "postgresql://u:secret@db/reverie",
            "REVERIE_LEASE_S": "3",
            "REVERIE_RENEW_S": "0.5",
            "REVERIE_POLL_S": "0.2",
            "REVERIE_API_URL": "https://reverie.example/",
            "REVERIE_SIGNING_KEY": "5f" * 32,
            "REVERIE_SECRETS_PRIVATE_KEYS": "x25519-private-secret",
        }
    )
    assert settings.database_url == "postgresql://u:secret@db/reverie"
    assert settings.api_url == "https://reverie.example"
    assert settings.signing_key == b"\x5f" * 32
    assert settings.secrets_private_keys == "x25519-private-secret"
    assert settings.secrets_public_key is None
    assert "secret" not in repr(settings)


def test_a_missing_setting_is_named_when_it_is_read() -> None:
    with pytest.raises(SettingsError, match="REVERIE_BROKER_URL is not set"):
        _ = Settings.from_env({}).broker_url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REVERIE_API_PROCESSES", "1.5"),
        ("REVERIE_LEASE_S", "soon"),
        ("REVERIE_LEASE_S", "-1"),
        ("REVERIE_LEASE_S", "nan"),
        ("REVERIE_RENEW_S", "59"),
        ("REVERIE_POLL_S", "30"),
        ("REVERIE_UPLOAD_EXPIRES_S", "7199"),
        ("REVERIE_LOG_FORMAT", "xml"),
        ("REVERIE_ENV", "prod"),
        ("REVERIE_OTLP_ENDPOINT", "collector:4318"),
        ("REVERIE_OTLP_ENDPOINT", "http://user:secret@collector:4318"),
        ("REVERIE_WANDB_URL", "https://user:secret@wandb.example"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


@pytest.mark.parametrize("value", ["xyz", "5f"])
@pytest.mark.parametrize("name", ["signing_key", "key_pepper"])
def test_a_weak_key_is_refused(name: str, value: str) -> None:
    variable = f"REVERIE_{name.upper()}"
    with pytest.raises(SettingsError, match=variable):
        getattr(Settings.from_env({variable: value}), name)
