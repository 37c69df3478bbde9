"""Prefixes of S3 buckets whose service answers as others than Ceph RGW do."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.buckets import content, get, listing, source_of
from tests.support.file_server import OWN, File, FileServer
from tests.support.pictures import picture
from trainer_core.config.simpletuner.source_types import BucketSource
from trainer_core.sources.errors import SourceError, UnreachableError

pytestmark = pytest.mark.usefixtures("without_aws_keys", "without_bucket_waits")

KEYS = {"access_key": "AKIAEXAMPLE", "secret_key": "not-for-eyes"}


def pictures_at(endpoint: str, region: str | None = None) -> BucketSource:
    return BucketSource(bucket="pictures", prefix="", endpoint=endpoint, region=region, **KEYS)


def _refusal(status: int, code: str, **headers: str) -> File:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return File(body=body.encode(), status=status, headers=headers)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_refusal(403, "AccessDenied"), "may not be read with these credentials: they need s3:"),
        (_refusal(400, "ExpiredToken"), "the session's token has expired: get a new one"),
        (_refusal(403, "InvalidToken"), "does not accept the session's token"),
        (_refusal(403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        (_refusal(400, "Odd\x07Code"), "check aws_bucket_name, aws_data_prefix"),
        (File(status=302, headers={"Location": "http://127.0.0.1:1/"}), "answers 302"),
    ],
)
def test_a_refusal_names_the_option_and_is_asked_once(
    server: FileServer, tmp_path: Path, answer: File, words: str
) -> None:
    server.files["/pictures"] = answer
    place = pictures_at(server.url(""))
    with pytest.raises(SourceError, match=r"^photos: ") as caught:
        get(tmp_path, source_of(place), allowed=f"{OWN}/32")
    assert words in caught.value.message
    assert "not-for-eyes" not in caught.value.message
    assert len(server.requests) == 1


def test_a_bucket_of_another_region_is_told(server: FileServer, tmp_path: Path) -> None:
    headers = {"x-amz-bucket-region": "eu-north-1"}
    server.files["/pictures"] = _refusal(301, "PermanentRedirect", **headers)
    place = pictures_at(server.url(""), region="us-west-2")
    with pytest.raises(SourceError, match="is in eu-north-1: set aws_region_name"):
        get(tmp_path, source_of(place), allowed=f"{OWN}/32")


def test_no_address_is_reached_that_was_not_allowed(server: FileServer, tmp_path: Path) -> None:
    place = pictures_at(server.url(""))
    with pytest.raises(SourceError, match=r"no public address.*--allow-network") as caught:
        get(tmp_path, source_of(place), allowed="127.0.0.1/32")
    assert not caught.value.retryable
    assert server.requests == []
    away = pictures_at("http://nowhere.invalid")
    with pytest.raises(UnreachableError, match="its host is not known; give the same command"):
        get(tmp_path, source_of(away))


def test_a_service_that_may_be_listed_only_is_told_after_a_few_objects(
    server: FileServer, tmp_path: Path
) -> None:
    listed = "".join(
        f"<Contents><Key>{n}.png</Key><Size>9</Size><ETag>&quot;{n:032x}&quot;</ETag></Contents>"
        for n in range(200)
    )
    server.files["/pictures"] = File(
        body=f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>".encode()
    )
    server.files |= {f"/pictures/{n}.png": _refusal(403, "AccessDenied") for n in range(200)}
    place = pictures_at(server.url(""))
    with pytest.raises(SourceError, match="s3:GetObject"):
        get(tmp_path, source_of(place), allowed=f"{OWN}/32")
    assert len(server.requests) < 60
    server.files |= {f"/pictures/{n}.png": _refusal(400, "ExpiredToken") for n in range(200)}
    with pytest.raises(SourceError, match="token has expired"):
        get(tmp_path, source_of(place), allowed=f"{OWN}/32")
    assert not list(tmp_path.glob("sources/*/*/complete.json"))


def test_pages_of_a_listing_and_a_reply_that_is_cut(server: FileServer, tmp_path: Path) -> None:
    def page(key: str, more: str) -> File:
        tag = f"<ETag>&quot;{'0' * 31}{key[0]}&quot;</ETag>"
        one = f"<Contents><Key>{key}</Key><Size>{len(picture(1))}</Size>{tag}</Contents>"
        body = f"<ListBucketResult>{more}{one}</ListBucketResult>"
        return File(body=body.encode())

    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    last = page("2.png", "<IsTruncated>false</IsTruncated>")
    server.files["/pictures"] = replace(page("1.png", more), then=last)
    whole = picture(1)
    server.files["/pictures/1.png"] = File(body=whole)
    server.files["/pictures/2.png"] = File(body=whole[:40], declared_bytes=len(whole))
    place = pictures_at(server.url(""))
    source = source_of(place, wants_captions=False)
    with pytest.raises(UnreachableError, match=r"2\.png: .*goes on where it stopped"):
        get(tmp_path, source, allowed=f"{OWN}/32")
    assert server.requests.count("/pictures/2.png") == 4
    server.files["/pictures/2.png"] = File(body=whole)
    server.files["/pictures"] = replace(page("1.png", more), then=last)
    server.requests.clear()
    assert sorted(content(get(tmp_path, source, allowed=f"{OWN}/32"))) == ["1.png", "2.png"]
    assert server.requests == ["/pictures", "/pictures", "/pictures/2.png"]


def test_equal_captions_equal_names_and_a_listing_that_is_cut(
    server: FileServer, tmp_path: Path
) -> None:
    """Threads read the same text at once; and pictures that differ in their suffixes only."""
    text = b"a photo of a dog, " * 20
    names = ["0.jpg", *(f"{n}.png" for n in range(32))]
    files = {name: picture(number) for number, name in enumerate(names)}
    files |= {f"{n}.txt": text for n in range(32)}
    server.files |= {f"/pictures/{key}": File(body=body) for key, body in files.items()}
    page = listing(files, tag=lambda body: hashlib.md5(body).hexdigest())
    whole = File(body=page)
    server.files["/pictures"] = File(body=page[:99], declared_bytes=len(page), then=whole)
    place = pictures_at(server.url(""))

    found = get(tmp_path, source_of(place), allowed=f"{OWN}/32")

    assert found.notes == ()
    captions = [caption for _, caption in content(found).values()]
    assert captions == [text.decode()] * len(names)
    names_only = source_of(place, wants_captions=False)
    assert set(content(get(tmp_path, names_only, allowed=f"{OWN}/32"))) == set(names)
    server.requests.clear()
    get(tmp_path, names_only, allowed=f"{OWN}/32")
    assert server.requests == ["/pictures"]
    server.files["/pictures"] = File(body=page[:99], declared_bytes=len(page))
    again = get(tmp_path, names_only, allowed=f"{OWN}/32")
    assert set(content(again)) == set(names), "what was fetched is used"


def test_an_object_that_is_never_as_listed_is_left_out(server: FileServer, tmp_path: Path) -> None:
    """Such as of a service that lists compressed sizes, and gives what is unpacked."""
    page = listing({f"{n}.png": picture(n) for n in range(3)})
    server.files = {f"/pictures/{n}.png": File(body=picture(n)) for n in range(3)}
    server.files |= {"/pictures": File(body=page), "/pictures/1.png": File(body=b"short")}
    place = pictures_at(server.url(""))

    found = get(tmp_path, source_of(place, wants_captions=False), allowed=f"{OWN}/32")

    assert set(content(found)) == {"0.png", "2.png"}
    (note,) = found.notes
    assert (
        note == "photos: 1 row is left out: 1.png: the service lists it otherwise than it gives it"
    )
    assert server.requests.count("/pictures") == 2
