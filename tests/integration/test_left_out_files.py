"""Pictures and captions that cannot be used are left out of a dataset, as of a local run."""

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.cache_builder.verify import Verifier
from services.domain.errors import Problem
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import datasets, verification
from services.store.verification import MAX_LEFT_OUT_SHOWN, MAX_PROBLEMS
from tests.support.datasets import (
    CountingStore,
    based_on,
    completed,
    files_in,
    seen,
    upload,
    verified,
)
from tests.support.pictures import picture
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier
from trainer_core.config.plan import Backend, plain_backend
from trainer_core.data.images import inspect_image
from trainer_core.data.listed import items_of
from trainer_core.data.reading import listed, sort_out
from trainer_core.errors import BadCaptionError, BadImageError

GOOD = {f"{n}.png": picture(n) for n in range(6)} | {f"{n}.txt": b"a square" for n in range(6)}
BROKEN = {
    "cut.jpg": picture(7, kind="JPEG", size=(640, 480))[:-900],
    "cut.txt": b"a square",
    "page.png": b"<html><body>not found</body></html>",
    "page.txt": b"a square",
    "latin.png": picture(8),
    "latin.txt": "ein Viereck in Gr\xfcn".encode("latin-1"),
}


def backend(strategy: str = "textfile") -> Backend:
    return plain_backend("photos", role="train", caption_strategy="textfile").model_copy(
        update={"caption_strategy": strategy}
    )


def left_out_of(tenant: TenantDatabase, dataset_id: str) -> dict[str, str]:
    """Path → code of each file that cannot be used, two a page."""
    found: dict[str, str] = {}
    after = None
    with tenant.database.transaction() as conn:
        while page := datasets.files_page(
            conn, tenant.tenant_id, dataset_id, 2, after, left_out=True
        ):
            found |= {each.path: each.left_out["code"] for each in page if each.left_out}
            after = page[-1].path
    return found


def local_answer(folder: Path, files: Mapping[str, bytes]) -> tuple[set[str], list[str] | str]:
    """The images that a local run uses, and its warnings, or its error."""
    folder.mkdir()
    for name, body in files.items():
        (folder / name).write_bytes(body)

    class Facts:
        def __init__(self, path: Path, name: str) -> None:
            found = inspect_image(path, name=name)
            self.width_px, self.height_px, self.has_more = found.width_px, found.height_px, False
            self.sha256, self.lit = hashlib.sha256(path.read_bytes()).hexdigest(), None

    of_backend = listed(backend(), folder, ())
    readings = [of_backend.read(path, Facts) for path in of_backend.files.images]
    good, broken = sort_out(of_backend, readings)
    assert broken is not None
    used = {each.item.path for each in good}
    return used, broken.message() if broken.ends_run else broken.warnings()


def test_broken_files_are_left_out_and_named_as_in_a_local_run(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier, tmp_path: Path
) -> None:
    files = GOOD | BROKEN
    upload(ada, counting_store, files)

    dataset_id = completed(ada, files)
    ready = verified(verifier, ada, dataset_id)

    assert (ready.status, ready.errors, ready.verified_files) == ("ready", [], len(files))
    codes = {"cut.jpg": "bad_image", "latin.txt": "bad_caption", "page.png": "bad_image"}
    assert left_out_of(ada, dataset_id) == codes
    assert ready.num_left_out == 3
    assert {each["pointer"]: each["code"] for each in ready.left_out} == codes
    found = items_of(backend(), files_in(ada, dataset_id))
    used, warnings = local_answer(tmp_path / "local", files)
    assert {item.path for item in found.items} == used == {f"{n}.png" for n in range(6)}
    assert found.notes == warnings
    # A caption that nobody reads leaves no picture out.
    by_name = items_of(backend("filename"), files_in(ada, dataset_id))
    assert {item.path for item in by_name.items} == used | {"latin.png"}


