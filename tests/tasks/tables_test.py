import csv
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_maml import tasks


def table(rows=(30, 40, 12, 25), **more):
    """Each row's number is in its features, so that rows can be told apart."""
    count = sum(rows)
    rng = np.random.default_rng(0)
    return {
        "person": np.repeat(["ann", "bob", "cid", "dee"], rows),
        "row": np.arange(count, dtype="float32"),
        "time": rng.integers(0, 20, count),
        "label": rng.choice(["no", "yes"], count),
        **more,
    }


def make(data=None, **settings):
    settings = {
        "task": "person",
        "target": "label",
        "features": ["row"],
        "support": 4,
        "query": 3,
        **settings,
    }
    return tasks.from_table(table() if data is None else data, **settings)


def rows_of(episode):
    """Numbers of the support and the query rows that count."""
    x, _, *weight = episode
    numbers = []
    for values, weights in (
        (x["support_x"], x.get("support_weight")),
        (x["query_x"], weight[0] if weight else None),
    ):
        rows = values[:, 0].astype(int)
        numbers.append(rows if weights is None else rows[weights > 0])
    return numbers


def test_an_episode_is_of_one_task_and_no_row_is_twice():
    data = table()
    examples = make(data)
    names = examples.task_names(range(20))
    for index, name in enumerate(names):
        episode = examples.episode(index)
        support, query = rows_of(episode)
        every = np.concatenate([support, query])
        assert len(set(every)) == 7
        assert set(data["person"][every]) == {name}
        labels = np.array(examples.class_names)
        assert (labels[episode[0]["support_y"]] == data["label"][support]).all()
        assert (labels[episode[1]] == data["label"][query]).all()


def test_tasks_come_in_rounds():
    names = make().task_names(range(400))
    rounds = np.reshape(names, [100, 4])
    assert all(len(set(names)) == 4 for names in rounds)
    assert len({tuple(names) for names in rounds}) == 24
    assert make(seed=1).task_names(range(400)) != names


def test_episodes_are_determined_by_seed_and_number():
    examples = make(order="time", query=(1, 5))
    stream = list(examples.batch(3, count=9, start=60).as_numpy_iterator())
    for index in (60, 64, 68):
        x, y, weight = make(order="time", query=(1, 5)).episode(index)
        batch, place = divmod(index - 60, 3)
        for name in x:
            np.testing.assert_array_equal(
                x[name], stream[batch][0][name][place]
            )
        np.testing.assert_array_equal(y, stream[batch][1][place])
        np.testing.assert_array_equal(weight, stream[batch][2][place])


def test_every_row_comes_as_often():
    examples = make(support=3, query=3)
    x, _ = next(iter(examples.batch(4000, count=4000)))
    rows = tf.concat([x["support_x"], x["query_x"]], 1).numpy()
    counts = np.bincount(rows.astype(int).ravel(), minlength=107)
    expected = np.repeat(6000 / np.array([30, 40, 12, 25]), [30, 40, 12, 25])
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("balance", [None, "classes"])
@pytest.mark.parametrize("cut", ["random", "first"])
def test_support_is_the_past(cut, balance):
    data = table()
    examples = make(
        data, order="time", cut=cut, balance=balance, support=2, query=(2, 50)
    )
    for index in range(40):
        support, query = rows_of(examples.episode(index))
        assert data["time"][support].max() < data["time"][query].min()
        person = data["person"][support[0]]
        between = (data["person"] == person) & (
            data["time"] < data["time"][query].min()
        )
        # What came last before the query, of each class.
        labels = ["no", "yes"] if balance else [None]
        for label in labels:
            kind = between & ((data["label"] == label) | (label is None))
            own = [r for r in support if label in (None, data["label"][r])]
            assert len(own) == 2
            newest = np.sort(data["time"][kind])[-2:]
            assert sorted(data["time"][own]) == newest.tolist()
        later = (data["person"] == person) & (
            data["time"] >= data["time"][query].min()
        )
        # 50 is more than there are.
        assert set(query) == set(np.flatnonzero(later))


def test_the_first_cut_is_as_soon_as_the_support_set_is_full():
    data = table(time=np.arange(107))
    examples = make(data, order="time", cut="first", query=(1, None))
    for index in range(4):
        support, query = rows_of(examples.episode(index))
        own = np.flatnonzero(data["person"] == data["person"][support[0]])
        assert sorted(support) == own[:4].tolist()
        assert sorted(query) == own[4:].tolist()


