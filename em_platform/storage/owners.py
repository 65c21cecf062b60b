"""Which account of this computer is at the other end of a connection.

Loopback is open to every account. The kernel knows whose each end of a connection is,
so that nothing need be typed where it is one's own: it answers for one connection in
microseconds (sock_diag(7)), and lists all in `/proc/net/tcp` (proc(5)) in milliseconds.
"""

import errno
import ipaddress
import os
import socket
import struct
from pathlib import Path

Address = tuple[str, int]

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED, _LISTEN = b"01", b"0A"

# Of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ERROR = 4, 20, 1, 2
_HEADER, _WANTED, _ANYONE = "=IHHII", "=BBBBI", 0xFFFFFFFF
_HEADER_BYTES = struct.calcsize(_HEADER)
_OWNER_AT = (
    _HEADER_BYTES + 4 + 48 + 12
)  # of inet_diag_msg: behind four bytes, an id, three numbers


def owner_of_client(client: Address, server: Address) -> int | None:
    """The account that has the client's end of a connection within this computer.

    None where it comes from elsewhere, or is closed already, or nothing says so.
    """
    if not all(_is_loopback(host) for host, _ in (client, server)):
        return None
    try:
        return _ask(client, server)
    except OSError:  # the kernel is without it
        pass
    near, far = _shown(client), _shown(server)
    for local, remote, state, owner in _sockets():
        if state == _ESTABLISHED and local in near and remote in far:
            return owner
    return None


def owners_of_server(host: str, port: int) -> set[int]:
    """The accounts that listen at a port of this computer, as far as it is known."""
    if not _is_loopback(host):
        return set()
    wanted = {*_shown((host, port)), *_shown(("0.0.0.0", port)), *_shown(("::", port))}
    return {
        owner
        for local, _, state, owner in _sockets()
        if state == _LISTEN and local in wanted
    }


def _ask(client: Address, server: Address) -> int | None:
    """The owner as sock_diag(7) says; OSError where the kernel is without it."""
    version = ipaddress.ip_address(_number(client[0])).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    hosts = (socket.inet_pton(family, _number(host)) for host, _ in (client, server))
    wanted = struct.pack(_WANTED, family, socket.IPPROTO_TCP, 0, 0, _ANYONE)
    wanted += struct.pack("!HH", client[1], server[1])
    wanted += b"".join(host.ljust(16, b"\0") for host in hosts)
    wanted += struct.pack("=III", 0, _ANYONE, _ANYONE)
    head = struct.pack(_HEADER, _HEADER_BYTES + len(wanted), _BY_FAMILY, _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(head + wanted)
        answer = kernel.recv(4096)
    kind = struct.unpack_from(_HEADER, answer)[1]
    if kind == _ERROR:
        number = -struct.unpack_from("=i", answer, _HEADER_BYTES)[0]
        if number == errno.ENOENT:
            return None
        raise OSError(number, os.strerror(number))
    state = answer[_HEADER_BYTES + 1]
    # Only while it is established: of one that was closed the owner reads as 0.
    if state != int(_ESTABLISHED, 16):
        return None
    return int(struct.unpack_from("=I", answer, _OWNER_AT)[0])


def _sockets() -> list[tuple[bytes, bytes, bytes, int]]:
    """Local end, remote end, state and owner of each TCP socket."""
    found = []
    for table in _TABLES:
        try:
            lines = table.read_bytes().splitlines()[1:]
        except OSError:  # another system than Linux
            continue
        for line in lines:
            _, local, remote, state, _, _, _, owner, *_ = line.split()
            found.append((local, remote, state, int(owner)))
    return found


def _shown(address: Address) -> set[bytes]:
    """As the tables show an address: words in this computer's order, then the port."""
    host, port = address
    parsed = ipaddress.ip_address(_number(host))
    forms = [parsed.packed]
    if parsed.version == 4:  # from a socket of IPv6
        forms.append(ipaddress.ip_address(f"::ffff:{parsed}").packed)
    return {
        b"".join(b"%08X" % word for word in struct.unpack(f"={len(form) // 4}I", form))
        + b":%04X" % port
        for form in forms
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(_number(host)).is_loopback
    except ValueError:
        return False


def _number(host: str) -> str:
    """The address of a name that this computer always has."""
    return "127.0.0.1" if host == "localhost" else host
