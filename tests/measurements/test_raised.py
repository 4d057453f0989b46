"""The model in float32: what stands in for its weights, and that it is gone afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fixtures.faults import healthy
from trainsanity.isolation.hashing import hashes
from trainsanity.measurements.model import raiser
from trainsanity.measurements.model.raised import asked, in_float32
from trainsanity.measurements.model.raiser import Raiser, nudge, repeated
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip

TEXT = {"num_labels": 5, "vocab_size": 64, "pad_token_id": 0}
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
} | TEXT
LLAMA = {"num_key_value_heads": 2, "head_dim": 8} | BERT

FAMILIES = {
    "bert": BERT,
    "roberta": BERT,
    "electra": BERT | {"embedding_size": 16},
    "deberta-v2": BERT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "albert": BERT | {"embedding_size": 16},
    "modernbert": BERT | {"cls_token_id": 1, "sep_token_id": 2},
    "distilbert": TEXT | {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "gpt2": TEXT | {"n_embd": 32, "n_layer": 3, "n_head": 4},
    "gpt_neox": BERT,
    "opt": BERT | {"word_embed_proj_dim": 32, "ffn_dim": 64},
    "qwen3": LLAMA,
    "llama": LLAMA,
    "mistral": LLAMA,
    "gemma": LLAMA,
    "phi3": LLAMA,
    "t5": TEXT | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4,
                  "decoder_start_token_id": 0},
    "bart": TEXT
    | {
        "d_model": 32,
        **{f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
           (("layers", 3), ("attention_heads", 4), ("ffn_dim", 64))},
    },
    "mamba": TEXT | {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "vit": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
            "intermediate_size": 64, "image_size": 16, "patch_size": 4, "num_labels": 5},
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
               "image_size": 16, "patch_size": 4, "num_labels": 5},
    "wav2vec2": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                 "intermediate_size": 64, "conv_dim": [16, 16], "conv_stride": [4, 4],
                 "conv_kernel": [8, 8], "num_conv_pos_embeddings": 4,
                 "num_conv_pos_embedding_groups": 2, "num_labels": 5,
                 "classifier_proj_size": 16},
}  # fmt: skip
"""Tiny configs by ``model_type``."""

GIVEN_ENDS = ("t5", "bart")
"""Heads that read a row at its EOS."""


def made(family):
    """A tiny random model in bfloat16, and inputs for it."""
    import transformers

    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family in ("vit", "dinov2"):
            inputs = {"pixel_values": torch.randn(3, 3, 16, 16)}
            factory = transformers.AutoModelForImageClassification
        elif family == "wav2vec2":
            inputs = {"input_values": torch.randn(3, 400)}
            factory = transformers.AutoModelForAudioClassification
        elif family == "mamba":
            inputs = {"input_ids": torch.randint(3, 64, (3, 12))}
            factory = transformers.AutoModelForCausalLM
        else:
            inputs = {"input_ids": torch.randint(3, 64, (3, 12))}
            inputs["attention_mask"] = torch.ones(3, 12, dtype=torch.long)
            inputs["attention_mask"][1, 7:] = 0
            factory = transformers.AutoModelForSequenceClassification
        if family in GIVEN_ENDS:
            inputs["input_ids"][:, -1] = config.eos_token_id
            inputs["attention_mask"][:] = 1
        model = factory.from_config(config).bfloat16().eval()
        for weight in model.parameters():  # zeros and ones of a fresh model hide what reads them
            weight.data.add_(0.05 * torch.randn(weight.shape))
    return model, inputs


def with_floats(inputs, dtype):
    """The inputs with pictures and sounds in that dtype."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def of(model):
    """A pipeline without a Trainer."""
    return Pipeline(model=model)


