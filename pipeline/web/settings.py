"""Settings of a server, and the checks that refuse unsafe ones."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from data.errors import UsageError

SHORTEST_TOKEN = 16
"""Characters; so long a token cannot be guessed at a few tries a second."""
_PUBLIC_URL = re.compile(
    r"https://(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?/?"
)

_ROOT_PATH = re.compile(r"(/([A-Za-z0-9._~@:!$&*+=-]|%[2-7][0-9A-Fa-f])+)*/?")
_OWN_PATHS = ("/api", "/static", "/login", "/healthz")


@dataclass(frozen=True)
class Settings:
    """Settings of one server."""

    workspace: Path
    """Folder for uploads, results and the data base of jobs; made if missing, readable by its owner alone."""
    models: tuple[str, ...] = ()
    """Shipped names or .safetensors files that can be chosen. Default: those that are shipped."""
    data: Path | None = None
    """Output folder of an earlier `segment` run, whose results can be opened."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --token-file."""
    port: int = 8000
    """Port to listen on."""
    max_upload_mb: float = 512
    """Most megabytes of one upload. A zip may unpack to four times that."""
    token: str | None = None
    """Secret that every user must know, at least 16 characters."""
    keep_hours: float = 24.0
    """After so long an upload and its results are removed."""
    job_minutes: float = 30.0
    """A case that takes longer is stopped."""
    job_memory_bytes: int | None = 8 * 2**30
    """A case that takes more is stopped. None: no limit."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, without a port, by which a browser may ask for the server, beside localhost and IP addresses."""
    public_url: str | None = None
    """https://NAME[:PORT] of the TLS proxy through which browsers come; needs --token-file. See docs/web.md."""
    session_hours: float = 168.0
    """A session ends so long after it began, with its uploads and results."""
    idle_hours: float | None = None
    """A session ends after so long without a request, with its uploads and results. Default: as --keep-hours."""
    open: bool = False
    """Open the page in this machine's browser."""
    root_path: str = ""
    """Path behind which a proxy shows the page, such as /tumour. See docs/web.md."""

    @property
    def max_upload_bytes(self) -> int:
        """Limit on one upload."""
        return int(self.max_upload_mb * 2**20)

    @property
    def job_seconds(self) -> float:
        """Limit on the time of one case."""
        return 60 * self.job_minutes

    @property
    def idle_hours_or_keep(self) -> float:
        """After so many hours without a request a session ends."""
        return self.keep_hours if self.idle_hours is None else self.idle_hours

    @property
    def public_host(self) -> str | None:
        """Header ``Host`` that browsers send to the proxy.

        It is the name, and the port where that is not 443.
        """
        return None if self.public_url is None else _public_host(self.public_url)

    @property
    def base(self) -> str:
        """Path of the page in browsers, with a slash at its end."""
        return self.root_path.rstrip("/") + "/"

    @property
    def prefix(self) -> str:
        """Root path in decoded requests, without a slash at its end."""
        return unquote(self.base)[:-1]

    @property
    def max_unpacked_bytes(self) -> int:
        """Limit on all files of one zip together."""
        return 4 * self.max_upload_bytes


def is_loopback(host: str) -> bool:
    """True for localhost and for the addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _public_host(url: str) -> str:
    """Host and port of ``https://NAME[:PORT]``. Raises UsageError for everything else."""
    found = _PUBLIC_URL.fullmatch(url)
    if found is None or int(found["port"] or 443) not in range(1, 65536):
        raise UsageError(
            f"--public-url {url}: give https://NAME or https://NAME:PORT as browsers write it, without a path "
            "(that belongs to --root-path); a name that is not ASCII as xn--..."
        )
    port = int(found["port"] or 443)
    return found["name"].lower() + ("" if port == 443 else f":{port}")


def _check_root_path(settings: Settings) -> None:
    given, prefix = settings.root_path, settings.prefix
    if (given and not _ROOT_PATH.fullmatch(given)) or {".", ".."} & set(prefix.split("/")):
        raise UsageError(
            f"--root-path {given}: give a path as browsers write it, such as /tumour or /user/me/proxy/8000"
        )
    if prefix in _OWN_PATHS or prefix.startswith(tuple(own + "/" for own in _OWN_PATHS)):
        raise UsageError(f"--root-path {given}: the page has addresses of its own there; choose another path")


def check_settings(settings: Settings) -> None:
    """Refuse settings that would not be safe.

    Raises :class:`data.errors.UsageError`.
    """
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
    if not 0 <= settings.port < 65536:
        raise UsageError(f"--port {settings.port}: give a number from 1 to 65535, or 0 for any free one")
    if settings.data is not None and not settings.data.is_dir():
        raise UsageError(f"--data {settings.data} is not a folder; give the output folder of a `segment` run")
    if settings.public_url is not None and settings.token is None:
        raise UsageError(
            f"--public-url {settings.public_url}: others could reach the server through the proxy, and it asks for no "
            "token; add --token-file FILE"
        )
    if settings.public_url is not None:
        _public_host(settings.public_url)
    _check_root_path(settings)
    for name in ("max_upload_mb", "keep_hours", "job_minutes", "session_hours", "idle_hours_or_keep"):
        if getattr(settings, name) <= 0:
            raise UsageError(f"{name} is {getattr(settings, name)}; give a number above 0")
