"""One key's entry in gateway.yaml set to `disabled: true`, every other byte left as it is.

Law: the edited text is read again before it is written, and only written when nothing but that flag has changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import yaml

from config.load import load_text
from config.schema import Config


def disable(path: Path, key_id: str) -> bool:
    """Edit the file in place (atomically). False: it could not be done safely, and nothing was written."""
    raw = path.read_bytes()
    before = raw.decode("utf-8-sig")
    after = disabled_text(before, key_id)
    if after is None or not _only_that(before, after, key_id):
        return False
    bom = b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b""
    _replace(path, bom + after.encode("utf-8"))
    return True


def disabled_text(text: str, key_id: str) -> str | None:
    """The text with the flag set; None when the entry has no text of its own (an alias, an id from the environment)."""
    entry = _entry(yaml.compose(text, Loader=yaml.SafeLoader), key_id)
    if entry is None:
        return None
    for name, value in entry.value:
        if name.value == "disabled":
            return text[: value.start_mark.index] + "true" + text[value.end_mark.index :]
    first = entry.value[0][0].start_mark
    addition = "disabled: true, " if entry.flow_style else "disabled: true\n" + " " * first.column
    return text[: first.index] + addition + text[first.index :]


def _entry(root: yaml.Node | None, key_id: str) -> yaml.MappingNode | None:
    for entry in getattr(_child(root, "keys"), "value", ()):
        if isinstance(entry, yaml.MappingNode) and getattr(_child(entry, "id"), "value", None) == key_id:
            return entry
    return None


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _only_that(before: str, after: str, key_id: str) -> bool:
    old = load_text(before, "", os.environ).config
    new = load_text(after, "", os.environ).config
    if old is None or new is None:
        return False
    changed = (msgspec.structs.replace(k, disabled=True) if k.id == key_id else k for k in old.keys)
    wanted: Config = msgspec.structs.replace(old, keys=tuple(changed))
    return new == wanted


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file and rename, so that no reader ever sees half of it; a link stays a link."""
    target = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
