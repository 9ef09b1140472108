"""Writes the reference of every block: parameters, inputs and the outputs that another implementation gives for them.

    python3 -m venv env
    env/bin/pip install torch==2.15.0 numpy==2.4.6 safetensors==0.8.0 transformers==5.23.0 einops==0.8.2 \
        minGRU-pytorch==0.2.1
    env/bin/pip install --no-deps flash-linear-attention==0.6.0 fla-core==0.6.0
    env/bin/python tests/references/make.py

Each file `NAME.safetensors` beside this script holds `x` and `y`, `[b, l, d]`, and the parameters under the names they
have here (`parameter.…`). Its header holds the block's config table, whether it mixes tokens or channels, and where the
outputs come from. `tests/references.rs` reads them. Everything is computed in float64 and rounded once, in the end
(the table of sines excepted, which its code rounds); inputs and parameters are drawn as numbers that float32 holds exactly. Without a GPU the functions of
flash-linear-attention fall back to the CPU.
"""

import contextlib
import importlib
import json
import math
import pathlib
import sys
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

WIDTH = 8
LENGTH = 70  # No multiple of a chunk, and longer than one.
FOLDER = pathlib.Path(__file__).parent
FLOAT, FLOAT32 = torch.Tensor.float, torch.float32


@contextlib.contextmanager
def float64():
    """Has code that asks for float32 compute in float64."""
    torch.Tensor.float = torch.Tensor.double
    torch.float32 = torch.float = torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = FLOAT
        torch.float32 = torch.float = FLOAT32
        torch.set_default_dtype(FLOAT32)


def qwen3_next_model():
    """Qwen3-Next on its PyTorch path: where flash-linear-attention is found, it would be sent to a GPU."""
    fla = sys.modules.pop("fla", None)
    sys.modules["fla"] = None
    try:
        from transformers.models.qwen3_next import modeling_qwen3_next
    finally:
        del sys.modules["fla"]
        if fla is not None:
            sys.modules["fla"] = fla
    return modeling_qwen3_next


class Draw:
    """Numbers that float32 holds exactly, a function of the name they are drawn for."""

    def __init__(self, name):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def __call__(self, *shape, std=1.0):
        values = std * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return values.to(FLOAT32).double()

    def fill(self, module):
        """Draws all parameters of a module."""
        module = module.double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                std = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5
                parameter.copy_(self(*parameter.shape, std=std))
        return module


BLOCKS = []


def block(kind, name=None, part="mixer", **settings):
    """Registers a function from a `Draw` and the settings to x, y, parameters and a source."""

    def register(function):
        BLOCKS.append((name or kind, kind, part, settings, function))
        return function

    return register


def linear(name, module):
    """Our linear maps are transposed."""
    tensors = {f"{name}.weight": module.weight.T}
    return tensors if module.bias is None else tensors | {f"{name}.bias": module.bias}


def filters(conv):
    return conv.weight[:, 0, :]


def tokens(draw, width=WIDTH):
    return draw(1, LENGTH, width)


# Attention


