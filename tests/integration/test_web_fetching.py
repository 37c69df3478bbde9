"""Downloads from strangers' addresses: what is fetched, what is refused, and that limits hold."""

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.file_server import INSIDE, OWN, File, FileServer
from trainer_core.web.fetching import Fetched, FetchError, FetchLimits, fetch, shown_url

BODY = bytes(range(256)) * 40


def get(
    url: str, to: Path, *allowed: str, max_bytes: int = 1 << 20, timeout_s: float = 5
) -> Fetched:
    networks = [ipaddress.ip_network(each) for each in allowed or (f"{OWN}/32",)]
    return fetch(url, to, FetchLimits(max_bytes=max_bytes, timeout_s=timeout_s), allowed=networks)


def why(url: str, to: Path, *allowed: str, max_bytes: int = 1 << 20, timeout_s: float = 5) -> str:
    with pytest.raises(FetchError) as caught:
        get(url, to, *allowed, max_bytes=max_bytes, timeout_s=timeout_s)
    return caught.value.message


def test_a_file_comes_as_it_is_and_without_what_the_environment_knows(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.files["/a b/ü.png"] = File(body=b"never")
    server.files["/a%20b/%C3%BC.png"] = File(body=BODY, headers={"Content-Type": "image/PNG; x=1"})

    found = get(server.url("/a b/ü.png?key=1#part"), tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == BODY
    assert (found.size_bytes, found.content_type) == (len(BODY), "image/png")
    (headers,) = server.headers
    assert headers["Host"] == f"{OWN}:{server.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("bücher.test", "xn--bcher-kva.test"),
        ("BÜCHER.test", "xn--bcher-kva.test"),
        ("faß.test", "xn--fa-hia.test"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_a_host_that_is_no_ascii_is_looked_up_as_a_browser_does(
    server: FileServer, tmp_path: Path, resolves: Callable[..., list[str]], host: str, asked: str
) -> None:
    server.files["/%C3%BC.png"] = File(body=BODY)
    names = resolves([OWN])

    found = get(f"http://{host}:{server.port}/ü.png", tmp_path / "out")

    assert found.size_bytes == len(BODY)
    assert names == [asked]
    assert server.headers[0]["Host"] == f"{asked}:{server.port}"


def test_a_host_that_is_no_name_or_is_private_in_other_letters_is_refused(tmp_path: Path) -> None:
    assert "no address" in why("http://\u200d.test/", tmp_path / "out")
    assert "no public address" in why("http://１２７.0.0.1/", tmp_path / "out")  # noqa: RUF001 - full-width digits


def test_redirects_are_followed_a_few_times(server: FileServer, tmp_path: Path) -> None:
    server.files["/5"] = File(body=BODY)
    for n in range(5):
        server.files[f"/{n}"] = File(status=302, headers={"Location": f"/{n + 1}"})
    server.files["/first"] = File(status=308, headers={"Location": server.url("/0")})

    assert get(server.url("/0"), tmp_path / "out").url == server.url("/5")
    assert "more than 5 redirects" in why(server.url("/first"), tmp_path / "out")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://127.0.0.1:{port}/secret", "no public address"),
        ("http://localhost:{port}/secret", "no public address"),
        ("http://169.254.169.254/latest/meta-data", "no public address"),
        ("http://[::1]:{port}/secret", "no public address"),
        ("http://[::ffff:127.0.0.2]:{port}/secret", "no public address"),
        ("http://2130706433:{port}/", "no public address"),
        ("//127.0.0.1:{port}/secret", "no public address"),
        ("file:///etc/passwd", "begin with http"),
        ("ftp://127.0.0.2/a", "begin with http"),
        ("http://user:word@127.0.0.2:{port}/secret", "user name"),
        ("http://127.0.0.2:22/", "another protocol"),
        ("http://127.0.0.2:99999/", "no address"),
        ("http://[no/", "no address"),
        ("", "without an address"),
    ],
)
def test_a_redirect_to_another_network_or_protocol_is_refused(
    server: FileServer, tmp_path: Path, location: str, words: str
) -> None:
    with FileServer(INSIDE) as inside:
        inside.files["/secret"] = File(body=b"of the machine")
        server.files["/a.png"] = File(
            status=302, headers={"Location": location.format(port=inside.port)}
        )
        assert words in why(server.url("/a.png"), tmp_path / "out")
        assert inside.requests == []
    assert server.requests == ["/a.png"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "fd00::1", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_a_name_of_an_internal_address_is_not_connected_to(
    resolves: Callable[..., list[str]], tmp_path: Path, address: str
) -> None:
    resolves([address])
    assert "no public address" in why("http://inside.example/a.png", tmp_path / "out")
    assert "no public address" in why("https://inside.example/a.png", tmp_path / "out")


def test_a_name_that_changes_wins_nothing(
    server: FileServer, resolves: Callable[..., list[str]], tmp_path: Path
) -> None:
    with FileServer(INSIDE) as inside:
        asked = resolves([OWN], [INSIDE])
        server.files["/a"] = File(body=BODY)
        get(server.url("/a", host="moving.example"), tmp_path / "out")
        assert asked == ["moving.example"]
        assert "no public" in why(inside.url("/a", host="moving.example"), tmp_path / "out")
        assert inside.requests == []


@pytest.mark.parametrize("declared", [None, -1])
def test_a_file_that_is_too_large_is_given_up(
    server: FileServer, tmp_path: Path, declared: int | None
) -> None:
    server.files["/large"] = File(body=bytes(3 << 20), declared_bytes=declared)
    assert "larger than 1,048,576 bytes" in why(server.url("/large"), tmp_path / "out")
    out = tmp_path / "out"
    assert not out.exists() or out.stat().st_size <= 1 << 20


def test_no_more_than_was_declared_is_kept_and_less_is_no_file(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["/more"] = File(body=BODY, declared_bytes=100)
    assert get(server.url("/more"), tmp_path / "out").size_bytes == 100
    server.files["/less"] = File(body=BODY, declared_bytes=len(BODY) + 1)
    assert "broke" in why(server.url("/less"), tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "words", "may_pass"),
    [
        (File(status=404), "answers 404", False),
        (File(status=410), "answers 410", False),
        (File(status=429), "answers 429", True),
        (File(status=503), "answers 503", True),
        (File(status=204), "answers 204", False),
        (File(body=b""), "it is empty", False),
        (File(body=BODY, headers={"Content-Encoding": "gzip"}), "compressed (gzip)", False),
    ],
)
def test_an_answer_that_is_no_file_is_told(
    server: FileServer, tmp_path: Path, file: File, words: str, may_pass: bool
) -> None:
    server.files["/a.png"] = file
    with pytest.raises(FetchError) as caught:
        get(server.url("/a.png"), tmp_path / "out")
    assert words in caught.value.message
    assert caught.value.retryable is may_pass


def test_a_server_that_never_ends_is_given_up_in_time(server: FileServer, tmp_path: Path) -> None:
    server.files["/slow"] = File(body=BODY, is_held=True)
    assert "took too long" in why(server.url("/slow"), tmp_path / "out", timeout_s=0.4)


def test_a_host_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    with FileServer(OWN) as gone:
        url = gone.url("/a")
    with pytest.raises(FetchError) as caught:
        get(url, tmp_path / "out")
    assert caught.value.retryable


@pytest.mark.parametrize(
    "url", ["", "a.png", "/a.png", "file:///etc/passwd", "http://", "http:///a", "gopher://a/b"]
)
def test_what_is_no_address_of_the_web_is_told(tmp_path: Path, url: str) -> None:
    assert "begin with http" in why(url, tmp_path / "out")


def test_a_message_has_no_secret() -> None:
    url = "https://me:word@example.com/a.png?X-Amz-Signature=abc#x"
    assert shown_url(url) == "https://example.com/a.png"
    assert len(shown_url("https://example.com/" + "a" * 5000)) < 130
    assert "\n" not in shown_url("https://example.com/a\nb")
