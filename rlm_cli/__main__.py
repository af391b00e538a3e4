"""`python -m rlm_cli` and the `rlm` script."""

from __future__ import annotations

from .cli.boundary import main

if __name__ == "__main__":
    main()
