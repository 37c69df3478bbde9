"""Prefixes of S3 buckets become folders of pictures, from Ceph RGW."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.buckets import content, get, source_of
from tests.support.pictures import picture
from tests.support.proxy import FaultProxy
from tests.support.rgw import Bucket
from tests.support.stopping import Stopping
from trainer_core.config.simpletuner.source_types import BucketSource, CaptionColumns, CaptionTable
from trainer_core.process.control import StopRequestedError
from trainer_core.progress import SilentReporter
from trainer_core.sources.errors import SourceError, UnreachableError

pytestmark = pytest.mark.usefixtures("without_aws_keys", "without_bucket_waits")


class Objects:
    """The bucket as its owner has it."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._client = bucket.client()

    def put(self, files: Mapping[str, bytes]) -> None:
        for key, body in files.items():
            self._client.put_object(Bucket=self.bucket.name, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.bucket.name, Key=key)


@pytest.fixture
def objects(rgw_bucket: Bucket) -> Objects:
    return Objects(rgw_bucket)


def place_of(bucket: Bucket, prefix: str = "cats/", **keys: Any) -> BucketSource:
    own = {"access_key": bucket.access_key, "secret_key": bucket.secret_key}
    return BucketSource(
        bucket=bucket.name,
        prefix=prefix,
        **{"endpoint": bucket.endpoint, "region": None, **own, **keys},
    )


