"""``init_lora`` over HTTP: an earlier run's result or checkpoint, or an upload, of the tenant."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from services.objects.folders import put_folder
from services.objects.keys import result_prefix
from services.objects.open import open_store
from services.objects.port import ObjectStore
from services.settings.env import Settings
from services.store import runs
from tests.support.adapter_bytes import (
    lora_bytes,
    lora_checkpoint,
    packed,
    tensors_file,
    width_of,
)
from tests.support.finished_runs import closed_folder, commit_checkpoint
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase, plan
from tests.support.service import database_of
from tests.support.starting import User
from tests.support.tenant import Json
from tests.support.waiting import wait_until
from trainer_core.base_models.describe import read_base_model

STEP: Final = "checkpoints/step-00000010"
ADAPTER: Final = "pytorch_lora_weights.safetensors"
AT: Final = "/config/init_lora"
WAITS_FOR_A_LOCK: Final = """
SELECT true FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND query LIKE '%FROM runs%FOR NO KEY UPDATE%'
"""


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_API_PROCESSES="1")
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def objects(fleet: Fleet) -> ObjectStore:
    return open_store(Settings.from_env(fleet.env))


@pytest.fixture(scope="module")
def width(models_dir: Path) -> int:
    return width_of(read_base_model(models_dir / "hidream-tiny"))


@pytest.fixture(scope="module")
def ada(fleet: Fleet) -> Iterator[User]:
    with database_of(fleet) as database:
        yield User.new(fleet, TenantDatabase.new(database))


@pytest.fixture(scope="module")
def bob(fleet: Fleet, ada: User) -> User:
    return User.new(fleet, ada.db.neighbour())


@pytest.fixture
def trained(
    ada: User, objects: ObjectStore, width: int, tmp_path: Path
) -> tuple[str, dict[str, bytes]]:
    """A run of ada's that succeeded: its id, and its result's and its checkpoint's files."""
    claim = ada.db.held(plan=plan(checkpoints=2))
    scope = (claim.tenant_id, claim.run_id, claim.fence)
    state = lora_checkpoint(4, out_features=width)
    commit_checkpoint(ada.db, claim, objects, write(tmp_path / "state", state), 10)
    adapter = lora_bytes(4, out_features=width)
    result = closed_folder(tmp_path / "result", {ADAPTER: adapter, "card.json": b"{}"})
    files = put_folder(objects, result_prefix(*scope), result)
    ada.db.ledger.commit_result(claim.run_id, claim.fence, files, step=20)
    return claim.run_id, {ADAPTER: adapter, **state}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return folder


def test_an_earlier_run_is_named_by_its_id_or_by_a_folder_of_its_artifacts(
    ada: User, trained: tuple[str, dict[str, bytes]]
) -> None:
    run_id, files = trained
    for name in (run_id, f"{run_id}/result", f"{run_id}/result/{ADAPTER}"):
        found = ada.http.post("/v1/runs:validate", ada.request(init_lora=name))
        assert found["is_valid"], found["problems"]
        assert ada.start_of(ada.submit(name)) == {"sha256": sha256(files[ADAPTER])}

    new = ada.submit(f"{run_id}/checkpoints/step-10")

    assert ada.start_of(new) == {"sha256": sha256(files["state.safetensors"])}
    stored = ada.db.run(new).start_adapter
    assert stored is not None
    assert (stored["source"], stored["step"]) == (run_id, 10)
    assert [each["name"] for each in stored["files"]] == ["state.safetensors", "manifest.json"]
    assert ada.start_of(ada.http.submit(ada.request())) is None


