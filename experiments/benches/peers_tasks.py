#!/usr/bin/env python3
"""Generation of recall tasks in zoology and in Heddle, in turn, on the same settings.

    python experiments/benches/peers_tasks.py ZOOLOGY      (a clone of HazyResearch/zoology; needs `torch`, `pydantic` and `pandas`)

Theirs is the call that makes the examples, in memory. Ours is the whole command that writes them as NumPy arrays to a file,
`heddle task sample` of the release build (`cargo build --release`; HEDDLE names another program), its start included. So the
ratio is a lower bound. Each round measures both; the table has the medians, and the median of the rounds' ratios. What is
compared is checked first: the arrays of both sides have as many labels, of the same range of values.
"""
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types

import numpy as np

ROUNDS = int(os.environ.get("ROUNDS", "5"))
EXAMPLES = int(os.environ.get("EXAMPLES", "20000"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
HEDDLE = os.environ.get("HEDDLE", str(ROOT / "target" / "release" / "heddle"))
VOCAB = 8192

# Task there, task here, length, pairs, and what both call the rest.
CASES = [
    ("multiquery_ar", "mqar", 64, 4, {}),
    ("multiquery_ar", "mqar", 256, 64, {}),
    ("multiquery_ar", "mqar", 512, 128, {}),
    ("forgetting_mqar", "forgetting_recall", 256, 32, {"updates": 16}),
]


def theirs(module, length, pairs, knobs):
    names = {"updates": "num_updates"}
    arguments = {names[key]: value for key, value in knobs.items()}
    start = time.perf_counter()
    data = getattr(module, module.__name__.rsplit(".", 1)[1])(
        vocab_size=VOCAB, num_examples=EXAMPLES, input_seq_len=length, seed=0, num_kv_pairs=pairs, **arguments)
    seconds = time.perf_counter() - start
    return seconds, data.labels[data.labels != -100].numpy()


def ours(task, length, pairs, knobs, path):
    knobs = {"length": length, "pairs": pairs, **knobs}
    train = "[{" + ", ".join(f"{key} = {value}" for key, value in knobs.items()) + "}]"
    settings = [f"vocab={VOCAB}", 'filler="random"', f"train={train}"]
    command = [HEDDLE, "task", "sample", task, "--n", str(EXAMPLES), "--format", "npz", "--out", path]
    start = time.perf_counter()
    subprocess.run(command + [word for setting in settings for word in ("--set", setting)], check=True)
    seconds = time.perf_counter() - start
    with np.load(path) as arrays:
        return seconds, arrays["label_target"]


def compare(there, here, length, pairs, knobs):
    module = __import__(f"zoology.data.{there}", fromlist=[there])
    rounds = []
    with tempfile.TemporaryDirectory() as directory:
        path = str(pathlib.Path(directory) / "examples.npz")
        for _ in range(ROUNDS):
            (slow, expected), (fast, targets) = theirs(module, length, pairs, knobs), ours(here, length, pairs, knobs, path)
            rounds.append((slow, fast))
    assert len(expected) == len(targets), f"{here}: {len(targets)} labels, and {len(expected)} in zoology"
    for labels in (expected, targets):
        assert VOCAB // 2 <= labels.min() and labels.max() < VOCAB
    tokens = EXAMPLES * length / 1e6
    median = lambda of: statistics.median(map(of, rounds))
    print(f"| `{here}`, length {length}, {pairs} pairs | {median(lambda r: tokens / r[1]):.1f} "
          f"| {median(lambda r: tokens / r[0]):.3f} | {median(lambda r: r[0] / r[1]):.0f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.path.insert(0, sys.argv[1])
    # What it logs to is imported by its data, and never called here.
    sys.modules.setdefault("wandb", types.ModuleType("wandb"))
    print(f"{EXAMPLES:,} examples, {ROUNDS} rounds")
    print("| task | Heddle, million tokens/s | zoology | ratio |\n|---|---:|---:|---:|")
    for case in CASES:
        compare(*case)
