"""Which of a backend's headers reach a client."""

from __future__ import annotations

from gateway.edge.passed import beside, passed_on


def test_limits_pass_and_nothing_else() -> None:
    """Clients pace themselves by these; a cookie or an Alt-Svc of the backend would be taken for ours."""
    headers = {
        "x-ratelimit-remaining-requests": "59",
        "anthropic-ratelimit-tokens-remaining": "9",
        "ratelimit": '"default";r=50;t=30',
        "ratelimit-reset": "7",
        "openai-processing-ms": "12",
        "x-should-retry": "false",
        "retry-after": "7200",
        "x-request-id": "req_1",
        "set-cookie": "a=b",
        "alt-svc": 'h3=":443"',
        "x-accel-redirect": "/secret",
        "server": "up",
        "content-length": "3",
    }
    assert passed_on(headers) == {
        "x-ratelimit-remaining-requests": "59",
        "anthropic-ratelimit-tokens-remaining": "9",
        "ratelimit": '"default";r=50;t=30',
        "ratelimit-reset": "7",
        "openai-processing-ms": "12",
        "x-should-retry": "false",
        "Retry-After": "3600",
        "X-Upstream-Request-Id": "req_1",
    }


def test_values_that_no_header_should_have_stay_behind() -> None:
    """A hostile backend must not write headers of ours, or fill the client's buffer."""
    hostile = {f"x-ratelimit-{i}": "1" for i in range(200)} | {
        "x-request-id": "a\r\nset-cookie: b",
        "retry-after": "-1",
    }
    hostile |= {"ratelimit-limit": "1" * 5000, "ratelimit-policy": "é"}
    found = passed_on(hostile)
    assert len(found) == 40
    assert not {"X-Upstream-Request-Id", "Retry-After", "ratelimit-limit", "ratelimit-policy"} & found.keys()


def test_anthropics_request_id_is_one_too() -> None:
    """Support asks for it, under whichever name the provider gave it."""
    assert passed_on({"request-id": "req_a"}) == {"X-Upstream-Request-Id": "req_a"}


def test_whether_to_retry_is_ours_to_say() -> None:
    """A refusal says `x-should-retry: false`; a backend that says the contrary would confuse clients."""
    own = (("Retry-After", "1"), ("x-should-retry", "false"))
    passed = {"x-should-retry": "true", "Retry-After": "600", "ratelimit-reset": "1"}
    assert beside(own, passed) == {"Retry-After": "600", "ratelimit-reset": "1"}
