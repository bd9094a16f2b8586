"""Sparsity penalties equal hand-worked examples and values of other libraries, and have correct gradients."""

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from lsr.train.objective import Penalty  # noqa: E402
from lsr.train.regularizers import (  # noqa: E402 - torch is an extra
    DocumentFrequency,
    anti_zero,
    df_flops,
    flops,
    group,
    idf_flops,
    l0_flops,
    l1,
    schedule,
)
from lsr.train.settings import RegularizerSettings  # noqa: E402

IDF = torch.tensor([2.0, 0.5, 1.0])
DF = torch.tensor([0.1, 1.0, 0.0])
ROWS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])

PENALTIES = {
    "flops": flops,
    "l1": l1,
    "idf_flops": lambda w: idf_flops(w, torch.linspace(0.5, 3, w.shape[1]), view="query"),
    "df_flops": lambda w: df_flops(w, torch.linspace(0, 1, w.shape[1])),
    # `active` is fixed because the mask has no gradient: gradcheck's small changes must not make other weights active.
    "l0_flops": lambda w: l0_flops(w, 3, active=torch.tensor([3, 4, 4, 5, 3])),
    "group": group,
    "anti_zero": anti_zero,
}


def random_weights(n_docs=5, n_terms=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_docs, n_terms, generator=generator, dtype=dtype).relu()


@pytest.mark.parametrize(
    ("penalty", "value"),
    [
        (flops, 2**2 + 0 + 1**2),  # means 2, 0, 1
        (l1, (3 + 3) / 2),
        (lambda w: idf_flops(w, IDF, view="document"), 5),
        (lambda w: idf_flops(w, IDF, view="query"), (2 / 2) ** 2 + (1 / 1) ** 2),
        (lambda w: df_flops(w, DF), (0.5 * 2) ** 2),  # the cost is half at df = a, and zero at df = 0
        (lambda w: l0_flops(w, 1), 0.5**2 + 1**2),  # only row 0 has more than one term; the mean covers both rows
        (lambda w: l0_flops(w, 0), 5),
        (lambda w: l0_flops(w, 2), 0),
        (group, 5**0.5 + 0 + 2**0.5),
        (lambda w: group(w, torch.tensor([True, False, False])), 2**0.5),
        (anti_zero, 1 / 16),
    ],
)
def test_penalties_equal_hand_worked_examples(penalty, value):
    assert penalty(ROWS).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_gradients_equal_finite_differences(penalty):
    assert torch.autograd.gradcheck(penalty, random_weights().requires_grad_())


@pytest.mark.parametrize("penalty", [flops, l1, anti_zero, group, lambda w: l0_flops(w, 3)])
def test_the_order_of_rows_does_not_matter(penalty):
    weights = random_weights()
    assert penalty(weights).item() == pytest.approx(penalty(weights[[3, 1, 4, 0, 2]]).item())


@pytest.mark.parametrize("penalty", [flops, l1, group, lambda w: l0_flops(w, 3)])
def test_the_order_of_terms_does_not_matter(penalty):
    weights = random_weights()
    assert penalty(weights).item() == pytest.approx(penalty(weights.flip(1)).item())


@pytest.mark.parametrize("threshold", [None, 0, 2, 3, 100])
def test_flops_and_l0_flops_agree_with_sentence_transformers(threshold):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of sentence-transformers itself
        losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")
    weights = random_weights(8, 6, dtype=torch.float32)
    theirs = losses.FlopsLoss(torch.nn.Identity(), threshold=threshold).compute_loss_from_embeddings(weights)
    ours = flops(weights) if threshold is None else l0_flops(weights, threshold)
    torch.testing.assert_close(ours, theirs)


def test_the_sum_over_group_positions_is_larger_by_the_group_size():
    """The docstring of lsr.train.regularizers converts lambdas by this factor. Vectors in a group are equal here."""
    by_query = random_weights(4, 6)
    n_places = 3
    groups = by_query.repeat_interleave(n_places, 0).reshape(4, n_places, 6)
    by_place = groups.mean(0).square().sum()  # OpenSearch: mean over queries, sum over positions and terms
    assert by_place.item() == pytest.approx(n_places * flops(groups.reshape(-1, 6)).item())


