"""`rlm completion SHELL`: the script, by Typer's own machinery."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UsageError

SHELLS = ("bash", "zsh", "fish", "powershell")


def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell")]) -> None:
    """Print a script that completes commands and options.

    \b
      eval "$(rlm completion bash)"            in ~/.bashrc
      eval "$(rlm completion zsh)"             in ~/.zshrc, after compinit
      rlm completion fish > ~/.config/fish/completions/rlm.fish
    """
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}: it is one of {', '.join(SHELLS)}", hint="rlm completion bash")
    # Typer's own door to it (--show-completion) looks for the running shell first.
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name="rlm", complete_var="_RLM_COMPLETE", shell=shell))
