"""The only place that names implementations: which model chain and which sandbox a run gets."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..errors import SandboxError
from ..events import ROOT, Emit, ModelPair, Preparing, Totals, Warned
from ..models import Model
from ..models.breaker import Breaker
from ..models.cached import Cached
from ..models.catalog import SCRIPTED, Choice, choose_models, needs_nothing, secret_values, servers
from ..models.facts import Facts, Price, check_options, facts, per_million, told_window
from ..models.ledger import Budgeted, Caps, Ledger, Pricing, pricing
from ..models.limited import Limited
from ..models.reported import Reported
from ..models.retrying import Retrying
from ..models.router import Router
from ..models.store import ReplyStore
from ..render.ticker import Ticker
from ..sandbox import RootSandbox, SandboxOptions
from ..task import LedgerView
from ..units import human_bytes

if TYPE_CHECKING:
    from ..models.provider import ProviderOptions
    from ..sandbox.container import Engine
    from ..sandbox.image import ImageProgress


class Models:
    """The models of one run: chosen, priced and capped when made; `chain` builds what the engine asks.

    Raises `AuthError` when no model can be chosen or its key is missing, `UsageError` for a price that is unknown
    under a cap the user asked for, and for options that it cannot have. Nothing slow happens until `start_loading`,
    which imports LiteLLM in a thread.
    """

    def __init__(self, settings: config.Settings, env: Mapping[str, str], *, cost_given: bool) -> None:
        self._settings, self._env = settings, env
        check_options(settings.model_options)
        key = config.api_key(env)
        self.choice: Choice = choose_models(
            settings.model and settings.model_id(settings.model),
            settings.sub_model and settings.model_id(settings.sub_model),
            env,
            api_base=settings.api.base or "",
            api_key=key.value if key else "",
        )
        self.pricing: Pricing = _pricing(settings, self.choice, cost_given=cost_given)
        self.ledger = Ledger(self.pricing.caps, self.pricing.prices)
        self.built_in = all(needs_nothing(name) for name in (self.choice.root, self.choice.sub, *self.aliases.values()))
        self._providers = Router(self._provider, _provider_kind)
        kept = settings.cache
        folder = config.places(env).cache / "replies"
        # A built-in model costs nothing, and says something else when its script or its rules have changed.
        use = kept.enabled and not needs_nothing(self.choice.sub)
        self._store = ReplyStore(folder, kept.max_bytes) if use else None

    @property
    def pair(self) -> ModelPair:
        return ModelPair(self.choice.root, self.choice.sub)

    @property
    def note(self) -> str:
        """What a person should know about these models before they are asked."""
        if self.choice.root == "offline":
            from ..models.offline import OFFLINE_NOTE

            return OFFLINE_NOTE
        return self.pricing.note

    @property
    def windows(self) -> Mapping[str, int | None]:
        """Tokens that each model takes that may be asked, None where that is not known."""
        names, options = (self.choice.root, self.choice.sub, *self.aliases.values()), self._settings.model_options
        return {name: told_window(name, options) or facts(name).window for name in names}

    @property
    def view(self) -> LedgerView:
        """The ledger as the engine may see it."""
        return LedgerView(self.ledger.totals, self.pricing.caps.subcalls, self.pricing.caps.tokens)

    @property
    def aliases(self) -> Mapping[str, str]:
        """The user's names that the model's code may use."""
        refused = self.refused
        return {name: model for name, model in self._settings.aliases.items() if name not in refused}

    @property
    def refused(self) -> Mapping[str, str]:
        """Those that it may not use, and why: a model whose price is unknown would break the dollar cap."""
        if self.pricing.caps.usd is None:
            return {}
        unpriced = [name for name, model in self._settings.aliases.items() if model not in self.pricing.prices]
        return dict.fromkeys(unpriced, "its price is unknown, and what this run may cost is capped")

    def totals(self) -> Totals:
        return self.ledger.totals()

    def start_loading(self) -> None:
        """Import LiteLLM while the sources are read and the container starts."""
        if not self.built_in:
            from ..models.provider import warm_up

            threading.Thread(target=warm_up, name="rlm import litellm", daemon=True).start()

    def chain(self, emit: Emit) -> Model:
        """`Reported(Cached(Budgeted(Retrying(Limited(Breaker(Provider()))))))`, for one event loop."""
        limited = Limited(Breaker(self._providers), self._settings.limits.concurrency)
        retrying = Retrying(limited, emit, may_retry=self.ledger.extend)
        options, base = dict(self._settings.model_options), self._settings.api.base
        asked = {"base": base, "servers": servers(self._env), "options": options}
        budgeted = self._budgeted(retrying, lambda message: emit(Warned(message), ROOT))
        cached = Cached(budgeted, saved=self.ledger.note_saved, store=self._store, options=asked)
        return Reported(cached, emit, self.ledger)

    def _budgeted(self, inner: Model, warn: Callable[[str], None]) -> Model:
        if self.built_in:
            return Budgeted(inner, self.ledger, warn=warn)
        from ..models.provider import count_request

        return Budgeted(inner, self.ledger, limit=self._options().output_limit, count=count_request, warn=warn)

    async def close(self) -> None:
        """Release the providers' connections; bring the replies kept on disk below their bound."""
        await self._providers.close()
        if self._store is not None:
            await asyncio.to_thread(self._store.prune)

    def _provider(self, model: str) -> Model:
        if model == "offline":
            from ..models.offline import OfflineModel

            return OfflineModel()
        if needs_nothing(model):
            from ..models.scripted import ScriptedModel

            return ScriptedModel.load(Path(model.removeprefix(SCRIPTED)))
        from ..models.provider import LiteLLMProvider

        return LiteLLMProvider(self._options())

    def _options(self) -> ProviderOptions:
        from ..models.provider import ProviderOptions

        key = config.api_key(self._env)
        return ProviderOptions(
            api_base=self._settings.api.base or "",
            api_key=key.value if key else "",
            options=self._settings.model_options,
            timeout_s=self._settings.api.timeout,
            reply_s=self._settings.api.reply_timeout,
            secrets=secret_values(self._env),
        )