def states(model):
    """Everything of the model's tensors that has to come back: bits, objects, memory."""
    tensors = [*model.parameters(), *model.buffers()]
    return hashes(tensors), [id(one) for one in tensors], [one.data_ptr() for one in tensors]


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_a_float32_copy(family):
    model, inputs = made(family)
    given = with_floats(inputs, torch.bfloat16)
    with torch.no_grad():
        expected = copy.deepcopy(model).float()(**with_floats(given, torch.float32)).logits
        trained = model(**given).logits
    before = states(model)
    logits, way = in_float32(of(model), lambda one: (model(**given).logits, one))
    assert states(model) == before
    assert way.way == "blocks"
    assert way.precision.dtype == logits.dtype == torch.float32
    assert not way.precision.why
    assert not way.precision.trained
    # The same operations: kernels may add in another order where memory lies otherwise.
    size = expected.abs().max()
    assert (logits - expected).abs().max() <= 8 * torch.finfo(torch.float32).eps * size
    # What training computes is further away by orders of magnitude.
    assert (trained - expected).abs().max() > 1e-3 * size
    with torch.no_grad():
        assert torch.equal(model(**given).logits, trained)


class Block(nn.Module):
    """A layer as models repeat them."""

    def __init__(self, size=8):
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, states):
        return states + torch.tanh(self.linear(states))


class Net(nn.Module):
    """Blocks of one size between an embedding and a head that share their weight."""

    def __init__(self, block=Block):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.layers = nn.ModuleList([block() for _ in range(3)])
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        states = self.embedding(ids)
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


def net(kind=Net, **named):
    """A random one in bfloat16, without dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**named).bfloat16().eval()


IDS = torch.arange(12).view(2, 6)


def in_both(model):
    """Return what the model says raised, how it was asked, and what a float32 copy says."""
    before, modes = states(model), [module.training for module in model.modules()]
    said, one = in_float32(of(model), lambda one: (model(IDS), one))
    assert states(model) == before
    assert [module.training for module in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        return said, one, copy.deepcopy(model).float()(IDS)


def test_tied_weights_stay_raised_until_the_last_place_is_left():
    model = net()
    model.layers[1].linear.weight = model.layers[0].linear.weight
    # A block's weight that stands outside, too.
    model.register_parameter("again", model.layers[2].linear.weight)
    said, one, expected = in_both(model)
    assert one.way == "blocks"
    assert torch.equal(said, expected)


def test_a_block_is_raised_while_it_runs_and_no_longer():
    model, seen = net(), []
    model.layers[1].linear.register_forward_pre_hook(
        lambda *_: seen.append([layer.linear.weight.dtype for layer in model.layers])
    )
    raiser = Raiser(model)
    with torch.no_grad(), raiser.raised():
        assert model.head.weight.dtype == torch.float32
        assert model.head.weight is model.embedding.weight
        model(IDS)
        assert model.layers[1].linear.weight.dtype == torch.bfloat16
    assert seen == [[torch.bfloat16, torch.float32, torch.bfloat16]]
    assert not raiser.copies


class Stop(BaseException):
    """Something that hooks for exceptions do not see."""


@pytest.mark.parametrize("error", [ValueError, Stop, KeyboardInterrupt])
def test_weights_are_back_after_an_error_inside_of_a_block(error):
    model = net()

    def fail(*_):
        raise error

    handle = model.layers[1].linear.register_forward_pre_hook(fail)
    before = states(model)
    with pytest.raises(error):
        in_float32(of(model), lambda _: model(IDS))
    handle.remove()
    assert states(model) == before


class Outside(Net):
    """Reads the dtype of its first block's weight before that runs, as some encoders do."""

    def forward(self, ids):
        states = self.embedding(ids).to(self.layers[0].linear.weight.dtype)
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


class Borrowed(Net):
    """Takes a block's weight without calling it."""

    def forward(self, ids):
        states = nn.functional.linear(self.embedding(ids), self.layers[0].linear.weight)
        return self.head(self.layers[1](states))


@pytest.mark.parametrize("kind", [Outside, Borrowed])
def test_a_model_that_reads_its_blocks_from_outside_is_raised_whole(kind):
    said, one, expected = in_both(net(kind))
    assert one.way == "whole"
    assert torch.equal(said, expected)


