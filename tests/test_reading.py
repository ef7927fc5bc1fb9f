import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import spglib
from hypothesis import strategies as st

from crystaljax.crystals import structure, validity
from crystaljax.data import reading
from crystaljax.data.sources import record

numbers = st.one_of(
    st.floats(-2, 2),
    st.floats(width=64),
    st.sampled_from([0.0, 1e-300, 1e300, 1e15, np.inf, np.nan]),
)


@st.composite
def records(draw):
    """Mostly crystals, with anything at all in some places."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    num_sites = draw(st.integers(0, 5))
    frac_coords = rng.random((num_sites, 3))
    lattice = 4 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
    for array in (frac_coords, lattice):
        if array.size and draw(st.booleans()):
            where = draw(st.integers(0, array.size - 1))
            array.reshape(-1)[where] = draw(numbers)
    species = draw(hnp.arrays(np.int64, num_sites, elements=st.integers(-1, 120)))
    crystal = structure.Crystal(species, frac_coords, lattice)
    return record.Record("x", crystal, draw(st.sampled_from([None, 1])), -0.5)


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(
    st.lists(records(), max_size=6),
    st.sampled_from(["site", "mendeleev", "input", "none"]),
    st.booleans(),
)
def test_any_crystals_give_columns_that_can_be_written(found, origin, primitive):
    form = reading.CanonicalForm(origin, primitive)
    chunk = reading._process_rows(lambda row: row, form, found)
    columns = chunk.columns
    assert len(columns) + len(chunk.failures) == chunk.num_rows == len(found)
    assert np.isfinite(columns.frac_coords).all() and np.isfinite(columns.lattice).all()
    if len(columns):
        assert columns.frac_coords.min() >= 0 and columns.frac_coords.max() < 1
        assert columns.atomic_numbers.min() >= 1
        assert np.linalg.det(columns.lattice.astype(float)).min() > 0


def test_one_bad_crystal_leaves_the_others_as_they_are():
    rng = np.random.default_rng(0)
    good = [
        structure.Crystal(
            rng.choice([29, 79], 4),
            rng.random((4, 3)),
            5 * np.eye(3) + rng.uniform(-1, 1, (3, 3)),
        )
        for _ in range(20)
    ]
    far = structure.Crystal(np.array([29]), np.full((1, 3), 1e300), 4 * np.eye(3))
    form = reading.CanonicalForm()
    alone = reading.canonical_forms(good, form)
    together = reading.canonical_forms([far, *good[:7], far, *good[7:]], form)
    assert "1e+300" in str(together[0]) and isinstance(together[8], ValueError)
    rest = [each for each in together if isinstance(each, structure.Crystal)]
    for one, other in zip(rest, alone, strict=True):
        np.testing.assert_array_equal(one.frac_coords, other.frac_coords)
        np.testing.assert_array_equal(one.lattice, other.lattice)


def test_faults_of_libraries_cost_one_row(monkeypatch):
    def row(number):
        lattice = (4 + number / 10) * np.eye(3)
        crystal = structure.Crystal(np.array([29]), np.zeros((1, 3)), lattice)
        return record.Record(str(number), crystal, 225, 0.0)

    def parse(number):
        if number == 7:
            raise KeyError("nobody expected this")
        return row(number)

    reduce = spglib.niggli_reduce

    def reduce_or_crash(lattice, *tolerance):
        if np.isclose(lattice[0, 0], 5.3):
            raise RuntimeError("crash")
        return reduce(lattice, *tolerance)

    monkeypatch.setattr(spglib, "niggli_reduce", reduce_or_crash)
    chunk = reading._process_rows(parse, reading.CanonicalForm(), list(range(40)))
    reasons = {failure.id: failure.reason for failure in chunk.failures}
    assert reasons == {"": "unexpected KeyError", "13": "unexpected RuntimeError"}
    expected = [str(i) for i in range(40) if i not in (7, 13)]
    assert chunk.columns.id.to_pylist() == expected


def test_energy_that_float32_cannot_hold_is_a_failure():
    crystal = structure.Crystal(np.array([29]), np.zeros((1, 3)), 4 * np.eye(3))
    made = record.build_record("x", lambda: crystal, 225, "1e300")
    assert isinstance(made, record.Failure) and "1e300" in made.detail
    # The sentinels of data bases are for the rules to drop, and to count.
    assert isinstance(
        record.build_record("x", lambda: crystal, 225, 1e12), record.Record
    )
    assert validity.find_cell_problem(crystal) == ""
