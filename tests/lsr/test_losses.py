"""Losses equal hand-worked examples and sentence-transformers' values, and have correct gradients."""

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from lsr.train.losses import ensemble, info_nce, kl, margin_mse  # noqa: E402 - torch is an extra

NAN, INF = math.nan, math.inf


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def first_positive(n_queries, n_docs):
    """A mask in which document i is the positive of query i."""
    return torch.eye(n_queries, n_docs, dtype=torch.bool)


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of sentence-transformers itself
        return pytest.importorskip("sentence_transformers.sparse_encoder.losses")


def batch(n_queries=4, n_docs=3, n_terms=6):
    """Query weights, document weights (one matrix per position), and each query's scores of its own documents."""
    queries = random(n_queries, n_terms, seed=1, dtype=torch.float32).relu()
    documents = [random(n_queries, n_terms, seed=2 + i, dtype=torch.float32).relu() for i in range(n_docs)]
    own = torch.stack([(queries * document).sum(1) for document in documents], 1)
    return queries, documents, own


# --- InfoNCE


def test_info_nce_equals_a_hand_worked_example():
    scores = torch.tensor([[math.log(3), 0.0], [0.0, math.log(4)]])
    expected = (math.log(4 / 3) + math.log(5 / 4)) / 2
    assert info_nce(scores, first_positive(2, 2)).item() == pytest.approx(expected)


def test_positives_of_a_query_are_not_its_negatives():
    scores = torch.tensor([[math.log(3), math.log(2), 0.0]])
    positives = torch.tensor([[True, True, False]])
    expected = (math.log(4 / 3) + math.log(3 / 2)) / 2
    assert info_nce(scores, positives).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 0.05, 4.0])
def test_info_nce_agrees_with_sentence_transformers(theirs, temperature):
    queries, documents, _ = batch()
    loss = theirs.SparseMultipleNegativesRankingLoss(torch.nn.Identity(), scale=1 / temperature)
    expected = loss.compute_loss_from_embeddings([queries, *documents], None)
    scores = queries @ torch.cat(documents).T
    torch.testing.assert_close(info_nce(scores, first_positive(4, 12), temperature), expected)


def test_info_nce_excludes_masked_documents():
    scores, positives = random(3, 4), first_positive(3, 4)
    without = info_nce(scores[:, :3], positives[:, :3])
    scores[:, 3] = -INF
    scores.requires_grad_()
    loss = info_nce(scores, positives)
    loss.backward()
    torch.testing.assert_close(loss.detach(), without)
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("others", [[], [-INF]], ids=["one document", "nothing to compare with"])
def test_info_nce_without_negatives_is_zero(others):
    scores = torch.tensor([[3.0, *others]], requires_grad=True)
    loss = info_nce(scores, torch.tensor([[True] + [False] * len(others)]))
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_info_nce_of_large_scores_is_finite():
    scores = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    loss = info_nce(scores, torch.tensor([[True, False], [False, True]]), 0.5)
    loss.backward()
    assert loss.item() == 2e4
    assert scores.grad.isfinite().all()


