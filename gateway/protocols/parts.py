"""Parts of a message's content, in OpenAI's words: text, images, files, sound, reasoning of earlier turns. Pure.

Law: whatever the JSON, the outcome is a part or BackendError INVALID_REQUEST naming the field; a part nobody here knows
is kept under its name where the caller is lenient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.contract.request import AudioPart, FilePart, ImagePart, OtherPart, Part, ReasoningPart, TextPart
from gateway.protocols.parsing import Fields, encodable, invalid

DIALECT = "openai"  # whose words reasoning of earlier turns is in


def read_part(fields: Fields, *, lenient: bool) -> Part:
    """One element of `content`."""
    kind = fields.text("type")
    if kind in ("text", "refusal") and isinstance(fields.data.get(kind), str):
        return TextPart(fields.text(kind))
    if kind == "image_url":
        path, image = fields.find("image_url")
        return _image(path, {"url": image} if isinstance(image, str) else Fields(image, path).data)
    if kind == "input_audio" and isinstance(fields.data.get(kind), dict):
        sound = fields.inner(kind)
        return AudioPart(sound.text("data"), sound.text("format") or "wav")
    if kind == "file" and isinstance(fields.data.get(kind), dict):
        return _file(fields.inner(kind))
    if lenient and kind not in ("", "text"):
        return OtherPart(kind[:64], fields.data)
    raise invalid(fields.path, "a part of type text, image_url, input_audio or file")


def _image(path: str, data: dict[str, Any]) -> ImagePart:
    said = Fields(data, path)
    url, detail = said.text("url"), said.text("detail")
    if not url:
        raise invalid(path, "an image's url")
    media_type, raw = data_url(url)
    return ImagePart(data=raw, media_type=media_type, detail=detail) if raw else ImagePart(url=url, detail=detail)


def _file(fields: Fields) -> Part:
    """`file_data` is a `data:` URL; some clients send a plain URL, or base64 alone."""
    said = fields.text("file_data")
    media_type, raw = data_url(said)
    remote = said.startswith(("http://", "https://"))
    return FilePart(
        url=said if remote else "",
        data=raw or ("" if remote else said),
        media_type=media_type,
        filename=fields.text("filename"),
        file_id=fields.text("file_id"),
    )


def data_url(url: str) -> tuple[str, str]:
    """(media type without its parameters, base64) of a `data:` URL (RFC 2397); two empty texts for any other."""
    head, comma, data = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64") and comma:
        return head[5:-7].partition(";")[0], data
    return "", ""


def read_reasoning(fields: Fields) -> Iterator[ReasoningPart]:
    """An assistant turn's reasoning under the names servers give it: `reasoning_details` (an array that may hold
    signatures), `reasoning_content` or `reasoning` (text)."""
    details = fields.data.get("reasoning_details")
    found = [_detail(item, fields.at("reasoning_details")) for item in _objects(details)]
    kept = [part for part in found if part.text or part.signature or part.redacted]
    if kept:
        yield from kept
        return
    for name in ("reasoning_content", "reasoning"):
        text = fields.data.get(name)
        if isinstance(text, str) and text:
            yield ReasoningPart(encodable(fields.at(name), text), dialect=DIALECT)
            return


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _detail(item: dict[str, Any], path: str) -> ReasoningPart:
    def said(name: str) -> str:
        value = item.get(name)
        return encodable(path, value) if isinstance(value, str) else ""

    return ReasoningPart(
        text=said("text") or said("summary"),
        signature=said("signature"),
        redacted=said("data"),
        dialect=DIALECT,
        id=said("id"),
    )
