"""Saved encoders give the same vectors in sentence-transformers and in OpenSearch's layout."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.load import load_encoder
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.encode.tower import Tower
from lsr.errors import EncoderError

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def second(make_checkpoint, tmp_path_factory):
    """A second checkpoint with the vocabulary of `checkpoint`."""
    return make_checkpoint(tmp_path_factory.mktemp("second") / "tiny", seed=3)


def towers(document, query=None, **how):
    return SpladeEncoder(Tower.open(document, **how), query and Tower.open(query, pooling="sum", max_length=9))


def inference_free(checkpoint, weights, query_length=None, prompt="", **how):
    return InferenceFreeEncoder(towers(checkpoint, **how), weights, max_length=query_length, prompt=prompt)


def pruned(checkpoint, documents, queries=...):
    """An encoder with top-k pruning of documents and queries; by default, both have the same k."""
    tower = Tower.open(checkpoint)
    document = replace(tower, top_k=documents)
    return SpladeEncoder(document, None if queries is ... else replace(tower, top_k=queries))


ENCODERS = {
    "plain": lambda a, b, table: towers(a),
    "short": lambda a, b, table: towers(a, max_length=7),
    "sum": lambda a, b, table: towers(a, pooling="sum", prompt="the "),
    "double log": lambda a, b, table: towers(a, saturation="log1p_log1p", max_length=12),
    "two lengths": lambda a, b, table: SpladeEncoder(
        Tower.open(a, max_length=20), Tower.open(a, max_length=5, prompt="the cat ")
    ),
    "two poolings": lambda a, b, table: SpladeEncoder(Tower.open(a), Tower.open(a, pooling="sum")),
    "two towers": lambda a, b, table: towers(a, b, max_length=12),
    "inference-free": lambda a, b, table: inference_free(a, table),
    "pruned": lambda a, b, table: pruned(a, 5),
    "inference-free, pruned": lambda a, b, table: InferenceFreeEncoder(pruned(a, 5), table, max_length=4),
    "inference-free, double log": lambda a, b, table: inference_free(
        a, table, 4, "dog ", saturation="log1p_log1p", pooling="sum", max_length=9
    ),
}


@pytest.fixture(params=ENCODERS)
def saved(request, checkpoint, second, query_weights, tmp_path):
    """An encoder, and the folder in which it is saved."""
    encoder = ENCODERS[request.param](checkpoint, second, query_weights)
    encoder.save(tmp_path / "saved")
    return encoder, tmp_path / "saved"


def same(encoder, queries, documents, texts, tolerance):
    for ours, theirs in ((encoder.encode_query(texts), queries), (encoder.encode_document(texts), documents)):
        ours = ours.to_dense()
        assert ours.any(1).sum() >= 4
        assert np.abs(ours[:, : theirs.shape[1]] - theirs).max() <= tolerance
        assert not ours[:, theirs.shape[1] :].any()


def test_sentence_transformers_gives_equal_vectors(saved, texts):
    pytest.importorskip("sentence_transformers")
    encoder, folder = saved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of sentence-transformers itself
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(str(folder), device="cpu")
        some = [text for text in texts if text]  # sentence-transformers can't encode an empty text
        found = [model.encode_query(some), model.encode_document(some)]
    same(encoder, *(vectors.to_dense().numpy() for vectors in found), some, 1e-5)


def test_lsr_opens_the_files_for_other_libraries(saved, texts):
    encoder, folder = saved
    (folder / "encoder.json").unlink()
    other = load_encoder(folder)
    if "query_length" not in (folder / "sentence_bert_config.json").read_text():
        assert type(other) is type(encoder)
        same(encoder, other.encode_query(texts).to_dense(), other.encode_document(texts).to_dense(), texts, 1e-6)


def test_the_layout_of_opensearch_has_a_model_and_a_table(checkpoint, query_weights, texts, tmp_path):
    encoder = inference_free(checkpoint, query_weights, 8)
    encoder.save(tmp_path / "saved")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "idf.json"):
        shutil.copy(tmp_path / "saved" / name, bare)
    other = load_encoder(bare)
    assert isinstance(other, InferenceFreeEncoder)
    assert np.array_equal(other.table, encoder.table)
    assert np.allclose(other.encode_document(texts).to_dense(), encoder.encode_document(texts).to_dense(), atol=1e-6)
    idf = json.loads((bare / "idf.json").read_text())
    assert idf["cat"] == pytest.approx(float(encoder.table[encoder.vocabulary.index("cat")]))
    assert idf["[CLS]"] == 0


def opensearch_vectors(folder, texts):
    """Query and document vectors, computed with transformers as in OpenSearch's model cards."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    special = list(tokenizer.all_special_ids)
    read = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).logits
    largest = (logits * read["attention_mask"].unsqueeze(-1)).max(1).values
    documents = torch.log1p(torch.relu(largest))
    documents[:, special] = 0
    idf = torch.zeros(documents.shape[1])
    for token, weight in json.loads((folder / "idf.json").read_text()).items():
        idf[tokenizer.convert_tokens_to_ids(token)] = weight
    queries = torch.zeros(len(texts), documents.shape[1])
    for row, ids in enumerate(read["input_ids"]):
        queries[row, ids] = 1
    queries[:, special] = 0
    return (queries * idf).numpy(), documents.numpy(), special


