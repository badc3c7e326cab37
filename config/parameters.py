"""Parameters that a route may set (`defaults`, `force`), in OpenAI's words, and what a driver must express for each.

Law: one table; `gateway.routing.rewriting` has a place for each of these words in every dialect that has one.
"""

from __future__ import annotations

from typing import Any

# Word -> (its types, the name of the Feature a driver must express; "": every driver has it).
PARAMETERS: dict[str, tuple[tuple[type, ...], str]] = {
    "temperature": ((int, float), "TEMPERATURE"),
    "top_p": ((int, float), "TOP_P"),
    "top_k": ((int,), "TOP_K"),
    "max_tokens": ((int,), ""),
    "stop": ((list,), "STOP"),
    "seed": ((int,), "SEED"),
    "presence_penalty": ((int, float), "PENALTIES"),
    "frequency_penalty": ((int, float), "PENALTIES"),
    "reasoning_effort": ((str,), "REASONING"),
    "parallel_tool_calls": ((bool,), "PARALLEL_TOOLS"),
    "user": ((str,), "USER"),
}


def wrong(name: str, value: Any) -> str:
    """What is wrong with a parameter's value; "" for nothing."""
    types = PARAMETERS[name][0]
    if isinstance(value, types) and not (isinstance(value, bool) and bool not in types):
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            return "must be a list of texts"
        return ""
    return "must be " + {float: "a number", int: "a whole number", list: "a list of texts", str: "a text"}.get(
        types[-1], "true or false"
    )
