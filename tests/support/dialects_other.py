"""What a model says in Ollama's, Google's and TGI's words; see `support.dialects`."""

from __future__ import annotations

import json
from typing import Any

from support.dialects import Json, Said, calls_whole, data, dump, interleaved, logprob


def lines(said: Said, *, generate: bool = False) -> list[bytes]:
    """Ollama's lines."""

    def line(fields: Json) -> bytes:
        return f"{dump({'model': 'm', 'created_at': '2026-01-01T00:00:00.0Z', **fields})}\n".encode()

    def spoken(**said: Any) -> Json:
        if generate:
            return {"response": said.pop("content"), **said}
        return {"message": {"role": "assistant", **said}}

    out = []
    for step in calls_whole(said):
        if step.kind == "text":
            logprobs = {"logprobs": [logprob(step)]} if step.logprobs else {}
            out.append(line({**spoken(content=step.text), "done": False, **logprobs}))
        elif step.kind == "think":
            out.append(line({**spoken(content="", thinking=step.text), "done": False}))
        elif not generate:
            function = {"index": step.index, "name": step.name, "arguments": json.loads(step.text or "{}")}
            out.append(line({**spoken(content="", tool_calls=[{"id": step.id, "function": function}]), "done": False}))
    if said.broken:
        return [*out, f"{dump({'error': said.broken})}\n".encode()]
    reason = "length" if said.finish == "length" else "stop"
    counts = {"total_duration": 9, "prompt_eval_count": said.usage[0], "eval_count": said.usage[1]}
    return [*out, line({**spoken(content=""), "done": True, "done_reason": reason, **counts})]


_GOOGLE = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}


def contents(said: Said) -> list[bytes]:
    """Google's chunks, CRLF as it sends them; its completion tokens are without the thoughts."""
    prompt, completion, reasoning, cached = said.usage

    def chunk(number: int, parts: list[Json], finish: str = "", **more: Any) -> bytes:
        index = {"index": number} if number else {}  # a zero is left out on the wire
        candidate: Json = {"content": {"parts": parts, "role": "model"}, **index, **more}
        counts: Json = {"promptTokenCount": prompt}
        if finish:
            candidate["finishReason"] = finish
            counts |= {"candidatesTokenCount": completion - reasoning, "thoughtsTokenCount": reasoning,
                       "cachedContentTokenCount": cached, "totalTokenCount": prompt + completion}  # fmt: skip
        body = {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "m", "responseId": "r"}
        return data(body).replace(b"\n\n", b"\r\n\r\n")

    def track(number: int, one: Said) -> list[bytes]:
        frames = []
        for step in calls_whole(one):
            if step.kind == "call":
                call: Json = {"id": step.id, "name": step.name, "args": json.loads(step.text or "{}")}
                frames.append(chunk(number, [{"functionCall": call}]))
            else:
                thought = {"thought": True} if step.kind == "think" else {}
                chosen = {"token": step.text, "logProbability": -0.5}
                more = {"logprobsResult": {"chosenCandidates": [chosen]}} if step.logprobs else {}
                frames.append(chunk(number, [{"text": step.text, **thought}], **more))
        return frames

    choices = list(enumerate((said, *said.others)))
    out = interleaved([track(*choice) for choice in choices])
    if said.broken:
        error = {"code": 503, "message": said.broken, "status": "UNAVAILABLE"}
        return [*out, data({"error": error}).replace(b"\n\n", b"\r\n\r\n")]
    return out + [chunk(number, [{"text": ""}], _GOOGLE[one.finish]) for number, one in choices]


def generated(said: Said) -> list[bytes]:
    """TGI's `/generate_stream`: no space after `data:`; the end carries the whole text."""
    spoken = [step for step in said.steps if step.kind == "text"]
    texts = [step.text for step in spoken]
    if not said.broken:
        texts.append("</s>")

    def event(at: int) -> bytes:
        last = at == len(texts) - 1 and not said.broken
        token = {"id": at, "text": texts[at], "logprob": -0.5, "special": last}
        tops = {"top_tokens": [token]} if at < len(spoken) and spoken[at].logprobs else {}
        reason = "length" if said.finish == "length" else "eos_token"
        details = {"finish_reason": reason, "generated_tokens": said.usage[1], "input_length": said.usage[0]}
        ending = {"generated_text": "".join(texts[:-1]) if last else None, "details": details if last else None}
        return f"data:{dump({'index': at + 1, 'token': token, **tops, **ending})}\n\n".encode()

    out = [event(at) for at in range(len(texts))]
    if said.broken:
        out.append(f"data:{dump({'error': said.broken, 'error_type': 'generation'})}\n\n".encode())
    return out
