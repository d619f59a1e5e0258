"""Limit on tries at the token.

Guessing gets nowhere, and the rightful user still gets in.

A wrong token costs one try of the line from which it came. A browser that has had a session here has a line of its own;
all others share the line of their address (of IPv6 the first 64 bits). A line holds 10 tries and gets one back every 6
seconds. The lines of addresses from which the right token never came share 100 further tries, one back a second.
Without a try left, a visitor is told to wait and the token is not compared. The right token costs nothing, and a
session needs none. Two consequences:

- guessing keeps out neither a browser with a present or past session, nor another address that was let in before;
- an address that was never let in waits while many others guess, and so does one that shares its line with a guesser.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINE_TRIES, LINE_SECONDS = 10, 6.0
ALL_TRIES, ALL_SECONDS = 100, 1.0
_REMEMBERED = 10_000


@dataclass(frozen=True)
class Visitor:
    """Address and browser from which a request comes.

    Parameters
    ----------
    address : str
        As :func:`address_of` gives it.
    browser : str, optional
        The owner of its session, ended ones too.
    """

    address: str
    browser: str | None = None


class TooManyGuesses(Exception):
    """Refusal of a token, because no try is left.

    ``seconds`` until there is one, a whole number.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"too many wrong tokens were tried; wait {self.seconds} s, then try again")


class _Line:
    """Tries that come back with time."""

    def __init__(self, most: int, seconds: float, now: float) -> None:
        self.most, self.seconds, self.left, self.since = most, seconds, float(most), now

    def wait(self, now: float) -> float:
        """Seconds until there is a try; 0 where there is one."""
        self.left = min(self.most, self.left + (now - self.since) / self.seconds)
        self.since = now
        return max(0.0, (1 - self.left) * self.seconds)


class Guesses:
    """Compares tokens with the server's, within the rule.

    Parameters
    ----------
    token : str, optional
        The server's; None: every token is right.
    now : callable
        Seconds of a clock that never goes back.
    """

    def __init__(self, token: str | None, now: Callable[[], float] = time.monotonic) -> None:
        self._token, self._now = token, now
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._good: OrderedDict[str, None] = OrderedDict()
        self._all = _Line(ALL_TRIES, ALL_SECONDS, now())

    def is_right(self, given: str, visitor: Visitor) -> bool:
        """Return whether a token is the server's.

        Raises :class:`TooManyGuesses` without having looked at it.
        """
        if self._token is None:
            return True
        if not given:  # a request without a token is no guess
            return False
        lines = [self._line(visitor.browser or visitor.address)]
        if visitor.browser is None and visitor.address not in self._good:
            lines.append(self._all)
        now = self._now()
        if wait := max(line.wait(now) for line in lines):
            raise TooManyGuesses(wait)
        if hmac.compare_digest(given.encode(), self._token.encode()):
            _remember(self._good, visitor.address, None)
            return True
        for line in lines:
            line.left -= 1
        return False

    def _line(self, name: str) -> _Line:
        line = self._lines.get(name) or _Line(LINE_TRIES, LINE_SECONDS, self._now())
        _remember(self._lines, name, line)
        return line


def _remember(known: OrderedDict[str, Any], name: str, value: Any) -> None:
    """Keep the entries that were used last.

    More than some thousand are not kept.
    """
    known[name] = value
    known.move_to_end(name)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


def address_of(peer: str, forwarded: str, *, behind_proxy: bool) -> str:
    """Return the address under which tries are counted.

    Parameters
    ----------
    peer : str
        The other end of the connection.
    forwarded : str
        ``X-Forwarded-For``. Believed behind a proxy on this machine alone, and its last entry alone: the others are
        what the visitor says.
    behind_proxy : bool

    Returns
    -------
    str
        An IPv4 address, the network of 64 bits of an IPv6 address, or the peer as it is.
    """
    address = _parsed(peer)
    if behind_proxy and address is not None and address.is_loopback:
        address = _parsed(forwarded.replace(";", ",").rpartition(",")[2].strip()) or address
    if address is None:
        return peer
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if address.version == 6 else None) or address
