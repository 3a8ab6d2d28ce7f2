"""Every baseline against a dense definition, alone against batched, and its padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbmgraph.nn.baselines import MultiHeadAttention
from sbmgraph.nn.baselines.pattern import EdgePattern
from sbmgraph.nn.baselines.ragged import make_padding, run_padded
from sbmgraph.nn.models import BASELINES, MODELS, attention_options, build_attention, build_model

pytest.importorskip("linformer")
pytest.importorskip("reformer_pytorch")
pytest.importorskip("performer_pytorch")
pytest.importorskip("nystrom_attention")
pytest.importorskip("entmax")

SMALL = {
    "linformer": {"projected_length": 16},
    "reformer": {"bucket_size": 8},
    "performer": {"num_features": 24},
    "nystromformer": {"num_landmarks": 8, "kernel_size": 5},
    "pattern": {"window": 3, "num_random": 4, "num_global": 2},
}
LENGTHS = (5, 1, 33, 40, 17, 64, 16, 16)
CHANNELS, HEADS = 16, 2


def make(name: str, seed: int = 0, max_length: int = 128, **options) -> MultiHeadAttention:
    torch.manual_seed(seed)
    options = SMALL.get(name, {}) | options
    attention = build_attention(name, CHANNELS, HEADS, max_length=max_length, **options)
    assert isinstance(attention, MultiHeadAttention)
    return attention.eval()


def ragged(lengths=LENGTHS, seed: int = 1, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(lengths), CHANNELS, generator=generator, dtype=dtype)
    numbers = torch.arange(len(lengths)) * 2  # every other sequence is empty
    return x, numbers.repeat_interleave(torch.tensor(lengths))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def heads_of(attention: MultiHeadAttention, x: Tensor) -> list[Tensor]:
    """Queries, keys and values of one sequence, each [H, n, d]."""
    linears = (attention.query, attention.key or attention.query, attention.value)
    return [linear(x).view(len(x), HEADS, -1).transpose(0, 1) for linear in linears]


def merge(attention: MultiHeadAttention, out: Tensor) -> Tensor:
    return attention.out(out.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("name", BASELINES)
def test_a_sequence_does_not_depend_on_its_batch_mates(name):
    attention = make(name).double()
    x, batch = ragged()
    together = attention(x, batch, generator=seeded())
    alone = [attention(part, generator=seeded()) for part in x.split(LENGTHS)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", BASELINES)
def test_gradients_do_not_depend_on_batch_mates(name):
    attention = make(name).double()
    x, batch = ragged()
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)

    def gradients(parts, batches, targets):
        attention.zero_grad()
        grads = []
        for part, numbers, wanted in zip(parts, batches, targets, strict=True):
            part = part.clone().requires_grad_()
            (attention(part, numbers, generator=seeded()) * wanted).sum().backward()
            grads.append(part.grad)
        own = [p.grad.clone() for p in attention.parameters()]
        return [torch.cat(grads), *own]

    together = gradients([x], [batch], [target])
    alone = gradients(x.split(LENGTHS), [None] * len(LENGTHS), target.split(LENGTHS))
    for one, other in zip(together, alone, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_masking_everywhere_equals_running_each_length_by_itself(name, monkeypatch):
    """The GPU's single padded batch, forced on CPU, against unpadded sequences."""
    for module in ("full", "entmax", "linear", "linformer", "performer"):
        monkeypatch.setattr(f"sbmgraph.nn.baselines.{module}.padding_unit", lambda *_: None)
    attention = make(name).double()
    x, batch = ragged()
    together = attention(x, batch, generator=seeded())
    alone = [attention(part, generator=seeded()) for part in x.split(LENGTHS)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("lengths", [(0,), (1,), (1, 1, 1), (2, 1)])
def test_tiny_sequences(name, lengths):
    attention = make(name)
    x, batch = ragged(lengths, dtype=torch.float32)
    x.requires_grad_()
    out = attention(x, batch)
    out.sum().backward()
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["full", "linear", "reformer", "performer", "pattern", "entmax"])
def test_one_token_gets_its_own_value(name):
    attention = make(name).double()
    x, _ = ragged((1,))
    expected = attention.out(attention.value(x))
    torch.testing.assert_close(attention(x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_single(name, dtype):
    attention = make(name)
    x, batch = ragged((40, 33), dtype=torch.float32)
    expected = attention(x, batch, generator=seeded())
    low = make(name).to(dtype)(x.to(dtype), batch, generator=seeded())
    assert low.dtype == dtype
    tolerance = 0.2 if name == "reformer" else 0.06  # hashes of rounded vectors may differ
    assert (low.float() - expected).norm() < tolerance * expected.norm()


@pytest.fixture
def default_dtype():
    """Sets torch's default dtype for the length of a test, as Lightning's pure precisions do."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_default_dtype_is_of_no_matter(name, default, dtype, default_dtype):
    """33 tokens in landmarks of five leave the last landmark without a token."""
    torch.manual_seed(0)
    options = {"sbm": {"num_clusters": 4}, **SMALL}.get(name, {})
    attention = build_attention(name, CHANNELS, HEADS, max_length=64, **options).to(dtype)
    x, batch = ragged((40, 33), dtype=torch.float32)
    parameters = list(attention.parameters())

    def run() -> list[Tensor]:
        inputs = x.to(dtype).requires_grad_()
        out = attention(inputs, batch=batch, generator=seeded())
        grads = torch.autograd.grad(out.float().square().sum(), [inputs, *parameters])
        return [out.detach(), *grads]

    expected = run()
    default_dtype(default)
    found = run()
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", BASELINES)
def test_autocast(name):
    attention = make(name)
    x, batch = ragged((40, 33), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(x, batch)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_global_generator_is_left_alone(name):
    torch.manual_seed(0)
    attention = build_attention(name, CHANNELS, HEADS, max_length=64, **SMALL.get(name, {}))
    x, batch = ragged((40, 33), dtype=torch.float32)
    state = torch.get_rng_state()
    first = attention.eval()(x, batch=batch, generator=seeded())
    second = attention(x, batch=batch, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first, second)


def test_reformer_without_a_generator_advances_the_global_one():
    attention = make("reformer")
    x, batch = ragged((40, 33), dtype=torch.float32)
    torch.manual_seed(0)
    first, second = attention(x, batch), attention(x, batch)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(attention(x, batch), first)


# Against dense definitions ########################################################################


def test_full_is_softmax_attention():
    attention = make("full").double()
    x, _ = ragged((20,))
    query, key, value = heads_of(attention, x)
    weight = torch.softmax(query @ key.mT / math.sqrt(query.size(-1)), dim=-1)
    torch.testing.assert_close(attention(x), merge(attention, weight @ value))


def test_linear_is_normalised_feature_attention():
    attention = make("linear").double()
    x, _ = ragged((20,))
    query, key, value = heads_of(attention, x)
    score = (F.elu(query) + 1) @ (F.elu(key) + 1).mT
    expected = score / score.sum(dim=-1, keepdim=True) @ value
    torch.testing.assert_close(attention(x), merge(attention, expected))


def test_linformer_attends_over_projected_keys():
    attention = make("linformer").double()
    x, _ = ragged((20,))
    query, key, value = heads_of(attention, x)
    package = attention.inner.attention
    key = package.proj_k[:20].T @ key
    value = package.proj_v[:20].T @ value
    expected = torch.softmax(query @ key.mT / math.sqrt(query.size(-1)), dim=-1) @ value
    torch.testing.assert_close(attention(x), merge(attention, expected))


def test_entmax_solves_its_optimality_condition():
    """1.5-entmax weights are [s/2 - tau]_+^2 with one tau a row, and sum to one."""
    attention = make("entmax").double()
    x, _ = ragged((20,))
    query, key, value = heads_of(attention, 4 * x)
    score = query @ key.mT / math.sqrt(query.size(-1)) / 2
    low, high = score.amax(-1, keepdim=True) - 1, score.amax(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        heavy = (score - middle).clamp(min=0).square().sum(-1, keepdim=True) > 1
        low, high = torch.where(heavy, middle, low), torch.where(heavy, high, middle)
    weight = (score - low).clamp(min=0).square()
    assert (weight == 0).any()
    torch.testing.assert_close(attention(4 * x), merge(attention, weight @ value))


def test_performer_approaches_softmax_attention():
    few, many = (make("performer", num_features=n).double() for n in (64, 4096))
    many.load_state_dict(
        {k: v for k, v in few.state_dict().items() if "inner" not in k}, strict=False
    )
    x, _ = ragged((40,))
    query, key, value = heads_of(few, x)
    softmax = torch.softmax(query @ key.mT / math.sqrt(query.size(-1)), dim=-1) @ value
    exact = merge(few, softmax)
    errors = [((m(x) - exact).norm() / exact.norm()).item() for m in (few, many)]
    assert errors[1] < 0.15
    assert errors[1] < errors[0] / 2


def test_nystrom_with_a_landmark_for_each_token_is_softmax_attention():
    attention = make("nystromformer", num_landmarks=16).double()
    package = attention.inner.attention
    nn.init.zeros_(package.res_conv.weight)
    package.pinv_iterations = 30
    x, _ = ragged((16, 16))
    query, key, value = heads_of(attention, x[:16])
    weight = torch.softmax(query @ key.mT / math.sqrt(query.size(-1)), dim=-1)
    expected = merge(attention, weight @ value)
    torch.testing.assert_close(attention(x[:16]), expected, rtol=1e-4, atol=1e-5)


def test_reformer_in_one_pair_of_buckets_is_attention_without_self():
    attention = make("reformer", bucket_size=16, num_hashes=1).double()
    x, _ = ragged((32,))
    query, _, value = heads_of(attention, x)
    score = query @ F.normalize(query, dim=-1).mT / math.sqrt(query.size(-1))
    score = score.masked_fill(torch.eye(32, dtype=torch.bool), -5e4)
    expected = merge(attention, torch.softmax(score, dim=-1) @ value)
    torch.testing.assert_close(attention(x), expected)


# Packages' own padding ############################################################################


def test_performer_package_reads_padding():
    """Why PerformerAttention masks by itself: zeroed values do not take padded keys out."""
    from performer_pytorch import SelfAttention

    torch.manual_seed(0)
    package = SelfAttention(CHANNELS, heads=HEADS, dim_head=8, nb_features=24).eval()
    x = torch.randn(1, 40, CHANNELS)
    mask = torch.arange(40)[None] < 20
    assert not torch.allclose(package(x, mask=mask)[:, :20], package(x[:, :20]), atol=1e-3)


def test_nystrom_package_couples_a_sequence_to_its_batch_and_padding():
    """Why NystromAttention groups by length and maps over sequences."""
    from nystrom_attention import NystromAttention

    torch.manual_seed(0)
    package = NystromAttention(CHANNELS, dim_head=8, heads=HEADS, num_landmarks=8).double().eval()
    x = torch.randn(2, 40, CHANNELS, dtype=torch.float64)
    x[1] *= 100
    mask = torch.ones(2, 40, dtype=torch.bool)
    alone = package(x[:1], mask=mask[:1])
    assert not torch.allclose(package(x, mask=mask)[:1], alone, rtol=0, atol=1e-4)
    longer = F.pad(x[:1], (0, 0, 0, 24))
    padded = package(longer, mask=F.pad(mask[:1], (0, 24)))[:, :40]
    assert not torch.allclose(padded, alone, atol=1e-3)


def test_reformer_package_hashes_padding():
    """Why ReformerAttention groups by length: more padding, other buckets."""
    from reformer_pytorch import LSHAttention

    package = LSHAttention(bucket_size=8, n_hashes=2).eval()
    torch.manual_seed(0)
    x = torch.randn(1, 32, 8)
    mask = torch.ones(1, 32, dtype=torch.bool)
    torch.manual_seed(1)
    alone = package(x, x, input_mask=mask)[0]
    torch.manual_seed(1)
    padded = package(*[F.pad(x, (0, 0, 0, 32))] * 2, input_mask=F.pad(mask, (0, 32)))[0][:, :32]
    assert not torch.allclose(padded, alone, atol=1e-3)


# The pattern ######################################################################################


def dense_pattern(pattern: EdgePattern, length: int) -> Tensor:
    """The pattern of one sequence by its definition, boolean [H, queries, keys]."""
    out = torch.zeros(pattern.heads, length, length, dtype=torch.bool)
    for i in range(length):
        near = range(max(i - pattern.window, 0), min(i + pattern.window, length - 1) + 1)
        out[:, i, list(near)] = True
        for h in range(pattern.heads):
            out[h, i, pattern.random[i, h] * length // 2**31] = True
    out[:, :, : pattern.num_global] = True
    out[:, : pattern.num_global] = True
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"window": 3, "num_random": 4, "num_global": 2},
        {"window": 0, "num_random": 0, "num_global": 1},
        {"window": 2, "num_random": 30, "num_global": 0},
        {"window": 100, "num_random": 3, "num_global": 70},
        {"window": 0, "num_random": 0, "num_global": 0},
    ],
)
def test_pattern_has_the_edges_of_its_definition(options):
    pattern = make("pattern", **options).inner.pattern
    _, batch = ragged()
    graph = pattern.graph(sum(LENGTHS), batch, batch.device)
    dense = torch.zeros(HEADS, sum(LENGTHS), sum(LENGTHS), dtype=torch.bool)
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        dense[:, part, part] = dense_pattern(pattern, length)
        start += length
    query, head, key = dense.permute(1, 0, 2).nonzero().T
    assert torch.equal(graph.edge_index, torch.stack([key, query]))
    assert torch.equal(graph.head, head)


def test_densities():
    x, batch = ragged()
    pairs = HEADS * sum(length**2 for length in LENGTHS)
    inner = {name: make(name).inner.double() for name in BASELINES}
    query = x.view(-1, HEADS, CHANNELS // HEADS) * 3
    found = {name: module.density(query, query, batch) for name, module in inner.items()}
    assert found["full"] == 1
    edges = inner["pattern"].pattern.graph(len(x), batch, x.device).num_edges
    assert found["pattern"] == edges / pairs
    weights = [
        inner["entmax"]._weights(part[None], part[None], None) for part in query.split(LENGTHS)
    ]
    assert found["entmax"] == pytest.approx(sum(int((w > 0).sum()) for w in weights) / pairs)
    assert found["entmax"] < 0.9
    assert all(found[name] is None for name in ("linear", "performer", "reformer", "linformer"))


def test_pattern_is_fixed_by_its_seed():
    cpu = torch.device("cpu")
    cols = [EdgePattern(2, 128, 3, 2, 8, seed).graph(100, None, cpu).col for seed in (0, 0, 1)]
    assert torch.equal(cols[0], cols[1])
    assert not torch.equal(cols[0], cols[2])


def test_pattern_follows_the_batch_and_serves_all_layers():
    layers = [make("pattern", seed=i).inner for i in range(2)]
    pattern, cpu = layers[0].pattern, torch.device("cpu")
    assert layers[1].pattern is pattern
    first = pattern.graph(20, None, cpu)
    assert pattern.graph(20, None, cpu) is first
    split = torch.tensor([0] * 8 + [1] * 12)
    assert pattern.graph(20, split, cpu).num_edges < first.num_edges
    assert torch.equal(pattern.graph(20, None, cpu).col, first.col)


@pytest.mark.parametrize("name", ["linformer", "pattern"])
def test_too_long_a_sequence(name):
    attention = make(name, max_length=20)
    x, batch = ragged((8, 21), dtype=torch.float32)
    with pytest.raises(ValueError, match="'max_length' = 20 tokens, got 21"):
        attention(x, batch)


# Ragged batches ###################################################################################


@pytest.mark.parametrize("unit", [None, 1, 4, 100])
def test_run_padded_is_the_identity_of_the_identity(unit):
    x, batch = ragged()
    seen = []

    def identity(dense: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(dense.shape[:2])
        if mask is not None:
            assert (dense[~mask] == 0).all()
            assert not mask.all()
        return dense

    assert torch.equal(run_padded(identity, (x,), batch, unit), x)
    if unit is None:
        assert seen == [(len(LENGTHS), max(LENGTHS))]
    else:
        assert all(size % unit == 0 for _, size in seen)


def test_equal_lengths_are_not_padded():
    assert make_padding(torch.tensor([4, 4, 4]), 4).mask is None


# Models ###########################################################################################


@pytest.mark.parametrize("name", MODELS)
def test_model_trains_one_step(name):
    torch.manual_seed(0)
    options = SMALL.get(name, {}) if name != "sbm" else {"num_clusters": 8}
    model = build_model(name, vocab_size=9, num_classes=3, channels=16, max_length=64, **options)
    tokens = torch.randint(0, 9, (50,))
    batch = torch.arange(2).repeat_interleave(25)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    loss = F.cross_entropy(model(tokens, batch), torch.tensor([0, 2]))
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    unchanged = [k for k, p in model.named_parameters() if torch.equal(p, before[k])]
    assert not unchanged


@pytest.mark.parametrize("name", MODELS)
def test_padded_and_flat_input_agree(name):
    torch.manual_seed(0)
    model = build_model(
        name, vocab_size=9, num_classes=3, channels=16, max_length=64, **SMALL.get(name, {})
    ).eval()
    tokens = torch.randint(0, 9, (3, 40))
    mask = torch.arange(40) < torch.tensor([[40], [7], [23]])
    batch = torch.arange(3).repeat_interleave(mask.sum(dim=1))
    flat = model(tokens[mask], batch, generator=seeded())
    torch.testing.assert_close(model(tokens, mask=mask, generator=seeded()), flat)


def test_models_differ_in_their_attention_alone():
    sizes = {}
    for name in MODELS:
        model = build_model(name, vocab_size=32, num_classes=10, max_length=2000)
        outside = [p.numel() for k, p in model.named_parameters() if ".attention." not in k]
        sizes[name] = sum(outside)
    assert len(set(sizes.values())) == 1


def test_attention_dropout_reaches_the_attention():
    model = build_model("full", vocab_size=9, num_classes=3, channels=16, dropout=0.3)
    assert model.layers[0].attention.inner.dropout == 0.3
    model = build_model(
        "entmax", vocab_size=9, num_classes=3, channels=16, dropout=0.3, attention_dropout=0.0
    )
    assert model.layers[0].attention.inner.dropout == 0.0


def test_positions_have_their_own_scale():
    model = build_model("full", vocab_size=500, num_classes=3, embedding_std=1.0, position_std=0.02)
    assert 0.9 < model.token_embedding.weight.std() < 1.1
    assert 0.018 < model.position_embedding.weight.std() < 0.022


def test_pooling_by_an_extra_token_fits_the_longest_sequence():
    for name in ("linformer", "pattern"):
        model = build_model(
            name, vocab_size=9, num_classes=3, channels=16, max_length=20, pooling="cls"
        )
        assert model(torch.zeros(20, dtype=torch.long)).shape == (1, 3)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'name' must be one of 'sbm', 'full', .* got 'sparse'"):
        build_model("sparse", vocab_size=9, num_classes=3)
    with pytest.raises(ValueError, match=r"'linformer' must be among projected_length, .* 'rank'"):
        build_model("linformer", vocab_size=9, num_classes=3, rank=3)
    with pytest.raises(ValueError, match="'linear' must be among none, got 'window'"):
        build_model("linear", vocab_size=9, num_classes=3, window=3)
    assert "init_density" in attention_options("sbm")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("full", {"dropout": 1.0}, "'dropout'"),
        ("linformer", {"projected_length": 0}, "'projected_length'"),
        ("reformer", {"bucket_size": 2.5}, "'bucket_size'"),
        ("performer", {"num_features": -1}, "'num_features'"),
        ("nystromformer", {"kernel_size": 4}, "'kernel_size' must be odd, got 4"),
        ("pattern", {"window": -1}, "'window'"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_attention(name, CHANNELS, HEADS, **options)


def test_bad_input():
    attention = make("full")
    x, batch = ragged((3, 4), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"'x' must have shape \[num_tokens, 16\]"):
        attention(x[:, :5], batch)
    with pytest.raises(ValueError, match="'batch' must be sorted"):
        attention(x, batch.flip(0))
    with pytest.raises(ValueError, match="'x' must be a floating-point tensor"):
        attention(x.long(), batch)
    with pytest.raises(ValueError, match="'channels' must be a multiple of 'heads' = 3"):
        build_attention("full", 16, 3)
