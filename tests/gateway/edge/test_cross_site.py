"""What a web page may ask of a gateway without keys: names, origins, and that programs never notice."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inprocess import client, config_for, running
from support.upstream import Upstream, head

from config.schema import Admin, Cors, Key, Server
from gateway.access.keys import hash_of
from gateway.admin.api import host_allowed, origin_allowed
from gateway.edge.cross_site import host_name, lured, own, unowned

EVIL = "https://evil.example"
CHAT = "/api/streaming/chat"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SIMPLE = {"Content-Type": "text/plain"}
PLAIN = Server()
PORTS = st.one_of(st.just(""), st.integers(0, 65535).map(lambda port: f":{port}"))
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
# Registered names: their last label is letters, as of every top-level domain, and none of those nobody can register.
REGISTERED = st.tuples(st.lists(LABELS, min_size=1, max_size=3), st.from_regex(r"[a-z]{2,12}", fullmatch=True)).filter(
    lambda found: found[1] not in ("localhost", "internal")
)


@given(st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda ip: f"[{ip}]")), PORTS)
def test_addresses_are_nobodys_names(address: str, port: str) -> None:
    """Who calls the gateway by its address would be refused."""
    assert unowned(address + port)
    assert ipaddress.ip_address(host_name(address + port)) == ipaddress.ip_address(address.strip("[]"))


@given(LABELS, PORTS)
def test_names_without_a_dot_are_nobodys(label: str, port: str) -> None:
    """Containers that call the gateway by its service's name would be refused."""
    assert unowned(label + port)
    assert unowned(f"{label}.localhost{port}")
    assert unowned(f"{label}.LocalHost.{port}")
    assert unowned(f"{label}.internal{port}")


@given(REGISTERED, PORTS, st.sampled_from(["", "."]))
def test_what_can_be_registered_is_refused(name: tuple[list[str], str], port: str, root: str) -> None:
    """A page could let such a name point at the visitor's own machine, and then read and spend there."""
    host = ".".join([*name[0], name[1]]) + root
    assert not unowned(host + port)
    assert not unowned(host.upper() + port)
    assert not unowned(f"localhost.{host}{port}")
    assert not unowned(f"127.0.0.1.{host}{port}")
    assert lured(PLAIN, host + port, (), "", changes=False)


@given(st.text(max_size=40))
def test_any_text_is_judged(text: str) -> None:
    """A strange Host or Origin would be an error of ours instead of an answer, or be taken for a friend."""
    assert unowned(text) in (True, False)
    assert not own(text, "") or not text
    if lured(PLAIN, "localhost", (text,), "", changes=True) == "":
        assert text.lower().startswith(("http://", "https://"))


@given(st.text(max_size=20), st.sampled_from(["localhost", "127.0.0.1", "[::1]", "evil.example", "a.localhost", "x"]))
def test_the_operators_listener_is_no_more_open(text: str, name: str) -> None:
    """Without a token the admin listener would let pages in that even the public one refuses."""
    for host in (text, name, f"{name}:{text}", f"{text}@{name}"):
        assert not host_allowed(host, Admin()) or unowned(host)
        for origin in (EVIL, "null", f"http://{name}", f"http://{host}", text):
            passed = host_allowed(host, Admin()) and origin_allowed("POST", origin, None, host)
            assert not passed or not lured(PLAIN, host, (origin,), "", changes=True)


@pytest.mark.parametrize(
    ("origin", "listed", "welcome"),
    [
        ("http://localhost", (), True),
        ("http://localhost:3000", (), True),
        ("https://app.localhost:8443", (), True),
        ("http://127.0.0.1:5173", (), True),
        ("http://127.8.9.10", (), True),
        ("http://[::1]:3000", (), True),
        ("http://gateway:8080", (), True),  # the very origin it is sent to
        ("https://gateway:8080", (), True),  # behind a proxy that ends TLS
        ("http://gateway:9", (), False),
        (EVIL, (), False),
        (EVIL, (EVIL,), True),
        (EVIL + ":8443", (EVIL,), False),
        ("null", (), False),
        ("null", ("null",), True),
        ("", (), False),
        ("http://localhost.evil.example", (), False),
        ("http://127.0.0.1.evil.example", (), False),
        ("http://evil.example:80@localhost", (), False),
        ("http://192.168.1.5", (), False),
        ("http://[::2]", (), False),
        ("file://", (), False),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",), True),
    ],
)
def test_whose_pages_may_start_and_change(origin: str, listed: tuple[str, ...], welcome: bool) -> None:
    """A page from anywhere could spend its visitor's tokens, or one of this machine could not."""
    server = Server(cors=Cors(origins=listed))
    assert (lured(server, "gateway:8080", (origin,), "cross-site", changes=True) == "") is welcome
    assert lured(server, "gateway:8080", (origin,), "cross-site", changes=False) == ""
    assert (lured(server, "gateway:8080", ("http://localhost", origin), "", changes=True) == "") is welcome


def test_sites_where_no_origin_is_said() -> None:
    """An image or a link of another site could start a stream: browsers send no Origin with those."""
    assert lured(PLAIN, "localhost", (), "cross-site", changes=True)
    for site in ("", "none", "same-origin", "same-site"):
        assert lured(PLAIN, "localhost", (), site, changes=True) == ""
        assert lured(PLAIN, None, (), site, changes=True) == ""


