#!/usr/bin/env python3
"""The same work in PyTorch, to be run beside `cargo bench`: `python experiments/benches/peers.py` (needs `torch`).

Prints the median time in milliseconds, forward and forward with backward, on as many threads as THREADS says (2).
"""
import os
import statistics
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(os.environ.get("THREADS", "2")))
torch.manual_seed(0)


def median(run, budget=3.0):
    run()
    times, begin = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(name, function, *inputs):
    def forward():
        with torch.no_grad():
            function(*inputs)

    tracked = [x.detach().requires_grad_() for x in inputs]

    def both():
        for x in tracked:
            x.grad = None
        function(*tracked).sum().backward()

    print(f"{name:28s} {median(forward):8.2f} {median(both):8.2f}", flush=True)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def main():
    x, gate, gamma = torch.randn(8, 1024, 256), torch.randn(8, 1024, 256), torch.randn(256)
    measure("sum alone", lambda x: x, x)
    measure("silu", F.silu, x)
    measure("gelu", F.gelu, x)
    measure("softplus", F.softplus, x)
    measure("silu_mul", lambda z, x: F.silu(z) * x, gate, x)
    measure("rms_norm", lambda x, g: F.rms_norm(x, (256,), g, 1e-5), x, gamma)
    measure("layer_norm", lambda x, g: F.layer_norm(x, (256,), g, None, 1e-5), x, gamma)
    measure("gated_rms_norm", lambda x, z, g: F.rms_norm(x * F.silu(z), (256,), g, 1e-5), x, gate, gamma)
    tokens = torch.randint(8192, (8, 1024))
    measure("embed", lambda w: F.embedding(tokens, w), torch.randn(8192, 256))
    targets = torch.randint(8192, (8192,))
    measure("cross_entropy", lambda logits: F.cross_entropy(logits, targets), torch.randn(8192, 8192))
    angles = torch.arange(1024)[:, None] * 10_000.0 ** (-torch.arange(16) / 16)
    cos, sin = angles.cos(), angles.sin()
    measure("rotate", lambda x: rotate(x, cos, sin), torch.randn(8, 8, 1024, 32))
    weight, bias = torch.randn(256, 1, 4), torch.randn(256)

    def conv(x, weight, bias):
        y = F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), weight, bias, groups=256)
        return F.silu(y).transpose(1, 2)

    measure("convolution, l 1024", conv, x, weight, bias)
    for name, cell, width in [("lstm", torch.nn.LSTM, 128), ("gru", torch.nn.GRU, 128)]:
        module = cell(width, width, batch_first=True)
        measure(f"{name} d 128, l 256", lambda x: module(x)[0], torch.randn(8, 256, width))
    parameter = torch.randn(10_000_000, requires_grad=True)
    parameter.grad = torch.randn(10_000_000)
    adamw = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.1)
    print(f"{'adamw':28s} {median(adamw.step):8.2f}")


if __name__ == "__main__":
    main()
