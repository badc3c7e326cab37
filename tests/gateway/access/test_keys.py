"""API keys: who is let in, and as whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from multidict import CIMultiDict

from backends.contract.errors import BackendError, ErrorCode
from gateway.access.keys import Caller, Keyring, create, credential, hash_of, may_use, query_credential, well_formed

SECRET, KEY = create("web", "acme", max_streams=3)
RING = Keyring([KEY])


def refused(ring: Keyring, headers: dict[str, str], token: str | None = None) -> BackendError:
    with pytest.raises(BackendError) as caught:
        ring.identify(headers, {"token": token} if token is not None else None)
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}"},
        {"authorization": f"bearer  {SECRET} "},
        {"X-Api-Key": SECRET},
        {"api-key": SECRET},
        {"x-goog-api-key": SECRET},
        {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET},
    ],
)
def test_every_clients_way_of_sending_a_key(headers: dict[str, str]) -> None:
    """One of the SDKs could not sign in."""
    assert RING.identify(headers, None) == Caller("acme", "web", 3, ("*",))


def test_key_in_the_address() -> None:
    """EventSource cannot send headers, and Google's clients send ?key=."""
    for name in ("token", "key"):
        assert RING.identify({}, {name: SECRET}).owner == "acme"
    with pytest.raises(BackendError):
        query_credential({"token": "a", "key": "b"})


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({"Authorization": ""}, ""),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": f"Basic {SECRET}"}, None),
        ({"x-api-key": SECRET[:-1]}, None),
        ({"x-api-key": SECRET + "x"}, None),
        ({"x-api-key": KEY.hash}, None),
        ({"x-api-key": KEY.hash.removeprefix("sha256:")}, None),
        ({"x-api-key": "schlüssel-\udcff"}, None),
        ({"x-api-key": "k" * 100_000}, None),
        ({"x-api-key": SECRET, "api-key": "other"}, None),
        ({"x-api-key": SECRET}, "other"),
    ],
)
def test_what_is_refused(headers: dict[str, str], token: str | None) -> None:
    """A doubtful credential would be let in, or crash the check."""
    assert SECRET not in refused(RING, headers, token).message


def test_a_header_sent_twice_with_different_keys_is_refused() -> None:
    """A proxy and the gateway could each believe another of the two."""
    with pytest.raises(BackendError):
        credential(CIMultiDict([("x-api-key", "a"), ("X-API-Key", "b")]))


def test_revoked_keys_are_refused_and_do_not_open_the_door() -> None:
    """Revoking the only key would make everybody anonymous."""
    ring = Keyring([replace(KEY, disabled=True)])
    assert "revoked" in refused(ring, {"x-api-key": SECRET}).message
    refused(ring, {})


def test_without_keys_everybody_is_anonymous() -> None:
    """SDKs always send a key; on a gateway without keys it must not matter."""
    assert Keyring(()).identify({"Authorization": "Bearer anything"}, None) == Caller("anonymous")


def test_models_of_a_key() -> None:
    """A key made for one model would open all of them."""
    caller = Caller("acme", "web", models=("gpt-*", "fast"))
    may_use(caller, "gpt-4o")
    may_use(caller, "fast")
    with pytest.raises(BackendError) as caught:
        may_use(caller, "claude-3")
    assert caught.value.code is ErrorCode.FORBIDDEN
    with pytest.raises(BackendError):
        may_use(Caller("x", models=()), "gpt-4o")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_created_keys_are_whole_and_random(key_id: str) -> None:
    """A key could be guessed, or a slip of the pen go unnoticed."""
    secret, key = create(key_id, "o")
    assert secret.startswith(f"hg_{key_id}_")
    assert well_formed(secret)
    assert not well_formed(secret[:-1])
    assert not well_formed(secret[:-7] + ("A" if secret[-7] != "A" else "B") + secret[-6:])
    assert key.hash == hash_of(secret)
    assert secret != create(key_id, "o")[0]


def test_callers_are_told_apart_by_their_key_alone() -> None:
    """Two keys that share an id would speak for one another's owner; one revoked by a reload would go on working."""
    one, first = create("same", "acme")
    other, second = create("same", "bolt", max_streams=9)
    ring = Keyring([first, second])
    assert ring.identify({"X-Api-Key": one}).owner == "acme"
    assert ring.identify({"X-Api-Key": other}) == Caller("bolt", "same", max_streams=9)
    refused(Keyring([replace(first, disabled=True), second]), {"X-Api-Key": one})