def test_an_upload_is_named_by_its_dataset(ada: User, width: int) -> None:
    body, other = (lora_bytes(4, out_features=width, value=each) for each in (0.25, 0.75))
    one = ada.http.push({"old.safetensors": body})
    open_one = ada.http.push({"old.safetensors": other}, complete=False)
    both = ada.http.push({"a/old.safetensors": body, "b.safetensors": other, "c.txt": b"text"})

    assert ada.start_of(ada.submit(one)) == {"sha256": sha256(body)}
    assert ada.start_of(ada.submit(open_one)) == {"sha256": sha256(other)}
    assert ada.start_of(ada.submit(f"{both}/b.safetensors")) == {"sha256": sha256(other)}
    (several,) = ada.problems(both)
    assert several["message"] == (
        f"init_lora: {both} holds several adapter files; name one: {both}/a/old.safetensors, "
        f"{both}/b.safetensors."
    )
    photos = ada.datasets["photos"]
    assert ada.problems(photos)[0]["message"] == (
        f"init_lora: {photos} holds no adapter file (.safetensors)."
    )
    assert ada.problems(f"{both}/c.txt")[0]["message"] == (
        f"init_lora: {both}/c.txt is a caption, no adapter (.safetensors)."
    )
    assert ada.problems(f"{both}/d.txt")[0]["message"] == f"init_lora: {both} holds no d.txt."
    (wrong_rank,) = ada.problems(f"{both}/b.safetensors", lora_rank=8)
    assert f"{both}/b.safetensors does not fit" in wrong_rank["message"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("old.safetensors", "bad_value", "old.safetensors is no run and no dataset: name a run of"),
        ("owner/name", "bad_value", "owner/name is no run and no dataset: name a run of yours"),
        ("run_" + "0" * 32, "not_found", "there is no run_000"),
        ("ds_" + "0" * 32, "not_found", "there is no ds_000"),
        ("run_" + "0" * 32 + "/../x", "bad_value", "is no run and no dataset"),
    ],
)
def test_what_is_not_there_is_named(ada: User, name: str, code: str, words: str) -> None:
    (problem,) = ada.problems(name)

    assert (problem["pointer"], problem["code"]) == (AT, code)
    assert words in problem["message"]


def test_what_does_not_fit_is_named_before_the_run_is_queued(
    ada: User, trained: tuple[str, dict[str, bytes]], width: int
) -> None:
    run_id, _ = trained
    for name in (run_id, f"{run_id}/{STEP}"):
        (problem,) = ada.problems(name, lora_rank=8)
        assert (problem["pointer"], problem["code"]) == (AT, "conflict")
        assert "its rank is 4 and lora_rank is 8: set lora_rank to it" in problem["message"]
    (missing,) = ada.problems(f"{run_id}/checkpoints/step-00000077")
    assert missing["code"] == "not_found"
    waiting = ada.submit(run_id)
    (unfinished,) = ada.problems(waiting)
    assert "is queued and has no result; a checkpoint of it is named by" in unfinished["message"]

    wider = ada.http.push({"old.safetensors": lora_bytes(4, out_features=2 * width)})
    assert "it was made for another base model" in ada.problems(wider)[0]["message"]
    cut = ada.http.push({"old.safetensors": lora_bytes(4, out_features=width)[:-8]})
    assert f"{cut} is cut off" in ada.problems(cut)[0]["message"]


def test_a_run_without_an_adapter_is_named(
    ada: User, objects: ObjectStore, width: int, tmp_path: Path
) -> None:
    claim = ada.db.held(plan=plan(checkpoints=2))
    state = lora_checkpoint(4, out_features=width, full_rank=True)
    commit_checkpoint(ada.db, claim, objects, write(tmp_path / "state", state), 10)
    (at_step,) = ada.problems(f"{claim.run_id}/{STEP}")
    assert "is a checkpoint of full-rank training: it has no adapter" in at_step["message"]

    parts = {f"state-0000{rank}-of-00002.safetensors": b"of a rank" for rank in range(2)}
    commit_checkpoint(ada.db, claim, objects, closed_folder(tmp_path / "parts", parts), 20)
    (of_ranks,) = ada.problems(f"{claim.run_id}/checkpoints/step-00000020")
    assert "trained all weights: its checkpoints have no adapter" in of_ranks["message"]

    result = closed_folder(tmp_path / "result", {"transformer/model.safetensors": b"weights"})
    prefix = result_prefix(claim.tenant_id, claim.run_id, claim.fence)
    files = put_folder(objects, prefix, result)
    ada.db.ledger.commit_result(claim.run_id, claim.fence, files, step=20)
    (at_end,) = ada.problems(claim.run_id)
    assert "trained all weights: its result has no adapter" in at_end["message"]

    stopped = ada.http.submit(ada.request())
    ada.cancel(stopped)
    (problem,) = ada.problems(stopped)
    assert f"{stopped} is canceled and has no result" in problem["message"]