def see_all_before(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


def rope_parameters(settings):
    scaling = dict(settings.get("rope_scaling") or {"kind": "default"})
    fraction = settings.get("rope_fraction", 1.0)
    partial = {} if fraction == 1.0 else {"partial_rotary_factor": fraction}
    theta = settings.get("rope_theta", 10_000.0)
    return {"rope_type": scaling.pop("kind"), "rope_theta": theta} | scaling | partial


def sizes(settings):
    heads = settings["heads"]
    return dict(
        hidden_size=WIDTH,
        num_attention_heads=heads,
        num_key_value_heads=settings.get("kv_heads", heads),
        head_dim=settings.get("head_dim", WIDTH // heads),
        max_position_embeddings=LENGTH,
        rope_parameters=rope_parameters(settings),
        attn_implementation="eager",
    )


def projections(module, output="o_proj"):
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": output}
    return {k: v for name, theirs in names.items() for k, v in linear(name, getattr(module, theirs)).items()}


def rotary_attention(draw, config, module, rotary, mask=None, output="o_proj"):
    """Runs an attention module of transformers; returns x, y and the parameters of its projections."""
    draw.fill(module)
    x = tokens(draw)
    mask = see_all_before(LENGTH) if mask is None else mask
    bias = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~mask, -math.inf)
    positions = rotary(config)(x, torch.arange(LENGTH)[None])
    y = module(hidden_states=x, position_embeddings=positions, attention_mask=bias)[0]
    return x, y, projections(module, output)


LLAMA3 = dict(
    kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)


@block("attention", heads=2)
@block("attention", "attention_grouped", heads=4, kv_heads=2, rope_theta=500.0)
@block("attention", "attention_linear_scaling", heads=1, rope_scaling=dict(kind="linear", factor=4.0))
@block("attention", "attention_llama3_scaling", heads=1, rope_theta=1000.0, rope_scaling=LLAMA3)
def llama(draw, settings):
    from transformers.models.llama import modeling_llama as llama

    config = llama.LlamaConfig(**sizes(settings))
    module = llama.LlamaAttention(config, 0)
    x, y, parameters = rotary_attention(draw, config, module, llama.LlamaRotaryEmbedding)
    return x, y, parameters, "transformers 5.23.0, LlamaAttention"


@block("attention", "attention_sinks", heads=2, window=5, sinks=2)
def sinks(draw, settings):
    from transformers.models.llama import modeling_llama as llama

    config = llama.LlamaConfig(**sizes(settings))
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    mask = (j <= i) & ((i - j < settings["window"]) | (j < settings["sinks"]))
    module = llama.LlamaAttention(config, 0)
    x, y, parameters = rotary_attention(draw, config, module, llama.LlamaRotaryEmbedding, mask)
    return x, y, parameters, "transformers 5.23.0, LlamaAttention under a mask of a window and the first tokens"


@block("attention", "attention_window", heads=4, kv_heads=2, window=6)
def mistral(draw, settings):
    from transformers.masking_utils import create_sliding_window_causal_mask
    from transformers.models.mistral import modeling_mistral as mistral

    config = mistral.MistralConfig(sliding_window=settings["window"], **sizes(settings))
    embeds, positions = torch.zeros(1, LENGTH, WIDTH), torch.arange(LENGTH)[None]
    mask = create_sliding_window_causal_mask(config, embeds, None, None, position_ids=positions)
    module = mistral.MistralAttention(config, 0)
    x, y, parameters = rotary_attention(draw, config, module, mistral.MistralRotaryEmbedding, mask[0, 0] == 0)
    return x, y, parameters, "transformers 5.23.0, MistralAttention and create_sliding_window_causal_mask"


@block("attention", "attention_partial_rotary", heads=2, rope_fraction=0.5, bias=True, output_bias=True)
def phi(draw, settings):
    from transformers.models.phi import modeling_phi as phi

    config = phi.PhiConfig(**sizes(settings))
    module = phi.PhiAttention(config, 0)
    x, y, parameters = rotary_attention(draw, config, module, phi.PhiRotaryEmbedding, output="dense")
    return x, y, parameters, "transformers 5.23.0, PhiAttention"


@block("attention", "attention_softcap", heads=2, kv_heads=1, softcap=1.5)
def gemma2(draw, settings):
    from transformers.models.gemma2 import modeling_gemma2 as gemma2

    scale = dict(query_pre_attn_scalar=WIDTH // settings["heads"], attn_logit_softcapping=settings["softcap"])
    config = gemma2.Gemma2Config(**scale, **sizes(settings))
    module = gemma2.Gemma2Attention(config, 0)
    x, y, parameters = rotary_attention(draw, config, module, gemma2.Gemma2RotaryEmbedding)
    return x, y, parameters, "transformers 5.23.0, Gemma2Attention"


@block("attention", "attention_qk_norm", heads=4, kv_heads=2, head_dim=4, qk_norm=True)
def qwen3(draw, settings):
    from transformers.models.qwen3 import modeling_qwen3 as qwen3

    config = qwen3.Qwen3Config(rms_norm_eps=1e-6, **sizes(settings))
    module = qwen3.Qwen3Attention(config, 0)
    x, y, parameters = rotary_attention(draw, config, module, qwen3.Qwen3RotaryEmbedding)
    parameters |= {"query_norm": module.q_norm.weight, "key_norm": module.k_norm.weight}
    return x, y, parameters, "transformers 5.23.0, Qwen3Attention"


@block("attention", "attention_output_gate", heads=2, kv_heads=1, head_dim=8, rope_fraction=0.25, qk_norm=True,
       output_gate=True)
def qwen3_next_attention(draw, settings):
    qwen3_next = qwen3_next_model()
    config = qwen3_next.Qwen3NextConfig(rms_norm_eps=1e-6, attention_bias=False, **sizes(settings))
    module = qwen3_next.Qwen3NextAttention(config, 3)
    x, y, parameters = rotary_attention(draw, config, module, qwen3_next.Qwen3NextRotaryEmbedding)
    # A head's queries and gates lie beside each other, and the norms' scales count from one.
    query, gate = module.q_proj.weight.view(settings["heads"], 2, -1, WIDTH).unbind(1)
    parameters |= {"query.weight": query.reshape(-1, WIDTH).T, "gate.weight": gate.reshape(-1, WIDTH).T}
    parameters |= {"query_norm": 1 + module.q_norm.weight, "key_norm": 1 + module.k_norm.weight}
    return x, y, parameters, "transformers 5.23.0, Qwen3NextAttention"


@block("attention", "attention_alibi", heads=6, positions="alibi", bias=True, output_bias=True)
def bloom(draw, settings):
    from transformers.models.bloom import modeling_bloom as bloom

    heads, width = settings["heads"], 12
    config = bloom.BloomConfig(hidden_size=width, n_head=heads, hidden_dropout=0.0, attention_dropout=0.0)
    module = draw.fill(bloom.BloomAttention(config, 0))
    x = tokens(draw, width)
    alibi = bloom.build_alibi_tensor(torch.ones(1, LENGTH, dtype=torch.long), heads, torch.float64)
    bias = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~see_all_before(LENGTH), torch.finfo(torch.float64).min)
    y = module(x, torch.zeros_like(x), alibi, bias)[0]
    weights = module.query_key_value.weight.view(heads, 3, -1, width).unbind(1)
    biases = module.query_key_value.bias.view(heads, 3, -1).unbind(1)
    parameters = linear("output", module.dense)
    for name, weight, bias in zip(["query", "key", "value"], weights, biases):
        parameters |= {f"{name}.weight": weight.reshape(-1, width).T, f"{name}.bias": bias.reshape(-1)}
    return x, y, parameters, "transformers 5.23.0, BloomAttention"


@block("attention", "attention_learned_positions", heads=2, positions="learned", max_length=80, bias=True,
       output_bias=True)
def gpt2(draw, settings):
    from transformers.models.gpt2 import modeling_gpt2 as gpt2

    dropout = dict(attn_pdrop=0.0, resid_pdrop=0.0, attn_implementation="eager")
    config = gpt2.GPT2Config(n_embd=WIDTH, n_head=settings["heads"], n_positions=settings["max_length"], **dropout)
    module = draw.fill(gpt2.GPT2Attention(config, layer_idx=0))
    x, table = tokens(draw), draw(settings["max_length"], WIDTH, std=0.5)
    bias = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~see_all_before(LENGTH), -math.inf)
    y = module(x + table[:LENGTH], attention_mask=bias)[0]
    parameters = {"placement.table": table, "output.weight": module.c_proj.weight, "output.bias": module.c_proj.bias}
    weights, biases = module.c_attn.weight.split(WIDTH, 1), module.c_attn.bias.split(WIDTH)
    for name, weight, bias in zip(["query", "key", "value"], weights, biases):
        parameters |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return x, y, parameters, "transformers 5.23.0, GPT2Attention"