def test_one_call_writes_three_layouts(checkpoint, query_weights, texts, tmp_path, lsr_command):
    """Each library reads what `lsr publish` writes, and gives the same vectors to 1e-5."""
    inference_free(checkpoint, query_weights, 24).save(tmp_path / "made")
    out = tmp_path / "out"
    ran = lsr_command("publish", tmp_path / "made", "--out", out)
    assert ran.code == 0, ran.err
    some = [text for text in texts if text]
    encoder = load_encoder(out)
    queries, documents, special = opensearch_vectors(out, some)
    ours = encoder.encode_query(some).to_dense(), encoder.encode_document(some).to_dense()
    others = [term for term in range(ours[1].shape[1]) if term not in special]  # OpenSearch leaves special tokens out
    assert np.abs(ours[0] - queries).max() < 1e-5
    assert np.abs(ours[1] - documents)[:, others].max() < 1e-5
    assert (ours[1][:, others] > 0).any(1).sum() >= 4
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers, to read the third layout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of sentence-transformers
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(str(out), device="cpu")
        found = model.encode_query(some).to_dense().numpy(), model.encode_document(some).to_dense().numpy()
    same(encoder, *found, some, 1e-5)


def test_separate_query_tokenizers_are_kept(checkpoint, query_weights, texts, tmp_path):
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = True
    tokenizer = TextTokenizer(json.dumps(content))
    encoder = InferenceFreeEncoder(towers(checkpoint), query_weights, tokenizer)
    encoder.save(tmp_path / "saved")
    expected = encoder.encode_query(["the cat"]).to_dense(), encoder.encode_document(texts).to_dense()
    for remove in (False, True):
        if remove:
            (tmp_path / "saved" / "encoder.json").unlink()
        other = load_encoder(tmp_path / "saved")
        assert np.array_equal(other.encode_query(["The CAT"]).to_dense(), expected[0])
        assert np.allclose(other.encode_document(texts).to_dense(), expected[1], atol=1e-6)


def test_the_older_layout_still_opens(checkpoint, query_weights, texts, tmp_path):
    encoder = inference_free(checkpoint, query_weights, 8)
    places = encoder.document.copy_towers(tmp_path, "document")
    for name, content in encoder._files(encoder.document.config(places), None).items():
        (tmp_path / name).write_bytes(content)
    other = load_encoder(tmp_path)
    assert other.fingerprint == encoder.fingerprint
    same(encoder, other.encode_query(texts).to_dense(), other.encode_document(texts).to_dense(), texts, 0)


