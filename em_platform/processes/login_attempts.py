"""How often an address may guess the password."""

import hashlib
import ipaddress
import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 60.0
_OF_ONE = 10  # a person mistypes less often
# From all addresses: who has many of them guesses no faster.
_OF_ALL = 200


class LoginAttempts:
    """Wrong passwords of the last minute, by the address they came from.

    The same wrong one counts once: a script that keeps an old password and asks every
    second guesses nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Bounded: what is refused is not compared, and so never added.
        self._wrong: deque[tuple[float, str, bytes]] = deque(maxlen=_OF_ALL)

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        self._forget()
        from_here = [at for at, whose, _ in self._wrong if whose == _whose(address)]
        full = from_here if len(from_here) >= _OF_ONE else ()
        if len(self._wrong) >= _OF_ALL:
            full = [at for at, _, _ in self._wrong]
        return max(full[0] + _WINDOW_S - self._clock(), 0.0) if full else 0.0

    def add(self, address: str, password: str) -> None:
        """Count a wrong password."""
        self._forget()
        digest = hashlib.sha256(password.encode(errors="surrogatepass")).digest()
        known = {(whose, text) for _, whose, text in self._wrong}
        if (_whose(address), digest) not in known:
            self._wrong.append((self._clock(), _whose(address), digest))

    def _forget(self) -> None:
        while self._wrong and self._wrong[0][0] <= self._clock() - _WINDOW_S:
            self._wrong.popleft()


def _whose(address: str) -> str:
    """The network of an IPv6 address: one computer has all of its addresses."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return address
    network = ipaddress.ip_network((address, 64 if version == 6 else 32), strict=False)
    return str(network)
