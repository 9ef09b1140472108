#!/usr/bin/env python3
"""Prefill and decoding of whole models in transformers and in Heddle, in turn, with the same random weights.

    python experiments/benches/peers_decode.py [mamba llama jamba]      (needs `torch` and `transformers`)

Makes a checkpoint of each architecture (4 layers, width 256, 32 000 tokens), reads a context of 4096 tokens and decodes
greedily behind it, a sequence at a time, on as many threads as THREADS says (2). Ours is `heddle bench model` of the release
build (`cargo build --release`; HEDDLE names another program). Each round measures both sides; the table has the medians, and
the median of the rounds' ratios. The limit of decoding is the speed of a copy, over the bytes that a token reads: weights and
state. The likeliest token behind the context must be the same on both sides.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

THREADS = int(os.environ.get("THREADS", "2"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
HEDDLE = os.environ.get("HEDDLE", str(ROOT / "target" / "release" / "heddle"))
LAYERS, WIDTH, VOCAB, CONTEXT, TOKENS = 4, 256, 32_000, 4096, 64

os.environ.update(RAYON_NUM_THREADS=str(THREADS), TRANSFORMERS_VERBOSITY="error")
import torch
import transformers

warnings.filterwarnings("ignore")
torch.set_num_threads(THREADS)

SIZES = dict(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=688, max_position_embeddings=2 * CONTEXT)
MODELS = {
    "mamba": ("Mamba", dict(state_size=16)),
    "llama": ("Llama", HEADS),
    "jamba": ("Jamba", dict(HEADS, attn_layer_period=4, attn_layer_offset=2, num_experts=1, num_experts_per_tok=1,
                            expert_layer_period=2, expert_layer_offset=1)),
}


def build(name):
    family, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, family + "Config")(**SIZES, **settings)
    return getattr(transformers, family + "ForCausalLM")(config).eval()


def measure_peer(model, name):
    """Tokens a second of the context and behind it, and the likeliest token behind the context."""
    key = "cache_params" if name == "mamba" else "past_key_values"
    ids = torch.tensor([[i * 7919 % VOCAB for i in range(CONTEXT)]])
    with torch.inference_mode():
        start = time.perf_counter()
        # As its `generate` does: the head sees the last token alone.
        out = model(ids, use_cache=True, logits_to_keep=1)
        prefill = CONTEXT / (time.perf_counter() - start)
        cache, token = getattr(out, key), out.logits[:, -1].argmax(-1, keepdim=True)
        scores, first = out.logits[0, -1], token.item()
        start = time.perf_counter()
        for _ in range(TOKENS):
            token = model(token, use_cache=True, **{key: cache}).logits[:, -1].argmax(-1, keepdim=True)
        return prefill, TOKENS / (time.perf_counter() - start), first, scores


def measure_ours(directory):
    sizes = ["--context", str(CONTEXT), "--tokens", str(TOKENS), "--rounds", "1"]
    return json.loads(subprocess.check_output([HEDDLE, "bench", "model", directory, *sizes, "--json"]))


def bytes_per_second():
    """Of a copy of 256 MiB, read and written."""
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times)


def compare(name):
    model = build(name)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        measure_peer(model, name)
        rounds = []
        for _ in range(ROUNDS):
            theirs, ours = measure_peer(model, name), measure_ours(directory)
            rounds.append((ours["prefill"], theirs[0], ours["decoding"], theirs[1], bytes_per_second()))
    gap = (theirs[3].max() - theirs[3][ours["next"]]).item()
    assert gap < 1e-3, f"{name}: token {ours['next']} behind the context, and {theirs[2]} in transformers"
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if not model.config.tie_word_embeddings:
        weights -= model.get_input_embeddings().weight.nbytes  # Of which a token reads a row.
    read = weights + ours["state_bytes"]
    median = lambda of: statistics.median(map(of, rounds))
    limit = median(lambda r: r[4]) / read
    print(
        f"| {name} | {median(lambda r: r[0]):,.0f} | {median(lambda r: r[1]):,.0f} | {median(lambda r: r[0] / r[1]):.1f} "
        f"| {median(lambda r: r[2]):,.0f} | {median(lambda r: r[3]):,.0f} | {median(lambda r: r[2] / r[3]):.1f} "
        f"| {weights / 1e6:.1f} + {ours['state_bytes'] / 1e6:.1f} | {limit:,.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {THREADS} threads, {ROUNDS} rounds")
    print("| model | prefill, tokens/s | transformers | ratio | decoding, tokens/s | transformers | ratio "
          "| MB a token reads: weights + state | tokens/s at the speed of a copy |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in sys.argv[1:] or MODELS:
        compare(name)
