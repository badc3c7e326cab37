"""Writes a tiny GGUF model whose next token follows from its last one: a real llama.cpp server then says a known text.

Attention and feed-forward outputs are zero and the embeddings are orthonormal, so the residual stream carries the last
token alone; each row of the output matrix answers with its successor. Nothing is downloaded.

It thinks THINK first where the template opens a <think> (the default). Then kind `text` says TEXT, `tool` makes one
tool call, and `endless` says TEXT over and over.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
from support.script_text import ALPHABET, CHAIN, MERGED, THOUGHT, TOOL, encode, merges

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
CONTROL = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
ROLES = ["assistant", "user", "system"]
WIDTH, LAYERS, HEADS, FEED_FORWARD = 640, 2, 10, 256


class Vocabulary:
    """The 256 bytes, the words, the special tokens; `types` are GGUF's (1 normal, 3 control, 4 user-defined)."""

    def __init__(self) -> None:
        self.tokens = [ALPHABET[byte] for byte in range(256)]
        for word in [*CHAIN, *THOUGHT, *TOOL, *ROLES, "\n\n"]:
            if encode(word) not in self.tokens:
                self.tokens.append(encode(word))
        self.types = [1] * len(self.tokens)
        for name in SPECIAL:
            self.tokens.append(name)
            self.types.append(3 if name in CONTROL else 4)
        self._ids = {token: number for number, token in enumerate(self.tokens)}

    def id(self, text: str) -> int:
        return self._ids[text] if text in SPECIAL else self._ids[encode(text)]

    def __len__(self) -> int:
        return len(self.tokens)


def successors(kind: str, vocabulary: Vocabulary) -> dict[int, int]:
    """For each token the one that follows. A prompt ends with a newline or `<think>`."""
    end = vocabulary.id("<|im_end|>")
    follow: dict[int, int] = {}

    def chain(words: list[str]) -> None:
        ids = [vocabulary.id(word) for word in words]
        follow.update(pairwise(ids))

    chain([*CHAIN, "Hello" if kind == "endless" else "<|im_end|>"])
    chain(["<tool_call>", *TOOL, "</tool_call>", "<|im_end|>"])
    begin = "<tool_call>" if kind == "tool" else "Hello"
    chain(["<think>", *THOUGHT, "</think>", "\n\n", begin])
    follow[vocabulary.id("\n")] = vocabulary.id(begin)
    return {token: follow.get(token, end) for token in range(len(vocabulary))}


def write(kind: str, path: Path) -> None:
    """Write the model of this kind, whole or not at all."""
    vocabulary, rng = Vocabulary(), np.random.default_rng(7)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "llama")
    _describe(writer, kind, vocabulary)
    embeddings = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][: len(vocabulary)].astype(np.float32)
    output = np.zeros((len(vocabulary), WIDTH), np.float32)
    for token, successor in successors(kind, vocabulary).items():
        output[successor] += 4 * embeddings[token]
    writer.add_tensor("token_embd.weight", embeddings)
    _layers(writer, rng)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _describe(writer: gguf.GGUFWriter, kind: str, vocabulary: Vocabulary) -> None:
    writer.add_name(f"scripted-{kind}")
    writer.add_context_length(32768)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges([*MERGED, *ROLES])])
    writer.add_bos_token_id(vocabulary.id("<|endoftext|>"))
    writer.add_eos_token_id(vocabulary.id("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(Path(__file__).with_name("chatml.jinja").read_text(encoding="utf-8"))


def _layers(writer: gguf.GGUFWriter, rng: np.random.Generator) -> None:
    def noise(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"{block}{name}.weight", noise(WIDTH, WIDTH))
        writer.add_tensor(f"{block}attn_output.weight", np.zeros((WIDTH, WIDTH), np.float32))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}{name}.weight", noise(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"{block}ffn_down.weight", np.zeros((WIDTH, FEED_FORWARD), np.float32))