def test_balanced_sets_have_as_many_of_each_class():
    examples = make(balance="classes", support=3, query=2)
    x, y = next(iter(examples.batch(8)))
    assert (np.sort(x["support_y"], 1) == [0, 0, 0, 1, 1, 1]).all()
    assert (np.sort(y, 1) == [0, 0, 1, 1]).all()
    # Shuffled: the support set may be used in parts.
    assert (x["support_y"].numpy() != [0, 0, 0, 1, 1, 1]).any()


def test_a_class_that_a_task_lacks_is_padding():
    labels = table()["label"]
    labels[:30] = "no"
    data = table(label=labels)
    examples = make(data, balance="classes", support=3, query=2)
    index = examples.task_names(range(4)).index("ann")
    x, y, weight = examples.episode(index)
    assert x["support_weight"].sum() == 3
    assert weight.sum() == 2
    assert set(x["support_y"]) == set(y) == {0}
    # Padding holds rows of the same task.
    assert x["support_x"].max() < 30


def test_unequal_tasks_are_padded():
    examples = make(support=(5, 20), query=(4, None))
    sizes = {}
    for index, name in enumerate(examples.task_names(range(4))):
        support, query = rows_of(examples.episode(index))
        sizes[name] = len(support), len(query)
        assert not set(support) & set(query)
    assert sizes == {
        "ann": (20, 10),
        "bob": (20, 20),
        "cid": (8, 4),
        "dee": (20, 5),
    }


def test_tasks_with_too_few_rows_are_named():
    with pytest.raises(ValueError, match="1 of 4 tasks .* too few rows: cid"):
        make(support=10, query=5)
    examples = make(support=10, query=5, too_few="leave_out")
    assert examples.left_out == ["cid"]
    assert examples.names == ["ann", "bob", "dee"]
    # Nothing but ties: there is no past.
    with pytest.raises(ValueError, match="4 of 4 tasks have too few"):
        make(table(time=np.zeros(107)), order="time", too_few="leave_out")


def test_splits_do_not_share_groups():
    data = table(clinic=np.repeat([7, 8, 7, 9], [30, 40, 12, 25]))
    examples = make(data, group="clinic")
    for train, test in examples.leave_one_task_out():
        assert not set(train.groups) & set(test.groups)
        assert sorted(train.names + test.names) == examples.names
    group_of = {"ann": "7", "bob": "8", "cid": "7", "dee": "9"}
    names = examples.task_names(range(9))
    assert examples.group_names(range(9)) == [group_of[n] for n in names]
    assert make().group_names(range(9)) is None
    held_out = [t.names for _, t in examples.leave_one_task_out()]
    assert held_out == [["ann", "cid"], ["bob"], ["dee"]]
    held_out = [t.names for _, t in examples.folds(3, seed=1)]
    assert sorted(sum(held_out, [])) == examples.names
    first, second = examples.split(1, 2, seed=3)
    assert not set(first.groups) & set(second.groups)
    assert set(rows_of(first.episode(0))[0]) <= set(
        np.flatnonzero(np.isin(data["person"], first.names))
    )
    with pytest.raises(ValueError, match="`group` must be the same.*'ann'"):
        make(table(clinic=np.arange(107)), group="clinic")


def test_shares_of_a_split():
    data = table()
    data["person"] = np.arange(107) % 20
    parts = make(data, support=1, query=1).split(0.7, 0.1, 0.2)
    assert [len(part.names) for part in parts] == [14, 2, 4]
    assert len(set(sum([part.names for part in parts], []))) == 20
    for sizes in ((), (0.8, 0.3), (0.99, 0.01), (20, 1), (0, 3), (0.5, 3)):
        with pytest.raises(ValueError, match="`sizes` must be"):
            make(data, support=1, query=1).split(*sizes)


def test_scaling_knows_training_tasks_alone():
    values = np.arange(107) * [[1.0], [-2.0]] + 1e4
    data = table(a=values[0], b=values[1])
    train, _ = make(data, features=["a", "b"]).split(3, 1)
    layer = train.normalization()
    own = values[:, np.isin(data["person"], train.names)]
    scaled = layer(own.T.astype("float32")).numpy()
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-4)


def test_missing_numbers():
    values = table()["row"].copy()
    values[[3, 50]] = np.nan
    data = table(age=values)
    with pytest.raises(ValueError, match="'age' in 2 rows"):
        make(data, features=["row", "age"])
    examples = make(data, features=["row", "age"], missing="keep")
    fill = examples.fill_missing()
    np.testing.assert_allclose(fill.values[1], np.nanmean(values), rtol=1e-6)
    x, _ = next(iter(examples.replace(preprocess=fill).batch(40)))
    assert np.isfinite(x["support_x"]).all()