def test_what_does_not_fit_is_asked_as_trained_and_says_why(monkeypatch):
    monkeypatch.setattr("trainsanity.measurements.model.raised._fits", lambda model: False)
    model = net(Outside)
    said, one = in_float32(of(model), lambda one: (model(IDS), one))
    assert said.dtype == torch.bfloat16
    assert one.precision.trained
    assert str(one.precision) == (
        "; asked in bfloat16: the weights do not fit into memory a second time in float32"
    )


class RoundingOutput(Net):
    """Returns its logits in bfloat16."""

    def forward(self, ids):
        return super().forward(ids).bfloat16()


def test_a_model_that_rounds_its_outputs_is_judged_by_that_dtype():
    said, one, _ = in_both(net(RoundingOutput))
    assert (one.way, said.dtype) == ("whole", torch.bfloat16)
    assert str(one.precision) == "; asked in bfloat16: the model itself rounds to it"


class Counting(Block):
    """Keeps a state in a buffer of half precision, which each pass changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, states):
        self.count += 1
        return super().forward(states) * self.count


def test_a_state_that_one_pass_leaves_to_the_next_is_kept_and_put_back():
    model = net(block=Counting)
    first, second = in_float32(of(model), lambda _: (model(IDS), model(IDS)))
    assert not torch.allclose(first, second)
    assert all(layer.count == 0 for layer in model.layers)


class Recurrent(Net):
    """Has a layer that keeps a list of its own weights."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, ids):
        return self.head(self.lstm(self.embedding(ids))[0])


def test_recurrent_layers():
    model = net(Recurrent)
    flat = list(model.lstm._flat_weights)
    said, one, expected = in_both(model)
    assert one.way == "blocks"
    torch.testing.assert_close(said, expected)
    assert all(a is b for a, b in zip(model.lstm._flat_weights, flat, strict=True))


def test_parametrized_weights():
    model = net()
    torch.nn.utils.parametrizations.spectral_norm(model.layers[0].linear)
    model.eval()
    said, one, expected = in_both(model)
    assert one.precision.dtype == torch.float32
    torch.testing.assert_close(said, expected)


def test_nothing_is_raised_where_all_is_float32():
    model = net().float()
    said, one = in_float32(of(model), lambda one: (model(IDS), one))
    assert one.precision.trained
    with torch.no_grad():
        assert torch.equal(said, model(IDS))


def test_an_error_of_a_model_in_float32_is_its_own():
    model, times = net().float(), []

    def ask(_):
        times.append(1)
        model(IDS + 99)

    with pytest.raises(IndexError):
        in_float32(of(model), ask)
    assert len(times) == 1


def test_what_keeps_a_model_from_being_asked_at_all_is_told(monkeypatch):
    def full(*_, **__):
        raise Skip("host memory is full")

    monkeypatch.setattr("trainsanity.measurements.model.raised.as_trained", full)
    with pytest.raises(Skip, match="host memory is full"):
        in_float32(of(net()), lambda _: None)


def test_quantised_weights_are_asked_as_they_are():
    model = net()
    model.is_quantized = True
    said, one = in_float32(of(model), lambda one: (model(IDS), one))
    assert said.dtype == torch.bfloat16
    assert "quantised" in one.precision.why


def test_autocast_is_off_also_in_the_forward_that_accelerate_wrapped():
    trainer = healthy(bf16=True)
    trainer.model = trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)
    assert hasattr(trainer.model, "_original_forward")
    pipeline = Pipeline.from_trainer(trainer)
    ids = torch.arange(24).view(2, 12)
    model, wrapped = pipeline.model, pipeline.model.forward
    model.config.pad_token_id = 151_643
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(input_ids=ids).logits
    bare = type(model).forward
    with torch.no_grad():
        expected = bare(model, input_ids=ids).logits
    # Also where the caller is in autocast.
    with torch.autocast("cpu", torch.bfloat16):
        said, one = in_float32(pipeline, lambda one: (model(input_ids=ids).logits, one))
    assert one.precision.dtype == torch.float32
    assert not one.precision.trained
    assert torch.equal(said, expected)
    assert not torch.allclose(said, mixed.float(), rtol=1e-4)
    assert model.forward == wrapped


