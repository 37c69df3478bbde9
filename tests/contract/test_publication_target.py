"""One contract for every publication target: a folder, and the Hub as a local server speaks it."""

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from services.results.targets.folder import FolderTarget
from services.results.targets.hub import HubAccess, HubTarget
from services.results.targets.port import (
    PublicationRefusedError,
    PublicationRepo,
    PublicationTarget,
    TargetDownError,
)
from tests.support.hub import HubServer

_REPO = PublicationRepo(name="tester/moon", private=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A target, and a reader's view of its content."""

    target: PublicationTarget
    read: Callable[[str], dict[str, bytes]]


@pytest.fixture(params=["folder", "hub"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "folder":
        root = tmp_path / "publications"
        return Case(target=FolderTarget(root), read=lambda name: _read_folder(root / name))
    hub: HubServer = request.getfixturevalue("hub_server")
    return Case(target=_hub_target(hub), read=lambda name: _download(hub, name, tmp_path))


def _hub_target(hub: HubServer, token: str | None = None) -> HubTarget:
    return HubTarget(HubAccess(token=token or hub.token, endpoint=hub.url))


def _download(hub: HubServer, name: str, tmp_path: Path) -> dict[str, bytes]:
    """As anybody who has the token would."""
    local = tmp_path / "downloaded"
    HfApi(endpoint=hub.url, token=hub.token).snapshot_download(
        name, local_dir=local, cache_dir=tmp_path / "hub-cache"
    )
    return {name: body for name, body in _read_folder(local).items() if ".cache/" not in name}


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "samples").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Moon\n")
    (folder / "lycoris_config.json").write_text("{}")
    (folder / "pytorch_lora_weights.safetensors").write_bytes(os.urandom(200_000))
    (folder / "samples" / "0.png").write_bytes(os.urandom(5_000))
    return folder


def test_a_name_without_an_owner_is_one_of_the_tokens_user(
    files: Path, hub_server: HubServer
) -> None:
    for _ in range(2):  # the repository is new, and then exists
        published = _hub_target(hub_server).publish(
            PublicationRepo(name="moon", private=True), files, "Result"
        )
        assert published.location == f"{hub_server.url}/tester/moon"

    assert set(hub_server.repos) == {"tester/moon"}


def test_what_a_killed_process_left_in_the_folder_goes(files: Path, tmp_path: Path) -> None:
    owner = tmp_path / "publications" / "tester"
    for left in (".moon.ab12.new", ".moon.ab12.old", ".moon-step-00000010.ab12.new"):
        (owner / left).mkdir(parents=True)
    FolderTarget(tmp_path / "publications").publish(_REPO, files, "Result")

    assert {each.name for each in owner.iterdir()} == {"moon", ".moon-step-00000010.ab12.new"}


def test_published_files_are_read_back_byte_for_byte(case: Case, files: Path) -> None:
    published = case.target.publish(_REPO, files, "Result")

    assert case.read(_REPO.name) == _read_folder(files)
    assert published.location.endswith(_REPO.name)
    assert published.revision


def test_publishing_twice_changes_nothing(case: Case, files: Path) -> None:
    first = case.target.publish(_REPO, files, "Result")
    second = case.target.publish(_REPO, files, "Result")

    assert second == first


def test_new_content_is_a_new_revision(case: Case, files: Path) -> None:
    first = case.target.publish(_REPO, files, "Result")
    (files / "samples" / "0.png").write_bytes(b"another")
    second = case.target.publish(_REPO, files, "Better result")

    assert second.location == first.location
    assert second.revision != first.revision
    assert case.read(_REPO.name) == _read_folder(files)


@pytest.mark.parametrize("name", ["../outside", "/etc/x", "tester/..", "a b/c"])
def test_a_name_outside_the_target_is_refused(
    case: Case, files: Path, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.iterdir())

    with pytest.raises(PublicationRefusedError) as refused:
        case.target.publish(PublicationRepo(name=name, private=True), files, "Result")

    assert not refused.value.failure.retryable
    assert sorted(tmp_path.iterdir()) == before


def test_the_hub_gets_one_commit_and_a_private_repository(
    hub_server: HubServer, files: Path
) -> None:
    _hub_target(hub_server).publish(_REPO, files, "Result of a run")
    _hub_target(hub_server).publish(_REPO, files, "Result of a run")

    repo = hub_server.repos[_REPO.name]
    assert repo.private
    assert [commit.summary for commit in repo.commits] == ["Result of a run"]
    assert set(repo.commits[0].changed) == set(_read_folder(files))


def test_a_wrong_token_is_final_and_stays_out_of_the_log(
    hub_server: HubServer, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    with pytest.raises(PublicationRefusedError) as refused:
        _hub_target(hub_server, token="hf_wrongcanary").publish(_REPO, files, "Result")

    failure, said = refused.value.failure, capsys.readouterr()
    assert (failure.code, failure.retryable) == ("hub_token_refused", False)
    assert "token" in failure.message
    assert "wrongcanary" not in failure.message + said.out + said.err
    assert "wrongcanary" not in repr(HubAccess(token="hf_wrongcanary", endpoint=None))
    assert hub_server.repos == {}


def test_a_missing_token_is_final(
    hub_server: HubServer, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub_server.token)  # of whoever is logged in: not the service's
    target = HubTarget(HubAccess(token=None, endpoint=hub_server.url))

    with pytest.raises(PublicationRefusedError, match="HF_TOKEN"):
        target.publish(_REPO, files, "Result")
    assert hub_server.requests == []


def test_the_namespace_of_another_owner_is_final(hub_server: HubServer, files: Path) -> None:
    with pytest.raises(PublicationRefusedError) as refused:
        _hub_target(hub_server).publish(
            PublicationRepo(name="stranger/moon", private=True), files, "Result"
        )

    assert refused.value.failure.code == "hub_forbidden"
    assert "stranger/moon" in refused.value.failure.message


def test_a_card_that_the_hub_refuses_is_final(hub_server: HubServer, files: Path) -> None:
    (files / "README.md").write_text("---\nlicense: mit\n")

    with pytest.raises(PublicationRefusedError, match="does not end"):
        _hub_target(hub_server).publish(_REPO, files, "Result")


@pytest.mark.parametrize("below", ["/", "/api/validate-yaml", "/api/models/tester/moon/commit"])
def test_a_failing_hub_is_tried_again_later(hub_server: HubServer, files: Path, below: str) -> None:
    hub_server.failing_with, hub_server.failing_below = 503, below
    with pytest.raises(TargetDownError) as down:
        _hub_target(hub_server).publish(_REPO, files, "Result")
    assert down.value.failure.retryable

    hub_server.failing_with = None
    _hub_target(hub_server).publish(_REPO, files, "Result")
    assert hub_server.repos[_REPO.name].files == _read_folder(files)


def test_an_unreachable_hub_is_tried_again_later(files: Path) -> None:
    target = HubTarget(HubAccess(token="hf_any", endpoint="http://127.0.0.1:9"))

    with pytest.raises(TargetDownError) as down:
        target.publish(_REPO, files, "Result")
    assert down.value.failure.retryable


def test_an_upload_that_the_storage_refuses_is_tried_again_later(
    hub_server: HubServer, files: Path
) -> None:
    hub_server.failing_with, hub_server.failing_below = 403, "/lfs/"  # a link that has expired
    with pytest.raises(TargetDownError) as down:
        _hub_target(hub_server).publish(_REPO, files, "Result")
    assert down.value.failure.retryable
    assert hub_server.repos[_REPO.name].commits == []

    hub_server.failing_with = None
    _hub_target(hub_server).publish(_REPO, files, "Result")
    assert hub_server.repos[_REPO.name].files == _read_folder(files)


def test_a_hub_that_never_answers_is_tried_again_later(files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and that is all
        access = HubAccess(token="hf_any", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TargetDownError):
            HubTarget(access, timeout_s=0.5).publish(_REPO, files, "Result")


def test_a_folder_that_cannot_be_written_is_tried_again_later(tmp_path: Path, files: Path) -> None:
    (tmp_path / "publications").write_text("a file, not a folder")

    with pytest.raises(TargetDownError) as down:
        FolderTarget(tmp_path / "publications").publish(_REPO, files, "Result")
    assert down.value.failure.retryable


def test_a_folder_keeps_no_leftovers(tmp_path: Path, files: Path) -> None:
    target = FolderTarget(tmp_path / "publications")
    target.publish(_REPO, files, "Result")
    (files / "lycoris_config.json").unlink()
    target.publish(_REPO, files, "Result")

    assert [path.name for path in (tmp_path / "publications" / "tester").iterdir()] == ["moon"]
    assert not (tmp_path / "publications" / "tester" / "moon" / "lycoris_config.json").exists()