def masked_attention(draw, settings, mask, positions=0.0):
    """Attention without positions by torch."""
    maps = {name: nn.Linear(WIDTH, WIDTH, bias=False) for name in ["query", "key", "value", "output"]}
    for module in maps.values():
        draw.fill(module)
    x = tokens(draw)

    def heads(name):
        return maps[name](x + positions).view(1, LENGTH, settings["heads"], -1).transpose(1, 2)

    y = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), attn_mask=mask)
    y = maps["output"](y.transpose(1, 2).reshape(1, LENGTH, WIDTH))
    return x, y, {k: v for name, module in maps.items() for k, v in linear(name, module).items()}


SDPA = "torch 2.15.0, scaled_dot_product_attention"


@block("attention", "attention_no_positions", heads=2, positions="none")
def without_positions(draw, settings):
    return *masked_attention(draw, settings, see_all_before(LENGTH)), SDPA


@block("attention", "attention_encoder", heads=2, positions="none", causal=False)
def encoder(draw, settings):
    return *masked_attention(draw, settings, None), SDPA


@block("attention", "attention_sinusoidal", heads=2, positions="sinusoidal")
def sinusoidal(draw, settings):
    from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings

    table = torch.empty(LENGTH, WIDTH)
    create_sinusoidal_embeddings(LENGTH, WIDTH, table)
    result = masked_attention(draw, settings, see_all_before(LENGTH), table)
    return *result, f"{SDPA}; transformers 5.23.0, create_sinusoidal_embeddings of DistilBERT"


