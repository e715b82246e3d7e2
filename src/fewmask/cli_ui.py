"""``fewmask ui``: runs, data and reviews in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fewmask.errors import ResourceError


def ui(
    runs: Path = Path("runs"),
    /,
    *,
    data: tuple[Path, ...] = (),
    port: int = 8000,
    host: str = "127.0.0.1",
    auth: str | None = None,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
) -> None:
    """See data, start and watch runs, correct masks, in the browser (extra `web`).

    The address that is printed carries a random token; without it nothing is shown.

    Args:
        runs: The folder of runs.
        data: Data folders to offer beside those that the runs were made from.
        port: 0: any that is free.
        host: Another address than this machine's own needs --auth. Better: `ssh -L` (docs/ui.md).
        auth: A secret of 16 characters or more in place of the random token.
        browser: Open the page.
    """
    try:
        from fewmask.web.serving import serve
    except ModuleNotFoundError as error:
        raise ResourceError.of(
            "EXTRA-MISSING", where="fewmask ui", found=f"no package {error.name}",
            expected="the extra `web`", fix='pip install "fewmask[web]"',
        ) from None  # fmt: skip
    serve(runs, data, host=host, port=port, auth=auth, browser=browser)
