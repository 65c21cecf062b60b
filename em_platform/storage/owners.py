"""Which account of this computer is at the other end of a connection.

Loopback is open to every account. The kernel's table of TCP sockets says whose each
end is (`/proc/net/tcp`, see proc(5)), so that nothing is typed where it is one's own.
"""

import ipaddress
import struct
from pathlib import Path

Address = tuple[str, int]

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED, _LISTEN = b"01", b"0A"


def owner_of_client(client: Address, server: Address) -> int | None:
    """The account that has the client's end of a connection within this computer.

    None where it comes from elsewhere, or is closed already, or nothing says so.
    """
    if not all(_is_loopback(host) for host, _ in (client, server)):
        return None
    near, far = _shown(client), _shown(server)
    for local, remote, state, owner in _sockets():
        # Only while it is established: of one that was closed the owner reads as 0.
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
