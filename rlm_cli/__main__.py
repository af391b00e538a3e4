"""`python -m rlm_cli` and the `rlm` script."""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn


def main() -> NoReturn:
    """The `rlm` command. Until `boundary.run` takes the signals there is nothing to clean up, and a Ctrl-C in the
    middle of an import must not end in its traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where our caller ignores it
        signal.signal(signal.SIGINT, _leave)
    from .cli.boundary import main as command

    command()


def _leave(_number: int, _frame: Any) -> NoReturn:
    try:
        os.write(2, b"rlm: error: interrupted [interrupted]\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    main()