def test_info_nce_refuses_bad_input():
    with pytest.raises(ValueError, match="query 1 of the batch has no positive"):
        info_nce(random(2, 2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(ValueError, match=r"scores are \(2, 3\), but positives is \(2, 2\)"):
        info_nce(random(2, 3), first_positive(2, 2))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        info_nce(random(2, 2), first_positive(2, 2), 0)


# --- MarginMSE


def test_margin_mse_equals_a_hand_worked_example():
    scores, teacher = torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([[10.0, 9.0, 5.0]])
    assert margin_mse(scores, teacher).item() == ((2 - 1) ** 2 + (4 - 5) ** 2) / 2
    assert margin_mse(scores, teacher, torch.tensor([[True, True, False]])).item() == 1


@pytest.mark.parametrize("n_docs", [2, 4])
def test_margin_mse_agrees_with_sentence_transformers(theirs, n_docs):
    queries, documents, own = batch(n_docs=n_docs)
    labels = random(4, n_docs, seed=9, dtype=torch.float32)
    expected = theirs.SparseMarginMSELoss(torch.nn.Identity()).compute_loss_from_embeddings(
        [queries, *documents], labels
    )
    torch.testing.assert_close(margin_mse(own, labels), expected)


def test_margin_mse_without_pairs_is_zero():
    scores = random(2, 1).requires_grad_()
    loss = margin_mse(scores, random(2, 1))
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()
    absent = torch.tensor([[False, True]])
    assert margin_mse(random(1, 2), random(1, 2), absent).item() == 0


def test_margin_mse_over_all_pairs_equals_the_loss_of_naver():
    """Naver's trainer averages first over a query's (G, G) margins with their zero diagonal, then over queries."""
    scores, teacher = random(3, 4), random(3, 4, seed=1)
    margins = [values.unsqueeze(1) - values.unsqueeze(2) for values in (scores, teacher)]
    expected = torch.nn.functional.mse_loss(*margins, reduction="none").mean(dim=2).mean(dim=1).mean(dim=0)
    torch.testing.assert_close(margin_mse(scores, teacher, every_pair=True), expected)
    wider, mask = torch.cat([scores, torch.full((3, 1), NAN)], 1), torch.arange(5).expand(3, 5) < 4
    wide_teacher = torch.cat([teacher, torch.full((3, 1), NAN)], 1)
    torch.testing.assert_close(margin_mse(wider, wide_teacher, mask, every_pair=True), expected)
    # A query without a positive doesn't count.
    mask = torch.cat([mask, torch.tensor([[False, True, True, True, True]])])
    more = torch.cat([wider, torch.ones(1, 5)]), torch.cat([wide_teacher, torch.zeros(1, 5)])
    torch.testing.assert_close(margin_mse(*more, mask, every_pair=True), expected)


# --- KL


def test_kl_equals_a_hand_worked_example():
    scores = torch.tensor([[0.0, 0.0]])
    teacher = torch.tensor([[math.log(3), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl(scores, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_agrees_with_sentence_transformers(theirs, temperature):
    queries, documents, own = batch()
    labels = random(4, 3, seed=9, dtype=torch.float32)
    loss = theirs.SparseDistillKLDivLoss(torch.nn.Identity(), temperature=temperature)
    expected = loss.compute_loss_from_embeddings([queries, *documents], labels)
    torch.testing.assert_close(kl(own, labels, temperature=temperature), expected)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
def test_kl_is_nonnegative_and_shift_invariant(seed, shift):
    scores, teacher = random(3, 4, seed=seed), random(3, 4, seed=seed + 1)
    loss = kl(scores, teacher)
    assert loss >= 0
    torch.testing.assert_close(kl(scores + shift, teacher - shift), loss)
    assert kl(teacher + shift, teacher).item() == pytest.approx(0, abs=1e-12)


def test_kl_of_at_most_one_candidate_is_zero():
    scores = random(2, 2).requires_grad_()
    loss = kl(scores, random(2, 2), torch.tensor([[True, False], [False, False]]))
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


def test_kl_of_large_scores_is_finite():
    scores = torch.tensor([[1e5, -1e5, 0.0]], requires_grad=True)
    loss = kl(scores, -scores)
    loss.backward()
    assert loss.item() == 2e5
    assert scores.grad.isfinite().all()


# --- MarginMSE and KL

OVER_CANDIDATES = pytest.mark.parametrize("loss", [margin_mse, kl])


@OVER_CANDIDATES
@pytest.mark.parametrize("rubbish", [NAN, INF, -INF])
def test_absent_documents_do_not_count(loss, rubbish):
    scores, teacher = random(3, 4), random(3, 4, seed=1)
    expected = loss(scores, teacher)
    wider = torch.cat([scores, torch.full((3, 2), rubbish)], 1).requires_grad_()
    mask = torch.tensor([[True] * 4 + [False] * 2] * 3)
    value = loss(wider, torch.cat([teacher, torch.full((3, 2), rubbish)], 1), mask)
    value.backward()
    torch.testing.assert_close(value.detach(), expected)
    assert wider.grad.isfinite().all()
    assert (wider.grad[:, 4:] == 0).all()


@OVER_CANDIDATES
def test_different_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r"scores are \(2, 3\), but teacher is \(2, 4\)"):
        loss(random(2, 3), random(2, 4))
    with pytest.raises(ValueError, match=r"but mask is \(3,\)"):
        loss(random(2, 3), random(2, 3), torch.ones(3, dtype=torch.bool))


@OVER_CANDIDATES
def test_the_teacher_gets_no_gradient(loss):
    scores, teacher = random(2, 3).requires_grad_(), random(2, 3, seed=1).requires_grad_()
    loss(scores, teacher).backward()
    assert teacher.grad is None


@OVER_CANDIDATES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    scores, teacher = random(2, 3).to(dtype), random(2, 3, seed=1)
    value = loss(scores, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(scores.float(), teacher))


LOSSES = {
    "info_nce": lambda s: info_nce(s, first_positive(3, 5), 0.7),
    "several positives": lambda s: info_nce(s, first_positive(3, 5) | (torch.arange(5) == 4)),
    "margin_mse": lambda s: margin_mse(s, random(3, 5, seed=1), first_positive(3, 5) | (torch.arange(5) < 3)),
    "every pair": lambda s: margin_mse(
        s, random(3, 5, seed=1), first_positive(3, 5) | (torch.arange(5) < 3), every_pair=True
    ),
    "kl": lambda s: kl(s, random(3, 5, seed=1), first_positive(3, 5) | (torch.arange(5) < 3), 2.0),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_equal_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, random(3, 5).requires_grad_())


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_the_order_of_queries_and_documents_does_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    scores, teacher = random(4, 6, seed=seed), random(4, 6, seed=seed + 1)
    mask = random(4, 6, seed=seed + 2) > -0.5
    mask[:, 0] = True
    queries, documents = torch.randperm(4, generator=generator), torch.randperm(6, generator=generator)
    behind_first = torch.cat([torch.tensor([0]), 1 + torch.randperm(5, generator=generator)])

    def turned(values, order=documents):
        return values[queries][:, order]

    positives = first_positive(4, 6) | (random(4, 6, seed=seed + 3) > 1)
    torch.testing.assert_close(info_nce(turned(scores), turned(positives)), info_nce(scores, positives))
    torch.testing.assert_close(kl(turned(scores), turned(teacher), turned(mask)), kl(scores, teacher, mask))
    torch.testing.assert_close(
        margin_mse(*(turned(values, behind_first) for values in (scores, teacher, mask))),
        margin_mse(scores, teacher, mask),
    )
    one = ensemble(torch.stack([scores, teacher]), mask)
    other = ensemble(torch.stack([turned(teacher), turned(scores)]), turned(mask))
    torch.testing.assert_close(turned(one), other, equal_nan=True)


# --- ensemble of teachers


def test_an_ensemble_equals_a_hand_worked_example():
    teachers = torch.tensor([[[10.0, 20.0, 15.0]], [[-1.0, -3.0, -2.0]]])
    assert ensemble(teachers).tolist() == [[15, 15, 15]]
    assert ensemble(teachers[:1], scale=1).tolist() == [[0, 1, 0.5]]


def test_missing_scores_are_ignored():
    teachers = torch.tensor([[[0.0, 2.0, NAN, NAN]], [[4.0, NAN, 8.0, -INF]]])
    result = ensemble(teachers, scale=10)
    assert result[0, :3].tolist() == [0, 10, 10]
    assert result[0, 3].isnan()
    mask = torch.tensor([[True, True, False, False]])
    assert ensemble(teachers.nan_to_num(5.0), mask, scale=10)[0, :2].tolist() == [0, 10]


@pytest.mark.parametrize("n_docs", [1, 3])
def test_a_teacher_with_equal_scores_gives_the_middle_of_the_scale(n_docs):
    assert ensemble(torch.full((2, 2, n_docs), 7.0)).tolist() == [[15.0] * n_docs] * 2


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), gain=st.floats(0.1, 100), level=st.floats(-100, 100))
def test_ensembles_are_invariant_to_a_teachers_scale(seed, gain, level):
    teachers = random(2, 3, 5, seed=seed)
    result = ensemble(teachers)
    assert ((result >= 0) & (result <= 30)).all()
    torch.testing.assert_close(ensemble(torch.stack([teachers[0] * gain + level, teachers[1]])), result)


def test_kl_of_an_ensemble_with_missing_scores_is_finite():
    teachers = torch.tensor([[[0.0, 2.0, NAN]], [[4.0, 3.0, NAN]]])
    teacher = ensemble(teachers)
    scores = random(1, 3).requires_grad_()
    loss = kl(scores, teacher, ~teacher.isnan())
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_raw_scores_of_teachers_are_averaged_and_scaled():
    teachers = torch.tensor([[[10.0, -20.0, NAN]], [[-1.0, NAN, NAN]]])
    result = ensemble(teachers, scale=2, normalize="raw")
    assert result[0, :2].tolist() == [9, -40]
    assert result[0, 2].isnan()


def test_standardized_scores_of_teachers_are_averaged_and_scaled():
    teachers = torch.tensor([[[1.0, 3.0, NAN], [5.0, 5.0, 5.0]], [[10.0, NAN, NAN], [0.0, 2.0, 4.0]]])
    result = ensemble(teachers, scale=2, normalize="standard")
    assert result[0, :2].tolist() == [-1, 2]  # both teachers score document 0; a teacher's only score counts as 0
    assert result[0, 2].isnan()
    assert result[1].tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])


def test_ensemble_needs_three_dimensions():
    with pytest.raises(ValueError, match=r"must be \(n_teachers, n_queries, n_docs\), got \(2, 3\)"):
        ensemble(random(2, 3))
