"""The typed tree of gateway.yaml: immutable values, their defaults and nothing else. No logic, no state.

Durations are seconds, sizes are bytes. Names and defaults are fixed by the project's contract.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from config.values import Duration, Secret, Size

Mode = Literal["immediate", "high_performance", "balanced", "battery_saver"]
Policy = Literal["weighted", "least_busy", "latency", "round_robin", "sticky", "prefix", "cheapest", "ordered"]
Priority = Literal["high", "normal", "low"]
ProtocolFamily = Literal["native", "openai", "anthropic", "ollama", "google"]


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """Browser origins that may read answers; empty: none. Exact origins, never `*` with credentials."""

    origins: tuple[str, ...] = ()


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """The public listener."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1  # 0: one per core; more than one need a Redis registry
    protocols: tuple[ProtocolFamily, ...] = ("native", "openai", "anthropic", "ollama", "google")
    prefixes: dict[ProtocolFamily, str] = field(default_factory=dict)  # `ollama: /ollama` moves a family's paths
    max_body: Size = Size(20 * 1024 * 1024)
    header_timeout: Duration = Duration(10)  # from connecting, or a request's first byte, to the end of its headers
    body_timeout: Duration = Duration(30)
    max_connections: int = 20_000  # at most half of the open files the system allows
    drain_timeout: Duration = Duration(300)
    cors: Cors = Cors()
    hosts: tuple[str, ...] = ()  # Host names answered; empty: any, without keys those that no web page can own
    page: bool = True  # the built-in page at / while no app is fronted
    durable_streams: bool = False  # reads of streams as Durable Streams, at /v1/stream/{id}


class Admin(Struct, frozen=True, forbid_unknown_fields=True):
    """The operators' listener; a token is required off loopback."""

    host: str = "127.0.0.1"
    port: int = 8081
    token: Secret = Secret("")
    state: str = ""  # file for what operators set at runtime; empty: kept in Redis if there is one, else not kept


class Registry(Struct, frozen=True, forbid_unknown_fields=True):
    """Who streams where: `memory://` for one worker, a Redis URL for more."""

    url: str = "memory://"
    lease: Duration = Duration(15)
    replay: Duration = Duration(600)
    timeout: Duration = Duration(0.2)  # of one Redis command; never retried
    prefix: str = "headgate"
    share: Literal["auto", "off"] = "auto"  # transcripts, so that other nodes can read them
    tick: Duration = Duration(0.008)  # how often what is new is shared; seldomer the more there is


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
    replay_memory: Size = Size(256 * 1024 * 1024)  # of one worker, for ended streams that may be read again
    answers_memory: Size = Size(64 * 1024 * 1024)  # of one worker, for finished answers routes may give again
    max_readers: int = 100  # of one stream
    max_event: Size = Size(4 * 1024 * 1024)  # one frame of a backend
    max_active: int = 10_000  # streams of one worker; more are refused with 503
    max_tool_arguments: Size = Size(0)  # of one answer's tool calls together; 0: no limit


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model costs, per million tokens, in any one currency."""

    input: float = 0.0
    output: float = 0.0


class Queue(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may wait, in one worker, for a backend that carries `max_streams` already. `size` 0: nobody."""

    size: int = 0
    timeout: Duration = Duration(10)


class Breaker(Struct, frozen=True, forbid_unknown_fields=True):
    """When a backend is left alone, and for how long."""

    failures: int = 5  # in a row, until it is; 0: never
    pause: Duration = Duration(30)  # the first time; doubled each time it fails again
    longest: Duration = Duration(300)
    successes: int = 2  # until it is trusted again


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
    max_streams: int = 0  # running streams sent there by all nodes together; 0: no limit
    rpm: int = 0  # requests per minute sent there by all nodes; 0: no limit
    tpm: int = 0  # tokens per minute, likewise
    queue: Queue = Queue()  # for a place under max_streams
    breaker: Breaker = Breaker()
    probe: Duration = Duration(0)  # how often it is asked how it is, and how busy; 0: never
    price: Price | None = None  # for `policy: cheapest`; a target's own wins
    models: tuple[str, ...] = ()  # names for /v1/models where the backend cannot list
    repairs: dict[str, bool] = field(default_factory=dict)  # repair's name -> on or off
    options: dict[str, Any] = field(default_factory=dict)


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a route leads: a backend, and the model's name there (empty: as the client said)."""

    backend: str
    model: str = ""
    weight: int = 1
    price: Price | None = None


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """What else must hold for a route to be taken. Texts are globs; prompt sizes are tokens, estimated (four characters
    each), both ends included."""

    key: tuple[str, ...] = ()
    owner: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    workspace: tuple[str, ...] = ()
    header: dict[str, str] = field(default_factory=dict)
    min_prompt: int = 0
    max_prompt: int = 0  # 0: no limit


