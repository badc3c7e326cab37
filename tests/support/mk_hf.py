"""Writes the scripted model as a folder of Hugging Face's transformers, for the servers that read those.

usage: mk_hf.py KIND FOLDER; KIND is text, think or tool. Runs with the server's own Python, which has torch; see
`support.mk_gguf` for how the script is put into a model's weights.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from support.script_text import ALPHABET, CHAIN, MERGED, THOUGHT, TOOL, encode, merges
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
WIDTH = 640
BEGINS = {"text": "Hello", "think": "<think>", "tool": "<tool_call>"}


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
        [*CHAIN, "<|im_end|>"],
        ["<think>", *THOUGHT, "</think>", "\n\n", "Hello"],
        ["<tool_call>", *TOOL, "</tool_call>", "<|im_end|>"],
        ["\n", BEGINS[kind]],
    ):
        follow.update(pairwise(map(number, chain)))
    return follow


def model(kind: str, words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama whose layers add nothing."""
    torch.manual_seed(0)
    end = words.convert_tokens_to_ids("<|im_end|>")
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=10, num_key_value_heads=10, max_position_embeddings=32768,
            bos_token_id=words.bos_token_id, eos_token_id=end, pad_token_id=words.pad_token_id,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        embeddings = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0][: len(words)]
        output = torch.zeros(len(words), WIDTH)
        for token, successor in successors(kind, words).items():
            output[successor] += 4 * embeddings[token]
        made.model.embed_tokens.weight.copy_(embeddings)
        made.lm_head.weight.copy_(output)
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    made.generation_config.eos_token_id = end
    return made


def main(kind: str, folder: str) -> None:
    """Write tokenizer and weights."""
    words: Any = tokenizer()
    words.save_pretrained(folder)
    model(kind, words).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:3])
