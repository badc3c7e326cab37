"""Writes the scripted model as a folder of Hugging Face's transformers, for the servers that read those.

usage: mk_hf.py KIND FOLDER; KIND is text, think, tool or endless. Runs with the server's own Python, with or without
torch; see `support.mk_gguf` for how the script is put into a model's weights.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from safetensors.numpy import save_file
from support.script_text import ALPHABET, CHAIN, MERGED, THOUGHT, TOOL, encode, merges
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
WIDTH, LAYERS, HEADS, FEED_FORWARD = 640, 2, 10, 256
BEGINS = {"text": "Hello", "endless": "Hello", "think": "<think>", "tool": "<tool_call>"}


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, the script's words, the marks."""
    pairs = merges(MERGED)
    vocabulary = {ALPHABET[byte]: byte for byte in range(256)}
    for token in [*map(encode, [*CHAIN, *THOUGHT, *TOOL, "\n\n"]), *(left + right for left, right in pairs)]:
        vocabulary.setdefault(token, len(vocabulary))
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in CONTROL])
    made.add_tokens([AddedToken(name, special=False) for name in MARKS])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    whole.chat_template = Path(__file__).with_name("chatml.jinja").read_text(encoding="utf-8")
    return whole


def successors(kind: str, words: PreTrainedTokenizerFast) -> dict[int, int]:
    """For each token the one that follows; a prompt ends with a newline."""

    def number(word: str) -> int:
        found: int = words.convert_tokens_to_ids(word if word in CONTROL + MARKS else encode(word))
        return found

    follow = dict.fromkeys(range(len(words)), number("Hello"))
    for chain in (
        [*CHAIN, "Hello" if kind == "endless" else "<|im_end|>"],
        ["<think>", *THOUGHT, "</think>", "\n\n", "Hello"],
        ["<tool_call>", *TOOL, "</tool_call>", "<|im_end|>"],
        ["\n", BEGINS[kind]],
    ):
        follow.update(pairwise(map(number, chain)))
    return follow


def weights(kind: str, words: PreTrainedTokenizerFast) -> dict[str, np.ndarray]:
    """A Llama's, by their names there; its layers add nothing."""
    rng = np.random.default_rng(7)

    def noise(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.02).astype(np.float32)

    embeddings = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0][: len(words)].astype(np.float32)
    output = np.zeros((len(words), WIDTH), np.float32)
    for token, successor in successors(kind, words).items():
        output[successor] += 4 * embeddings[token]
    one = np.ones(WIDTH, np.float32)
    found = {"model.embed_tokens.weight": embeddings, "lm_head.weight": output, "model.norm.weight": one}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{block}{norm}.weight"] = one.copy()
        for name in ("q_proj", "k_proj", "v_proj"):
            found[f"{block}self_attn.{name}.weight"] = noise(WIDTH, WIDTH)
        found[f"{block}self_attn.o_proj.weight"] = np.zeros((WIDTH, WIDTH), np.float32)
        for name in ("gate_proj", "up_proj"):
            found[f"{block}mlp.{name}.weight"] = noise(FEED_FORWARD, WIDTH)
        found[f"{block}mlp.down_proj.weight"] = np.zeros((WIDTH, FEED_FORWARD), np.float32)
    return found


def settings(words: PreTrainedTokenizerFast) -> dict[str, dict[str, object]]:
    """The model's two files of settings."""
    ends = {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    shape = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "float32", "vocab_size": len(words),
        "hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    }  # fmt: skip
    return {"config.json": {**shape, **ends}, "generation_config.json": dict(ends)}


def main(kind: str, folder: str) -> None:
    """Write tokenizer, settings and weights, whole or not at all."""
    whole, partial = Path(folder), Path(f"{folder}.partial")
    words = tokenizer()
    words.save_pretrained(str(partial))
    for name, said in settings(words).items():
        (partial / name).write_text(json.dumps(said, indent=2), encoding="utf-8")
    save_file(weights(kind, words), str(partial / "model.safetensors"), metadata={"format": "pt"})
    partial.replace(whole)


if __name__ == "__main__":
    main(*sys.argv[1:3])
