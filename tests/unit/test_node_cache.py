"""The node's cache: where it is, and that compiled kernels go there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.settings.env import Settings, SettingsError
from trainer_core.process.node_cache import (
    NodeCache,
    NodeCacheSettingError,
    keep_kernels,
    node_cache_of,
)


@pytest.mark.parametrize(
    ("env", "folder", "limit_bytes"),
    [
        ({}, "~/.reverie/node-cache", 64 << 30),
        ({"REVERIE_HOME": "/srv/reverie"}, "/srv/reverie/node-cache", 64 << 30),
        ({"REVERIE_NODE_CACHE_DIR": "/fast", "REVERIE_NODE_CACHE_BYTES": "7"}, "/fast", 7),
        ({"REVERIE_NODE_CACHE_DIR": ""}, "~/.reverie/node-cache", 64 << 30),
    ],
)
def test_it_is_below_the_home_unless_it_is_set(
    env: dict[str, str], folder: str, limit_bytes: int
) -> None:
    expected = NodeCache(folder=str(Path(folder).expanduser()), limit_bytes=limit_bytes)

    assert node_cache_of(env) == expected
    assert Settings.from_env(env).node_cache == expected


def test_it_can_be_turned_off() -> None:
    env = {"REVERIE_NODE_CACHE_DIR": "off"}

    assert node_cache_of(env) is None
    assert Settings.from_env(env).node_cache is None
    variables: dict[str, str] = {}
    keep_kernels(None, variables)
    assert variables == {}


@pytest.mark.parametrize("size", ["0", "-1", "1e9", "many"])
def test_a_wrong_size_is_named(size: str) -> None:
    env = {"REVERIE_NODE_CACHE_BYTES": size}

    with pytest.raises(NodeCacheSettingError, match="REVERIE_NODE_CACHE_BYTES"):
        node_cache_of(env)
    with pytest.raises(SettingsError, match="REVERIE_NODE_CACHE_BYTES"):
        Settings.from_env(env)


def test_kernels_are_kept_in_a_folder_for_the_machine(tmp_path: Path) -> None:
    cache = NodeCache(folder=str(tmp_path), limit_bytes=1)
    env: dict[str, str] = {}

    keep_kernels(cache, env)

    (folder,) = (tmp_path / "kernels").iterdir()
    assert env == {
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "CUDA_CACHE_PATH": str(folder / "cuda"),
    }
    again: dict[str, str] = {"TRITON_CACHE_DIR": "/mine"}
    keep_kernels(cache, again)
    assert again == {"TRITON_CACHE_DIR": "/mine", "CUDA_CACHE_PATH": str(folder / "cuda")}


def test_a_folder_that_cannot_be_made_leaves_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env: dict[str, str] = {}

    keep_kernels(NodeCache(folder=str(tmp_path / "file"), limit_bytes=1), env)

    assert env == {}


def test_triton_uses_the_folder(tmp_path: Path) -> None:
    """Its own name of the variable, read when a kernel is compiled."""
    pytest.importorskip("triton")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from trainer_core.process.node_cache import NodeCache, keep_kernels\n"
        "keep_kernels(NodeCache(folder=sys.argv[1], limit_bytes=1), os.environ)\n"
        "from triton.runtime.cache import get_cache_manager\n"
        "print(get_cache_manager('ab' * 32).put(b'', 'kernel'))\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "TRITON_CACHE_DIR"}

    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert Path(run.stdout.strip()).is_relative_to(tmp_path / "kernels")
