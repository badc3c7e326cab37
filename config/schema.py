"""The typed tree of gateway.yaml: immutable values, their defaults and nothing else. No logic, no state.

Durations are seconds, sizes are bytes. Names and defaults are fixed by the project's contract.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from config.values import Duration, Secret, Size

Mode = Literal["immediate", "high_performance", "balanced", "battery_saver"]
Policy = Literal["weighted", "least_busy", "latency", "round_robin", "sticky", "prefix", "cheapest", "ordered"]
ProtocolFamily = Literal["native", "openai", "anthropic", "ollama", "google"]


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """Browser origins that may read answers; empty: none. Exact origins, never `*` with credentials."""

    origins: tuple[str, ...] = ()


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """The public listener."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    protocols: tuple[ProtocolFamily, ...] = ("native", "openai", "anthropic", "ollama", "google")
    max_body: Size = Size(20 * 1024 * 1024)
    drain_timeout: Duration = Duration(300)
    cors: Cors = Cors()
    hosts: tuple[str, ...] = ()  # Host names answered; empty: any well-formed one
    page: bool = True  # the built-in page at / while no app is fronted


class Admin(Struct, frozen=True, forbid_unknown_fields=True):
    """The operators' listener; a token is required off loopback."""

    host: str = "127.0.0.1"
    port: int = 8081
    token: Secret = Secret("")


class Registry(Struct, frozen=True, forbid_unknown_fields=True):
    """Who streams where: `memory://` for one worker, a Redis URL for more."""

    url: str = "memory://"
    lease: Duration = Duration(15)
    replay: Duration = Duration(600)
    timeout: Duration = Duration(0.2)  # of one Redis command; never retried
    prefix: str = "headgate"


class Store(Struct, frozen=True, forbid_unknown_fields=True):
    """What stays after a stream. Read by later releases; accepted so that one file serves both."""

    url: str = "sqlite:///data/headgate.db"
    retention: Duration = Duration(90 * 86400)
    conversations: bool = False


class OnDisconnect(Struct, frozen=True):
    """What becomes of a stream when its last reader leaves: `cancel`, `grace 30s`, `continue`."""

    action: Literal["cancel", "grace", "continue"]
    grace: Duration = Duration(0)


class Streams(Struct, frozen=True, forbid_unknown_fields=True):
    """The life of a stream: time limits in seconds, pacing, caps."""

    connect_timeout: Duration = Duration(5)
    first_token_timeout: Duration = Duration(120)
    no_progress: Duration = Duration(30)
    total_timeout: Duration = Duration(300)
    write_timeout: Duration = Duration(30)
    keepalive: Duration = Duration(15)
    mode: Mode = "balanced"
    on_disconnect: OnDisconnect | None = None  # None: `grace 30s` native, `cancel` for protocol clients
    transcript_cap: Size = Size(8 * 1024 * 1024)
    max_event: Size = Size(4 * 1024 * 1024)  # one frame of a backend
    max_active: int = 10_000  # streams of one worker; more are refused with 503


class Backend(Struct, frozen=True, forbid_unknown_fields=True):
    """One model server (or provider account). `options` is decoded by the driver's own `Options`."""

    driver: str
    url: str = ""  # empty: the driver's default
    api_key: Secret = Secret("")
    headers: dict[str, Secret] = field(default_factory=dict)
    keepalive: bool | None = None  # reuse connections; None: as the driver likes it
    max_connections: int = 0  # 0: no limit
    allow_private: bool = True  # may resolve to private addresses
    verify: bool = True  # check the TLS certificate
    ca_file: str = ""
    connect_timeout: Duration | None = None
    models: tuple[str, ...] = ()  # names for /v1/models where the backend cannot list
    options: dict[str, Any] = field(default_factory=dict)


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a route leads: a backend, and the model's name there (empty: as the client said)."""

    backend: str
    model: str = ""
    weight: int = 1


class Route(Struct, frozen=True, forbid_unknown_fields=True):
    """A model glob and its targets. `to: name` and `to: {backend: name}` are short for a list of one."""

    model: str
    to: tuple[Target, ...]
    policy: Policy = "weighted"
    on_failure: Literal["continue", "restart", "fail"] = "fail"
    on_disconnect: OnDisconnect | None = None
    system: str = ""  # the system prompt of `onboarding-stream`


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """An API key: its hash, never the key. The owner of its streams is `owner`."""

    id: str
    owner: str
    hash: str  # sha256:<hex>
    max_streams: int = 0  # 0: no limit
    models: tuple[str, ...] = ("*",)
    disabled: bool = False


class Access(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that hold for every caller."""

    max_streams: int = 0  # per owner without a limit of its own; 0: none
    max_tokens: int = 0  # refuse requests that ask for more; 0: none
    max_n: int = 8
    allow_anonymous: bool = False  # serve beyond loopback without keys (behind something that checks)


class App(Struct, frozen=True, forbid_unknown_fields=True):
    """A fronted application. Read by later releases."""

    path: str
    url: str


class Observe(Struct, frozen=True, forbid_unknown_fields=True):
    """Logs and metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    metrics: bool = True


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """gateway.yaml, whole."""

    server: Server = Server()
    admin: Admin = Admin()
    registry: Registry = Registry()
    store: Store = Store()
    streams: Streams = Streams()
    backends: dict[str, Backend] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    keys: tuple[Key, ...] = ()
    access: Access = Access()
    apps: tuple[App, ...] = ()
    observe: Observe = Observe()
