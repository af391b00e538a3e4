"""`rlm version`."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

import typer

from .. import __version__
from . import options, show


def install_method() -> str:
    """How this rlm was installed, as far as its folder tells: pipx, uv, editable, venv or system."""
    prefix = Path(sys.prefix).as_posix()
    if "/pipx/venvs/" in prefix:
        return "pipx"
    if "/uv/tools/" in prefix or "/uv/archive" in prefix:
        return "uv"
    try:
        direct = metadata.distribution("rlm-cli").read_text("direct_url.json") or ""
    except metadata.PackageNotFoundError:
        return "source"
    if '"editable": true' in direct:
        return "editable"
    return "venv" if sys.prefix != sys.base_prefix else "system"


def version(ctx: typer.Context, json: options.Json = False) -> None:
    """Print the version; with --json also how it was installed, Python, the platform and the sandbox image."""
    if not json:
        typer.echo(f"rlm {__version__}")
        return
    from ..sandbox.image import PINNED_IMAGE

    settings, _ = options.examine(ctx)
    show.as_json(
        {
            "schema_version": 1,
            "version": __version__,
            "installed": install_method(),
            "python": platform.python_version(),
            "platform": platform.platform(terse=True),
            "image": settings.sandbox.image or PINNED_IMAGE,
        }
    )
