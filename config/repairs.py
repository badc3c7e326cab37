"""The names of the repairs `backends.NAME.repairs` may switch on or off, each with what it does in one sentence.

Law: the rules themselves live in `gateway.protocols.repairs`, under these names; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REPAIRS: Mapping[str, str] = MappingProxyType(
    {
        "done_marker": "adds the `data: [DONE]` a completed chat stream lacks",
        "error_then_done": "withholds the `[DONE]` that follows an error",
        "first_role": "adds `role` to the first chunk of a chat stream",
        "reasoning_name": "adds `reasoning_content` where only `reasoning` came (set to true: also the other way)",
        "responses_fields": "adds sequence numbers, indices, `created_at` and `model` to a Responses stream",
        "split_finish": "sends content and finish reason of one chunk as two chunks",
        "string_error": "turns an error that is a mere text into an error object",
        "tool_call_ids": "makes tool-call ids unique and says them once, in the first delta of a call",
    }
)
