"""Everything that can go wrong, and whose fault it is.

    RlmError                 1    a bug, or something nobody classified
    ├── UsageError           2    the command line is wrong; nothing was spent
    │   └── ConfigError      2    a configuration file or variable is wrong
    ├── NoAnswerError        3    the loop ended by itself without an answer
    ├── AuthError            4    no key, a rejected key, or no permission for the model
    ├── SandboxError         5    the container runtime, the image or the container failed
    ├── LimitError           6    a cap of the user's was reached (carries which one)
    ├── ProviderError        7    the model service failed after all retries
    │   └── TransientError   7    ... in a way that may pass: the only kind that is retried
    ├── InputError           8    a source is missing, unreadable, empty or too large
    ├── SchemaError          9    the answer does not satisfy --schema
    └── Interrupted        130    Ctrl-C (143: SIGTERM)

An error names what happened (`message`), and the next command to type (`hint`). `code` is the stable string
scripts match on; the exit code is the coarse number. The model's own code failing is not here: that is data in a
`StepResult`. Codes are documented in `rlm help exit-codes` and frozen by a test.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The process's exit codes (CLI.md 2.2). Frozen: scripts depend on them."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NO_ANSWER = 3
    AUTH = 4
    SANDBOX = 5
    LIMIT = 6
    PROVIDER = 7
    INPUT = 8
    SCHEMA = 9
    BATCH_FAILURES = 10
    INTERRUPTED = 130
    TERMINATED = 143


class RlmError(Exception):
    """Unclassified failure. `code` is stable for scripts; `hint` is the one thing to do next."""

    exit_code: ExitCode = ExitCode.ERROR
    default_code = "internal"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code

    @property
    def retryable(self) -> bool:
        """Whether running the same command again later may succeed."""
        return False


class UsageError(RlmError):
    """The user typed something that cannot be run; the hint is the corrected command."""

    exit_code = ExitCode.USAGE
    default_code = "usage"


class ConfigError(UsageError):
    """A configuration file, variable or --set is wrong; the message names file and line or variable."""

    default_code = "config"


class NoAnswerError(RlmError):
    """The model stopped without submitting an answer; ask again or use a stronger model."""

    exit_code = ExitCode.NO_ANSWER
    default_code = "no_answer"


class AuthError(RlmError):
    """No usable key for the model; the hint names the variable to set."""

    exit_code = ExitCode.AUTH
    default_code = "auth"


class SandboxError(RlmError):
    """The container runtime, image or container failed; model code is never run elsewhere instead."""

    exit_code = ExitCode.SANDBOX
    default_code = "sandbox"


class LimitError(RlmError):
    """A cap was reached. `limit` is one of cost, tokens, time, iterations, subcalls, depth. `alone`: by one call
    that is too large for it whatever else is spent."""

    exit_code = ExitCode.LIMIT
    default_code = "limit"

    def __init__(self, limit: str, message: str, *, hint: str = "", alone: bool = False) -> None:
        super().__init__(message, hint=hint, code=f"limit_{limit}")
        self.limit, self.alone = limit, alone


class ProviderError(RlmError):
    """The model service refused or failed for good: unknown model, bad request, context overflow."""

    exit_code = ExitCode.PROVIDER
    default_code = "provider"


class TransientError(ProviderError):
    """429, 5xx, reset or timeout. `retry_after` is the provider's own wish in seconds, if it named one."""

    default_code = "provider_unavailable"

    def __init__(self, message: str, *, hint: str = "", code: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """True: the same request may succeed later."""
        return True


class InputError(RlmError):
    """A source is missing, unreadable, empty, or larger than the user allowed."""

    exit_code = ExitCode.INPUT
    default_code = "input"


class SchemaError(RlmError):
    """The final answer does not satisfy the schema after the allowed repairs; the value is kept."""

    exit_code = ExitCode.SCHEMA
    default_code = "schema"


class Interrupted(RlmError):  # noqa: N818 - a person's decision, not an error of anybody's
    """The user (SIGINT) or the system (SIGTERM) stopped the run; what was found is kept in the run folder."""

    default_code = "interrupted"

    def __init__(self, message: str = "interrupted", *, terminated: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint, code="terminated" if terminated else "interrupted")
        self.exit_code = ExitCode.TERMINATED if terminated else ExitCode.INTERRUPTED
