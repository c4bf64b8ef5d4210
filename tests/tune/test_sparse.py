"""Pruning by hand is the libraries': masks, the packed form of 2:4; zeros stay; updates touch what they may."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer, backprop
from ftlab.text.batching import collate
from ftlab.train import train
from ftlab.train.loop import TrainConfig
from ftlab.tune import attach, lora, sparse

ROWS = [[1, 5, 9, 2, 7], [3, 3, 8], [4, 6, 1, 2, 9, 5, 7]]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(seed=0):
    torch.manual_seed(seed)
    made = Transformer(ModelConfig(11, 16, 2, 4, 24, max_position_embeddings=16))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(10 if p.ndim == 2 else 1)  # at 0.02 every layer says nearly nothing
    return made.eval()


def linear(W):
    layer = nn.Linear(W.shape[1], W.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(W)
    return layer


# -- masks

@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.83])
def test_the_magnitude_mask_is_torchs(share):
    W = draw(6, 10)
    layer = prune.l1_unstructured(linear(W), "weight", amount=share)
    mask = sparse.magnitude_mask(W, share)
    assert torch.equal(mask, layer.weight_mask.bool()) and int((~mask).sum()) == round(share * 60)


def test_wanda_weighs_by_the_norm_of_the_input_and_compares_within_a_row():
    W, X = draw(3, 8), draw(20, 8, seed=1) * torch.tensor([1.0, 9, 1, 9, 1, 9, 1, 9])
    score = sparse.wanda_score(W, X.norm(dim=0))
    assert torch.allclose(score[1, 3], W[1, 3].abs() * X[:, 3].square().sum().sqrt())
    mask = sparse.row_mask(score, 0.5)
    assert mask.sum(1).tolist() == [4, 4, 4]
    assert all(score[i][mask[i]].min() >= score[i][~mask[i]].max() for i in range(3))


def test_the_2_4_mask_is_torchs():
    from torch.ao.pruning import WeightNormSparsifier

    W = draw(8, 24)
    layer = nn.Sequential(linear(W))
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(layer, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    assert torch.equal(sparse.two_four_mask(W.abs()), layer[0].parametrizations.weight[0].mask.bool())


@pytest.mark.parametrize(("share", "text"), [(-0.1, "at least 0"), (1.0, "below 1")])
def test_a_share_out_of_range_is_refused(share, text):
    with pytest.raises(UsageError, match=text):
        sparse.magnitude_mask(draw(2, 2), share)


def test_mistakes_in_what_is_asked_are_named():
    with pytest.raises(UsageError, match="no way of pruning"):
        sparse.mask_of(draw(2, 4), "random")
    with pytest.raises(UsageError, match="norms"):
        sparse.mask_of(draw(2, 4), "wanda")
    with pytest.raises(UsageError, match="multiple of 4"):
        sparse.two_four_mask(draw(2, 6))
    with pytest.raises(UsageError, match="at least one text"):
        sparse.input_norms(model(), [])


# -- packed

def test_packed_2_4_is_torchs_layout_and_comes_back():
    """torch's kernels want CUDA; the functions that make and read their layout run on the CPU."""
    from torch.sparse import _semi_structured_conversions as theirs

    W = draw(32, 64).half()
    W = W * sparse.two_four_mask(W.abs())
    values, places = sparse.pack_two_four(W)
    packed, meta = theirs.sparse_semi_structured_from_dense_cutlass(W)
    assert torch.equal(values, packed)
    order = theirs._calculate_meta_reordering_scatter_offsets(*meta.shape, meta.dtype, "cpu")
    plain = meta.flatten()[order].view(32, 4)  # 16 bits: four groups of two places of two bits
    codes = (places.view(32, 4, 8) << torch.arange(0, 16, 2)).sum(-1)
    assert torch.equal(codes, plain.long() & 0xFFFF)
    assert torch.equal(sparse.unpack_two_four(values, places), W)
    assert torch.equal(theirs.sparse_semi_structured_to_dense_cutlass(packed, meta), W)


def test_packing_wants_two_of_four_and_fills_up_with_zeros():
    with pytest.raises(UsageError, match="more than two"):
        sparse.pack_two_four(torch.ones(1, 4))
    W = torch.tensor([[0.0, 0, 0, 0, 0, 5, 0, 0]])
    values, places = sparse.pack_two_four(W)
    assert places.tolist() == [[2, 3, 1, 3]] and torch.equal(sparse.unpack_two_four(values, places), W)


def test_torch_refuses_its_own_2_4_tensor_on_a_cpu():
    """The lab says so; once this fails, the lab can show the product itself."""
    W = torch.tensor([[0.0, 0, 1, 1]]).tile(32, 16).half()
    with pytest.raises(RuntimeError, match="cuda|CUDA"):
        torch.sparse.to_sparse_semi_structured(W)


# -- models

def test_norms_are_those_of_what_the_layers_read():
    one = model()
    seen = {}
    name = "layers.1.mlp.down_proj"
    handle = one.get_submodule(name).register_forward_hook(lambda m, x, y: seen.setdefault("x", []).append(x[0][0]))
    for row in ROWS:
        one(torch.tensor([row]))
    handle.remove()
    norms = sparse.input_norms(one, ROWS)
    assert len(norms) == 14 and torch.allclose(norms[name], torch.cat(seen["x"]).norm(dim=0), rtol=1e-5)
    assert not one.get_submodule(name)._forward_pre_hooks


