"""What a model says as the events of OpenAI's Responses API; see `support.dialects`."""

from __future__ import annotations

import json
from typing import Any

from support.dialects import Json, Said, Step, calls_whole, logprob

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Story:
    """Items one after the other, as OpenAI streams them: each opened, told in deltas, closed."""

    def __init__(self, said: Said) -> None:
        self.said = said
        self.frames: list[bytes] = []
        self.items: list[Json] = []

    def event(self, kind: str, **fields: Any) -> None:
        body = {"type": kind, "sequence_number": len(self.frames), **fields}
        self.frames.append(f"event: {kind}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n".encode())

    def response(self, status: str, **more: Any) -> Json:
        return {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status, "error": None,
                "incomplete_details": None, "instructions": None, "metadata": {}, "output": list(self.items),
                "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
                **more}  # fmt: skip

    def text(self, steps: list[Step]) -> None:
        at = {"output_index": len(self.items), "item_id": f"msg_{len(self.items)}", "content_index": 0}
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item: Json = {"id": at["item_id"], "type": "message", "role": "assistant", "status": "in_progress"}
        self.event("response.output_item.added", output_index=at["output_index"], item={**item, "content": []})
        self.event("response.content_part.added", **at, part=part)
        for step in steps:
            said = [logprob(step)] if step.logprobs else []
            self.event("response.output_text.delta", **at, delta=step.text, logprobs=said)
        whole, likely = "".join(step.text for step in steps), [logprob(step) for step in steps if step.logprobs]
        self.event("response.output_text.done", **at, text=whole, logprobs=likely)
        self.close({**item, "status": "completed", "content": [{**part, "text": whole, "logprobs": likely}]})

    def think(self, steps: list[Step]) -> None:
        pieces = [step.text for step in steps]
        at = {"output_index": len(self.items), "item_id": f"rs_{len(self.items)}", "summary_index": 0}
        item: Json = {"id": at["item_id"], "type": "reasoning"}
        self.event("response.output_item.added", output_index=at["output_index"], item={**item, "summary": []})
        self.event("response.reasoning_summary_part.added", **at, part={"type": "summary_text", "text": ""})
        for piece in pieces:
            self.event("response.reasoning_summary_text.delta", **at, delta=piece)
        whole = "".join(pieces)
        self.event("response.reasoning_summary_text.done", **at, text=whole)
        self.close({**item, "summary": [{"type": "summary_text", "text": whole}]})

    def call(self, step: Step) -> None:
        call_id, name, arguments = step.id, step.name, step.text
        at = {"output_index": len(self.items), "item_id": f"fc_{len(self.items)}"}
        item: Json = {"id": at["item_id"], "type": "function_call", "call_id": call_id, "name": name}
        begun = {**item, "arguments": "", "status": "in_progress"}
        self.event("response.output_item.added", output_index=at["output_index"], item=begun)
        for piece in (arguments[:3], arguments[3:]):
            self.event("response.function_call_arguments.delta", **at, delta=piece)
        self.event("response.function_call_arguments.done", **at, arguments=arguments, name=name)
        self.close({**item, "arguments": arguments, "status": "completed"})

    def close(self, item: Json) -> None:
        self.event("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)

    def end(self) -> None:
        said = self.said
        if said.broken:
            error = {"code": "server_error", "message": said.broken}
            self.event("response.failed", response=self.response("failed", error=error))
            return
        prompt, completion, reasoning, cached = said.usage
        usage = {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": cached}, "output_tokens": completion,
                 "output_tokens_details": {"reasoning_tokens": reasoning},
                 "total_tokens": prompt + completion}  # fmt: skip
        cut = _CUT.get(said.finish)
        if cut:
            more: Json = {"usage": usage, "incomplete_details": {"reason": cut}}
            self.event("response.incomplete", response=self.response("incomplete", **more))
        else:
            self.event("response.completed", response=self.response("completed", usage=usage))


def responses(said: Said) -> list[bytes]:
    """A Responses stream, one frame per event."""
    story = _Story(said)
    story.event("response.created", response=story.response("in_progress"))
    story.event("response.in_progress", response=story.response("in_progress"))
    runs: list[tuple[str, list[Step]]] = []
    for step in calls_whole(said):
        if runs and runs[-1][0] == step.kind != "call":
            runs[-1][1].append(step)
        else:
            runs.append((step.kind, [step]))
    for kind, told in runs:
        if kind == "call":
            story.call(told[0])
        elif kind == "text":
            story.text(told)
        else:
            story.think(told)
    story.end()
    return story.frames
