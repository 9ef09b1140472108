#!/usr/bin/env python3
"""Blocks and training steps in PyTorch, to be run beside `cargo bench -p experiments --bench steps`.

    python experiments/benches/peers_blocks.py [names…]      (needs `torch`; Mamba-2 also needs `transformers`)

Prints the median time in milliseconds, forward and of a step (forward, backward, AdamW), on as many threads as THREADS says (2).
Without names it measures everything.
"""
import math
import sys

import torch
import torch.nn.functional as F
from torch import nn

from peers import median

BATCH, WIDTH, HEADS, WINDOW = 8, 128, 4, 256
VOCAB, SEQUENCES, LENGTH, LABELS = 8192, 64, 256, 16


class Attention(nn.Module):
    """Causal attention, all of it by the fused operation, or a window by an explicit mask or by blocks as long as the window."""

    def __init__(self, form, heads=HEADS):
        super().__init__()
        self.form, self.heads = form, heads
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, l, d = x.shape
        q, k, v = self.qkv(x).view(b, l, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.form == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.form == "eager":
            scores = q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)
            hidden = torch.ones(l, l, dtype=torch.bool).triu(1)
            y = F.dropout(scores.masked_fill(hidden, -math.inf).softmax(-1), 0.1, self.training) @ v
        elif self.form == "mask":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen(torch.arange(l), torch.arange(l)))
        else:
            blocks = lambda x: x.reshape(b, self.heads, l // WINDOW, WINDOW, -1).transpose(1, 2)
            with_previous = lambda x: torch.cat([F.pad(x, (0,) * 6 + (1, 0))[:, :-1], x], 3)
            mask = seen(torch.arange(WINDOW) + WINDOW, torch.arange(2 * WINDOW)).repeat(l // WINDOW, 1, 1, 1)
            mask[0, ..., :WINDOW] = False
            y = F.scaled_dot_product_attention(blocks(q), with_previous(blocks(k)), with_previous(blocks(v)), attn_mask=mask)
            y = y.transpose(1, 2).reshape(b, self.heads, l, -1)
        return self.out(y.transpose(1, 2).reshape(b, l, d))


def seen(queries, keys):
    distance = queries[:, None] - keys[None]
    return (distance >= 0) & (distance < WINDOW)


class Recurrence(torch.autograd.Function):
    """h_t = a_t h_{t-1} + x_t over the first axis, with its own backward pass: the graph of a loop is far slower."""

    @staticmethod
    def forward(ctx, a, x):
        states, state = torch.empty_like(x), torch.zeros_like(x[0])
        for t in range(len(x)):
            state = torch.addcmul(x[t], a[t], state, out=states[t])
        ctx.save_for_backward(a, states)
        return states

    @staticmethod
    def backward(ctx, upstream):
        a, states = ctx.saved_tensors
        grad_a, grad_x = torch.zeros_like(a), upstream.clone()
        for t in range(len(a) - 1, 0, -1):
            torch.mul(grad_x[t], states[t - 1], out=grad_a[t])
            grad_x[t - 1].addcmul_(a[t], grad_x[t])
        return grad_a, grad_x


class Mamba(nn.Module):
    """arXiv:2312.00752, its scan one token after the other."""

    def __init__(self, expand=2, n=16, k=4):
        super().__init__()
        e, self.rank, self.n = expand * WIDTH, math.ceil(WIDTH / 16), n
        self.into, self.out = nn.Linear(WIDTH, 2 * e, bias=False), nn.Linear(e, WIDTH, bias=False)
        self.conv = nn.Conv1d(e, e, k, groups=e, padding=k - 1)
        self.select, self.step = nn.Linear(e, self.rank + 2 * n, bias=False), nn.Linear(self.rank, e)
        self.a_log = nn.Parameter(torch.arange(1.0, n + 1).log().repeat(e, 1))
        self.skip = nn.Parameter(torch.ones(e))

    def forward(self, u):
        x, gate = self.into(u).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        delta, write, read = self.select(x).split([self.rank, self.n, self.n], -1)
        # Tokens come first, so that a step of the scan lies in one piece.
        delta, tokens = F.softplus(self.step(delta)).transpose(0, 1), x.transpose(0, 1)
        decay = torch.exp(delta.unsqueeze(-1) * -self.a_log.exp())
        states = Recurrence.apply(decay, (delta * tokens).unsqueeze(-1) * write.transpose(0, 1).unsqueeze(2))
        y = (states @ read.transpose(0, 1).unsqueeze(-1)).squeeze(-1).transpose(0, 1)
        return self.out((y + self.skip * x) * F.silu(gate))


class BaseConv(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.proj, self.conv = nn.Linear(WIDTH, WIDTH), nn.Conv1d(WIDTH, WIDTH, k, groups=WIDTH, padding=k - 1)

    def forward(self, x):
        return self.proj(x) * self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


def mamba2():
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = dict(num_heads=8, head_dim=32, state_size=16, expand=2, n_groups=1, chunk_size=64)
    return Mamba2Mixer(Mamba2Config(hidden_size=WIDTH, num_hidden_layers=1, vocab_size=16, **sizes), 0)


class Model(nn.Module):
    """Layers between an embedding and its transpose; the loss on the logits of all tokens, or of the labelled ones alone."""

    def __init__(self, mixers):
        super().__init__()
        self.embedding, self.mixers = nn.Embedding(VOCAB, WIDTH), nn.ModuleList(mixers)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(len(mixers) + 1))
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for norm, mixer in zip(self.norms, self.mixers):
            x = x + mixer(norm(x))
        return self.norms[-1](x)


def measure(name, module, forward, loss):
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.1)

    def without_gradients():
        with torch.no_grad():
            forward()

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    print(f"{name:36s} {median(without_gradients):9.2f} {median(step):9.2f}", flush=True)


def block(name, build, *lengths):
    for length in lengths:
        module, x = build(), torch.randn(BATCH, length, WIDTH)
        measure(f"{name} {length}", module, lambda: module(x), lambda: module(x).square().mean())


def step(name, *mixers):
    model, tokens = Model(mixers), torch.randint(VOCAB, (SEQUENCES, LENGTH))
    targets = torch.full((SEQUENCES, LENGTH), -100)
    targets[:, :: LENGTH // LABELS] = torch.randint(VOCAB, (SEQUENCES, LABELS))
    for form, chosen in [("all logits", targets == targets), ("labels only", targets >= 0)]:
        logits = lambda: model(tokens)[chosen] @ model.embedding.weight.T
        measure(f"{name}, {form}", model, logits, lambda: F.cross_entropy(logits(), targets[chosen]))


WORK = {
    "attention": lambda: block("attention", lambda: Attention("causal"), 1024, 4096),
    "window-by-mask": lambda: block("window by mask", lambda: Attention("mask"), 4096),
    "window-by-blocks": lambda: block("window by blocks", lambda: Attention("blocks"), 4096),
    "mamba": lambda: block("mamba", Mamba, 256, 1024),
    "mamba2": lambda: block("mamba2", mamba2, 256, 1024),
    "mqar-attention": lambda: step("mqar, convolution, attention", BaseConv(), Attention("eager", 2)),
    "mqar-mamba": lambda: step("mqar, mamba, mamba", Mamba(), Mamba()),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or WORK:
        WORK[name]()