def test_more_than_half_is_refused_with_each_reason(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = {"a.png": picture(1), "b.png": picture(2), "c.png": b"", "d.png": b"x", "e.png": b"y"}
    files = {path: body or b"z" for path, body in files.items()}
    upload(ada, counting_store, files)

    half = verified(verifier, ada, completed(ada, {k: files[k] for k in list(files)[:4]}))
    rejected = verified(verifier, ada, completed(ada, files))

    assert (half.status, half.num_left_out) == ("ready", 2)
    assert rejected.status == "rejected"
    assert [(each["pointer"], each["code"]) for each in rejected.errors] == [
        ("c.png", "bad_image"),
        ("d.png", "bad_image"),
        ("e.png", "bad_image"),
        ("", "mostly_unusable"),
    ]
    assert "3 of 5 images cannot be used" in rejected.errors[-1]["message"]


@pytest.mark.parametrize(("bad", "ends"), [(2, False), (3, True)])
def test_captions_that_are_mostly_broken_end_the_runs_that_read_them(
    ada: TenantDatabase,
    counting_store: CountingStore,
    verifier: Verifier,
    tmp_path: Path,
    *,
    bad: int,
    ends: bool,
) -> None:
    files = {f"{n}.png": picture(n) for n in range(4)}
    files |= {f"{n}.txt": b"a\0b" if n < bad else b"a square" for n in range(4)}
    upload(ada, counting_store, files)
    dataset_id = completed(ada, files)
    assert verified(verifier, ada, dataset_id).status == "ready"
    rows = files_in(ada, dataset_id)
    used, said = local_answer(tmp_path / "local", files)

    assert len(items_of(backend("filename"), rows).items) == 4
    if not ends:
        found = items_of(backend(), rows)
        assert ({item.path for item in found.items}, found.notes) == (used, said)
        return
    with pytest.raises(BadCaptionError) as raised:
        items_of(backend(), rows)
    assert raised.value.message == str(said).replace(str(tmp_path / "local"), "its dataset")


def test_masks_that_are_mostly_black_end_a_run_as_a_local_one() -> None:
    masks = plain_backend("m", role="mask", caption_strategy="filename").model_copy(
        update={"mask_kind": "mask"}
    )
    row = {"media": "image", "size_bytes": 1, "sha256": "0" * 64, "width_px": 64, "height_px": 64}
    rows = [
        datasets.DatasetFile(
            **row, path=f"{n}.png", lit="nothing" if n else "red", text=None, left_out=None
        )
        for n in range(3)
    ]
    assert len(items_of(masks, rows[:2]).items) == 1
    with pytest.raises(BadImageError, match="m: 2 files in its dataset cannot be used"):
        items_of(masks, rows)


def test_what_is_left_out_is_known_in_a_version_and_in_no_other_dataset(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = GOOD | BROKEN
    upload(ada, counting_store, files)
    first = completed(ada, files)
    verified(verifier, ada, first)
    counting_store.read.clear()

    version = verified(verifier, ada, based_on(ada, first, {}))
    assert (version.status, version.num_left_out, dict(counting_store.read)) == ("ready", 3, {})
    assert version.left_out == seen(ada, first).left_out
    cleaned = verified(
        verifier, ada, based_on(ada, first, {}, "cut.jpg", "page.png", "latin.png", "latin.txt")
    )
    assert (cleaned.status, cleaned.num_left_out) == ("ready", 0)
    # Under another name the message would name the wrong file: it is looked at again.
    renamed = completed(ada, {f"in/{path}": body for path, body in files.items()})
    also = verified(verifier, ada, renamed)
    assert {each["pointer"] for each in also.left_out} == {
        *("in/cut.jpg", "in/latin.txt", "in/page.png")
    }
    assert all(each["message"].startswith("in/") for each in also.left_out)
    bad = {hashlib.sha256(BROKEN[path]).hexdigest() for path in left_out_of(ada, first)}
    assert counting_store.read == {upload_key(ada.tenant_id, sha256): 1 for sha256 in bad}


def test_a_repaired_file_is_used_again(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = GOOD | BROKEN
    upload(ada, counting_store, files)
    first = completed(ada, files)
    verified(verifier, ada, first)
    repaired = {"page.png": picture(9)}
    upload(ada, counting_store, repaired)

    version = based_on(ada, first, repaired)

    assert verified(verifier, ada, version).num_left_out == 2
    assert "page.png" in {i.path for i in items_of(backend(), files_in(ada, version)).items}


def test_a_file_that_was_not_uploaded_still_rejects_and_all_is_told_together(
    ada: TenantDatabase, counting_store: CountingStore, verifier: Verifier
) -> None:
    files = GOOD | BROKEN
    upload(ada, counting_store, files)
    rejected = verified(verifier, ada, completed(ada, files | {"late.png": picture(70)}))
    assert rejected.status == "rejected"
    assert {each["pointer"]: each["code"] for each in rejected.errors} == {
        "late.png": "not_uploaded",
        "cut.jpg": "bad_image",
        "latin.txt": "bad_caption",
        "page.png": "bad_image",
    }


def test_few_of_many_are_shown(ada: TenantDatabase) -> None:
    paths = [f"{n:05d}.png" for n in range(3 * MAX_PROBLEMS)]
    dataset_id = completed(ada, {path: path.encode() for path in paths})
    with ada.database.transaction() as conn:
        work = verification.take(conn, ada.tenant_id, dataset_id)
        assert work is not None
        while batch := list(verification.next_files(conn, work, rules=1))[:50]:
            wrong = [Problem(pointer=f.path, code="bad_image", message=f.path) for f in batch]
            advanced = verification.record(conn, work, batch, [], [], rules=1, left_out=wrong)
            assert advanced is not None
            assert not advanced.has_too_many_problems
            work = advanced
        verification.finish(conn, work)

    found = seen(ada, dataset_id)
    assert found.num_left_out == len(paths)
    assert [each["pointer"] for each in found.left_out] == paths[:MAX_LEFT_OUT_SHOWN]
    assert len(found.errors) == MAX_PROBLEMS + 1  # and that they are too many
    assert list(left_out_of(ada, dataset_id)) == paths


FRAGILE = """
import os
import sys
from trainer_core.__main__ import main
from trainer_core.commands import inspect

whole = inspect.inspect_pictures

def fragile(request):
    if any("crash" in name for name in request.inputs):
        os._exit(9)
    return whole(request)

inspect.inspect_pictures = fragile
sys.exit(main(sys.argv[1:]))
"""


def test_pictures_that_crash_the_decoder_are_left_out_within_a_limit(
    ada: TenantDatabase,
    counting_store: CountingStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "MAX_DECODING_LIMIT", 2)
    (tmp_path / "fragile.py").write_text(FRAGILE)
    files = GOOD | {f"crash{n}.png": picture(20 + n) for n in range(3)}
    upload(ada, counting_store, files)
    command = (sys.executable, str(tmp_path / "fragile.py"), "inspect")
    with (
        RequestChild(command, env=os.environ) as inspector,
        open_verifier(ada.database, counting_store, inspector, tmp_path) as verifier,
    ):
        of_two = {path: body for path, body in files.items() if path != "crash2.png"}
        ready = verified(verifier, ada, completed(ada, of_two))
        rejected = verified(verifier, ada, completed(ada, files))

    assert (ready.status, ready.verified_files) == ("ready", len(of_two))
    assert [(each["pointer"], each["code"]) for each in ready.left_out] == [
        ("crash0.png", "decoding_limit"),
        ("crash1.png", "decoding_limit"),
    ]
    assert rejected.status == "rejected"
    assert {each["pointer"] for each in rejected.errors if each["code"] == "decoding_limit"} == {
        *("crash0.png", "crash1.png", "crash2.png")
    }
