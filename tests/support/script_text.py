"""What the scripted model says, word for word: TEXT, THINK and one tool call. Tests compare with these, exactly.

Words are of letters only, so that BPE pre-tokenizers keep each whole; every 17th has characters of two, three and
four bytes' worth of tokens, so that a code point is split between two tokens on its way.
"""

from __future__ import annotations

SYLLABLES = [consonant + vowel for consonant in "bkm" for vowel in "aeiou"]
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]

CHAIN = ["Hello"] + [f" {WORDS[i]}" if i % 17 else f" é–{WORDS[i]}☕," for i in range(1, 200)]
THOUGHT = [f" r{WORDS[i]}" for i in range(20)]
TOOL = ['\n{"name":', ' "get_weather",', ' "arguments":', ' {"city":', ' "Par', 'is"}}\n']

TEXT = "".join(CHAIN)
THINK = "".join(THOUGHT)
TOOL_NAME = "get_weather"
TOOL_ARGUMENTS = {"city": "Paris"}
# Words with BPE merges; the others are reached through the model's own output only.
MERGED = [word for word in CHAIN if word.isascii()] + THOUGHT


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's byte-level alphabet: a printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain}
    table.update({byte: chr(256 + n) for n, byte in enumerate(rest)})
    return table


ALPHABET = _byte_alphabet()


def encode(text: str) -> str:
    """A text in the byte-level alphabet, as vocabularies write it."""
    return "".join(ALPHABET[byte] for byte in text.encode())


def merges(words: list[str]) -> list[tuple[str, str]]:
    """The BPE merges that build these words from the left, each once, in order."""
    found: dict[tuple[str, str], None] = {}
    for word in words:
        letters = encode(word)
        head = letters[0]
        for letter in letters[1:]:
            found.setdefault((head, letter))
            head += letter
    return list(found)