@block("attention", "attention_strided", heads=2, positions="none",
       sparsity=dict(pattern="strided", block=4, window=2, stride=3))
@block("attention", "attention_bigbird", heads=2, positions="none",
       sparsity=dict(pattern="bigbird", block=4, window=2, **{"global": 1}, random=0))
@block("attention", "attention_dilated", heads=2, positions="none",
       sparsity=dict(pattern="dilated", block=4, window=3, dilation=2))
def sparse(draw, settings):
    """The papers' patterns, block by block; their code is for GPUs or of an older torch."""
    sparsity = settings["sparsity"]
    blocks = torch.arange(LENGTH) // sparsity["block"]
    row, column = blocks[:, None], blocks[None, :]
    distance, window = (row - column).abs(), sparsity["window"]
    near = distance < window
    if sparsity["pattern"] == "strided":
        mask = near | (column % sparsity["stride"] == sparsity["stride"] - 1)
    elif sparsity["pattern"] == "bigbird":
        mask = near | (column < sparsity["global"]) | (row < sparsity["global"])
    else:
        mask = (distance % sparsity["dilation"] == 0) & (distance < window * sparsity["dilation"])
    result = masked_attention(draw, settings, mask & see_all_before(LENGTH))
    return *result, f"{SDPA} under a mask by the paper's formula"


@block("linear_attention", heads=2, feature_dim=3)
@block("linear_attention", "linear_attention_elu", heads=2, feature_dim=3, feature_map="elu")
def linear_attention(draw, settings):
    heads, width = settings["heads"], settings["heads"] * settings["feature_dim"]
    widths = {"query": width, "key": width, "value": WIDTH, "output": WIDTH}
    maps = {name: draw.fill(nn.Linear(WIDTH, width, bias=False)) for name, width in widths.items()}
    x = tokens(draw)
    q, k, v = (maps[name](x).view(1, LENGTH, heads, -1).transpose(1, 2) for name in ["query", "key", "value"])
    if settings.get("feature_map") == "elu":
        source = "arXiv:2006.16236, eq. 7 and 8, in torch 2.15.0"
        weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).transpose(2, 3)).tril()
        y = weights @ v / weights.sum(3, keepdim=True)
    else:
        from fla.ops.based.naive import naive_parallel_based

        source = "flash-linear-attention 0.6.0, naive_parallel_based"
        y = naive_parallel_based(q, k, v)
    y = maps["output"](y.transpose(1, 2).reshape(1, LENGTH, WIDTH))
    return x, y, {k: v for name, module in maps.items() for k, v in linear(name, module).items()}, source


# State-space layers


class Constant(nn.Module):
    """Gives every token the same."""

    def __init__(self, width):
        super().__init__()
        self.value = nn.Parameter(torch.empty(width))

    def forward(self, x):
        return self.value.expand(*x.shape[:-1], -1)


@block("mamba", d_state=4)
@block("mamba", "mamba_wide", d_state=3, d_conv=3, expand=1, dt_rank=2)
@block("mamba", "mamba_time_invariant", d_state=4, selective=False)
def mamba(draw, settings):
    from transformers.models.mamba import modeling_mamba as mamba

    expand, state = settings.get("expand", 2), settings["d_state"]
    rank = settings.get("dt_rank", math.ceil(WIDTH / 16))
    shape = dict(hidden_size=WIDTH, state_size=state, conv_kernel=settings.get("d_conv", 4), expand=expand)
    config = mamba.MambaConfig(time_step_rank=rank, **shape)
    module = mamba.MambaMixer(config, 0)
    source = "transformers 5.23.0, MambaMixer"
    if not settings.get("selective", True):
        module.x_proj = Constant(rank + 2 * state)
        source += " with constant Δ, B and C"
    draw.fill(module)
    x = tokens(draw)
    parameters = {
        "conv_weight": filters(module.conv1d),
        "conv_bias": module.conv1d.bias,
        "dt_proj.weight": module.dt_proj.weight.T,
        "dt_bias": module.dt_proj.bias,
        "a_log": module.A_log,
        "skip": module.D,
        **linear("in_proj", module.in_proj),
        **linear("out_proj", module.out_proj),
    }
    if settings.get("selective", True):
        parameters |= linear("selection.proj", module.x_proj)
    else:
        parameters |= {"selection.constant": module.x_proj.value}
    return x, module(x), parameters, source


