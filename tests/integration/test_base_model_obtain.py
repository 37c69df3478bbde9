"""Obtaining a base model by its name, from a folder or from the Hub."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import damage
from tests.support.hub import HubServer
from trainer_core.base_models.describe import DESCRIPTION_NAME, read_base_model
from trainer_core.base_models.known import FOURTH_ENCODER
from trainer_core.base_models.obtain import obtain_base
from trainer_core.errors import BaseModelError

MODEL = "HiDream-ai/HiDream-I1-Full"
_SCRIPT = """
import json, os, sys
peers = set()
def note_peer(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        peers.add(args[1][:2])
sys.addaudithook(note_peer)
from pathlib import Path
from trainer_core.errors import BaseModelError
from trainer_core.base_models.obtain import obtain_base
try:
    base = obtain_base(sys.argv[1], env=os.environ, folders=(Path.cwd(),))
    result = {"name": base.name, "digest": base.digest, "folder": str(base.folder)}
except BaseModelError as error:
    result = {"error": error.message}
print(json.dumps({**result, "peers": sorted(peers), "torch": "torch" in sys.modules}))
"""


def obtain(name: str, home: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """In a process of its own, which also reports every address it connected to."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, name],
        capture_output=True,
        text=True,
        check=True,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "REVERIE_"))},
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "REVERIE_HOME": str(home),
            **env,
        },
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def parts(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The tiny model as HiDream is published: its fourth encoder is in another folder."""
    main, fourth = tmp_path / "main", tmp_path / "fourth"
    left_out = shutil.ignore_patterns("reverie-base.json", "text_encoder_4", "tokenizer_4")
    shutil.copytree(tiny_folder, main, ignore=left_out)
    for part in ("text_encoder_4", "tokenizer_4"):
        shutil.copytree(tiny_folder / part, fourth / part)
    (main / "transformer" / "pytorch_model.bin").write_bytes(b"pickle")
    (main / "README.md").write_text("# a model")
    return main, fourth


def test_a_model_on_the_hub_is_fetched_completely_checked_and_pinned_to_a_commit(
    hub_server: HubServer, parts: tuple[Path, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    main, fourth = parts
    hub_server.add_model(MODEL, main)
    hub_server.add_model(FOURTH_ENCODER, fourth)
    home = tmp_path / "home"
    online = {"HF_ENDPOINT": hub_server.url}

    first = obtain(MODEL, home, online)

    host, port = hub_server.url.removeprefix("http://").split(":")
    assert first["peers"] == [[host, int(port)]]
    assert not first["torch"]
    base = read_base_model(Path(first["folder"]))
    assert (base.name, base.digest) == (MODEL, first["digest"])
    for part in ("transformer", "text_encoder_4", "tokenizer_4", "vae"):
        for file in (tiny_folder / part).iterdir():
            assert (base.folder / part / file.name).read_bytes() == file.read_bytes()
    assert not any(path.endswith((".bin", ".md")) for path in hub_server.requests)

    weights = base.folder / "text_encoder_2" / "model.safetensors"
    damage.flip_last(weights.resolve())
    message = obtain(MODEL, home, {"HF_HUB_OFFLINE": "1"})["error"]
    named = weights.parent.resolve() / weights.name
    assert message == (
        f"{named} is damaged: its SHA-256 is not the recorded one. Delete it, and what it links to "
        f"(rm {named} {named.resolve()}): it is downloaded again"
    )
    named.resolve().unlink()
    named.unlink()
    assert obtain(MODEL, home, online)["digest"] == first["digest"]

    hub_server.push(MODEL, {"transformer/config.json": b"{}"})
    hub_server.requests.clear()
    again = obtain(MODEL, home, online)
    offline = obtain(MODEL, home, {"HF_HUB_OFFLINE": "1"})

    assert again["digest"] == offline["digest"] == first["digest"]
    assert not any("/HiDream" in path for path in hub_server.requests)
    assert offline["peers"] == []


def test_an_error_of_the_hub_is_one_sentence_with_the_way_out(
    hub_server: HubServer, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    main, fourth = parts
    hub_server.add_model(MODEL, main)
    hub_server.add_model(FOURTH_ENCODER, fourth, is_gated=True)
    online = {"HF_ENDPOINT": hub_server.url}

    missing = obtain("nobody/nothing", tmp_path / "a", online)["error"]
    gated = obtain(MODEL, tmp_path / "b", online)["error"]
    offline = obtain(MODEL, tmp_path / "c", {"HF_HUB_OFFLINE": "1"})["error"]

    assert "nobody/nothing" in missing
    assert "HF_TOKEN" in missing
    assert "gated" in gated
    assert FOURTH_ENCODER in gated
    assert not any("diffusion_pytorch_model.safetensors" in path for path in hub_server.requests)
    assert "HF_HUB_OFFLINE" in offline
    assert "\n" not in missing + gated + offline
    opened = obtain(MODEL, tmp_path / "b", {**online, "HF_TOKEN": hub_server.token})
    assert opened["name"] == MODEL


def local(name: str, tmp_path: Path, **options: Any) -> Any:
    env = {"REVERIE_HOME": str(tmp_path / "home")}
    return obtain_base(name, env=env, folders=(tmp_path,), **options)


def test_a_local_folder_is_hashed_once_and_again_where_it_changed(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "mine", ignore=shutil.ignore_patterns("reverie*"))

    base = local("mine", tmp_path)

    assert base.digest == read_base_model(tiny_folder).digest
    written = (tmp_path / "mine" / "reverie-base.json").stat().st_mtime_ns
    assert local("mine", tmp_path).digest == base.digest
    assert (tmp_path / "mine" / "reverie-base.json").stat().st_mtime_ns == written
    with (tmp_path / "mine" / "vae" / "config.json").open("a") as file:
        file.write("\n")
    assert local("mine", tmp_path).digest != base.digest


@pytest.mark.parametrize("is_read_only", [False, True])
def test_changed_weights_of_equal_size_and_an_older_time_are_noticed(
    is_read_only: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(tiny_folder, mine, ignore=shutil.ignore_patterns("reverie*"))
    if is_read_only:
        # Root may write in spite of the mode, but not over a folder of the draft's name.
        (mine / f".{DESCRIPTION_NAME}.{os.getpid()}.tmp").mkdir()
    base = local("mine", tmp_path)
    weights = next((mine / "vae").glob("*.safetensors"))
    before = weights.stat()

    damage.flip_last(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))

    for _ in range(2):  # it is not forgotten
        with pytest.raises(BaseModelError) as caught:
            local("mine", tmp_path)
        record = (base.folder if is_read_only else mine) / DESCRIPTION_NAME
        way_on = (
            f"delete {record}" if is_read_only else f"reverie models register {mine} --name mine"
        )
        assert caught.value.message == (
            f"{weights} is damaged: it has other bytes than when it was hashed, and the same size. "
            f"Put it back from a copy; if you replaced it on purpose, {way_on}"
        )
    record.unlink()
    assert local("mine", tmp_path).digest != base.digest
    damage.flip_last(weights)
    record.unlink(missing_ok=True)
    assert local("mine", tmp_path).digest == base.digest


def test_a_folder_without_the_fourth_encoder_is_composed_with_one(
    parts: tuple[Path, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    base = local("main", tmp_path, fourth_encoder="fourth")

    assert (base.folder / "text_encoder_4").resolve() == (parts[1] / "text_encoder_4").resolve()
    assert (base.folder / "transformer").resolve() == (parts[0] / "transformer").resolve()
    llama_alone = tmp_path / "llama"
    shutil.copytree(tiny_folder / "text_encoder_4", llama_alone)
    shutil.copytree(tiny_folder / "tokenizer_4", llama_alone, dirs_exist_ok=True)
    other = local("main", tmp_path, fourth_encoder="llama")
    assert (other.folder / "tokenizer_4").resolve() == llama_alone.resolve()
    assert other.digest != base.digest


def test_a_folder_that_cannot_be_written_is_described_elsewhere(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "mine", ignore=shutil.ignore_patterns("reverie*"))
    (tmp_path / "mine" / "reverie-base.json").mkdir()  # cannot be replaced by a file, even by root
    base = local("mine", tmp_path)
    assert base.digest == read_base_model(tiny_folder).digest
    assert base.folder.is_relative_to(tmp_path / "home")


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("vae", "lacks vae"),
        ("transformer/diffusion_pytorch_model.safetensors", "safetensors"),
        ("transformer/config.json", "config.json"),
    ],
)
def test_an_incomplete_folder_is_refused_with_the_part_it_lacks(
    tiny_folder: Path, tmp_path: Path, removed: str, named: str
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "mine")
    target = tmp_path / "mine" / removed
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(BaseModelError, match=named):
        local("mine", tmp_path)


def test_a_missing_path_is_an_error_that_lists_the_places(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError) as caught:
        local("./models/none", tmp_path)
    assert str(tmp_path / "models" / "none") in caught.value.message