@pytest.mark.parametrize("name", ["flops", "l1", "l0", "idf", "df", "group"])
def test_a_sample_of_the_columns_is_unbiased(name):
    """The mean over all pairs of columns, times V / S, equals the penalty of all columns, in value and gradient."""
    from itertools import combinations

    weights = random_weights(4, 5).requires_grad_()
    idf, df = torch.linspace(0.5, 2, 5), torch.linspace(0, 1, 5)
    penalty = {
        "flops": lambda columns: flops(weights[:, columns]),
        "l1": lambda columns: l1(weights[:, columns]),
        "l0": lambda columns: l0_flops(weights[:, columns], 2, active=(weights > 0).sum(1)),
        "idf": lambda columns: idf_flops(weights[:, columns], idf[columns], view="query"),
        "df": lambda columns: df_flops(weights[:, columns], df[columns]),
        "group": lambda columns: group(weights[:, columns], df[columns] > 0.8),
    }[name]
    samples = [list(pair) for pair in combinations(range(5), 2)]
    estimate = 5 / 2 * torch.stack([penalty(columns) for columns in samples]).mean()
    whole = penalty(list(range(5)))
    torch.testing.assert_close(estimate, whole)
    torch.testing.assert_close(*(torch.autograd.grad(value, weights)[0] for value in (estimate, whole)))


# --- group sparsity


def test_the_group_penalty_removes_rare_terms_and_keeps_the_most_frequent_terms():
    """Fits weights of 40 documents to wanted weights. The two most frequent of the six terms aren't penalized."""
    generator = torch.Generator().manual_seed(0)
    frequent = torch.tensor([0.9, 0.8, 0.3, 0.2, 0.1, 0.05])
    wanted = (torch.rand(40, 6, generator=generator) < frequent) * (0.5 + torch.rand(40, 6, generator=generator))
    found = {}
    for kind in ("flops", "group"):
        settings = RegularizerSettings(kind, weight=1.0, threshold=2)
        penalty, free = Penalty(settings, torch.ones(6), "document"), wanted.clone().requires_grad_()
        optimizer = torch.optim.SGD([free], lr=0.2)
        for step in range(400):
            optimizer.zero_grad()
            (((free - wanted) ** 2).sum() / 40 + penalty(free.relu(), None, step)[1]).backward()
            optimizer.step()
        found[kind] = free.detach().relu()
    torch.testing.assert_close(found["group"][:, :2], wanted[:, :2], atol=1e-3, rtol=0)
    assert (found["group"][:, 4:] < 0.02).all()
    assert (found["flops"][:, 4:].max(0).values > 0.3).all()  # FLOPS keeps rare terms


# --- IDF


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_both_forms_of_idf_flops_agree(seed):
    weights = random_weights(seed=seed)
    idf = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    seen = idf_flops(weights * idf, idf, view="query")
    torch.testing.assert_close(seen, idf_flops(weights, idf, view="document"))


def test_common_terms_cost_more():
    rare, common = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    idf = torch.tensor([5.0, 0.2])
    assert idf_flops(common, idf, view="query") > 100 * idf_flops(rare, idf, view="query")


def test_a_term_in_all_documents_has_a_finite_cost():
    assert idf_flops(torch.ones(1, 2), torch.tensor([0.0, -1.0]), view="query").item() == pytest.approx(2e4)


def test_an_unknown_view_is_refused():
    with pytest.raises(ValueError, match="view must be"):
        idf_flops(ROWS, IDF, view="both")


# --- document frequencies


@settings(max_examples=25)
@given(df=st.lists(st.floats(0, 1), min_size=2, max_size=20).map(sorted))
def test_the_cost_grows_with_the_document_frequency(df):
    prices = [df_flops(torch.ones(1, 1), torch.tensor([share])).item() for share in df]
    assert all(0 <= price <= 1 for price in prices)
    assert prices == sorted(prices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_half_precision_is_computed_in_float32(penalty, dtype):
    weights = (random_weights() * 1e-4).to(dtype)  # the squares are too small for float16
    value = penalty(weights)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, penalty(weights.float()))
    assert df_flops(weights, torch.full((7,), 1e-7)).isfinite()