@block("mamba2", d_state=6, head_dim=4)
@block("mamba2", "mamba2_groups", d_state=3, head_dim=4, groups=2, d_conv=3)
def mamba2(draw, settings):
    from transformers.models.mamba2 import modeling_mamba2 as mamba2

    heads = 2 * WIDTH // settings["head_dim"]
    shape = dict(hidden_size=WIDTH, num_heads=heads, head_dim=settings["head_dim"], state_size=settings["d_state"])
    config = mamba2.Mamba2Config(
        n_groups=settings.get("groups", 1), conv_kernel=settings.get("d_conv", 4), layer_norm_epsilon=1e-5, **shape
    )
    module = draw.fill(mamba2.Mamba2Mixer(config, 0))
    x = tokens(draw)
    parameters = {
        "conv_weight": filters(module.conv1d),
        "conv_bias": module.conv1d.bias,
        "dt_bias": module.dt_bias,
        "a_log": module.A_log,
        "skip": module.D,
        "norm": module.norm.weight,
        **linear("in_proj", module.in_proj),
        **linear("out_proj", module.out_proj),
    }
    return x, module(x), parameters, "transformers 5.23.0, Mamba2Mixer"


@block("gated_delta_net", heads=2, head_dim=3, norm_eps=1e-6)
@block("gated_delta_net", "gated_delta_net_grouped", heads=1, value_heads=2, head_dim=4, value_dim=3, d_conv=3)
def gated_delta_net(draw, settings):
    qwen3_next = qwen3_next_model()
    g, n = settings["heads"], settings["head_dim"]
    h, p = settings.get("value_heads", g), settings.get("value_dim", 2 * n)
    config = qwen3_next.Qwen3NextConfig(
        hidden_size=WIDTH,
        linear_num_key_heads=g,
        linear_num_value_heads=h,
        linear_key_head_dim=n,
        linear_value_head_dim=p,
        linear_conv_kernel_dim=settings.get("d_conv", 4),
        rms_norm_eps=settings.get("norm_eps", 1e-5),
    )
    module = draw.fill(qwen3_next.Qwen3NextGatedDeltaNet(config, 0))
    x = tokens(draw)
    # Each key head's queries, keys, values and gates lie beside each other, and so do its β and α.
    widths = [n, n, h // g * p, h // g * p]
    q, k, v, z = module.in_proj_qkvz.weight.view(g, -1, WIDTH).split(widths, 1)
    beta, alpha = module.in_proj_ba.weight.view(g, -1, WIDTH).split(h // g, 1)

    def flat(*parts):
        return torch.cat([part.reshape(-1, WIDTH) for part in parts]).T

    parameters = {
        "in_proj.weight": flat(q, k, v),
        "conv_weight": filters(module.conv1d),
        "beta_proj.weight": flat(beta),
        "decay.rate_proj.weight": flat(alpha),
        "decay.a_log": module.A_log,
        "decay.dt_bias": module.dt_bias,
        "gate_proj.weight": flat(z),
        "norm": module.norm.weight,
        **linear("out_proj", module.out_proj),
    }
    return x, module(x), parameters, "transformers 5.23.0, Qwen3NextGatedDeltaNet"


@block("delta_net", heads=2)
def delta_net(draw, settings):
    from fla.ops.delta_rule.naive import delta_rule_recurrence

    heads = settings["heads"]
    in_proj = draw.fill(nn.Linear(WIDTH, 3 * WIDTH, bias=False))
    beta_proj = draw.fill(nn.Linear(WIDTH, heads, bias=False))
    out_proj = draw.fill(nn.Linear(WIDTH, WIDTH, bias=False))
    conv = draw.fill(nn.Conv1d(3 * WIDTH, 3 * WIDTH, 4, groups=3 * WIDTH, padding=3, bias=False))
    norm = draw.fill(nn.RMSNorm(WIDTH // heads, eps=1e-5))
    x = tokens(draw)
    mixed = F.silu(conv(in_proj(x).transpose(1, 2))[..., :LENGTH]).transpose(1, 2)
    q, k, v = (part.view(1, LENGTH, heads, -1).transpose(1, 2) for part in mixed.split(WIDTH, 2))
    q, k = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6) for part in (q, k))
    o, _ = delta_rule_recurrence(q, k, v, beta_proj(x).sigmoid().transpose(1, 2))
    y = out_proj(norm(o.transpose(1, 2)).reshape(1, LENGTH, WIDTH))
    parameters = {
        "conv_weight": filters(conv),
        "norm": norm.weight,
        **linear("in_proj", in_proj),
        **linear("beta_proj", beta_proj),
        **linear("out_proj", out_proj),
    }
    return x, y, parameters, "flash-linear-attention 0.6.0, delta_rule_recurrence in the layer of its DeltaNet"


@block("rg_lru", d_rnn=12, gate_blocks=3)
@block("rg_lru", "rg_lru_full_gates", d_conv=3)
def rg_lru(draw, settings):
    from transformers.models.recurrent_gemma import modeling_recurrent_gemma as recurrent_gemma

    config = recurrent_gemma.RecurrentGemmaConfig(
        hidden_size=WIDTH,
        lru_width=settings.get("d_rnn", WIDTH),
        num_attention_heads=settings.get("gate_blocks", 1),
        conv1d_width=settings.get("d_conv", 4),
        hidden_activation="gelu",
    )
    module = draw.fill(recurrent_gemma.RecurrentGemmaRecurrentBlock(config, 0))
    x = tokens(draw)
    # Counted from one: the released model enters the token at position 0 unscaled, which the paper does not.
    y, _ = module(x, torch.arange(1, LENGTH + 1)[None], None, use_cache=False)
    unit = module.rg_lru
    parameters = {
        "conv_weight": filters(module.conv_1d),
        "conv_bias": module.conv_1d.bias,
        "recurrence_gate.weight": unit.recurrent_gate_weight,
        "recurrence_gate.bias": unit.recurrent_gate_bias.reshape(-1),
        "input_gate.weight": unit.input_gate_weight,
        "input_gate.bias": unit.input_gate_bias.reshape(-1),
        "rate": unit.recurrent_param,
        **linear("gate_proj", module.linear_y),
        **linear("in_proj", module.linear_x),
        **linear("out_proj", module.linear_out),
    }
    return x, y, parameters, "transformers 5.23.0, RecurrentGemmaRecurrentBlock"


@block("s4d", d_state=6)
def s4d(draw, settings):
    """The layer as a convolution with its kernel (arXiv:2206.11893, §3), by FFT; its authors publish no package."""
    n = settings["d_state"] // 2
    log_dt, log_rate, frequency = draw(WIDTH, 1) - 2, draw(WIDTH, n, std=0.5), 3 * draw(WIDTH, n)
    read_re, read_im, skip = draw(WIDTH, n), draw(WIDTH, n), draw(WIDTH)
    gate_proj, out_proj = draw.fill(nn.Linear(WIDTH, WIDTH)), draw.fill(nn.Linear(WIDTH, WIDTH))
    x = tokens(draw)
    a = torch.complex(-log_rate.exp(), frequency)
    scale = torch.complex(read_re, read_im) * torch.expm1(a * log_dt.exp()) / a
    powers = torch.exp((a * log_dt.exp())[..., None] * torch.arange(LENGTH))
    kernel = 2 * torch.einsum("dn,dnl->dl", scale, powers).real
    spectrum = torch.fft.rfft(x.transpose(1, 2), n=2 * LENGTH) * torch.fft.rfft(kernel, n=2 * LENGTH)
    s = torch.fft.irfft(spectrum, n=2 * LENGTH)[..., :LENGTH].transpose(1, 2) + skip * x
    z = F.gelu(s)
    y = F.glu(torch.cat([out_proj(z), gate_proj(z)], -1))
    parameters = dict(log_dt=log_dt, log_rate=log_rate, frequency=frequency)
    parameters |= dict(read_re=read_re, read_im=read_im, skip=skip)
    parameters |= linear("gate_proj", gate_proj) | linear("out_proj", out_proj)
    return x, y, parameters, "arXiv:2206.11893, §3, as a convolution in torch 2.15.0"


# Recurrent cells


@block("min_gru", expand=2)
@block("min_gru", "min_gru_positive", expand=2, positive=True)
def min_gru(draw, settings):
    package = importlib.import_module("minGRU_pytorch.minGRU")  # Its package hides it behind its class.

    expand = settings["expand"]
    module = package.minGRU(WIDTH, expansion_factor=expand)
    # The paper's maps have biases, the package's have none.
    module.to_hidden_and_gate = nn.Linear(WIDTH, 2 * expand * WIDTH)
    draw.fill(module)
    x = tokens(draw)
    if settings.get("positive"):
        source, y = "minGRU-pytorch 0.2.1, minGRU", module(x)
    else:
        source = "minGRU-pytorch 0.2.1, minGRU token by token, with the identity for its g (arXiv:2410.01201, §3.1)"
        g, package.g = package.g, lambda x: x
        # Its outputs, not its states, are projected; the state is what the projection is told.
        states, state = [], None
        for t in range(LENGTH):
            _, state = module(x[:, t : t + 1], state, return_next_prev_hidden=True)
            states.append(state)
        package.g = g
        y = module.to_out(torch.cat(states, 1))
    value, gate = module.to_hidden_and_gate.weight.split(expand * WIDTH)
    value_bias, gate_bias = module.to_hidden_and_gate.bias.split(expand * WIDTH)
    parameters = {
        "gate_proj.weight": gate.T,
        "gate_proj.bias": gate_bias,
        "value_proj.weight": value.T,
        "value_proj.bias": value_bias,
        **linear("out_proj", module.to_out),
    }
    return x, y, parameters, source


@block("gru", d_hidden=5)
def gru(draw, settings):
    e = settings["d_hidden"]
    cell, out_proj = draw.fill(nn.GRU(WIDTH, e, batch_first=True)), draw.fill(nn.Linear(e, WIDTH, bias=False))
    # The biases of two gates are added to others, and we have only the others.
    with torch.no_grad():
        cell.bias_hh_l0[: 2 * e] = 0
    x = tokens(draw)
    parameters = {
        "in_proj.weight": cell.weight_ih_l0.T,
        "in_proj.bias": cell.bias_ih_l0,
        "recurrent_weight": cell.weight_hh_l0.T,
        "recurrent_bias": cell.bias_hh_l0[2 * e :],
        **linear("out_proj", out_proj),
    }
    return x, out_proj(cell(x)[0]), parameters, "torch 2.15.0, nn.GRU"


@block("lstm", d_hidden=5)
def lstm(draw, settings):
    e = settings["d_hidden"]
    cell, out_proj = draw.fill(nn.LSTM(WIDTH, e, batch_first=True)), draw.fill(nn.Linear(e, WIDTH, bias=False))
    # It has two biases, of which only the sum is felt.
    with torch.no_grad():
        cell.bias_hh_l0[:] = 0
    x = tokens(draw)
    parameters = {
        "in_proj.weight": cell.weight_ih_l0.T,
        "in_proj.bias": cell.bias_ih_l0,
        "recurrent_weight": cell.weight_hh_l0.T,
        **linear("out_proj", out_proj),
    }
    return x, out_proj(cell(x)[0]), parameters, "torch 2.15.0, nn.LSTM"


# Short convolutions


@block("base_conv")
def base_conv(draw, settings):
    """The paper's formula; its authors publish no package."""
    proj = draw.fill(nn.Linear(WIDTH, WIDTH))
    conv = draw.fill(nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH, padding=2))
    x = tokens(draw)
    y = proj(x) * conv(x.transpose(1, 2))[..., :LENGTH].transpose(1, 2)
    parameters = {"conv_weight": filters(conv), "conv_bias": conv.bias, **linear("proj", proj)}
    return x, y, parameters, "arXiv:2312.04927, in torch 2.15.0"


@block("short_conv")
@block("short_conv", "short_conv_wide", d_conv=5)
def short_conv(draw, settings):
    from transformers.models.lfm2 import modeling_lfm2 as lfm2

    width = settings.get("d_conv", 3)
    config = lfm2.Lfm2Config(hidden_size=WIDTH, conv_L_cache=width, conv_bias=False, layer_types=["conv"],
                             num_hidden_layers=1)
    module = draw.fill(lfm2.Lfm2ShortConv(config, 0))
    x = tokens(draw)
    parameters = {"conv_weight": filters(module.conv)}
    parameters |= linear("in_proj", module.in_proj) | linear("out_proj", module.out_proj)
    return x, module(x), parameters, "transformers 5.23.0, Lfm2ShortConv"


# Channel mixers

# One type holds them all, and its variant's name begins a parameter's path.
VARIANTS = {"mlp": "Mlp", "swiglu": "SwiGlu", "moe": "Experts"}

# Their configs are those of whole models and must be possible ones.
ONE_HEAD = dict(num_attention_heads=1, num_key_value_heads=1)


@block("mlp", part="channel", expand=3.0, bias=True)
def mlp(draw, settings):
    from transformers.models.phi import modeling_phi as phi

    module = draw.fill(phi.PhiMLP(phi.PhiConfig(hidden_size=WIDTH, intermediate_size=24, hidden_act="gelu", **ONE_HEAD)))
    x = tokens(draw)
    return x, module(x), linear("up", module.fc1) | linear("down", module.fc2), "transformers 5.23.0, PhiMLP"


@block("mlp", "mlp_relu_squared", part="channel", expand=2.0, activation="relu_squared")
def mlp_relu_squared(draw, settings):
    from transformers.models.nemotron import modeling_nemotron as nemotron

    config = nemotron.NemotronConfig(hidden_size=WIDTH, intermediate_size=16, hidden_act="relu2", mlp_bias=False)
    module = draw.fill(nemotron.NemotronMLP(config))
    x = tokens(draw)
    parameters = linear("up", module.up_proj) | linear("down", module.down_proj)
    return x, module(x), parameters, "transformers 5.23.0, NemotronMLP"


@block("swiglu", part="channel", expand=2.0)
def swiglu(draw, settings):
    from transformers.models.llama import modeling_llama as llama

    module = draw.fill(llama.LlamaMLP(llama.LlamaConfig(hidden_size=WIDTH, intermediate_size=16, **ONE_HEAD)))
    x = tokens(draw)
    parameters = linear("gate", module.gate_proj) | linear("up", module.up_proj) | linear("down", module.down_proj)
    return x, module(x), parameters, "transformers 5.23.0, LlamaMLP"


@block("moe", part="channel", experts=4, active=2, expand=1.5)
@block("moe", "moe_unnormalised", part="channel", experts=5, active=3, expand=1.0, normalize=False)
def moe(draw, settings):
    experts, width = settings["experts"], round(settings["expand"] * WIDTH)
    shape = dict(hidden_size=WIDTH, intermediate_size=width, num_experts_per_tok=settings["active"], **ONE_HEAD)
    if settings.get("normalize", True):
        from transformers.models.mixtral import modeling_mixtral as mixtral

        source = "MixtralSparseMoeBlock"
        module = mixtral.MixtralSparseMoeBlock(mixtral.MixtralConfig(num_local_experts=experts, **shape))
    else:
        from transformers.models.olmoe import modeling_olmoe as olmoe

        source = "OlmoeSparseMoeBlock"
        module = olmoe.OlmoeSparseMoeBlock(olmoe.OlmoeConfig(num_experts=experts, norm_topk_prob=False, **shape))
    draw.fill(module)
    x = tokens(draw)
    parameters = {"router.weight": module.gate.weight.T}
    for i in range(experts):
        gate, up = module.experts.gate_up_proj[i].split(width)
        maps = {"gate": gate, "up": up, "down": module.experts.down_proj[i]}
        parameters |= {f"experts.{i}.{name}.weight": weight.T for name, weight in maps.items()}
    return x, module(x), parameters, f"transformers 5.23.0, {source}"


def main():
    torch.set_num_threads(1)  # The same order of sums, and so the same files, everywhere.
    for old in FOLDER.glob("*.safetensors"):
        old.unlink()
    for name, kind, part, settings, function in BLOCKS:
        with float64(), torch.no_grad():
            x, y, parameters, source = function(Draw(name), settings)
            assert y.dtype == x.dtype == torch.float64 and x.shape == y.shape and y.isfinite().all(), name
        table = {"kind": kind, **settings}
        path = f"parameter.{VARIANTS[kind]}" if part == "channel" else "parameter"
        tensors = {"x": x, "y": y} | {f"{path}.{key}": value for key, value in parameters.items()}
        tensors = {key: value.detach().to(FLOAT32).contiguous().clone() for key, value in tensors.items()}
        # One entry, as entries are written in any order.
        header = json.dumps({"part": part, "table": table, "source": source}, ensure_ascii=False)
        save_file(tensors, FOLDER / f"{name}.safetensors", metadata={"reference": header})
        print(f"{name}: {source}, outputs of {np.sqrt(y.square().mean().item()):.3g}")


if __name__ == "__main__":
    main()
