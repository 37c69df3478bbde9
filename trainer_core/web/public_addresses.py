"""Which addresses belong to the public internet: those of others are no business of a tenant's.

Sources: the IANA special-purpose address registries for IPv4 and IPv6.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# What Python's ``is_global`` lets through.
_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(each)
    for each in (
        "192.0.0.0/24",  # protocol assignments, and the metadata of a cloud
        "192.88.99.0/24",  # relays to IPv6
        "168.63.129.16/32",  # the host of a virtual machine in a cloud
        "224.0.0.0/4",  # multicast
    )
)
_PUBLIC_6: Final = IPv6Network("2000::/3")
# Some of them hold an address of IPv4, which may be any.
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(each)
    for each in (
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Whether it is an address of one machine on the public internet.

    One of IPv4 that is written as one of IPv6 (``::ffff:8.8.8.8``, ``64:ff9b::808:808``) is not.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in each for each in _NOT_PUBLIC_4)
    return (
        address in _PUBLIC_6
        and address.is_global
        and not any(address in each for each in _NOT_PUBLIC_6)
    )


def may_be_reached(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is public, or in one of the networks that the operator allows."""
    return is_public(address) or is_allowed(address, allowed)


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is in one of these networks."""
    return any(address in each for each in allowed if each.version == address.version)