class Hooked(SilentReporter):
    """Calls a function at the first line that is logged: before the first object is fetched."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def log(self, text: str) -> None:
        if self._call is not None:
            self._call()
            self._call = None


def gets(proxy: FaultProxy, bucket: Bucket) -> list[str]:
    """The keys that were read, without listings."""
    start = f"/{bucket.name}/"
    return [path.removeprefix(start) for method, path in proxy.requests if path.startswith(start)]


def test_a_folder_of_a_bucket_with_every_level_and_caption(
    objects: Objects, tmp_path: Path
) -> None:
    jpeg = picture(1, kind="JPEG")
    objects.put(
        {
            "cats/a black cat.jpg": jpeg,
            "cats/a black cat.txt": b"one  cat\r\n\r\ntwo\n",
            "cats/in/deep/2.PNG": picture(2),
            "cats/in/deep/2.txt": b"\xef\xbb\xbfdeep",
            "cats/in/2.png": picture(3),
            "cats/in/2.jpg": picture(4, kind="JPEG"),
            "cats/in/2.txt": b"of both",
            "cats/none.png": picture(5),
            "cats/cut.png": picture(6)[:90],
            "cats/latin.png": picture(7),
            "cats/latin.txt": "\xe9t\xe9".encode("latin-1"),
            "cats/in/": b"",
            "cats/.hidden/x.png": picture(8),
            "cats/list.zip": b"PK",
            "cats2/other.png": picture(9),
        }
    )

    found = get(tmp_path, source_of(place_of(objects.bucket)))

    one = content(found)
    assert len(one) == 5
    assert one["a black cat.jpg"] == (jpeg, "one  cat\n\ntwo\n")
    assert one["in/deep/2.png"] == (picture(2), "deep")
    assert one["none.png"] == (picture(5), "")
    assert {one[name] for name in one if name.startswith("in/2")} == {
        (picture(3), "of both"),
        (picture(4, kind="JPEG"), "of both"),
    }
    first, second = found.notes
    assert first.startswith("photos: 2 rows are left out: ")
    assert "cut.png: the picture is damaged" in first
    assert "latin.txt: not UTF-8 text" in first
    assert second == "photos: 1 other object not fetched: list.zip"


def test_what_is_the_same_is_not_read_again(
    rgw_bucket: Bucket, rgw_proxy: FaultProxy, tmp_path: Path
) -> None:
    objects = Objects(rgw_bucket)
    objects.put({f"cats/{n}.png": picture(n) for n in range(5)})
    source = source_of(place_of(rgw_bucket.at(rgw_proxy.port)), wants_captions=False)
    found = get(tmp_path, source)
    asked = len(gets(rgw_proxy, rgw_bucket))
    assert asked == len(content(found)) == 5
    assert get(tmp_path, source) == found
    objects.put({"cats/new.png": picture(8), "cats/1.png": picture(9)})
    objects.delete("cats/2.png")

    newer = get(tmp_path, source)

    assert sorted(gets(rgw_proxy, rgw_bucket)[asked:]) == ["cats/1.png", "cats/new.png"]
    assert sorted(content(newer)) == ["0.png", "1.png", "3.png", "4.png", "new.png"]
    assert (newer.folder / "0.png").samefile(found.folder / "0.png")
    assert content(found)["1.png"][0] == picture(1)


@pytest.mark.deep
def test_more_objects_than_a_page_of_the_service(objects: Objects, tmp_path: Path) -> None:
    objects.put({f"cats/{n:04d}.png": picture(n % 200) for n in range(1003)})
    found = get(tmp_path, source_of(place_of(objects.bucket), wants_captions=False))
    assert {name: body for name, (body, _) in content(found).items()} == {
        f"{n:04d}.png": picture(n % 200) for n in range(1003)
    }


def test_a_changed_caption_and_a_new_name_fetch_no_picture(
    rgw_bucket: Bucket, rgw_proxy: FaultProxy, tmp_path: Path
) -> None:
    objects = Objects(rgw_bucket)
    for n in range(3):
        objects.put({f"cats/{n}.png": picture(n), f"cats/{n}.txt": b"number %d" % n})
    source = source_of(place_of(rgw_bucket.at(rgw_proxy.port)))
    get(tmp_path, source)
    asked = len(gets(rgw_proxy, rgw_bucket))
    objects.put({"cats/1.txt": b"better", "cats/moved.png": picture(2), "cats/moved.txt": b"2"})
    objects.delete("cats/2.png")

    found = get(tmp_path, source)

    assert sorted(gets(rgw_proxy, rgw_bucket)[asked:]) == ["cats/1.txt", "cats/moved.txt"]
    assert content(found) == {
        "0.png": (picture(0), "number 0"),
        "1.png": (picture(1), "better"),
        "moved.png": (picture(2), "2"),
    }


def test_an_object_that_changes_during_the_fetch_is_listed_again(
    objects: Objects, tmp_path: Path
) -> None:
    objects.put({"cats/a.png": picture(1), "cats/b.png": picture(2), "cats/gone.png": picture(3)})

    def change() -> None:
        objects.put({"cats/a.png": picture(4)})
        objects.delete("cats/gone.png")

    found = get(tmp_path, source_of(place_of(objects.bucket)), Hooked(change))

    assert {name: body for name, (body, _) in content(found).items()} == {
        "a.png": picture(4),
        "b.png": picture(2),
    }
    assert found.notes == ()


def test_an_interrupted_fetch_goes_on(
    rgw_bucket: Bucket, rgw_proxy: FaultProxy, tmp_path: Path
) -> None:
    Objects(rgw_bucket).put({f"cats/{n}.png": picture(n) for n in range(60)})
    source = source_of(place_of(rgw_bucket.at(rgw_proxy.port)), wants_captions=False)
    with pytest.raises(StopRequestedError):
        get(tmp_path, source, Stopping(at=50))
    (folder,) = tmp_path.glob("sources/*/*/files")
    half = list(folder.glob("*.png"))
    assert 1 <= len(half) < 60
    (folder.parent / "drafts" / "x.part").write_bytes(b"half")  # as a kill leaves it
    asked = len(gets(rgw_proxy, rgw_bucket))

    found = get(tmp_path, source)

    assert {body for body, _ in content(found).values()} == {picture(n) for n in range(60)}
    assert len(gets(rgw_proxy, rgw_bucket)) - asked <= 60 - len(half) + 8
    assert not (folder.parent / "drafts").exists()


def test_what_was_fetched_is_used_while_the_service_is_away(
    rgw_bucket: Bucket, rgw_proxy: FaultProxy, tmp_path: Path
) -> None:
    Objects(rgw_bucket).put({"cats/1.png": picture(1)})
    source = source_of(place_of(rgw_bucket.at(rgw_proxy.port)))
    found = get(tmp_path, source)
    rgw_proxy.set("503")
    assert get(tmp_path, source) == found
    with pytest.raises(UnreachableError, match="answers SlowDown for bucket"):
        get(tmp_path / "new", source)


def test_captions_of_a_table_in_the_bucket_and_on_this_machine(
    objects: Objects, tmp_path: Path
) -> None:
    rows = [{"id": "1", "text": "one"}, {"id": "in/2", "text": ["a", "b"]}]
    files = {"cats/1.png": picture(1), "cats/in/2.png": picture(2), "cats/my_cat.png": picture(3)}
    objects.put({**files, "cats/tables/t.json": json.dumps(rows).encode()})
    table = CaptionTable(
        path="tables/t.json",
        filename_column="id",
        captions=CaptionColumns(columns=("text",)),
        has_suffixes=False,
    )
    source = source_of(place_of(objects.bucket), table=table)

    found = get(tmp_path, source)

    assert {name: text for name, (_, text) in content(found).items()} == {
        "1.png": "one\n",
        "in/2.png": "a\nb\n",
        "my_cat.png": "my cat\n",
    }
    assert found.notes == (
        "photos: 1 picture not in t.json have their names as captions: my_cat.png",
    )
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/t.json").write_text(json.dumps([{"id": "1", "text": "mine"}]))
    assert content(get(tmp_path, source))["1.png"][1] == "mine\n"
    (tmp_path / "tables/t.json").unlink()
    objects.delete("cats/tables/t.json")
    with pytest.raises(SourceError, match=r"names tables/t.json, which is in none of .* no object"):
        get(tmp_path, source)


def test_names_stay_captions_and_only_some_are_taken(objects: Objects, tmp_path: Path) -> None:
    long = "a cat on a roof, " * 9 + "at night"
    objects.put(
        {
            f"cats/{long}.png": picture(1),
            "cats/z.jpg": picture(2, kind="JPEG"),
            "cats/z.png": picture(3),
            "cats/z.txt": b"not read",
        }
    )
    source = source_of(place_of(objects.bucket), wants_captions=False)
    found = get(tmp_path, source)
    assert sorted(content(found)) == [f"{long}.png", "z.jpg", "z.png"]
    assert found.notes == (
        "photos: 1 text file not fetched, because caption_strategy is not textfile",
    )
    some = get(tmp_path, source_of(place_of(objects.bucket), wants_captions=False, max_rows=1))
    assert list(content(some)) == [f"{long}.png"]
    assert some.notes[0] == "photos: the first 1 of 3 rows are taken, as source_max_rows asks"
    small = source_of(place_of(objects.bucket), wants_captions=False, max_file_bytes=20)
    with pytest.raises(SourceError, match="more than source_max_file_mb allows"):
        get(tmp_path, small)


def test_keys_of_the_machine_are_taken_where_that_is_allowed(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.put({"cats/1.png": picture(1)})
    for name, value in objects.bucket.env.items():
        monkeypatch.setenv(name, value)
    source = source_of(place_of(objects.bucket, access_key=None, secret_key=None))
    assert len(content(get(tmp_path, source))) == 1
    with pytest.raises(SourceError, match="may not be read without credentials: set aws_access"):
        get(tmp_path / "b", source, takes_own_keys=False)
    wrong = source_of(place_of(objects.bucket, secret_key="not-for-eyes"))
    with pytest.raises(SourceError, match="check aws_secret_access_key") as caught:
        get(tmp_path / "c", wrong)
    assert "not-for-eyes" not in str(caught.value)
    nobody = source_of(place_of(objects.bucket, access_key="AKIANOBODY"))
    with pytest.raises(SourceError, match="does not know the access key: check aws_access_key_id"):
        get(tmp_path / "d", nobody)
    absent = source_of(BucketSource(**{**_facts(place_of(objects.bucket)), "bucket": "absent-one"}))
    with pytest.raises(SourceError, match="has no bucket absent-one: check aws_bucket_name"):
        get(tmp_path / "e", absent)
    empty = source_of(place_of(objects.bucket, "dogs/"))
    with pytest.raises(SourceError, match=r"has no picture below dogs/ \(aws_data_prefix\)"):
        get(tmp_path / "f", empty)
    assert "not-for-eyes" not in repr(wrong)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or objects.bucket.secret_key.encode() not in file.read_bytes()


def _facts(place: BucketSource) -> dict[str, Any]:
    return {name: getattr(place, name) for name in BucketSource.__dataclass_fields__}
