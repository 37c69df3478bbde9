"""Which new connections are accepted, and which old ones give way."""

from ipaddress import ip_network

import pytest

from services.api.http.connections import MOST_REFUSED, Connections
from services.api.http.heads import CLIENT_FULL, SERVER_FULL
from services.settings.env import Settings, SettingsError
from services.settings.http_limits import HttpLimits


class Line:
    is_dropped = False

    def drop(self) -> None:
        self.is_dropped = True


def test_the_one_that_waits_longest_gives_way() -> None:
    connections = Connections(HttpLimits(connections=3))
    first, second, third, fourth, fifth = lines = [Line() for _ in range(5)]
    for each in (first, second, third):
        assert connections.admit(each, "10.0.0.1") is None
    connections.is_busy(first)
    connections.is_busy(second)
    connections.is_waiting(second)  # answered: it waits anew, behind the third
    assert connections.admit(fourth, "10.0.0.1") is None
    assert connections.admit(fifth, "10.0.0.1") is None
    assert [each.is_dropped for each in lines] == [False, True, True, False, False]


def test_a_new_one_is_refused_where_all_are_busy() -> None:
    connections = Connections(HttpLimits(connections=2))
    busy = [Line(), Line()]
    for each in busy:
        connections.admit(each, "10.0.0.1")
        connections.is_busy(each)
    assert connections.admit(Line(), "10.0.0.2") is SERVER_FULL
    connections.remove(busy[0])
    assert connections.admit(Line(), "10.0.0.2") is None
    assert not any(each.is_dropped for each in busy)


@pytest.mark.parametrize(
    ("addresses", "accepted"),
    [
        (["10.0.0.1"] * 3, 2),
        (["10.0.0.1", "10.0.0.1", "10.0.0.2"], 3),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3"], 2),  # one network of 64 bits
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:1::"], 3),
        (["::ffff:10.0.0.1", "::ffff:10.0.0.2", "::ffff:10.0.0.3"], 3),
        (["192.168.0.9"] * 3, 3),  # a trusted proxy has many clients
    ],
)
def test_an_address_has_a_bound_of_its_own(addresses: list[str], accepted: int) -> None:
    limits = HttpLimits(connections_per_client=2, trusted_proxies=(ip_network("192.168.0.0/24"),))
    connections = Connections(limits)
    found = [connections.admit(Line(), address) for address in addresses]
    assert found == [None] * accepted + [CLIENT_FULL] * (len(addresses) - accepted)


def test_a_closed_connection_makes_room_for_its_address_once() -> None:
    connections = Connections(HttpLimits(connections_per_client=1))
    line = Line()
    assert connections.admit(line, "10.0.0.1") is None
    connections.remove(line)
    connections.remove(line)
    assert connections.admit(Line(), "10.0.0.1") is None
    assert connections.admit(Line(), "10.0.0.1") is CLIENT_FULL


def test_refused_connections_are_few() -> None:
    connections = Connections(HttpLimits(connections_per_client=1))
    assert connections.admit(Line(), "10.0.0.1") is None
    refused = [Line() for _ in range(MOST_REFUSED + 2)]
    for each in refused:
        assert connections.admit(each, "10.0.0.1") is CLIENT_FULL
    assert [each.is_dropped for each in refused[:3]] == [True, True, False]
    connections.remove(refused[2])
    assert connections.admit(Line(), "10.0.0.1") is CLIENT_FULL
    assert not refused[3].is_dropped


def test_trusted_proxies_are_addresses_and_networks() -> None:
    settings = Settings.from_env({"REVERIE_TRUSTED_PROXIES": "10.0.0.0/8, fd00::1"})
    assert settings.http.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    with pytest.raises(SettingsError, match="REVERIE_TRUSTED_PROXIES"):
        Settings.from_env({"REVERIE_TRUSTED_PROXIES": "10.0.0.1/8"})