def test_the_model_card_describes_the_encoder(checkpoint, query_weights, tmp_path):
    SpladeEncoder(Tower.open(checkpoint, max_length=20), top_k=5).save(tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "from sentence_transformers import SparseEncoder" in card
    assert "* head masked-lm, pooling max, saturation log1p\n" in card
    assert "lsr prunes documents (the heaviest terms: 5); other libraries don't" in card
    HybridEncoder(inference_free(checkpoint, query_weights), BM25Encoder(), 0.5).save(tmp_path / "b")
    card = (tmp_path / "b" / "README.md").read_text()
    assert "* lsr adds 0.5 times BM25's score" in card
    assert "* queries are looked up in a table" in card
    load_encoder("lsr-mini").save(tmp_path / "c")
    card = (tmp_path / "c" / "README.md").read_text()
    assert "library_name: lsr" in card
    assert "No other library knows models of this kind." in card
    assert not (tmp_path / "c" / "config_sentence_transformers.json").exists()
    (tmp_path / "a" / "README.md").write_text("my own")
    load_encoder(tmp_path / "a").save(tmp_path / "a")
    assert (tmp_path / "a" / "README.md").read_text() == "my own"


def test_the_card_tells_what_other_libraries_do_not_prune(checkpoint, query_weights, tmp_path):
    """Other libraries have only one limit for documents and queries."""
    for name, encoder, told in (
        ("same", pruned(checkpoint, 5), False),
        ("apart", pruned(checkpoint, 5, 3), True),
        ("documents", pruned(checkpoint, 5, None), True),
        ("short", InferenceFreeEncoder(pruned(checkpoint, 5), query_weights, max_length=5), False),
        ("long", InferenceFreeEncoder(pruned(checkpoint, 5), query_weights, max_length=6), True),
    ):
        encoder.save(tmp_path / name)
        card = (tmp_path / name / "README.md").read_text()
        assert "* lsr keeps the 5 heaviest terms of a document\n" in card
        assert ("* other libraries keep all terms of a text" in card) == told
        assert ("the 3 heaviest terms of a query" in card) == (name == "apart")
        assert ("by its own settings: prune_type top_k, prune_ratio 5\n" in card) == (name in ("short", "long"))
        path = tmp_path / name / "config_sentence_transformers.json"
        content = json.loads(path.read_text())
        assert content.get("max_active_dims") == (None if told else 5)
    path.write_text(json.dumps(content | {"max_active_dims": 5}))  # for "long", whose queries may have 6 terms
    (path.parent / "encoder.json").unlink()
    with pytest.raises(EncoderError, match="max_active_dims 5 would prune queries"):
        load_encoder(path.parent)


@pytest.mark.parametrize("head", ["lexical", "expansion"])
def test_other_libraries_refuse_lsrs_own_heads(checkpoint, tmp_path, head):
    """Without a refusal, sentence-transformers would open only the backbone and add a random layer."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from lsr.encode.model import start_model

    (tmp_path / "model").mkdir()
    n_terms = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    model = start_model(checkpoint, head, "max", "log1p", n_terms, [[2, 23, 3], [2, 24, 25, 3]], [0, 1, 2, 3, 4])
    model.save(tmp_path / "model", (checkpoint / "tokenizer.json").read_bytes())
    encoder = towers(tmp_path / "model", head=head)
    encoder.save(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"lsr\.encode\.splade"):
            sentence_transformers.SparseEncoder(str(tmp_path / "saved"), device="cpu")
    assert load_encoder(tmp_path / "saved").fingerprint == encoder.fingerprint


@pytest.fixture
def hub(monkeypatch):
    """A fake hub. Returns a list of its calls, with the names of the uploaded files."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls = []

    def create_repo(self, repo_id, **how):
        calls.append((repo_id, how))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, **how):
        calls.append((repo_id, sorted(path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*.*"))))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return calls


def test_an_encoder_is_pushed_with_its_card(checkpoint, query_weights, tmp_path, lsr_command, hub):
    inference_free(checkpoint, query_weights).save(tmp_path / "made")
    (tmp_path / "made" / "README.md").write_text("my own")
    out = tmp_path / "out"
    ran = lsr_command("publish", tmp_path / "made", "--push", "team/model", "--private", "--out", out)
    assert ran.code == 0, ran.err
    assert "pushed: https://huggingface.co/team/model" in ran.err
    assert f"{out}: lsr and sentence-transformers open it" in ran.err
    (made, uploaded) = hub
    assert made == ("team/model", {"private": True, "exist_ok": True})
    expected = {"README.md", "config.json", "encoder.json", "idf.json", "model.safetensors", "modules.json"}
    assert expected <= set(uploaded[1])
    assert not [name for name in uploaded[1] if "partial" in name]
    assert (out / "README.md").read_text() == "my own"
    assert str(tmp_path) not in (out / "encoder.json").read_text()
    assert load_encoder(out).fingerprint.weights == load_encoder(tmp_path / "made").fingerprint.weights


def test_lsr_publish_writes_a_graph(checkpoint, tmp_path, lsr_command):
    pytest.importorskip("onnx")
    encoder = towers(checkpoint, max_length=12)
    encoder.save(tmp_path / "made")
    with (tmp_path / "made" / "README.md").open("a") as card:
        card.write("\n## Training\n\n8 steps\n\n## Figures\n\nnDCG@10 0.5\n")
    ran = lsr_command("publish", tmp_path / "made", "--onnx", "--out", tmp_path / "small")
    assert ran.code == 0, ran.err
    assert "small: lsr opens it" in ran.err
    assert not (tmp_path / "small" / "model.safetensors").exists()
    small = load_encoder(tmp_path / "small")
    difference = small.encode_document("the cat sat").to_dense() - encoder.encode_document("the cat sat").to_dense()
    assert np.abs(difference).mean() < 0.02
    card = (tmp_path / "small" / "README.md").read_text()
    assert "library_name: lsr\n" in card
    assert card.endswith("of this kind.\n\n## Training\n\n8 steps\n")  # without the figures of the original encoder


def test_publishing_a_graph_keeps_the_query_model(checkpoint, second, query_weights, tmp_path, lsr_command):
    pytest.importorskip("onnx")
    encoder = InferenceFreeEncoder(towers(checkpoint), query_weights, query_model=towers(second))
    encoder.save(tmp_path / "made")
    assert "the model tiny; other libraries don't" in (tmp_path / "made" / "README.md").read_text()
    ran = lsr_command("publish", tmp_path / "made", "--onnx", "--out", tmp_path / "small")
    assert ran.code == 0, ran.err
    small = load_encoder(tmp_path / "small")
    assert small.query_model.query.head == "onnx"
    assert not list((tmp_path / "small").rglob("*.safetensors"))
    difference = small.encode_query("the cat sat").to_dense() - encoder.encode_query("the cat sat").to_dense()
    assert np.abs(difference).mean() < 0.02


@pytest.fixture
def measured(checkpoint, second, tmp_path, lsr_command):
    """A folder with two encoders, one per seed of a system, and results of an experiment with that system and BM25."""
    pytest.importorskip("jinja2")
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    texts = {"a": "the cat sat", "b": "a dog on the mat", "c": "the mat"}
    lines = [json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items()]
    (data / "corpus.jsonl").write_text("".join(lines))
    (data / "queries.jsonl").write_text('{"_id": "1", "text": "cat"}\n{"_id": "2", "text": "dog mat"}\n')
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t2\n2\tc\t1\n")
    for seed, source in ((1, checkpoint), (2, second)):
        towers(source, max_length=12).save(tmp_path / f"seed-{seed}" / "best")
    (tmp_path / "compare.yaml").write_text(
        f"datasets: [{data}]\nseeds: [1, 2]\nmeasures: nDCG@10 RR@10\nsystems:\n  - {{name: BM25, encoder: bm25}}\n"
        f'  - {{name: "ours | 1", encoder: "{tmp_path}/seed-{{seed}}/best"}}\n'
    )
    ran = lsr_command("experiment", tmp_path / "compare.yaml", "--out", tmp_path / "results")
    assert ran.code == 0, ran.err
    return tmp_path


def test_the_card_gets_the_figures_of_an_experiment(measured, lsr_command):
    folder, results = measured / "seed-2" / "best", measured / "results"
    ran = lsr_command("publish", folder, "--results", results, "--out", measured / "out")
    assert ran.code == 0, ran.err
    record = json.loads((results / "experiment.json").read_text())
    bm25, ours = record["results"]
    low, high = ours["intervals"]["nDCG@10"]
    card = (measured / "out" / "README.md").read_text()
    assert card.count("## Evaluation") == 1
    assert r"The system ours \| 1, measured by lsr experiment" in card
    assert "trained with seed 2, means and intervals are over the seeds 1, 2." in card
    assert "| collection | measure | seed 2 | mean | 95 % interval | BM25 | difference | p, corrected |" in card
    first = (
        f"| data, test: 3 documents, 2 queries | nDCG@10 | {ours['seeds']['nDCG@10'][1]:.3f} | "
        f"{ours['measures']['nDCG@10']:.3f} | {low:.3f} to {high:.3f} | {bm25['measures']['nDCG@10']:.3f} |"
    )
    assert first in card
    (measured / "out" / "README.md").write_text(card + "## Licence\nApache\n")
    again = lsr_command("publish", measured / "out", "--results", f"{results}:ours | 1", "--out", measured / "again")
    assert again.code == 0, again.err  # a copy in another folder counts as the same encoder
    card = (measured / "again" / "README.md").read_text()
    assert (card.count("## Evaluation"), card.count("## Licence"), card.count(first)) == (1, 1, 1)


def test_figures_of_another_encoder_stay_off_the_card(measured, checkpoint, lsr_command):
    folder, results = measured / "seed-1" / "best", measured / "results"

    def refused(*how):
        ran = lsr_command("publish", *how, "--out", measured / "out")
        assert (ran.code, (measured / "out").exists()) == (1, False)
        return ran.err

    assert "BM25 is not this encoder" in refused(folder, "--results", f"{results}:BM25")
    assert "no system 'other'; there are: BM25, ours | 1" in refused(folder, "--results", f"{results}:other")
    assert "no such file" in refused(folder, "--results", measured / "nothing")
    towers(checkpoint, max_length=9).save(measured / "best")  # the same weights, but another maximum length
    assert "none of the systems is this encoder" in refused(measured / "best", "--results", results)


def test_unpublishable_encoders_are_refused(checkpoint, tmp_path, lsr_command, hub, monkeypatch):
    assert lsr_command("publish", checkpoint).code == 2
    assert lsr_command("publish", checkpoint, "--out", tmp_path / "x", "--private").code == 2
    ran = lsr_command("publish", checkpoint, "--out", tmp_path)
    assert (ran.code, "exists; --overwrite replaces it" in ran.err) == (1, True)
    ran = lsr_command("publish", checkpoint, "--push", "no name")
    assert (ran.code, 'is written "organisation/name"' in ran.err) == (1, True)

    def refuse(*args, **how):
        raise OSError("401 Unauthorized\nmore")

    for kept, message in (
        (-100, "bytes; get it again"),
        (50, "its header is longer than the file"),
        (0, "isn't whole"),
    ):
        shutil.copytree(checkpoint, tmp_path / "cut", dirs_exist_ok=True)
        weights = (checkpoint / "model.safetensors").read_bytes()
        (tmp_path / "cut" / "model.safetensors").write_bytes(weights[:kept])
        ran = lsr_command("publish", tmp_path / "cut", "--out", tmp_path / "out")
        assert (ran.code, message in ran.err, (tmp_path / "out").exists()) == (1, True, False)

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", refuse)
    ran = lsr_command("publish", checkpoint, "--push", "team/model")
    assert ran.code == 1
    assert "team/model: can't be pushed (401 Unauthorized); are you logged in" in ran.err