def test_categories_are_codes():
    city = np.where(
        np.arange(107) % 3, np.where(np.arange(107) % 2, "a", "b"), ""
    )
    x, _ = make(table(city=city), categories=["city"]).episode(0)
    rows = x["support_x"]["numbers"][:, 0].astype(int)
    expected = np.select([city == "a", city == "b"], [1, 2], 0)
    assert x["support_x"]["city"].tolist() == expected[rows].tolist()
    with pytest.raises(ValueError, match="without columns of numbers"):
        make(table(city=city), features=[], categories=["city"]).normalization()


def test_images_are_a_column_and_bytes_stay_bytes():
    images = np.arange(107 * 4, dtype="uint8").reshape(107, 2, 2, 1)
    x, _ = make(table(image=images), features="image").episode(0)
    assert x["support_x"].shape == (4, 2, 2, 1)
    assert x["support_x"].max() <= 1


def test_a_csv_is_the_same_table(tmp_path):
    data = table()
    path = tmp_path / "data.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(data)
        writer.writerows(zip(*data.values()))
    read, given = make(path, order="time"), make(data, order="time")
    for a, b in zip(
        tf.nest.flatten(read.episode(3)), tf.nest.flatten(given.episode(3))
    ):
        np.testing.assert_array_equal(a, b)


TIMES = [f"{hour}.5" for hour in range(8, 12)]
DATES = [f"2026-0{9 + day // 30}-{1 + day % 30:02}" for day in range(4)]
ZONES = ["2026-10-25 02:30+02:00", "2026-10-25 02:10+01:00"]


@pytest.mark.parametrize(
    "times",
    [TIMES, np.array([8, 9.5, 10, 11], object), DATES, ZONES],
    ids=["decimals", "objects", "dates", "zones"],
)
def test_text_is_read_before_it_is_sorted(times):
    # As text, "10.5" comes before "9.5": the support set were the future.
    count = len(times)
    data = {
        "person": ["ann"] * count,
        "row": np.arange(count),
        "time": times,
        "label": ["no"] * count,
    }
    examples = make(data, order="time", support=count - 1, query=1, cut="first")
    support, query = rows_of(examples.episode(0))
    assert sorted(support) == list(range(count - 1))
    assert query == [count - 1]


@pytest.mark.parametrize("time", ["2/1/2026", "morning", "nan", ""])
def test_text_that_is_no_time_is_named(time):
    data = table(time=np.arange(107).astype("U12"))
    data["time"][5] = time
    with pytest.raises(ValueError, match="`order` must"):
        make(data, order="time")


class Nothing:
    """As pandas's NA: whether it differs from something is unknown."""

    def __ne__(self, other):
        return self

    __hash__ = None

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


def test_nothing_is_missing():
    data = table()
    data["person"] = data["person"].astype(object)
    data["person"][5] = Nothing()
    with pytest.raises(ValueError, match="`task` must have a value.* row 5"):
        make(data)
    data = table(kind=np.array(["a", Nothing(), "b"] * 35 + ["a", "b"]))
    examples = make(data, categories=["kind"])
    assert examples.category_names == {"kind": ["a", "b"]}


class Frame:
    """What of a DataFrame is used, without pandas."""

    def __init__(self, data):
        self.columns = list(data)
        self._data = data

    def __getitem__(self, name):
        values = np.asarray(self._data[name])

        class Series:
            dtype = values.dtype

            def to_numpy(self):
                return values.astype(object)

        return Series()


def test_a_data_frame_is_the_same_table():
    read, given = make(Frame(table())), make()
    np.testing.assert_array_equal(
        read.episode(3)[0]["support_x"], given.episode(3)[0]["support_x"]
    )


def test_columns_of_one_name_are_refused():
    frame = Frame(table())
    frame.columns.append("row")
    with pytest.raises(ValueError, match="columns of different names"):
        make(frame)


def test_pandas_and_parquet_are_the_same_table(tmp_path):
    pandas = pytest.importorskip("pandas", reason="extra [tables]")
    pytest.importorskip("pyarrow", reason="extra [tables]")
    frame = pandas.DataFrame(table())
    frame.to_parquet(tmp_path / "data.parquet")
    expected = make().episode(3)
    for data in (frame, tmp_path / "data.parquet"):
        actual = make(data).episode(3)
        for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
            np.testing.assert_array_equal(a, b)


def test_parquet_needs_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match="install pandas and pyarrow"):
        make(tmp_path / "data.parquet")


