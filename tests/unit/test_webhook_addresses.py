"""Which addresses of tenants are taken, and when what failed is sent again."""

from datetime import timedelta
from ipaddress import ip_address, ip_network

import pytest

from services.domain.webhooks import address_problem, new_signing_secret, pause_after
from trainer_core.web.public_addresses import is_public, may_be_reached

OWN = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.1.2", "10.0.0.1", "172.16.0.1"),
        *("172.31.255.255", "192.168.1.1", "169.254.169.254", "169.254.0.1", "100.64.0.1"),
        *("100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1"),
        *("203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::"),
        *("2001::1", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "fc00::1", "fd00:ec2::254"),
        *("fe80::1", "fec0::1", "ff02::1", "100::1", "5f00::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not may_be_reached(ip_address(address), OWN) or address.startswith("fd00")


def test_an_operator_allows_networks_of_his_own() -> None:
    assert may_be_reached(ip_address("10.1.2.3"), OWN)
    assert may_be_reached(ip_address("fd00::1"), OWN)
    assert not may_be_reached(ip_address("10.2.0.1"), OWN)
    assert not may_be_reached(ip_address("::ffff:10.1.2.3"), OWN)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hook?key=1",
        "https://example.com:443/",
        "https://example.com:8443/",
        "https://example.com:1024/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:8443/",
    ],
)
def test_addresses_that_are_taken(url: str) -> None:
    assert address_problem(url, ()) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com", "https://"),
        ("ftp://example.com", "https://"),
        ("//example.com", "https://"),
        ("example.com", "https://"),
        ("https:example.com", "no host"),
        ("https://", "no host"),
        ("https://exa%6dple.com/", "no host"),
        ("https://[fe80::1%25eth0]/", "no"),
        ("https://[::1", "no URL"),
        ("https://a:b@example.com/", "user name"),
        ("https://example.com@10.0.0.1/", "user name"),
        ("https://example.com/#top", "fragment"),
        ("https://example.com:80/", "port"),
        ("https://example.com:22/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "no URL"),
        ("https://127.0.0.1/", "public"),
        ("https://169.254.169.254/latest/meta-data", "public"),
        ("https://[::1]/", "public"),
        ("https://[::ffff:8.8.8.8]/", "public"),
        ("https://10.1.2.3/", "public"),
        ("https://exämple.com/", "printable"),
        ("https://example.com/a b", "printable"),
        ("https://example.com/\r\nX: y", "printable"),
        ("", "printable"),
        ("https://example.com/" + "a" * 2000, "printable"),
    ],
)
def test_addresses_that_are_refused(url: str, words: str) -> None:
    assert words in (address_problem(url, ()) or "")


def test_http_is_taken_where_the_operator_allows_networks() -> None:
    for url in ("http://10.1.2.3/", "http://example.com:80/", "https://10.1.2.3/"):
        assert address_problem(url, OWN) is None
    assert "public" in (address_problem("http://10.2.0.1/", OWN) or "")
    assert "port" in (address_problem("http://10.1.2.3:25/", OWN) or "")


def test_the_pauses_between_tries() -> None:
    hours = [5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24]
    for attempts, hour in enumerate(hours, start=1):
        pause = pause_after(attempts)
        assert pause is not None
        assert timedelta(hours=hour) <= pause <= timedelta(hours=hour) * 1.11
    assert pause_after(10) is None
    assert pause_after(10, timedelta(seconds=1)) is None
    assert sum(hours) > 3 * 24  # a webhook that never answers is disabled by its last try


def test_a_receiver_may_ask_for_a_longer_pause() -> None:
    assert pause_after(1, timedelta(hours=1)) == timedelta(hours=1)
    assert pause_after(1, timedelta(days=300)) == timedelta(hours=24)
    short = pause_after(3, timedelta(seconds=1))
    assert short is not None
    assert short >= timedelta(minutes=30)


def test_signing_secrets_are_as_the_standard_has_them() -> None:
    first, second = new_signing_secret(), new_signing_secret()
    assert first != second
    assert first.startswith("whsec_")
    assert len(first) == len("whsec_") + 44