def test_adapters_and_checkpointing():
    peft = pytest.importorskip("peft")
    base, inputs = made("qwen3")
    new = hasattr(base, "activation_checkpointing_enable")
    getattr(base, "activation_checkpointing_enable" if new else "gradient_checkpointing_enable")()
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=2)).bfloat16().eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zeros when they are made
            weight.data.normal_()
    with torch.no_grad():
        expected = copy.deepcopy(model).float()(**inputs).logits
    before = states(model)
    logits, one = in_float32(of(model), lambda one: (model(**inputs).logits, one))
    assert one.way == "blocks"
    torch.testing.assert_close(logits, expected)
    assert states(model) == before


def test_hooks_of_data_parallelism_outlive_it():
    """DistributedDataParallel hangs on to each parameter's gradient accumulator."""
    model, called = net(), []
    weight = model.layers[0].linear.weight
    weight.register_post_accumulate_grad_hook(lambda _: called.append(1))
    in_float32(of(model), lambda _: model(IDS))
    model(IDS).sum().backward()
    assert called == [1]
    assert weight.grad.dtype == torch.bfloat16


def test_a_nudge_moves_each_element_by_one_unit():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weight = torch.randn(1000).bfloat16().float()
    moved = nudge(weight)
    up = torch.nextafter(weight, torch.full_like(weight, torch.inf))
    down = torch.nextafter(weight, torch.full_like(weight, -torch.inf))
    assert ((moved == up) | (moved == down)).all()
    grown = (moved.abs() > weight.abs()).float().mean()
    assert 0.4 < grown < 0.6  # four standard errors of a fair coin are 0.06
    odd = torch.tensor([0.0, torch.inf, -torch.inf])
    assert torch.equal(nudge(odd), odd)


def test_a_large_weight_is_nudged_a_part_at_a_time_and_a_copy_in_its_own_place(monkeypatch):
    """Of 152 thousand words by 5,120 a second copy in float32 is 2.9 GiB."""
    weight = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)).t()
    weight[0, 0], weight[1, 1] = 0.0, torch.inf
    before, moved = weight.clone(), nudge(weight)
    monkeypatch.setattr(raiser, "AT_ONCE", 10)
    assert torch.equal(nudge(weight), moved)
    assert torch.equal(weight, before)
    copy = weight.contiguous()
    assert nudge(copy, in_place=True).data_ptr() == copy.data_ptr()
    assert torch.equal(copy, moved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_nudge_writes_to_copies_alone(dtype):
    model, nudged = net().to(dtype), []
    weights = [p.detach().clone() for p in model.parameters()]
    held = raiser.Raiser(model)
    with held.raised(), held.nudged():
        nudged += [copy.tensor for copy in held.copies.values()]
    assert nudged
    assert all(map(torch.equal, weights, model.parameters()))
    own = {p.data_ptr() for p in model.parameters()}
    assert not any(one.data_ptr() in own for one in nudged)


def test_nudged_weights_change_the_outputs_by_roundings_and_are_taken_back():
    model = net()
    before = states(model)

    def ask(one):
        first = model(IDS)
        with one.nudged() as possible:
            assert possible
            moved = model(IDS)
        return first, moved, model(IDS)

    first, moved, last = in_float32(of(model), ask)
    assert torch.equal(first, last)
    eps = torch.finfo(torch.float32).eps
    change = (moved - first).abs().max() / first.abs().max()
    assert 0 < change < 16 * eps
    assert states(model) == before


def test_the_outermost_repeated_modules_are_the_blocks():
    inner = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    stage = nn.Sequential(nn.Linear(2, 2), inner)
    model = nn.Module()
    model.stages = nn.ModuleList([stage, nn.ModuleList([nn.Linear(2, 2)]), stage])
    model.single = nn.Linear(2, 2)
    assert repeated(model) == [stage, model.stages[1][0]]


def test_one_way_can_be_asked_for():
    model = net()
    with asked(of(model), "trained") as one:
        assert model(IDS).dtype == torch.bfloat16
        with one.nudged() as possible:
            assert possible  # norms and biases are moved in their places
