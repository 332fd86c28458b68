"""One's own data: standardised, drawn, restored, refused."""

import numpy as np
import pytest
import torch
from helpers import generator
from scipy import stats

import ctm
from ctm.data import Points


def table(n=400, d=3, seed=0):
    """Skewed columns of unlike scale, far from 0."""
    rng = np.random.default_rng(seed)
    shift, scale = rng.uniform(-1e6, 1e6, d), 10.0 ** rng.uniform(-3, 3, d)
    return shift + scale * rng.exponential(size=(n, d))


class Items(torch.utils.data.Dataset):
    def __init__(self, *columns):
        self.columns = columns
        self.reads = 0

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        self.reads += 1
        item = tuple(column[i] for column in self.columns)
        return item if len(item) > 1 else item[0]


class Frame:
    """As a pandas DataFrame: an array and the names of its columns."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, name):
        return self.values[:, self.columns.index(name)]


@pytest.mark.parametrize("d", [1, 2, 64])
def test_columns_are_standardised_one_by_one(d):
    x = table(d=d)
    data = Points(x)
    expected = stats.zscore(x, axis=0)
    assert np.allclose(data.standardise(x).numpy(), expected, rtol=0, atol=1e-5)
    assert np.allclose(data.shift.numpy(), x.mean(0), rtol=1e-12)
    assert np.allclose(data.scale.numpy(), x.std(0), rtol=1e-6)
    assert (data.shape, data.sigma_data, data.center, data.classes) == ((d,), 1.0, 0.0, 0)
    assert (data.sigma_min, data.sigma_max) == (0.004, 20.0)
    z = data.sample(20_000, generator=generator())
    assert (z.shape, z.dtype) == ((20_000, d), torch.float32)
    assert z.mean(0).abs().max() < 0.05
    assert (z.std(0) - 1).abs().max() < 0.1
    rows = {tuple(row) for row in data.standardise(x).tolist()}
    assert {tuple(row) for row in z.tolist()} == rows  # nothing but the rows, and all of them


def test_the_seed_decides_and_few_rows_fill_a_batch():
    data = Points([[0.0, 5.0], [1.0, 3.0], [2.0, 4.0]])
    drawn = data.sample(64, generator=generator(1))
    assert torch.equal(drawn, data.sample(64, generator=generator(1)))
    assert not torch.equal(drawn, data.sample(64, generator=generator(2)))
    assert drawn.unique(dim=0).shape == (3, 2)


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda x: x, torch.float64),
        (lambda x: x.tolist(), torch.float64),
        (lambda x: x.round().astype(np.int64), torch.float64),
        (lambda x: torch.from_numpy(x), torch.float64),
        (lambda x: x.astype(np.float32), torch.float32),
        (lambda x: x.astype(">f4"), torch.float32),
        (lambda x: torch.from_numpy(x).bfloat16(), torch.float32),
        (lambda x: x.astype(">f8")[::-1], torch.float64),
        (lambda x: np.ma.array(x, mask=False), torch.float64),
        (lambda x: list(torch.from_numpy(x)), torch.float64),
        (lambda x: Frame(x, ["a", "b", "c"]), torch.float64),
        (lambda x: x.round().astype(np.int32), torch.float64),
    ],
)
def test_restore_undoes_standardise_in_the_datas_dtype(change, dtype):
    x = change(10 * np.random.default_rng(0).normal(size=(50, 3)))
    data = Points(x)
    back = data.restore(data.standardise(x))
    given = x.double() if isinstance(x, torch.Tensor) else torch.tensor(np.array(x, "f8"))
    assert back.dtype == dtype
    assert torch.allclose(back.double(), given, rtol=0, atol=1e-5)
    assert torch.equal(data.restore(data.standardise(x).double()), back)


def test_integers_duplicates_and_outliers_keep_their_places():
    column = np.array([[1], [1], [1], [2], [10**9]])
    data = Points(column)
    z = data.standardise(column)
    assert z[0] == z[1] == z[2]
    assert z[4] == pytest.approx(2.0, abs=1e-6)  # (n - 1) / sqrt(n - 1) for one of five
    assert data.restore(z)[4] == pytest.approx(10**9)


@pytest.mark.parametrize("shape", [(8, 8), (3, 4, 5)])
def test_images_have_one_mean_and_one_deviation(shape):
    rng = np.random.default_rng(0)
    x = 100 + 20 * rng.normal(size=(30, *shape)) + 50 * rng.normal(size=shape)
    x[:, 0] = 0.0  # a border that never changes is no fault of an image
    data = Points(x)
    assert data.shape == shape
    assert data.shift.shape == data.scale.shape == ()
    assert float(data.shift) == pytest.approx(x.mean())
    assert float(data.scale) == pytest.approx(x.std())
    z = data.standardise(x)
    assert z.shape == x.shape
    assert np.allclose(z.numpy(), (x - x.mean()) / x.std(), atol=1e-5)
    assert data.sample(2, generator=generator()).shape == (2, *shape)
    assert torch.allclose(data.restore(z), torch.from_numpy(x), atol=1e-3)


def test_images_are_noised_about_their_mean_image():
    rng = np.random.default_rng(0)
    x = 100 + 2 * rng.normal(size=(30, 16, 16)) + 5 * rng.normal(size=(16, 16))
    data = Points(x)
    away = (x - x.mean(0)) / x.std()
    assert np.allclose(data.center.numpy(), (x.mean(0) - x.mean()) / x.std(), atol=1e-6)
    assert data.sigma_data == pytest.approx(np.sqrt((away**2).mean()), rel=1e-6)
    assert data.sigma_max == pytest.approx(np.sqrt(6 * 256) * data.sigma_data)
    half, _ = data.split(10)
    assert half.center is data.center  # the units of the whole
    model = ctm.CTM.for_data(half)
    assert (model.sigma_data, model.sigma_min, model.sigma_max) == (data.sigma_data, data.sigma_min, data.sigma_max)
    start = ctm.samplers.noise(model, 20_000, generator=generator())
    off = (start.double().mean(0) - data.center) / (data.sigma_max / 20_000**0.5)
    assert off.square().mean() == pytest.approx(1, abs=0.4)  # 256 pixels: deviation .09
    # in a new model nothing but the pull to the mean image: the best denoiser of one Gaussian
    t, s = 2.0, data.sigma_data
    few = start[:50]
    expected = data.center + s**2 / (s**2 + t**2) * (few.double() - data.center)
    assert torch.allclose(model.denoiser(few, t).double(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="x must vary, got the same point 3 times"):
        Points(np.stack([x[0]] * 3))


def test_labels_stay_with_their_points():
    x = np.arange(12.0).reshape(6, 2)
    labels = np.array([0, 1, 2, 0, 1, 2])
    plain, data = Points(x), Points(x, labels)
    assert not hasattr(plain, "sample_labelled")
    assert (plain.classes, data.classes) == (0, 3)
    z, drawn = data.sample_labelled(200, generator=generator())
    assert drawn.dtype == torch.int64
    rows = data.restore(z)[:, 0].div(2).round().long()
    assert torch.equal(drawn, torch.from_numpy(labels)[rows])
    assert torch.equal(z, data.sample(200, generator=generator()))
    for same in ([0, 1, 2, 0, 1, 2], labels.astype(float), torch.from_numpy(labels)):
        assert torch.equal(Points(x, same).labels, data.labels)


def test_a_data_set_is_read_once():
    x, labels = torch.randn(20, 1, 4, 4, generator=generator()), [i % 3 for i in range(20)]
    source = Items(x, labels)
    data = Points(source)
    assert source.reads == 20
    assert (data.shape, data.classes) == ((1, 4, 4), 3)
    assert torch.equal(data.standardise(x), Points(x).standardise(x))
    assert data.labels.tolist() == labels
    for other in (
        Items(x.numpy(), labels),
        Items(x, torch.tensor(labels)),
        torch.utils.data.TensorDataset(x, torch.tensor(labels)),
    ):
        again = Points(other)
        assert torch.equal(again.shift, data.shift)
        assert torch.equal(again.labels, data.labels)
    for bare in (torch.utils.data.TensorDataset(x), Items(x), Items(x.numpy())):
        assert Points(bare).classes == 0
        assert torch.equal(Points(bare).scale, data.scale)
    assert Points(Items(x), labels).classes == 3
    rows = Items([[1.0, 2.0], [3.0, 5.0]])  # rows of numbers, not pairs
    assert Points(rows).shape == (2,)
    with pytest.raises(ValueError, match="labels must be None where the data set"):
        Points(source, labels)
    with pytest.raises(ValueError, match="x must hold items of one shape"):
        Points(Items([torch.zeros(2), torch.zeros(3)]))


def test_points_keep_a_copy_and_move():
    x = np.arange(6.0).reshape(3, 2)
    data = Points(x, [0, 1, 0])
    before = data.sample(9, generator=generator())
    x += 100
    assert torch.equal(data.sample(9, generator=generator()), before)
    there = data.to("meta")
    assert there.sample(3, generator=generator()).device.type == "meta"
    assert {there.shift.device.type, there.scale.device.type} == {"meta"}
    assert there.labels.device.type == "meta"
    assert data.shift.device.type == "cpu"


BAD = np.arange(40.0).reshape(4, 10)


def spoilt(columns, value):
    x = BAD.copy()
    x[1, columns] = value
    return x


def constant(columns):
    x = BAD.copy()
    x[:, columns] = 0.1
    return x


OBJECTS = BAD[:, :3].astype(object)
OBJECTS[2, 1] = "cat"


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (spoilt([2, 7], np.nan), ValueError, r"x must hold finite .* others in columns 2, 7$"),
        (spoilt([3], np.inf), ValueError, r"others in column 3$"),
        (spoilt([3], -1e101), ValueError, r"others in column 3$"),
        (spoilt(list(range(9)), np.nan), ValueError, r"columns 0, .* 7 and 1 more$"),
        (np.full((3, 2, 2), np.nan), ValueError, "others in its pixels"),
        (constant([4]), ValueError, r"x must vary, got a single value in column 4$"),
        (constant([0, 9]), ValueError, r"in columns 0, 9$"),
        (np.ones((3, 4, 4)), ValueError, "a single value in its pixels"),
        (np.array([[1e-200], [2e-200]]), ValueError, "x must vary"),
        (Frame(constant([1])[:, :2], ["age", "height"]), ValueError, r"in column height$"),
        (Frame(OBJECTS, ["a", "b", "c"]), TypeError, "got dtype object in column b$"),
        (OBJECTS, TypeError, "x must hold real numbers, got dtype object in column 1$"),
        (BAD.astype(object), TypeError, "x must hold real numbers, got dtype object$"),
        (np.array([["1", "x"], ["2", "y"]]), TypeError, "in column 1$"),
        (BAD * 1j, TypeError, "x must hold real numbers, got dtype complex128"),
        (BAD > 3, TypeError, "x must hold real numbers, got dtype bool"),
        (torch.ones(3, 2) > 0, TypeError, "x must hold real numbers, got dtype torch.bool"),
        (np.ma.array(BAD, mask=BAD > 30), ValueError, "x must hold no masked values, got 9"),
        ([[1.0, 2.0], [3.0]], TypeError, "x must be numbers, in rows of one length"),
        (BAD[:1], ValueError, "x must have at least two rows"),
        (BAD[:0], ValueError, r"x must have shape \(n, \*shape\).*got \(0, 10\)"),
        (BAD[:, :0], ValueError, r"got \(4, 0\)"),
        ([], ValueError, r"got \(0,\)"),
        (BAD[0], ValueError, r"got \(10,\)"),
        (Items([]), ValueError, r"got \(0,\)"),
        (5.0, TypeError, "x must be a table or a data set with a length, got float"),
        (None, TypeError, "x must be a table or a data set with a length, got NoneType"),
        (iter([1.0]), TypeError, "x must be a table or a data set with a length"),
        (torch.ones(3, 2).to("meta"), ValueError, "x must be a dense tensor"),
    ],
)
def test_what_is_no_table_is_refused_by_name(x, error, message):
    with pytest.raises(error, match=message) as caught:
        Points(x)
    assert len(str(caught.value)) < 150


def test_points_of_another_shape_are_refused():
    data = Points(BAD)
    with pytest.raises(ValueError, match=r"x must hold points of shape \(10,\), got \(3,\)"):
        data.standardise(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"z must have shape \(n, 10\)"):
        data.restore(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"n must lie in \[1"):
        data.sample(0)


def test_metrics_take_points_as_data():
    data = Points(table(d=2))
    exact = ctm.metrics.ratio_to_floor(lambda n, g: data.sample(n, generator=g), data, n=300)
    assert exact.low < 1 < exact.high
    # one column too wide is seen, though its scale is a thousandth of the other's
    wide = torch.tensor([1.0, 1.5])

    def sampler(n, g):
        return data.sample(n, generator=g) * wide

    assert ctm.metrics.ratio_to_floor(sampler, data, n=300).low > 1.2


def test_a_model_meets_only_data_in_its_own_units():
    rows = ctm.data.ring().sample(200, generator=torch.Generator().manual_seed(0)).numpy() * [1.0, 1e3] + [0.0, 1e6]
    data, ring = Points(rows), ctm.data.ring()
    known, held = data.split(100)
    model, raw = ctm.CTM.for_data(data), ctm.CTM.for_data(ring)
    for given in (data, known, held, Points(rows * (1 + 1e-8))):  # rounding is no other unit
        ctm.train(model, given, ctm.Denoising(), 1)
        ctm.doctor(model, given, n=20)
    for mistaken, given in (
        (raw, data),
        (model, ring),
        (model, Points(np.add(rows, [0.0, 5.0]))),
        (model, Points(2 * rows)),
    ):
        for use in (lambda m, d: ctm.train(m, d, ctm.Denoising(), 1), lambda m, d: ctm.doctor(m, d, n=20)):
            with pytest.raises(ValueError, match=r"data must be in the model's units, x = .* \+ .* z, got x = "):
                use(mistaken, given)
    with pytest.raises(ValueError, match="data must be in the model's units"):
        ctm.metrics.flow_map_error(model, ring, n=10)