def test_whole_numbers_are_classes_only_if_you_say_so():
    data = table(stars=np.arange(107) % 5)
    with pytest.raises(ValueError, match="`kind` must say"):
        make(data, target="stars")
    assert (
        len(make(data, target="stars", kind="classification").class_names) == 5
    )
    mixed = data["stars"].astype("U9")
    mixed[7] = "five"
    with pytest.raises(ValueError, match="`kind` must say.* 106 of 107"):
        make(table(stars=mixed), target="stars")
    ratings = make(data, target="stars", kind="regression")
    assert ratings.class_names is None
    assert ratings.episode(0)[1].shape == (3, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "who"}, "`task` must be a column"),
        ({"target": "age"}, "`target` must be a column"),
        ({"features": ["row", "age"]}, "`features` must be a column"),
        ({"features": ["person"]}, "`features` must name columns of numbers"),
        ({"features": []}, "`features` must name at least one"),
        ({"support": 0}, "`support` must be an integer of at least 1"),
        ({"support": (3, 2)}, "`support` must be an integer of at least 3"),
        ({"query": (1, 2, 3)}, "`query` must be an integer or a pair"),
        ({"cut": "last"}, "`cut` must be one of"),
        ({"balance": "rows"}, "`balance` must be one of"),
        ({"missing": "drop"}, "`missing` must be one of"),
        ({"too_few": "drop"}, "`too_few` must be one of"),
        ({"kind": "ranking"}, "`kind` must be one of"),
        ({"target": "row", "balance": "classes"}, "`balance` needs classes"),
        ({"seed": -1}, "`seed` must be"),
        ({"cut": "first"}, "`cut` needs `order`"),
        ({"features": ["row", "label"]}, "must not hold the target"),
        ({"categories": ["label"]}, "must not hold the target"),
    ],
)
def test_bad_settings_are_named(settings, message):
    data = table()
    if settings.get("target") == "row":
        data["row"] = data["row"] + 0.5
    with pytest.raises(ValueError, match=message):
        make(data, **settings)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("person", "", "`task` must have a value in each row.* 1 missing"),
        ("label", "", "`target` must have a value in each row"),
        ("row", np.inf, "`features` must be finite.* row 5"),
        ("row", np.nan, "`features` lack values"),
    ],
)
def test_bad_values_are_named(column, value, message):
    data = table()
    data[column][5] = value
    with pytest.raises(ValueError, match=message):
        make(data)


def test_bad_tables_are_named(tmp_path):
    for data, message in (
        (3, "`data` must be a pandas DataFrame"),
        ({}, "at least one row"),
        ({"a": [1], "b": [1, 2]}, "columns of one length"),
        ("data.txt", "ends in .csv"),
        (tmp_path / "none.csv", "could not be read"),
    ):
        with pytest.raises(ValueError, match=message):
            make(data)
    path = tmp_path / "bad.csv"
    for text, message in (
        ("a,a\n1,2\n", "all different"),
        ("a,b\n1,2\n1\n", "1 in line 3"),
        ("", "names of its columns"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            make(path)


def test_wrong_numbers_and_settings():
    examples = make()
    with pytest.raises(ValueError, match="`episodes` must be"):
        examples.task_names([-1])
    with pytest.raises(ValueError, match="`replace` takes.*shots"):
        examples.replace(shots=3)
    with pytest.raises(ValueError, match="`k` must be an integer of at most 4"):
        examples.folds(5)
    with pytest.raises(ValueError, match="`groups` must be"):
        examples.split(1)[0].leave_one_task_out()
    regression = table(y=np.where(np.arange(107) == 5, np.nan, 0.5))
    with pytest.raises(ValueError, match="finite number in each row.*row 5"):
        make(regression, target="y")


def test_a_million_rows_are_not_copied():
    x = np.zeros((1_000_000, 4), "float32")
    x[:, 0] = np.arange(len(x))
    data = {
        "task": np.arange(len(x)) % 500,
        "x": x,
        "y": np.zeros(len(x)) + 0.5,
    }
    examples = tasks.from_table(
        data, task="task", target="y", features="x", support=5, query=5
    )
    train, test = examples.split(0.8, 0.2)
    memory = {id(part._examples) for part in (examples, train, test)}
    memory |= {id(part._rows.rows) for part in (examples, train, test)}
    assert len(memory) == 2
    x, _ = train.episode(9)
    rows = np.concatenate([x["support_x"], x["query_x"]])[:, 0].astype(int)
    assert len(set(rows)) == 10
    assert set((rows % 500).astype(str)) == set(train.task_names([9]))