@pytest.mark.parametrize(("a", "b"), [(0, 10), (1, 10), (0.1, 0), (0.1, -1)])
def test_invalid_constants_are_refused(a, b):
    with pytest.raises(ValueError, match="a must lie between"):
        df_flops(ROWS, DF, a=a, b=b)


def test_document_frequencies_are_counted():
    df = DocumentFrequency(3, window=10**9)
    assert df.fractions().tolist() == [0, 0, 0]
    df.update(ROWS.clone().requires_grad_())
    df.update(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(df.fractions(), torch.tensor([0.5, 0.0, 0.5]))
    assert not df.fractions().requires_grad


def test_document_frequencies_can_be_counted_from_samples_of_columns():
    whole, sampled = DocumentFrequency(7), DocumentFrequency(7)
    weights = random_weights(50, 7)
    whole.update(weights)
    for columns in ([0, 2, 4], [1, 3]):
        sampled.update(weights[:, columns], torch.tensor(columns))
    seen = torch.tensor([0, 1, 2, 3, 4])
    torch.testing.assert_close(sampled.fractions(seen), whole.fractions()[:5])
    assert sampled.fractions()[5:].tolist() == [0, 0]


def test_document_frequencies_decay():
    df = DocumentFrequency(1, window=100)
    df.update(torch.ones(1000, 1))
    for _ in range(50):
        df.update(torch.zeros(20, 1))
    assert df.fractions().item() < 0.001


def test_document_frequencies_resume_from_their_state():
    df, again = DocumentFrequency(7, window=5), DocumentFrequency(7, window=5)
    df.update(random_weights())
    again.load_state_dict({name: counts.clone() for name, counts in df.state_dict().items()})
    for one in (df, again):
        one.update(random_weights(seed=1))
    assert torch.equal(df.fractions(), again.fractions())
    with pytest.raises(ValueError, match="counts of 7 terms, but there are 3 here"):
        DocumentFrequency(3).load_state_dict(df.state_dict())


def test_an_invalid_window_is_refused():
    with pytest.raises(ValueError, match="window must be at least 1"):
        DocumentFrequency(3, window=0)


# --- l0 and anti-zero


def test_the_l0_mask_skips_sparse_rows():
    weights = ROWS.clone().requires_grad_()
    l0_flops(weights, 1).backward()
    assert weights.grad[0].abs().sum() > 0
    assert weights.grad[1].tolist() == [0, 0, 0]


def test_anti_zero_raises_dead_rows_and_hardly_changes_others():
    weights = torch.tensor([[0.0, 0.0, 0.0], [30.0, 20.0, 0.0]], requires_grad=True)
    anti_zero(weights).backward()
    assert (weights.grad[0] == -1).all()  # -2, divided by the number of rows
    assert weights.grad[1].abs().max() < 1e-4


def test_gradient_descent_revives_a_dying_row():
    logits = torch.full((2, 4), 0.01).requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        anti_zero(torch.log1p(torch.relu(logits))).backward()
        optimizer.step()
    assert torch.log1p(torch.relu(logits)).sum(1).min() > 1


# --- schedule


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("quadratic", [0, 0.0625, 0.25, 0.5625, 1, 1]),
        ("linear", [0, 0.25, 0.5, 0.75, 1, 1]),
        ("constant", [1, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules_grow_from_zero_to_one(kind, values):
    assert [schedule(kind, step, 4) for step in range(6)] == values
    assert schedule(kind, 0, 0) == 1
    assert isinstance(schedule(kind, 2, 4), float)


@pytest.mark.parametrize(("kind", "step", "steps"), [("cubic", 1, 2), ("linear", -1, 2), ("linear", 1, -2)])
def test_invalid_schedules_are_refused(kind, step, steps):
    with pytest.raises(ValueError, match=r"schedule must be one of|steps must not be negative"):
        schedule(kind, step, steps)


def test_a_term_with_document_frequency_a_counts_half():
    assert df_flops(torch.ones(1, 1), torch.tensor([0.25]), a=0.25, b=3).item() == pytest.approx(0.25)
    assert math.isclose(df_flops(torch.ones(1, 1), torch.tensor([1.0])).item(), 1)
