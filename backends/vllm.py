"""vLLM's OpenAI-compatible server (protocol source: vLLM 0.32). Reasoning comes as `delta.reasoning`.

After an engine crash it sends an error and then `[DONE]` in a 200: that is a failure, see `openai_stream`.
"""

from __future__ import annotations

from backends.openai import LocalDriver


class Driver(LocalDriver):
    """`url: http://host:8000`."""
