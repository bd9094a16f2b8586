"""SparseMatrix gives the same results as scipy and numpy, and refuses bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsr.errors import DataError
from lsr.io.open_vectors import load_matrix
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import MAX_TERMS, SparseMatrix

sparse = pytest.importorskip("scipy.sparse")

# Few distinct values, so that ties are common.
DENSE = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 8)),
    elements=st.sampled_from(np.array([0, 0, 0, 0.25, 0.5, 1, 3], np.float32)),
)
FAR_TERMS = st.one_of(st.integers(0, 5), st.integers(MAX_TERMS - 5, MAX_TERMS - 1))
FAR_ROWS = st.lists(st.dictionaries(FAR_TERMS, st.sampled_from([0.5, 1.0, 3.0])), max_size=5)


def as_dicts(dense):
    """The rows of an array as {term: weight}, without zeros."""
    return [{int(t): float(row[t]) for t in np.flatnonzero(row)} for row in dense]


def assert_canonical(matrix):
    assert (matrix.indptr.dtype, matrix.indices.dtype, matrix.data.dtype) == (np.int64, np.uint32, np.float32)
    for terms, weights in matrix.rows():
        assert (np.diff(terms.astype(np.int64)) > 0).all()
        assert (weights > 0).all()


# --- constructors


@given(DENSE)
def test_all_constructors_give_the_same_matrix(dense):
    expected = SparseMatrix.from_dense(dense)
    rows = [([*d], [*d.values()]) for d in as_dicts(dense)]
    assert_canonical(expected)
    assert np.array_equal(expected.to_dense(), dense)
    assert SparseMatrix.from_dicts(as_dicts(dense), dense.shape[1]) == expected
    assert SparseMatrix.from_rows(rows, dense.shape[1]) == expected
    assert SparseMatrix.from_scipy(sparse.csr_array(dense)) == expected
    assert SparseMatrix.from_scipy(sparse.coo_matrix(dense)) == expected


@given(DENSE)
def test_a_matrix_is_unchanged_by_conversion_to_scipy(dense):
    matrix = SparseMatrix.from_dense(dense)
    assert np.array_equal(matrix.to_scipy().toarray(), dense)
    assert SparseMatrix.from_scipy(matrix.to_scipy()) == matrix


@given(DENSE, st.randoms())
def test_terms_are_sorted_and_zeros_are_dropped(dense, random):
    rows = []
    for row in dense:
        order = list(range(len(row)))
        random.shuffle(order)
        rows.append((order, row[order]))
    matrix = SparseMatrix.from_rows(rows, dense.shape[1])
    assert_canonical(matrix)
    assert np.array_equal(matrix.to_dense(), dense)


def test_the_constructor_from_scipy_sums_duplicates_and_keeps_its_input():
    doubled = sparse.csr_array(([1.0, 2.0], [3, 3], [0, 2]), shape=(1, 5))
    assert SparseMatrix.from_scipy(doubled) == SparseMatrix.from_dicts([{3: 3.0}], 5)
    assert doubled.nnz == 2


def test_empty_input_gives_a_matrix_without_rows():
    for matrix in (SparseMatrix.empty(7), SparseMatrix.from_dicts([], 7), SparseMatrix.from_rows([], 7)):
        assert (matrix.shape, matrix.nnz, len(matrix)) == ((0, 7), 0, 0)
        assert matrix.to_dense().shape == (0, 7)


def test_rows_may_be_empty_lists():
    matrix = SparseMatrix.from_rows([([], []), ([1, 2], [0.5, 1.0]), ([], [])], 4)
    assert matrix == SparseMatrix.from_dicts([{}, {1: 0.5, 2: 1.0}, {}], 4)


# --- invalid input


@pytest.mark.parametrize(
    ("weight", "shown"),
    [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (-0.5, "-0.5"), (1e39, "1e+39"), (-1e39, "-1e+39")],
)
def test_bad_weights_are_refused(weight, shown):
    # The empty row before the bad row must be counted.
    message = rf"^row 2: weight {shown.replace('+', '[+]')} of term 4;"
    with pytest.raises(ValueError, match=message):
        SparseMatrix.from_dicts([{0: 1.0}, {}, {1: 2.0, 4: weight}], 5)
    with pytest.raises(ValueError, match=message):
        SparseMatrix.from_dense([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 2, 0, 0, weight]])
    with pytest.raises(ValueError, match=message):
        SparseMatrix.from_scipy(sparse.csr_array(([1.0, 2.0, weight], [0, 1, 4], [0, 1, 1, 3]), shape=(3, 5)))


@pytest.mark.parametrize("term", [-1, 5, 2**31, 2**32 + 1])
def test_terms_outside_the_vocabulary_are_refused(term):
    with pytest.raises(ValueError, match=f"^row 1: term {term} is outside the vocabulary of 5 terms"):
        SparseMatrix.from_dicts([{0: 1.0}, {term: 1.0}], 5)


@pytest.mark.parametrize("terms", [[3, 3], [3, 1, 3], [0, 3, 1, 3]])
def test_duplicate_terms_are_refused(terms):
    with pytest.raises(ValueError, match=r"^row 1: term 3 occurs twice"):
        SparseMatrix.from_rows([([3], [1.0]), (terms, np.ones(len(terms)))], 5)


@pytest.mark.parametrize("terms", [[1.0], [True], ["1"], np.array([1], np.float32)])
def test_term_ids_must_be_integers(terms):
    with pytest.raises(ValueError, match="term ids must be integers"):
        SparseMatrix([0, 1], terms, [1.0], (1, 5))


@pytest.mark.parametrize(
    "indptr", [[0, 1], [0, 1, 3], [1, 1, 2], [0, 3, 2], [0, 1, 2, 2], []], ids=lambda indptr: str(indptr)
)
def test_a_bad_indptr_is_refused(indptr):
    with pytest.raises(ValueError, match="indptr doesn't divide 2 weights into 2 rows"):
        SparseMatrix(indptr, [0, 1], [1.0, 1.0], (2, 5))


@pytest.mark.parametrize("shape", [(0, -1), (0, MAX_TERMS + 1), (-1, 5)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"got|rows"):
        SparseMatrix([0], [], [], shape)


def test_each_weight_needs_a_term():
    with pytest.raises(ValueError, match=r"term ids have shape \(2,\), but weights \(3,\)"):
        SparseMatrix([0, 2], [0, 1], [1.0, 1.0, 1.0], (1, 5))
    with pytest.raises(ValueError, match=r"^row 0: term ids have shape \(2,\), but weights \(1,\)"):
        SparseMatrix.from_rows([([1, 2], [1.0]), ([3], [1.0, 2.0])], 5)


# --- indexing


@given(DENSE, st.data())
def test_rows_are_indexed_as_in_numpy(dense, data):
    n = len(dense)
    matrix = SparseMatrix.from_dense(dense)
    keys = [data.draw(st.slices(n)), data.draw(hnp.arrays(bool, n))]
    if n:
        keys.append(data.draw(st.integers(-n, n - 1)))
        keys.append(data.draw(st.lists(st.integers(-n, n - 1))))
    for key in keys:
        picked = matrix[key]
        assert_canonical(picked)
        assert np.array_equal(picked.to_dense(), np.atleast_2d(dense[key]).reshape(-1, dense.shape[1]))


@pytest.mark.parametrize("key", [slice(2, 1), slice(9, 12), slice(-9, -5), slice(0, 0), []], ids=str)
def test_an_empty_selection_gives_no_rows(key):
    assert SparseMatrix.from_dense(np.ones((3, 2)))[key] == SparseMatrix.empty(2)


@pytest.mark.parametrize("key", [3, -4, [0, 3], [True, False]])
def test_rows_out_of_range_are_refused(key):
    with pytest.raises(IndexError):
        SparseMatrix.from_dense(np.ones((3, 2)))[key]


@given(st.lists(DENSE, min_size=1, max_size=4))
def test_vstack_stacks_rows_over_the_widest_vocabulary(arrays):
    widest = max(a.shape[1] for a in arrays)
    expected = np.vstack([np.pad(a, ((0, 0), (0, widest - a.shape[1]))) for a in arrays])
    assert np.array_equal(SparseMatrix.vstack([SparseMatrix.from_dense(a) for a in arrays]).to_dense(), expected)


def test_vstack_refuses_an_empty_list():
    with pytest.raises(ValueError, match="at least one"):
        SparseMatrix.vstack([])


def test_matrices_are_equal_if_shapes_and_weights_are_equal():
    matrix = SparseMatrix.from_dicts([{1: 0.5}], 4)
    assert matrix == SparseMatrix.from_dicts([{1: 0.5}], 4)
    for other in (
        SparseMatrix.from_dicts([{1: 0.25}], 4),
        SparseMatrix.from_dicts([{2: 0.5}], 4),
        SparseMatrix.from_dicts([{1: 0.5}], 5),
        SparseMatrix.from_dicts([{}, {1: 0.5}], 4),
        "something else",
    ):
        assert matrix != other


# --- computing


@given(DENSE, st.integers(1, 9))
def test_top_k_keeps_the_heaviest_terms_and_breaks_ties_by_number(dense, k):
    kept = SparseMatrix.from_dense(dense).top_k(k)
    assert_canonical(kept)
    for row, (terms, weights) in zip(as_dicts(dense), kept.rows(), strict=True):
        best = sorted(row, key=lambda term: (-row[term], term))[:k]
        assert dict(zip(terms.tolist(), weights.tolist(), strict=True)) == {t: row[t] for t in best}


@given(DENSE, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_the_ratio_of_prune_is_relative_to_the_largest_weight_of_the_row(dense, ratio):
    largest = dense.max(axis=1, keepdims=True, initial=0)
    pruned = SparseMatrix.from_dense(dense).prune(ratio)
    assert_canonical(pruned)
    assert np.array_equal(pruned.to_dense(), np.where(dense >= np.float32(ratio) * largest, dense, 0))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_prune_refuses_a_ratio_outside_0_to_1(ratio):
    with pytest.raises(ValueError, match="between 0 and 1"):
        SparseMatrix.empty(3).prune(ratio)


def test_top_k_refuses_zero():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SparseMatrix.empty(3).top_k(0)


@given(DENSE, st.integers(0, 10))
def test_the_method_within_cuts_the_vocabulary(dense, n_terms):
    cut = SparseMatrix.from_dense(dense).within(n_terms)
    assert cut.shape == (len(dense), n_terms)
    assert as_dicts(cut.to_dense()) == as_dicts(dense[:, :n_terms])


@given(DENSE, DENSE)
def test_dot_equals_the_dense_product(a, b):
    width = max(a.shape[1], b.shape[1])
    wide = [np.pad(m.astype(np.float64), ((0, 0), (0, width - m.shape[1]))) for m in (a, b)]
    scores = SparseMatrix.from_dense(a).dot(SparseMatrix.from_dense(b))
    assert scores.dtype == np.float64
    assert np.array_equal(scores, wide[0] @ wide[1].T)  # exact, because sums of these weights have no rounding errors


@given(FAR_ROWS, FAR_ROWS)
def test_dot_works_with_the_largest_vocabulary(a, b):
    scores = SparseMatrix.from_dicts(a, MAX_TERMS).dot(SparseMatrix.from_dicts(b, MAX_TERMS))
    expected = [[sum(x[t] * y.get(t, 0.0) for t in x) for y in b] for x in a]
    assert np.array_equal(scores, np.array(expected).reshape(len(a), len(b)))


# --- files


@given(rows=FAR_ROWS)
def test_a_saved_matrix_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("matrix") / "m.parquet"
    matrix = SparseMatrix.from_dicts(rows, MAX_TERMS)
    save_matrix(path, matrix)
    assert load_matrix(path) == matrix


@pytest.mark.parametrize("shape", [(0, 5), (3, 5), (3, 0)])
def test_a_saved_matrix_without_weights_is_read_back(tmp_path, shape):
    matrix = SparseMatrix(np.zeros(shape[0] + 1), [], [], shape)
    save_matrix(tmp_path / "m.parquet", matrix)
    assert load_matrix(tmp_path / "m.parquet") == matrix


def test_saving_needs_an_id_for_each_row(tmp_path):
    with pytest.raises(ValueError, match="2 rows but 1 ids"):
        save_matrix(tmp_path / "m.parquet", SparseMatrix.from_dense(np.ones((2, 3))), ["a"])
    assert not list(tmp_path.iterdir())


def test_the_error_names_a_missing_matrix_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_matrix(tmp_path / "missing.parquet")


# --- expected overlap


@given(DENSE, DENSE)
def test_expected_overlap_is_the_mean_number_of_shared_terms(one, other):
    a, b = SparseMatrix.from_dense(one), SparseMatrix.from_dense(other)
    shared = [len(np.intersect1d(x, y)) for x, _ in a.rows() for y, _ in b.rows()]
    assert a.expected_overlap(b) == pytest.approx(np.mean(shared) if shared else 0)


@pytest.mark.parametrize("n_terms", [5, 2**31])
def test_expected_overlap_equals_a_hand_worked_example(n_terms):
    queries = SparseMatrix.from_dicts([{0: 9.0, 1: 1.0}, {1: 1.0}], n_terms)
    documents = SparseMatrix.from_dicts([{1: 5.0, 4: 1.0}, {0: 1.0}, {1: 2.0}, {}], n_terms)
    assert queries.expected_overlap(documents) == 0.5 * 0.25 + 1 * 0.5
    assert documents.expected_overlap(queries) == queries.expected_overlap(documents)
    assert queries.expected_overlap(SparseMatrix.empty(n_terms)) == 0
