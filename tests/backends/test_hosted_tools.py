"""Tools that run at the provider, in another provider's words."""

from __future__ import annotations

from typing import Any

import pytest

from backends.contract.errors import BackendError, ErrorCode
from backends.contract.request import ChatRequest, Message, Tool
from backends.hosted_tools import said_in, unsaid

OPENAI, ANTHROPIC, GOOGLE = "openai_responses", "anthropic", "google"
PARIS = {"type": "approximate", "city": "Paris"}
SEARCHES: dict[str, dict[str, Any]] = {
    OPENAI: {"type": "web_search"},
    ANTHROPIC: {"type": "web_search_20250305", "name": "web_search"},
    GOOGLE: {"googleSearch": {}},
}
CODES: dict[str, dict[str, Any]] = {
    OPENAI: {"type": "code_interpreter", "container": {"type": "auto"}},
    ANTHROPIC: {"type": "code_execution_20250825", "name": "code_execution"},
    GOOGLE: {"codeExecution": {}},
}


def asking(dialect: str, *hosted: dict[str, Any]) -> ChatRequest:
    tools = tuple(Tool(str(said.get("name") or said.get("type") or next(iter(said))), hosted=said) for said in hosted)
    return ChatRequest("m", (Message("user", "hi"),), tools=(Tool("f"), *tools), dialect=dialect)


@pytest.mark.parametrize("target", SEARCHES)
@pytest.mark.parametrize("source", SEARCHES)
def test_search_and_code_are_said_everywhere(source: str, target: str) -> None:
    """An agent that searches the web would do so with one provider only."""
    request = asking(source, SEARCHES[source], CODES[source])
    assert said_in(target, request) == [SEARCHES[target], CODES[target]]
    assert unsaid(target, request) == ()


def test_what_a_search_is_bound_to_goes_with_it() -> None:
    """The model would cite pages it was told to keep away from."""
    bound = {"allowed_domains": ["a.test"], "user_location": PARIS}
    there = {**SEARCHES[ANTHROPIC], **bound}
    here = {**SEARCHES[OPENAI], "filters": {"allowed_domains": ["a.test"]}, "user_location": PARIS}
    assert said_in(OPENAI, asking(ANTHROPIC, there)) == [here]
    assert said_in(ANTHROPIC, asking(OPENAI, here)) == [there]
    excluding = asking(GOOGLE, {"googleSearch": {"excludeDomains": ["b.test"]}})
    assert said_in(ANTHROPIC, excluding) == [{**SEARCHES[ANTHROPIC], "blocked_domains": ["b.test"]}]


def test_what_goes_unsaid_is_named() -> None:
    """A dearer or farther search would come as a surprise."""
    request = asking(ANTHROPIC, {**SEARCHES[ANTHROPIC], "max_uses": 2, "user_location": PARIS})
    assert said_in(OPENAI, request) == [{**SEARCHES[OPENAI], "user_location": PARIS}]
    assert unsaid(OPENAI, request) == ("max_uses of web_search",)
    assert unsaid(GOOGLE, request) == ("max_uses of web_search", "user_location of web_search")
    assert unsaid(ANTHROPIC, request) == ()


@pytest.mark.parametrize(("source", "said", "target"), [
    (ANTHROPIC, {**SEARCHES[ANTHROPIC], "allowed_domains": ["a.test"]}, GOOGLE),
    (ANTHROPIC, {**SEARCHES[ANTHROPIC], "blocked_domains": ["a.test"]}, OPENAI),
    (OPENAI, {**SEARCHES[OPENAI], "external_web_access": False}, ANTHROPIC),
    (OPENAI, {**SEARCHES[OPENAI], "filters": {"new": 1}}, ANTHROPIC),
    (OPENAI, {**CODES[OPENAI], "container": "cntr_1"}, GOOGLE),
    (OPENAI, {**CODES[OPENAI], "container": {"type": "auto", "file_ids": ["f"]}}, ANTHROPIC),
    (GOOGLE, {"googleSearch": {"timeRangeFilter": {"startTime": "x"}}}, OPENAI),
    (GOOGLE, {"urlContext": {}}, OPENAI),
    (ANTHROPIC, {"type": "bash_20250124", "name": "bash"}, OPENAI),
    (OPENAI, {"type": "file_search", "vector_store_ids": ["v"]}, GOOGLE),
    ("openai", {"type": "custom", "custom": {"name": "x"}}, GOOGLE),
    (OPENAI, SEARCHES[OPENAI], "ollama"),
])  # fmt: skip
def test_what_would_change_the_results_is_refused_by_name(source: str, said: dict[str, Any], target: str) -> None:
    """The answer would rest on other sources than it was allowed to."""
    with pytest.raises(BackendError, match="no such tool") as caught:
        said_in(target, asking(source, said))
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_REQUEST, "tools")