def _provider_kind(model: str) -> str:
    return model if needs_nothing(model) else "litellm"


def _pricing(settings: config.Settings, choice: Choice, *, cost_given: bool) -> Pricing:
    limits, given = settings.limits, settings.run.price

    def priced(names: Iterable[str]) -> list[Facts]:
        return [replace(facts(name), price=_configured(settings, name) or facts(name).price) for name in names]

    return pricing(
        priced((choice.root, choice.sub)),
        Caps(limits.cost, limits.tokens, limits.subcalls),
        usd_is_explicit=cost_given,
        override=per_million(given.input, given.output) if given else None,
        allow_unknown=limits.allow_unknown_cost,
        others=dict(zip(settings.aliases, priced(settings.aliases.values()), strict=True)),
    )


def _configured(settings: config.Settings, name: str) -> Price | None:
    """A price from the user's own `[prices]` table."""
    price = settings.prices.get(name)
    if price is None:
        return None
    cached = None if price.cached is None else price.cached / 1e6
    return replace(per_million(price.input, price.output), cached=cached)


class Runtime(ABC):
    """Where the model's code will run; `folder` is the run's private one. Nothing happens before it is asked for."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As `--sandbox` has it."""

    def __init__(self, settings: config.Settings, folder: Path) -> None:
        self._settings, self._options, self.folder = settings, sandbox_options(settings), folder

    @abstractmethod
    def ready(self, ticker: Ticker) -> None:
        """Get ready for `sandbox`, with progress where it may take long. Raises `SandboxError`."""

    @abstractmethod
    def reach(self) -> None:
        """Find out that it is there, and nothing more. Raises `SandboxError`."""

    @abstractmethod
    def sandbox(self, run_id: str, emit: Emit) -> RootSandbox:
        """A sandbox for one run; not opened, which a run that needs none never does."""

    def close(self) -> None:
        """Release what it holds."""
        return

    @property
    def text_limit(self) -> int:
        """Bytes up to which a document is a str: it is held twice while it is decoded, at up to four bytes a
        character."""
        return min(64 * 1024**2, self._options.memory // 16)


def runtime(settings: config.Settings, folder: Path) -> Runtime:
    """The one that the settings name. A process only by its name, never in place of a container."""
    return (Process if settings.sandbox.runtime == "process" else Docker)(settings, folder)


class Process(Runtime):
    """A confined process of this machine."""

    @property
    def name(self) -> str:
        """See `Runtime.name`."""
        return "process"

    def ready(self, ticker: Ticker) -> None:  # noqa: ARG002
        """See that this machine and user can confine one."""
        self.reach()

    def reach(self) -> None:
        """The same: it takes a millisecond."""
        from ..sandbox.process_sandbox import refusal

        if refused := refusal():
            raise refused

    def sandbox(self, run_id: str, emit: Emit) -> RootSandbox:  # noqa: ARG002
        """See `Runtime.sandbox`."""
        from ..sandbox.process_sandbox import ProcessSandbox

        return ProcessSandbox(
            self._options,
            folder=self.folder,
            text_limit=self.text_limit,
            on_stage=lambda what, done, total: emit(Preparing(what, done, total), ROOT),
            on_note=lambda note: emit(Warned(note), ROOT),
        )


class Docker(Runtime):
    """A Docker Engine, imported and connected when it is needed; `sandbox` makes one container on it."""

    @property
    def name(self) -> str:
        """See `Runtime.name`: which engine it is where that is known, else which it is to be."""
        if self._engine is not None and self._is_ready:
            return self._engine.flavor.lower()
        return "podman" if self._settings.sandbox.runtime == "podman" else "docker"

    def __init__(self, settings: config.Settings, folder: Path) -> None:
        super().__init__(settings, folder)
        self._engine: Engine | None = None
        self._is_ready = False

    def ready(self, ticker: Ticker) -> None:
        """Connect, and get the image if the policy says so, with progress. Raises `SandboxError`."""
        from ..sandbox.image import resolve_image

        if not self._is_ready:
            self.reach()
            resolve_image(self._connected(), self._options, on_progress=lambda progress: _show(ticker, progress))
            self._options, self._is_ready = replace(self._options, pull="never"), True

    def reach(self) -> None:
        """Connect, and nothing more. Raises `SandboxError`."""
        from ..sandbox.engine_errors import UNREACHED

        try:
            self._connected().api()
        except SandboxError as error:
            if error.code in UNREACHED:
                raise with_alternative(error) from error
            raise

    def close(self) -> None:
        """Release the engine's connections."""
        if self._engine is not None:
            self._engine.close()

    def _connected(self) -> Engine:
        self._engine = self._engine or make_engine(self._settings)  # connects at its first call
        return self._engine

    def sandbox(self, run_id: str, emit: Emit) -> RootSandbox:
        """See `Runtime.sandbox`."""
        from ..sandbox.docker_sandbox import DockerSandbox

        return DockerSandbox(
            replace(self._options, run_id=run_id),
            folder=self.folder,
            engine=self._connected(),
            on_image=lambda image: emit(Preparing(f"{image.phase} {image.name}", image.done, image.total), ROOT),
            text_limit=self.text_limit,
            on_stage=lambda what, done, total: emit(Preparing(what, done, total), ROOT),
            on_note=lambda note: emit(Warned(note), ROOT),
        )


def with_alternative(error: SandboxError) -> SandboxError:
    """There is no engine: where this machine can do without, what that costs belongs to the advice."""
    from ..sandbox.process_sandbox import refusal

    if refusal() is not None:
        return error
    hint = f"{error.hint}; or, without a container and less well protected: --sandbox process (rlm help sandbox)"
    return SandboxError(error.message, hint=hint, code=error.code)


def make_engine(settings: config.Settings) -> Engine:
    """The container engine that the settings mean; the docker package is imported here and not before."""
    from ..sandbox.container import Engine
    from ..sandbox.podman import podman_hosts

    uid = os.getuid() if hasattr(os, "getuid") else 0
    named = settings.sandbox.runtime
    return Engine(runtime="auto" if named == "process" else named, podman=podman_hosts(config.environment(), uid))


def sandbox_options(settings: config.Settings) -> SandboxOptions:
    box = settings.sandbox
    return SandboxOptions(image=box.image or "", pull=box.pull, memory=box.memory, cpus=box.cpus)


def _show(ticker: Ticker, progress: ImageProgress) -> None:
    percent = f" {progress.percent:.0f} %" if progress.percent is not None else ""
    size = f" of {human_bytes(progress.total)}" if progress.total else ""
    ticker.show(f"{progress.phase} {progress.name}:{percent}{size}")
