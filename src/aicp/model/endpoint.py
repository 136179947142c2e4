"""Where an agent lives: its URL taken apart, and what kind of address that leads to. Pure."""

import re
from collections.abc import Iterator
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import SplitResult, urlsplit

import msgspec

from aicp.errors import Fault, InvalidAgent

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

URL_CHARS_MAX = 2048
HOST_CHARS_MAX = 253
PORT_MAX = 65_535
FOREIGN_PORTS = frozenset(
    {20, 21, 22, 23, 25, 53, 79, 110, 111, 119, 135, 139, 143, 179, 389, 465, 512, 513, 514, 515, 587, 636, 993, 995}
)
"""Where mail, shells, files, names and directories listen, which may take parts of a request for commands.

Browsers refuse them as well; theirs above 1023 are left out, for there agents choose their ports.
Source: https://fetch.spec.whatwg.org/#bad-port
"""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[!-~]+")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# A host whose last label is a number is an IPv4 address to the C library, in whatever spelling.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r":[0-9]{1,5}")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")
_NOT_IPV6 = "what stands in [] must be an IPv6 address"
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?=/|$)", re.IGNORECASE)


class Endpoint(msgspec.Struct, frozen=True):
    """The base URL of an agent, in one spelling only.

    Attributes:
        scheme: `http` or `https`.
        host: A name in lower case, or an IP address in its canonical form, IPv6 without brackets.
        port: 1 to 65535, never left out.
        path: Empty, or starting with `/` and not ending with one.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str, place: str = "/endpoint") -> "Endpoint":
        """Take a URL apart; whatever two programs could read in two ways is refused.

        Args:
            url: As somebody wrote it, at most 2048 characters.
            place: Where it stood, for the fault.

        Raises:
            InvalidAgent: One fault, which does not repeat the URL: it may hold a password.
        """
        try:
            return _split(url)
        except ValueError as error:
            raise InvalidAgent([Fault(place, str(error))]) from None

    @property
    def url(self) -> str:
        """The URL, re-serialised; a default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def address(self) -> IPAddress | None:
        """The address the host is, None when it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


class AddressClass(StrEnum):
    """What an address is for. Clouds tell secrets at the METADATA ones; RESERVED leads nowhere, or to this machine."""

    LOOPBACK = "LOOPBACK"
    PRIVATE = "PRIVATE"
    LINK_LOCAL = "LINK_LOCAL"
    METADATA = "METADATA"
    MULTICAST = "MULTICAST"
    RESERVED = "RESERVED"
    PUBLIC = "PUBLIC"


def address_class(address: IPAddress) -> AddressClass:
    """The class of an address; one that wraps an IPv4 address has the class of the wrapped one.

    Unwrapped are IPv4-mapped, -translated and -compatible addresses, NAT64, 6to4, ISATAP and Teredo (both of its
    addresses: the class is PUBLIC only if both are).
    """
    classes = [_plain_class(reached) for reached in _reached(address)]
    return next((found for found in classes if found is not AddressClass.PUBLIC), AddressClass.PUBLIC)


def is_loopback_host(host: str) -> bool:
    """True for `localhost` and the loopback addresses; a name is not looked up."""
    if host == "localhost":
        return True
    try:
        return address_class(ip_address(host)) is AddressClass.LOOPBACK
    except ValueError:
        return False


def leads_to_loopback(url: str) -> bool:
    """True for a URL whose host is this machine itself, by name or address."""
    try:
        return is_loopback_host(urlsplit(url).hostname or "")
    except ValueError:
        return False


def private_network(text: str) -> IPNetwork:
    """A network that agents may be allowed to live in: `10.0.0.0/8`, or one address.

    Raises:
        ValueError: It is none, or holds no private address, so that allowing it would mean nothing; the end of a
            sentence.
    """
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"'{text.strip()[:80]}' is no network: write it like 10.0.0.0/8, or as an address") from None
    if "/" in text and ip_address(text.strip().partition("/")[0]) != network.network_address:
        raise ValueError(f"'{text.strip()}' has digits behind its prefix: write {network}")
    if not any(network.overlaps(private) for private in _PRIVATE if private.version == network.version):
        raise ValueError(f"'{network}' holds no private address, and no setting allows others")
    return network


class AddressPolicy(msgspec.Struct, frozen=True):
    """Which addresses agents may have. Metadata, link-local, multicast and reserved ones never.

    Attributes:
        loopback: True when agents may live on this machine: the server itself is bound to loopback.
        allow_networks: The private networks agents may live in.
    """

    loopback: bool = False
    allow_networks: tuple[IPNetwork, ...] = ()

    def allows(self, address: IPAddress) -> bool:
        """True when an agent may be called at this address."""
        return all(self._allows_plain(reached) for reached in _reached(address))

    def refusal(self, address: IPAddress) -> str:
        """Why `allows` says no, as the end of a sentence."""
        return f"{address} {_REFUSALS[address_class(address)]}"

    def _allows_plain(self, address: IPAddress) -> bool:
        match _plain_class(address):
            case AddressClass.PUBLIC:
                return True
            case AddressClass.LOOPBACK:
                return self.loopback
            case AddressClass.PRIVATE:
                return any(address in network for network in self.allow_networks)
            case _:
                return False


_REFUSALS = {
    AddressClass.LOOPBACK: "is this machine itself, which is for servers bound to loopback",
    AddressClass.PRIVATE: (
        "is a private address outside `allow_networks`, which AICP_ALLOW_NETWORKS or `aicp serve --allow-network` sets"
    ),
    AddressClass.LINK_LOCAL: "is a link-local address, which no agent may have",
    AddressClass.METADATA: "is a cloud's metadata address, which no agent may have",
    AddressClass.MULTICAST: "is a multicast address, which no agent can have",
    AddressClass.RESERVED: "is a reserved address, which no agent can have",
    AddressClass.PUBLIC: "wraps an address that is not allowed",
}

_METADATA: frozenset[IPAddress] = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # nearly every cloud
            "169.254.170.2",  # Amazon, containers
            "169.254.170.23",  # Amazon, pods
            "fd00:ec2::254",  # Amazon, IPv6
            "fd00:ec2::23",  # Amazon, pods, IPv6
            "fd20:ce::254",  # Google, IPv6
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle
        ),
    ),
)

_PRIVATE: tuple[IPNetwork, ...] = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"),
    ),
)

# What older versions of `ipaddress` take for public; the first wraps IPv4 addresses at a place only its owner knows.
_RESERVED: tuple[IPNetwork, ...] = tuple(
    map(ip_network, ("64:ff9b:1::/48", "3fff::/20", "5f00::/16", "192.88.99.0/24"))
)

# Mapped, translated, NAT64, compatible: the IPv4 address is in the last 32 bits.
_IPV4_IN_LAST_BITS = tuple(map(IPv6Network, ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "::/96")))
_PLAIN_IPV6 = (IPv6Address("::"), IPv6Address("::1"))
_LAST_32_BITS = 0xFFFF_FFFF
_ISATAP, _ISATAP_MASK = 0x0000_5EFE, 0xFDFF_FFFF


def _split(url: str) -> Endpoint:
    if len(url) > URL_CHARS_MAX:
        raise ValueError(f"is longer than {URL_CHARS_MAX} characters")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise ValueError(
            "must be a URL of printable ASCII without spaces or backslashes; write other characters as %XX"
        )
    if "?" in url or "#" in url:
        raise ValueError("must be a base URL, without '?' or '#'")
    parts = _urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise ValueError("must start with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password; register the agent with `auth`")
    return Endpoint(parts.scheme, _host(parts.netloc), _port(parts.netloc, parts.scheme), _path(parts.path))


def _urlsplit(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        # The only thing it looks at; its sentence differs between versions of Python.
        raise ValueError(_NOT_IPV6) from None


def _host(netloc: str) -> str:
    if netloc.startswith("["):
        return _ipv6(netloc[1:].partition("]")[0])
    host = netloc.partition(":")[0].lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(host)
    if len(host) > HOST_CHARS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("its host must be a name of letters, digits, '-' and '.', or an IP address")
    return host


def _ipv4(host: str) -> str:
    try:
        return str(IPv4Address(host))
    except ValueError:
        raise ValueError("its host must be written as four decimal numbers, like 192.0.2.1, or as a name") from None


def _ipv6(host: str) -> str:
    try:
        address = IPv6Address(host)
    except ValueError:
        raise ValueError(_NOT_IPV6) from None
    if address.scope_id:
        raise ValueError("its IPv6 address must have no zone id (%…)")
    return str(address)


def _port(netloc: str, scheme: str) -> int:
    after_host = netloc[netloc.rfind("]") + 1 :] if netloc.startswith("[") else netloc[len(netloc.partition(":")[0]) :]
    if not after_host:
        return _DEFAULT_PORTS[scheme]
    if not _PORT.fullmatch(after_host) or not 1 <= int(after_host[1:]) <= PORT_MAX:
        raise ValueError(f"its port must be a number from 1 to {PORT_MAX}")
    port = int(after_host[1:])
    if port in FOREIGN_PORTS:
        raise ValueError(f"its port {port} belongs to another protocol, which no agent speaks; choose another port")
    return port


def _path(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError("its path holds characters that must be written as %XX")
    if _DOT_SEGMENT.search(path):
        raise ValueError("its path must not hold '.' or '..'")
    return path.rstrip("/")


def _reached(address: IPAddress) -> Iterator[IPAddress]:
    """Where a packet to this address may end up: there, or at the IPv4 addresses wrapped in it."""
    if isinstance(address, IPv4Address) or address in _PLAIN_IPV6:
        yield address
    elif address.teredo is not None:
        yield from address.teredo
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif _ends_in_ipv4(address):
        yield IPv4Address(int(address) & _LAST_32_BITS)
    else:
        # Without its zone: an address with one equals none in the tables.
        yield IPv6Address(int(address))


def _ends_in_ipv4(address: IPv6Address) -> bool:
    if any(address in network for network in _IPV4_IN_LAST_BITS):
        return True
    return (int(address) >> 32) & _ISATAP_MASK == _ISATAP


def _plain_class(address: IPAddress) -> AddressClass:
    if address in _METADATA:
        return AddressClass.METADATA
    if address.is_link_local:
        return AddressClass.LINK_LOCAL
    if address.is_loopback:
        return AddressClass.LOOPBACK
    if address.is_multicast:
        return AddressClass.MULTICAST
    if any(address in network for network in _PRIVATE):
        return AddressClass.PRIVATE
    is_public = address.is_global and not any(address in network for network in _RESERVED)
    return AddressClass.PUBLIC if is_public else AddressClass.RESERVED