def test_hostile_files_are_refused_in_short_words_that_can_be_stored(ada: User, width: int) -> None:
    def one(name: str = "a", dtype: str = "F32", shape: Sequence[int] = (1,)) -> bytes:
        facts = {"dtype": dtype, "shape": shape, "data_offsets": [0, 4]}
        return packed(json.dumps({name: facts}).encode(), b"1234")

    for body, words in (
        (b"\x80\x04pickled weights", "is cut off in its header, or no safetensors file"),
        (packed(b" " * (3 << 20)), "has a header of 3145728 bytes, more than 2097152"),
        (packed(b"[" * 100_000), "is damaged: its header is nested too deep"),
        (one(name="a\0"), "whose name is longer than 512 characters, or cannot be shown: a\\x00"),
        (one(name="\ud800" * 1000), "or cannot be shown: \\ud800"),
        (one(dtype="F\0" * 1000), "a has the type F\\x00F"),
        (one(shape=[10**4000] * 400), "a has a shape that no tensor has"),
        (tensors_file({"a": (1, 1)}), "contains neither a LoKr nor a LoRA"),
        (lora_bytes(4, out_features=width, modules="9\0"), "says that it has 9\\x00"),
        (
            lora_bytes(4, out_features=width, lora_adapter_metadata='{"use_dora": true}'),
            "use_dora in its lora_adapter_metadata is not supported",
        ),
    ):
        (problem,) = ada.problems(ada.http.push({"old.safetensors": body}))
        assert (problem["pointer"], problem["code"]) == (AT, "bad_value")
        assert words in problem["message"]
        assert len(problem["message"]) < 400

    noted, odd = (
        ada.http.push({"a.safetensors": lora_bytes(4, out_features=width, global_step=each)})
        for each in ("500", "500\0")
    )
    for name, is_told in ((noted, True), (odd, False)):
        warnings = ada.http.get(f"/v1/runs/{ada.submit(name)}")["warnings"]
        assert any("count on from step 500" in each for each in warnings) == is_told


def test_a_batch_starts_from_a_bounded_number_of_adapters(
    ada: User, trained: tuple[str, dict[str, bytes]]
) -> None:
    names = [trained[0], *(f"ds_{number:032x}" for number in range(20))]
    sweep = {"method": "grid", "options": {"init_lora": names}}

    batch = ada.http.post("/v1/batches", {"base": ada.request(), "sweep": sweep})

    assert len(batch["runs"]) == 1
    *unknown, last = [each["errors"][0]["message"] for each in batch["refused"]]
    assert all("there is no ds_" in each for each in unknown)
    assert last == "init_lora: one batch starts from at most 20 adapters: submit several batches."


def test_another_tenants_are_not_there(
    ada: User, bob: User, trained: tuple[str, dict[str, bytes]], width: int
) -> None:
    run_id, _ = trained
    upload = ada.http.push({"old.safetensors": lora_bytes(4, out_features=width)})
    for name in (run_id, f"{run_id}/{STEP}", upload):
        unknown = name.replace(name.partition("/")[0], name[:3].rstrip("_") + "_" + "0" * 32)
        (theirs,), (nobodys,) = bob.problems(name), bob.problems(unknown)
        assert theirs["code"] == nobodys["code"] == "not_found"
        assert theirs["message"].replace(name, unknown) == nobodys["message"]


def test_what_a_queued_run_starts_from_is_not_deleted(
    ada: User, trained: tuple[str, dict[str, bytes]], width: int
) -> None:
    source, _ = trained
    upload = ada.http.push({"old.safetensors": lora_bytes(4, out_features=width, value=7.0)})
    for address, what in ((f"/v1/runs/{source}", source), (f"/v1/datasets/{upload}", upload)):
        new = ada.submit(what)
        refused = ada.http.http.delete(address)
        assert (refused.status_code, refused.json()["code"]) == (409, "still_needed")
        assert new in refused.json()["detail"]

        ada.cancel(new)
        assert ada.http.http.delete(address).status_code == 202
        assert ada.problems(what)[0]["code"] == "not_found"


def test_a_checkpoint_that_a_queued_run_starts_from_is_kept(
    ada: User, objects: ObjectStore, width: int, tmp_path: Path
) -> None:
    claim = ada.db.held(plan=plan(checkpoints=1))
    state = write(tmp_path / "state", lora_checkpoint(4, out_features=width))

    def steps() -> list[int]:
        page = ada.http.get(f"/v1/runs/{claim.run_id}/checkpoints")
        return [each["step"] for each in page["data"]]

    commit_checkpoint(ada.db, claim, objects, state, 10)
    new = ada.submit(f"{claim.run_id}/{STEP}")
    commit_checkpoint(ada.db, claim, objects, state, 20)
    commit_checkpoint(ada.db, claim, objects, state, 30)
    assert steps() == [30, 10]

    ada.cancel(new)
    assert steps() == [30]