def test_listed_host_names_are_judged_elsewhere() -> None:
    """A name in `server.hosts` would be refused for its dot, or let foreign pages in."""
    named = Server(hosts=("llm.example.com",))
    assert lured(named, "llm.example.com", (), "", changes=True) == ""
    assert lured(named, "llm.example.com", ("https://llm.example.com",), "", changes=True) == ""
    assert lured(named, "llm.example.com", (EVIL,), "", changes=True)


async def said(session: aiohttp.ClientSession, method: str, path: str, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a request as a page can send it without a preflight."""
    body = json.dumps(ASK) if method == "POST" else None
    plain = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(method, path, data=body, headers=SIMPLE | plain) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text


async def test_a_rebound_name_reaches_nothing() -> None:
    """A page whose name points at this machine would be of the same origin, and read all answers."""
    async with running(config_for()) as gateway, client(gateway) as session:
        for method, path in (
            ("GET", "/"),
            ("GET", "/health"),
            ("GET", "/v1/models"),
            ("POST", CHAT),
            ("OPTIONS", CHAT),
        ):
            status, answer = await said(session, method, path, Host="evil.example")
            assert (status, answer["error"]["code"]) == (403, "forbidden"), path
            assert "server.hosts" in answer["error"]["message"] or path.startswith("/v1/")
        for host in ("localhost:1", "a.localhost", "10.1.2.3:8080", "[::1]", "gateway:8080", "host.docker.internal"):
            assert (await said(session, "GET", "/v1/models", Host=host))[0] == 200, host


WORDS = {  # the way to the code in each protocol's own error
    "/api/streaming/chat": ("error", "code"),
    "/v1/chat/completions": ("error", "code"),
    "/v1/embeddings": ("error", "code"),
    "/v1/messages": ("error", "type"),
    "/v1/messages/count_tokens": ("error", "type"),
    "/v1beta/models/m:streamGenerateContent": ("error", "status"),
    "/api/chat": ("error",),
}


@pytest.mark.parametrize("path", WORDS)
async def test_a_foreign_page_starts_nothing(path: str) -> None:
    """A form or a `no-cors` fetch of any site would spend tokens, and its developer would not be told why it cannot."""
    async with (
        Upstream([head(), b"0\r\n\r\n"]) as up,
        running(config_for(up.url)) as gateway,
        client(gateway) as session,
    ):
        for foreign in ({"Origin": EVIL}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
            status, answer = await said(session, "POST", path, **foreign)
            assert status == 403, foreign
            assert "server.cors.origins" in json.dumps(answer)
            for key in WORDS[path]:
                answer = answer[key]
            assert answer
        assert up.connections == 0


async def test_other_ways_to_change_and_to_start() -> None:
    """A page could cancel streams, or start them with an address alone: an EventSource, an image, a link."""
    async with running(config_for()) as gateway, client(gateway) as session:
        for target in ("chat/stream?message=hi", "chat/onboarding-stream?message=hi", "chat/%73tream?message=hi"):
            for foreign in ({"Origin": EVIL}, {"Sec_Fetch_Site": "cross-site"}):
                status, answer = await said(session, "GET", "/api/v1/" + target, **foreign)
                assert (status, answer["error"]["code"]) == (403, "forbidden"), target
        assert (await said(session, "DELETE", "/api/streaming/st_1", Origin=EVIL))[0] == 403
        assert (await said(session, "DELETE", "/api/streaming/st_1", Origin="http://localhost:3000"))[0] == 404
        assert (await said(session, "GET", "/api/v1/chat/stream?message=hi", Origin="http://localhost:3000"))[0] == 200
        assert (await said(session, "GET", "/api/streaming/active", Origin=EVIL))[0] == 200  # which it cannot read


async def test_programs_and_welcome_pages_are_served() -> None:
    """SDKs, the built-in page, a developer's server and listed origins would be locked out."""
    server = Server(port=0, cors=Cors(origins=("https://app.example",)))
    async with running(config_for(server=server)) as gateway, client(gateway) as session:
        here = f"http://127.0.0.1:{gateway.public_port}"
        for origin in ("http://localhost:3000", here, "https://app.example"):
            assert (await said(session, "POST", CHAT, Origin=origin))[0] == 200, origin
        assert (await said(session, "POST", CHAT))[0] == 200


async def test_keys_are_lock_enough() -> None:
    """A page that was given a key, or a gateway's public name, would be refused."""
    keys = (Key(id="k", owner="o", hash=hash_of("secret")),)
    async with running(config_for(keys=keys)) as gateway, client(gateway, Authorization="Bearer secret") as session:
        assert (await said(session, "POST", CHAT, Origin=EVIL, Host="llm.example.com"))[0] == 200


async def test_a_refused_request_ends_its_connection() -> None:
    """What is left of the unread body would be taken for the connection's next request."""
    async with running(config_for()) as gateway:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.public_port}", connector=connector) as session:
            for headers in ({"Origin": EVIL}, {"Origin": EVIL, "Expect": "100-continue"}):
                async with session.post(CHAT, data=b"x" * 100_000, headers=headers) as answer:
                    assert (answer.status, answer.headers["Connection"]) == (403, "close")
