"""What the server is told when it starts, and when it refuses to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from data.errors import UsageError

SHORTEST_TOKEN = 16
"""Characters: what cannot be guessed at a few tries a second."""


@dataclass(frozen=True)
class Settings:
    """How one server runs.

    Parameters
    ----------
    workspace : Path
        Uploads, results and the data base of jobs; made if missing, readable by its owner alone.
    models : tuple of str
        Names or files that may be chosen; empty: those that are shipped.
    data : Path, optional
        Output folder of earlier `segment` runs whose results can be opened.
    host, port :
        Loopback, or a token is needed.
    max_upload_bytes : int
        Of one upload. A zip may unpack to four times that.
    token : str, optional
        What a user must know. At least 16 characters.
    keep_hours : float
        After so long a case and its files are removed.
    job_seconds : float
        A job that takes longer is stopped.
    job_memory_bytes : int, optional
        A job that takes more is stopped. None: no limit.
    allowed_hosts : tuple of str
        Names under which a browser may ask for this server, beside IP addresses and localhost.
    """

    workspace: Path
    models: tuple[str, ...] = ()
    data: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    max_upload_bytes: int = 512 * 2**20
    token: str | None = None
    keep_hours: float = 24.0
    job_seconds: float = 1800.0
    job_memory_bytes: int | None = 8 * 2**30
    allowed_hosts: tuple[str, ...] = ()

    @property
    def max_unpacked_bytes(self) -> int:
        """Of all files of one zip together."""
        return 4 * self.max_upload_bytes


def is_loopback(host: str) -> bool:
    """True for localhost and for the addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_settings(settings: Settings) -> None:
    """Refuse to start what would not be safe. Raises :class:`data.errors.UsageError`."""
    if settings.token is None and not is_loopback(settings.host):
        raise UsageError(
            f"--host {settings.host}: others could reach the server, and it asks for no token; "
            "add --token-file FILE, or listen on 127.0.0.1"
        )
    if settings.token is not None and len(settings.token) < SHORTEST_TOKEN:
        raise UsageError(
            f"the token has {len(settings.token)} characters; give at least {SHORTEST_TOKEN}, "
            "such as those of `openssl rand -hex 16`"
        )
    if settings.data is not None and not settings.data.is_dir():
        raise UsageError(f"--data {settings.data} is not a folder; give the output folder of a `segment` run")
    for name in ("max_upload_bytes", "keep_hours", "job_seconds"):
        if getattr(settings, name) <= 0:
            raise UsageError(f"{name} is {getattr(settings, name)}; give a number above 0")
