"""From a URL to a client of one server, of Sentinels, or of a cluster.

Law: nothing is sent here, and no client made here ever repeats a command by itself.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
Client = Any  # redis.asyncio's clients share their methods but no base class


def connect(url: str, timeout: float) -> Client:
    """A client for any of SCHEMES; nothing is sent yet. Raises ValueError for a URL it cannot read."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ValueError(f"registry.url: unknown scheme {scheme!r}; known: memory, {', '.join(SCHEMES)}")
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if scheme.endswith("+sentinel"):
        return _sentinel(url, options)
    if scheme.endswith("+cluster"):
        user, hosts, _ = _authority(url)
        nodes = [ClusterNode(host, port) for host, port in _hosts(hosts, 6379)]
        return RedisCluster(startup_nodes=nodes, ssl=scheme.startswith("rediss"), **user, **options)
    return Redis.from_url(url, **options)


def _sentinel(url: str, options: dict[str, Any]) -> Client:
    user, hosts, path = _authority(url)
    service, _, db = path.partition("/")
    if not service:
        raise ValueError("registry.url: redis+sentinel:// needs a service name: redis+sentinel://host:26379/mymaster")
    secure = {"ssl": True} if url.startswith("rediss") else {}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        _hosts(hosts, 26379), sentinel_kwargs=options | secure, **options, **secure, **user
    )
    return sentinel.master_for(service, db=int(db or 0))


def _authority(url: str) -> tuple[dict[str, Any], str, str]:
    rest = url.split("://", 1)[1].split("?", 1)[0]
    authority, _, path = rest.partition("/")
    login, _, hosts = authority.rpartition("@")
    name, _, password = login.partition(":")
    user = {"username": unquote(name), "password": unquote(password)}
    return {key: value for key, value in user.items() if value}, hosts, path


def _hosts(text: str, port: int) -> list[tuple[str, int]]:
    found = []
    for item in text.split(","):
        parts = urlsplit("//" + item)
        if not parts.hostname:
            raise ValueError(f"registry.url: {item!r} is not host:port")
        found.append((parts.hostname, parts.port or port))
    return found
