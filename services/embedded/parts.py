"""The specifications of Reverie's own processes, each with only the environment it needs."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from services.embedded.home import Home
from services.embedded.servers import LOOPBACK
from services.processes.supervised import ChildSpec
from services.secrets.keys import public_text

BASE_MODEL = "hidream-tiny"
TRAINER_STOP_S = 120.0
"""Time for a trainer to finish its step and commit a checkpoint."""

_ONLY_FOR = {
    "services.api": ("REVERIE_KEY_PEPPER", "REVERIE_SECRETS_PUBLIC_KEY"),
    # Publishing uses the Hub. Imports read it without a token.
    "services.cache_builder": ("HF_ENDPOINT",),
    "services.results": (
        "REVERIE_SECRETS_PRIVATE_KEYS",
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HUGGING_FACE_HUB_TOKEN",
    ),
}
"""Variables that no other process sees."""


def service_environment(
    env: Mapping[str, str], home: Home, *, urls: Mapping[str, str], port: int
) -> dict[str, str]:
    """The environment that all processes share; values of the caller override defaults.

    ``_process`` leaves out what only one of them may see.

    Args:
        env: the caller's environment.
        urls: ``REVERIE_DATABASE_URL`` and ``REVERIE_BROKER_URL``.
        port: the API's port on loopback.
    """
    secrets = home.secrets()
    defaults = {
        "REVERIE_OBJECTS_URL": f"file://{home.objects}",
        "REVERIE_SIGNING_KEY": secrets.signing_key,
        "REVERIE_KEY_PEPPER": secrets.key_pepper,
        "REVERIE_SECRETS_PUBLIC_KEY": public_text(secrets.secrets_private_key),
        "REVERIE_SECRETS_PRIVATE_KEYS": secrets.secrets_private_key,
        "REVERIE_MODELS_DIR": str(home.models),
        "REVERIE_PUBLICATIONS_DIR": str(home.publications),
        "REVERIE_SCRATCH_DIR": str(home.scratch),
        "REVERIE_SINGLE_TENANT": "true",
        # A CPU trains only the tiny model, for which a second thread is no gain. On busy cores it
        # is a great loss: 0.1 instead of 1.9 steps a second on 2 cores with a load of 5.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    decided = {
        **urls,
        "REVERIE_HOME": str(home.path),
        "REVERIE_API_URL": f"http://{LOOPBACK}:{port}",
    }
    return {**defaults, **env, **decided}


def _process(
    name: str,
    module: str,
    env: Mapping[str, str],
    *arguments: str,
    stop_s: float = 20.0,
) -> ChildSpec:
    others = {name for names in _ONLY_FOR.values() for name in names}
    hidden = others - set(_ONLY_FOR.get(module, ()))
    own = {name: value for name, value in env.items() if name not in hidden}
    if module != "services.results":
        own["HF_HUB_OFFLINE"] = "1"
    return ChildSpec(
        name=name,
        command=(
            sys.executable,
            "-P",
            "-m",
            module,
            *arguments,
        ),  # -P: no module of the current folder
        env=own,
        is_server=False,
        stop_signal=signal.SIGTERM,
        stop_s=stop_s,
        orphan_signal=signal.SIGKILL,  # these processes need no orderly exit
    )


def make_base_model(home: Home, env: Mapping[str, str]) -> ChildSpec:
    """The process that creates the tiny base model; run it once per home."""
    target = str(home.models / BASE_MODEL)
    return _process("make-tiny", "trainer_core", env, "make-tiny", target)


def has_base_model(models: Path) -> bool:
    return (models / BASE_MODEL / "reverie-base.json").exists()


def api(env: Mapping[str, str], port: int) -> ChildSpec:
    return _process(
        "api", "services.api", _own_metrics_port(env, 0), "--host", LOOPBACK, "--port", str(port)
    )


def workers(env: Mapping[str, str], trainers: int) -> list[ChildSpec]:
    """Dispatcher, cache builder, results and the trainers."""
    names = [f"trainer-{n}" if trainers > 1 else "trainer" for n in range(1, trainers + 1)]
    return [
        _process("dispatcher", "services.dispatcher", _own_metrics_port(env, 1)),
        _process("cache-builder", "services.cache_builder", _own_metrics_port(env, 2)),
        _process("results", "services.results", _own_metrics_port(env, 3)),
        *(
            _process(
                name,
                "services.trainer",
                _own_metrics_port(env, number),
                stop_s=TRAINER_STOP_S,
            )
            for number, name in enumerate(names, start=4)
        ),
    ]


def _own_metrics_port(env: Mapping[str, str], number: int) -> Mapping[str, str]:
    """Each process serves its metrics on a port of its own, counted from REVERIE_METRICS_PORT."""
    first = env.get("REVERIE_METRICS_PORT", "0")
    if not first.isdecimal() or first == "0":
        return env  # off, or a wrong value, which the process itself refuses
    return {**env, "REVERIE_METRICS_PORT": str(int(first) + number)}