class Hedge(Struct, frozen=True):
    """When a second backend is asked beside the first: after so many seconds without a token (`800ms`), or when most
    streams there had theirs (`p95`)."""

    after: Duration = Duration(0)
    percentile: int = 0


class Degrade(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client gets instead of an error: a finished answer to the same request that is no older than `cached`, the
    text `message` as an answer, and `partial` True: an answer that ran out of time as far as it came."""

    cached: Duration = Duration(0)  # 0: none is kept
    partial: bool = False
    message: str = ""  # empty: none


class Route(Struct, frozen=True, forbid_unknown_fields=True):
    """A model glob and its targets. `to: name` and `to: {backend: name}` are short for a list of one; `model: [a, b]`
    is short for `model: a` with `aliases: [b]`. `defaults` and `force` are parameters in OpenAI's words."""

    model: str
    to: tuple[Target, ...]
    policy: Policy = "weighted"
    aliases: tuple[str, ...] = ()  # more globs
    match: Match = Match()
    attempts: int = 0  # at most, of one stream; 0: 3 where there is a choice, else 1
    hedge: Hedge | None = None
    sticky_by: Literal["conversation", "user"] = "conversation"  # of `policy: sticky`
    defaults: dict[str, Any] = field(default_factory=dict)  # where the client says nothing
    force: dict[str, Any] = field(default_factory=dict)  # whatever the client says
    system_prompt: str = ""  # before the client's own
    on_failure: Literal["continue", "restart", "fail"] = "fail"
    survive: Literal["", "node"] = ""  # `node`: when this node dies, another one goes on with its streams
    degrade: Degrade = Degrade()
    on_disconnect: OnDisconnect | None = None
    max_streams: int = 0  # running streams of this route, of all nodes; 0: no limit
    rpm: int = 0  # requests per minute of this route, of all nodes; 0: no limit
    tpm: int = 0  # tokens per minute, likewise
    system: str = ""  # the system prompt of `onboarding-stream`


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """An API key: its hash, never the key. The owner of its streams is `owner`."""

    id: str
    owner: str
    hash: str  # sha256:<hex>
    max_streams: int = 0  # 0: no limit
    rpm: int = 0  # requests per minute; 0: no limit of its own
    tpm: int = 0  # tokens per minute, prompt and answer together
    user_streams: int = 0  # running streams of each of its users
    user_rpm: int = 0
    user_tpm: int = 0
    workspace_streams: int = 0  # of each of its workspaces
    workspace_rpm: int = 0
    workspace_tpm: int = 0
    priority: Priority = "normal"
    models: tuple[str, ...] = ("*",)
    disabled: bool = False
    on_disconnect: OnDisconnect | None = None  # before the route's


class Access(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that hold for every caller."""

    max_streams: int = 0  # per owner without a limit of its own; 0: none
    rpm: int = 0  # requests per minute of an owner, where its key has no limit of its own
    tpm: int = 0  # tokens per minute, likewise
    user_streams: int = 0  # running streams of one user, where the key says nothing else
    user_rpm: int = 0
    user_tpm: int = 0
    workspace_streams: int = 0
    workspace_rpm: int = 0
    workspace_tpm: int = 0
    gateway_streams: int = 0  # running streams of all nodes together
    gateway_rpm: int = 0  # requests per minute of all callers at all nodes
    gateway_tpm: int = 0
    on_redis_loss: Literal["allow", "deny"] = "allow"  # allow: each node goes by its own count meanwhile
    queue: Duration = Duration(0)  # how long a request may wait for another stream's end; 0: refused at once
    queue_size: int = 100  # requests that may wait in one worker
    max_prompt: int = 0  # characters of all messages together; 0: no limit
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