def test_a_checkpoint_that_is_retired_at_this_moment_is_missed(
    ada: User, objects: ObjectStore, width: int, tmp_path: Path
) -> None:
    claim = ada.db.held(plan=plan(checkpoints=1))
    state = write(tmp_path / "state", lora_checkpoint(4, out_features=width))
    commit_checkpoint(ada.db, claim, objects, state, 10)
    body = ada.request(init_lora=f"{claim.run_id}/{STEP}")

    def is_waiting() -> bool:
        with ada.db.database.transaction() as conn:
            return bool(conn.execute(WAITS_FOR_A_LOCK).fetchone())

    with ThreadPoolExecutor(1) as pool:
        with ada.db.database.transaction() as conn:
            runs.lock(conn, ada.db.tenant_id, claim.run_id)  # as a newer checkpoint is committed
            submitted = pool.submit(ada.http.http.post, "/v1/runs", json=body)
            wait_until(is_waiting, what="the request")
            conn.execute("DELETE FROM checkpoints WHERE run_id = %s", (claim.run_id,))
        answer = submitted.result(10)

    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["errors"]
    assert "was deleted or replaced a moment ago" in problem["message"]


def test_a_checkpoint_is_named_while_a_clone_of_its_run_is_inserted(
    ada: User, objects: ObjectStore, width: int, tmp_path: Path
) -> None:
    claim = ada.db.held(plan=plan(checkpoints=1))
    state = write(tmp_path / "state", lora_checkpoint(4, out_features=width))
    commit_checkpoint(ada.db, claim, objects, state, 10)

    with ada.db.database.transaction() as conn:  # the lock of a foreign key: parent_run_id
        conn.execute("SELECT FROM runs WHERE run_id = %s FOR KEY SHARE", (claim.run_id,))
        new = ada.submit(f"{claim.run_id}/{STEP}")

    assert ada.start_of(new) is not None


def test_clones_and_sweeps_start_from_adapters(
    ada: User, trained: tuple[str, dict[str, bytes]]
) -> None:
    run_id, files = trained
    from_result = {"sha256": sha256(files[ADAPTER])}
    body = self_dashed(ada.request(init_lora=run_id))
    first = ada.http.submit(body)

    same = ada.http.post(f"/v1/runs/{first}:clone", {"changes": {"config": {"seed": 7}}})
    without = ada.http.post(f"/v1/runs/{first}:clone", {"changes": {"config": {"init_lora": None}}})
    options = {"init_lora": [None, run_id, f"{run_id}/{STEP}", "nowhere"]}
    batch = ada.http.post(
        "/v1/batches", {"base": ada.request(), "sweep": {"method": "grid", "options": options}}
    )

    assert ada.start_of(same["id"]) == from_result
    assert ada.start_of(without["id"]) is None
    starts = [ada.start_of(each["run_id"]) for each in batch["runs"]]
    assert starts == [None, from_result, {"sha256": sha256(files["state.safetensors"])}]
    (refused,) = batch["refused"]
    assert refused["row"] == 3
    assert "nowhere is no run and no dataset" in refused["errors"][0]["message"]


def self_dashed(request: Json) -> Json:
    """The request with ``--init_lora``, as SimpleTuner's files may write it."""
    config = dict(request["config"])
    config["--init_lora"] = config.pop("init_lora")
    return {**request, "config": config}


def test_what_was_deleted_while_the_run_was_planned_is_noticed(
    ada: User, trained: tuple[str, dict[str, bytes]], fleet: Fleet
) -> None:
    """The check inside the transaction: the row changes between planning and inserting."""
    run_id, _ = trained
    with ada.db.database.transaction() as conn:
        conn.execute(
            "CREATE FUNCTION hide_source() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" UPDATE runs SET deleted_at = clock_timestamp() WHERE run_id = '{run_id}';"
            " RETURN NEW; END $$"
        )
        conn.execute(
            "CREATE TRIGGER hide AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION hide_source()"
        )
    try:
        answer = ada.http.http.post(
            "/v1/runs",
            json=ada.request(init_lora=run_id),
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
    finally:
        with ada.db.database.transaction() as conn:
            conn.execute("DROP TRIGGER hide ON runs")
            conn.execute("DROP FUNCTION hide_source")

    assert answer.status_code == 422, answer.text
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        (AT, "not_found")
    ]
    assert ada.http.get(f"/v1/runs/{run_id}")["status"] == "succeeded"  # it was rolled back
