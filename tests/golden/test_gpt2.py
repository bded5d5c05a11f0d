"""GPT-2's published layout, against transformers: weights, logits, texts and tokens go both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import CheckpointError, DataError, PolymodeError
from polymode.core.spelling import END_OF_TEXT, decode, encode
from polymode.data import tokenizer

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

TEXT = "We hold these truths to be self-evident, that all men are created equal; naïve 😀 words\n" * 30
K, CONTEXT = 97, 40


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory):
    """(network, its folder): random weights that are large enough for every part to matter."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=K, n_positions=CONTEXT, n_embd=32, n_layer=3, n_head=4, bos_token_id=96, eos_token_id=96
    )
    network = transformers.GPT2LMHeadModel(config).eval()
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    folder = tmp_path_factory.mktemp("theirs")
    network.save_pretrained(folder)
    return network, folder


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[pm.GPT2, Path]:
    """(a model of ours with a learned code, its folder in their layout)."""
    code = tokenizer.learn(TEXT, 300)
    spec = specs.Spec("tokens", (24,), specs.Tokens(300, code.symbols), code.to_extra())
    model = pm.create("gpt2", spec, seed=0, width=16, layers=2, heads=2).eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return model, pm.save_gpt2(model, tmp_path_factory.mktemp("ours"))


def ids(n: int = 3, length: int = CONTEXT, levels: int = K) -> Tensor:
    return torch.randint(levels, (n, length), generator=torch.Generator().manual_seed(0))


def logits(network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x).logits


def test_their_weights_have_the_same_logits_here(theirs):
    network, folder = theirs
    model = pm.load_gpt2(folder)
    assert model.num_parameters == network.num_parameters()
    with torch.no_grad():
        ours = model.run(ids(), 0, None, None)[0]
    torch.testing.assert_close(ours, logits(network, ids()), rtol=0, atol=1e-5)
    # what we score is what they say after the first symbol
    x = ids()
    after = logits(network, torch.cat([torch.full((3, 1), 96), x[:, :-1]], 1)).log_softmax(-1)
    torch.testing.assert_close(model.log_prob(x), after.gather(2, x[..., None]).sum((1, 2)), rtol=1e-5, atol=1e-3)


def test_names_without_their_prefix_are_read_too(theirs, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    network, folder = theirs
    bare = {k.removeprefix("transformer."): v for k, v in load_file(folder / "model.safetensors").items()}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, CONTEXT, CONTEXT).tril(), "lm_head.weight": bare["wte.weight"].clone()}
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with torch.no_grad():
        ours = pm.load_gpt2(tmp_path).run(ids(), 0, None, None)[0]
    torch.testing.assert_close(ours, logits(network, ids()), rtol=0, atol=1e-5)
    save_file(bare | {"lm_head.weight": bare["wte.weight"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="head of its own"):
        pm.load_gpt2(tmp_path)


def test_our_weights_have_the_same_logits_there(spelled):
    model, folder = spelled
    network = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    x = ids(3, 24, 300)
    with torch.no_grad():
        ours = model.run(x, 0, None, None)[0]
    torch.testing.assert_close(logits(network, x), ours, rtol=0, atol=1e-5)
    again = pm.load_gpt2(folder)
    assert again.spec == model.spec
    assert again.arguments["heads"] == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_our_tokens_are_theirs(spelled):
    model, folder = spelled
    own = transformers.GPT2Tokenizer.from_pretrained(folder)
    for text in (TEXT[:200], " two  spaces\n\n and\ttabs", "naïve 日本 😀\x00", f"a{END_OF_TEXT}b", ""):
        found = encode(text, model.spec).tolist()
        assert found == own(text)["input_ids"]
        assert decode(torch.tensor(found, dtype=torch.int64), model.spec) == text == own.decode(found)


def test_the_likeliest_text_is_theirs(spelled):
    model, folder = spelled
    network = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    prompt = encode("We hold", model.spec)
    given = torch.cat([torch.tensor([299]), prompt])[None]
    theirs = network.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=15, do_sample=False, pad_token_id=299
    )[0, 1:]
    answer = pm.pipeline("text-generation", folder)("We hold", max_new_tokens=15, do_sample=False)
    spelled_out = decode(theirs, model.spec).partition(END_OF_TEXT)[0]
    assert answer == [{"generated_text": spelled_out}]


def test_a_tokenizer_in_one_file_is_read(spelled, tmp_path: Path):
    model, folder = spelled
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert pm.load_gpt2(tmp_path).spec.support == specs.Tokens(300)  # no spelling without a tokenizer
    transformers.GPT2Tokenizer.from_pretrained(folder)._tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = pm.load_gpt2(tmp_path)
    assert loaded.spec == model.spec
    assert loaded.spec.extra == model.spec.extra


def test_training_goes_on_with_data_of_the_same_vocabulary(spelled, tmp_path: Path):
    _, folder = spelled
    (tmp_path / "own.txt").write_text("All truths are created equal. " * 60, encoding="utf-8")
    data = pm.data.load(tmp_path / "own.txt", vocabulary=str(folder), length=12)
    tuned = pm.load_gpt2(folder, spec=data.spec)
    before = float(tuned.log_prob(data.test.x).mean())
    pm.fit(tuned, data, steps=20, seed=0, learning_rate=1e-3)
    assert float(tuned.log_prob(data.test.x).mean()) > before + 1
    with pytest.raises(DataError, match="vocabulary="):
        pm.load_gpt2(folder, spec=pm.data.load(tmp_path / "own.txt", length=12).spec)
    with pytest.raises(DataError, match="24 or less"):
        pm.load_gpt2(folder, spec=pm.data.load(tmp_path / "own.txt", vocabulary=str(folder), length=30).spec)


def test_what_is_not_gpt2_is_told(theirs, spelled, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no folder .*hf download openai-community/gpt2"):
        pm.load_gpt2(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no config.json; GPT-2's weights are not shipped"):
        pm.load_gpt2(tmp_path)
    _, folder = theirs
    config = json.loads((folder / "config.json").read_text())
    path, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"no model.safetensors; .*hf download openai-community/gpt2"):
        pm.load_gpt2(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match="a pickle"):
        pm.load_gpt2(tmp_path)
    weights.write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        pm.load_gpt2(tmp_path)
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    for change, words in (
        ({"activation_function": "relu"}, "activation_function='relu'"), ({"model_type": "gpt_neo"}, "gpt_neo"),
        ({"n_inner": 7}, "n_inner=7"), ({"n_layer": 4}, "holds no h.3"), ({"n_embd": 16}, "does not fit"),
    ):  # fmt: skip
        path.write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=words):
            pm.load_gpt2(tmp_path)
    path.write_text(json.dumps(config))
    for name in ("vocab.json", "merges.txt"):  # of the other model
        (tmp_path / name).write_text((spelled[1] / name).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(DataError, match="300 symbols and the model 97"):
        pm.load_gpt2(tmp_path)
    with pytest.raises(PolymodeError, match="a GPT came"):
        pm.save_gpt2(pm.create("gpt", specs.tokens(4, 3), width=8, layers=1, heads=1), tmp_path / "out")
    spelled[0].save(tmp_path / "run")
    with pytest.raises(PolymodeError, match="a run of polymode"):
        pm.save_gpt2(spelled[0], tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"polymode\.load"):
        pm.load_gpt2(tmp_path / "run")
