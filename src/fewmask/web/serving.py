"""``fewmask ui``: where the server listens, what it prints, and what it refuses."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import sys
import threading
import webbrowser
from pathlib import Path

import uvicorn

from fewmask.errors import ResourceError, SecurityError, UsageError
from fewmask.web.app import create_app, new_desk
from fewmask.web.gate import LOOPBACK, Rules

SHORTEST_SECRET = 16


def serve(
    root: Path, data: tuple[Path, ...], *, host: str, port: int, auth: str | None, browser: bool
) -> None:
    """Serve until a signal stops it; runs that were started go on.

    Args:
        root: The folder of runs; made if it is not there.
        data: Data folders to offer.
        host: Address to listen on.
        port: 0: any that is free.
        auth: The secret in place of a random token; needed unless only this machine can connect.
        browser: Whether to open the page.

    Raises:
        SecurityError: others could connect, and no secret is given.
        UsageError: a data folder is not there, or the secret is short.
        ResourceError: the port is taken, or the disk refuses.
    """
    local = host in LOOPBACK
    if not local and auth is None:
        raise SecurityError.of(
            "UI-OPEN", where=f"--host {host}", found="an address that other machines can reach",
            expected="a secret that keeps them out",
            fix="--auth SECRET, or better: leave out --host and use `ssh -L` (docs/ui.md)",
        )  # fmt: skip
    if auth is not None and len(auth) < SHORTEST_SECRET:
        raise UsageError.of("UI-SECRET", where="--auth", found=f"{len(auth)} characters",
                            expected=f"{SHORTEST_SECRET} or more", fix="choose a longer one"
                            )  # fmt: skip
    for folder in data:
        if not folder.is_dir():
            raise UsageError.of("FOLDER-MISSING", where=f"--data {folder}", found="no such folder",
                                expected="a data folder", fix="check the path")  # fmt: skip
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    names = frozenset() if local else frozenset({host.lower(), socket.gethostname().lower()})
    rules = Rules(auth or secrets.token_urlsafe(24), port, names, any_address=not local)
    app = create_app(new_desk(root, data), rules)
    shown = f"[{host}]" if ":" in host else host
    shown = socket.gethostname() if not local and _is_any(host) else shown
    address = f"http://{shown}:{port}/"
    opened = address if auth else f"{address}?token={rules.token}"
    sys.stdout.write(f"fewmask ui: {opened}\n")
    sys.stdout.write("Ctrl-C stops the server; runs that it has started go on.\n")
    sys.stdout.flush()
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False,
                       ws="none", timeout_graceful_shutdown=2)
    )  # fmt: skip
    if browser:
        threading.Timer(1.0, webbrowser.open, (opened,)).start()
    with listening:
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise ResourceError.of(
            "UI-PORT", where=f"{host} port {port}", found=getattr(error, "strerror", None) or error,
            expected="an address of this machine and a free port",
            fix="--port 0 takes any free one",
        ) from None  # fmt: skip
    return listening


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