@pytest.mark.parametrize("method", sparse.METHODS)
def test_a_pruned_model_has_the_share_of_zeros_and_keeps_head_and_embedding(method):
    one = model()
    embedding = one.embed_tokens.weight.clone()
    sparse.apply(one, sparse.masks(one, method, 0.5, sparse.input_norms(one, ROWS)))
    assert sparse.sparsity(one) == pytest.approx(0.5) and torch.equal(one.embed_tokens.weight, embedding)


def test_models_of_transformers_are_pruned_too_but_for_gpt2():
    import transformers

    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, intermediate_size=48))
    sparse.apply(llama, sparse.masks(llama, "wanda", 0.25, sparse.input_norms(llama, ROWS)))
    assert sparse.sparsity(llama) == pytest.approx(0.25)
    with pytest.raises(UsageError, match="GPT-2"):
        sparse.prunable(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=61)))


# -- training

def settings(**more):
    return TrainConfig(3, lr=0.05, optimizer="adamw", **more)


def test_zeros_stay_zeros_through_training():
    one = model()
    masks = sparse.masks(one, "magnitude", 0.5)
    before = {name: p.clone() for name, p in sparse.apply(one, masks).named_parameters()}
    train(one, lambda step: collate(ROWS, 0), settings(), callbacks=[sparse.keep(one, masks)])
    assert sparse.sparsity(one) == pytest.approx(0.5)
    assert all(not torch.equal(before[name], p) for name, p in one.named_parameters())


def test_a_masked_lora_merges_without_filling_the_zeros():
    one = model()
    masks = sparse.masks(one, "wanda", 0.5, sparse.input_norms(one, ROWS))
    sparse.apply(one, masks)
    sparse.mask_lora(attach(one, "lora", r=2, lora_alpha=4), masks)
    train(one, lambda step: collate(ROWS, 0), settings())
    ids = torch.tensor([ROWS[2]])
    apart = one(ids)
    assert torch.allclose(lora.merge(one)(ids), apart, atol=1e-4)
    assert sparse.sparsity(lora.detach_lora(one)) == pytest.approx(0.5)


def test_the_quick_gradient_serves_a_masked_lora():
    one = model()
    masks = sparse.masks(one, "magnitude", 0.5)
    sparse.mask_lora(attach(one, "lora", r=2, lora_alpha=4), masks)
    with torch.no_grad():
        for layer in lora.layers(one).values():
            layer.lora_B.copy_(0.1 * draw(*layer.lora_B.shape))
    batch, plain = collate(ROWS, 0), copy.deepcopy(one)
    assert backprop.fits(one, batch)
    backprop.loss(one, batch).backward()
    plain.loss(batch).backward()
    for (name, p), (_, q) in zip(one.named_parameters(), plain.named_parameters(), strict=True):
        assert not p.requires_grad or torch.allclose(p.grad, q.grad, atol=1e-5), name


def test_a_masked_lora_has_no_dropout():
    one = attach(model(), "lora", lora_dropout=0.1)
    with pytest.raises(UsageError, match="dropout"):
        sparse.mask_lora(one, {})


def test_a_sparse_update_moves_the_chosen_entries_and_no_other():
    one = model()
    before = {name: p.detach().clone() for name, p in one.named_parameters()}
    hidden = [f"{name}.weight" for name in sparse.prunable(one)]
    tuned = copy.deepcopy(one)
    train(tuned, lambda step: collate(ROWS, 0), settings())
    after = dict(tuned.named_parameters())
    masks = sparse.top_updates({n: before[n] for n in hidden}, {n: after[n].detach() for n in hidden}, 50)
    assert sum(int(m.sum()) for m in masks.values()) == 50
    handles = sparse.learn_only(one, masks)
    train(one, lambda step: collate(ROWS, 0), settings())
    moved = {name: p.detach() != before[name] for name, p in one.named_parameters()}
    assert all(torch.equal(moved[name], masks[name]) if name in masks else not moved[name].any() for name in moved)
    for handle in handles:
        handle.remove()
    with pytest.raises(UsageError, match="choose from"):
        sparse.top_updates({"a": draw(2, 2)}, {"a": draw(2, 2)}, 5)


# -- activations

def test_squared_relu_has_as_many_parameters_and_exact_zeros():
    gated, squared = model(), sparse.with_squared_relu(model())
    assert gated.num_parameters() == squared.num_parameters()
    assert squared(torch.tensor([ROWS[0]])).shape == (1, 5, 11)
    a = sparse.activations(squared, ROWS)
    assert [tuple(one.shape) for one in a] == [(15, 36)] * 2 and 0.2 < sparse.share_of_zeros(a[0]) < 0.8
    assert sparse.share_of_zeros(sparse.activations(gated, ROWS)[0]) == 0


def test_shares_and_counts():
    a = torch.tensor([0.0, 0.5, -200.0, 3.0])
    assert sparse.share_of_zeros(a) == 0.25 and sparse.share_below(a) == 0.5
    W = draw(4, 8)
    edges, kept, pruned = sparse.histogram(W, sparse.magnitude_mask(W, 0.5), bins=6)
    assert len(edges) == 7 and sum(kept) == sum(pruned) == 16 and pruned[-1] == 0
    assert sparse.two_four_bits(16) == 9
