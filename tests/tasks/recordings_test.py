import numpy as np
import pytest

from keras_maml import tasks

PEOPLE = np.repeat(["ann", "bob", "eve"], 6)
LABELS = np.tile(["sit", "walk"], 9)


def signals(lengths=None):
    """Each sample holds the number of its recording and its own."""
    if lengths is None:
        lengths = range(100, 100 + len(PEOPLE))
    return [
        np.stack([np.full(n, i), np.arange(n)], 1).astype("float32")
        for i, n in enumerate(lengths)
    ]


def make(recordings=None, **settings):
    settings = {
        "task": PEOPLE,
        "target": LABELS,
        "length": 20,
        "step": 10,
        "support": 3,
        "query": 4,
        **settings,
    }
    return tasks.from_recordings(
        signals() if recordings is None else recordings, **settings
    )


def windows(episode):
    """The recording and the first sample of each window that counts."""
    x, _, *weight = episode
    found = []
    for values, weights in (
        (x["support_x"], x.get("support_weight")),
        (x["query_x"], weight[0] if weight else None),
    ):
        first = values[:, 0].astype(int)
        # A window is a piece of one recording.
        np.testing.assert_array_equal(
            values,
            np.stack(
                [
                    np.repeat(first[:, :1], 20, 1),
                    first[:, 1:] + np.arange(20),
                ],
                -1,
            ),
        )
        found.append(first if weights is None else first[weights > 0])
    return found


@pytest.mark.parametrize("balance", [None, "classes"])
def test_a_recording_is_on_one_side(balance):
    examples = make(balance=balance, query=(4, None))
    names = examples.task_names(range(30))
    for index, name in enumerate(names):
        episode = examples.episode(index)
        support, query = windows(episode)
        assert not set(support[:, 0]) & set(query[:, 0])
        every = np.concatenate([support, query])
        assert set(PEOPLE[every[:, 0]]) == {name}
        assert len(np.unique(every, axis=0)) == len(every)
        labels = LABELS[support[:, 0]]
        assert np.array_equal(
            np.array(examples.class_names)[episode[0]["support_y"]], labels
        )
        if balance:
            assert sorted(labels) == ["sit"] * 3 + ["walk"] * 3
            # Of three recordings of a class, one is in the support set.
            assert len(set(support[:, 0])) == 2
        # All windows of the others.
        lengths = np.array([(100 + r - 20) // 10 + 1 for r in range(18)])
        assert len(query) == lengths[np.unique(query[:, 0])].sum()


@pytest.mark.parametrize(
    ("cut", "step"), [("random", 15), ("first", 10), ("random", 30)]
)
def test_pieces_in_time_do_not_overlap(cut, step):
    if step == 30:
        examples = make(order="time", cut=cut, step=step, support=1, query=1)
    else:
        examples = make(order="time", cut=cut, step=step, support=2, query=1)
    for index in range(12):
        support, query = windows(examples.episode(index))
        for recording in np.unique(support[:, 0]):
            piece = support[support[:, 0] == recording, 1]
            later = query[query[:, 0] == recording, 1]
            assert piece.max() + 20 <= later.min()
            assert len(later) == 1
            if cut == "first":
                assert sorted(piece) == [0, step][: len(piece)]


def test_all_that_follows_a_first_piece():
    examples = make(order="time", cut="first", query=(1, None))
    support, query = windows(examples.episode(0))
    for recording in np.unique(support[:, 0]):
        count = (100 + recording - 20) // 10 + 1
        later = query[query[:, 0] == recording, 1]
        # Windows 0, 1 and 2 end at sample 40; window 3 overlaps.
        assert later.tolist() == [10 * i for i in range(4, count)]


def test_people_with_fewer_recordings_are_padded():
    examples = make(
        signals()[:-2], task=PEOPLE[:-2], target=LABELS[:-2], order="time"
    )
    index = examples.task_names(range(3)).index("eve")
    x, _, weight = examples.episode(index)
    assert x["support_weight"].sum() == 4 * 3
    assert weight.sum() == 4 * 4


def test_too_few():
    with pytest.raises(ValueError, match="1 of 3 tasks have too few.*: eve"):
        make(
            signals()[:-4],
            task=PEOPLE[:-4],
            target=LABELS[:-4],
            balance="classes",
        )
    with pytest.raises(ValueError, match="3 of 3 tasks have too few"):
        make(support=5, query=5, order="time")


def test_scaling_counts_each_sample_once():
    layer = make().split(1, seed=0)[0].normalization()
    for person in ("ann", "bob", "eve"):
        samples = np.concatenate(
            [
                signal[: (len(signal) - 20) // 10 * 10 + 20]
                for signal, name in zip(signals(), PEOPLE)
                if name == person
            ]
        )
        if np.allclose(layer.input_mean, samples.mean(0), rtol=1e-5):
            variance = samples.var(0)
            np.testing.assert_allclose(
                layer.input_variance, variance, rtol=1e-4
            )
            return
    pytest.fail("The mean is that of no person.")


def test_a_table_of_samples_is_the_same():
    recordings = signals()
    of_row = np.repeat(np.arange(18), [len(r) for r in recordings])
    data = {
        "recording": of_row,
        "a": np.concatenate(recordings)[:, 0],
        "b": np.concatenate(recordings)[:, 1],
        "person": PEOPLE[of_row],
        "label": LABELS[of_row],
    }
    read = make(data, recording="recording", task="person", target="label")
    np.testing.assert_array_equal(
        read.episode(2)[0]["support_x"], make().episode(2)[0]["support_x"]
    )
    data["label"] = np.where(np.arange(len(of_row)) == 5, "run", data["label"])
    with pytest.raises(ValueError, match="`target` must be the same.* '0'"):
        make(data, recording="recording", task="person", target="label")


def test_no_recordings():
    with pytest.raises(ValueError, match="must hold at least one recording"):
        tasks.from_recordings(
            [], task=[], target=[], length=2, support=1, query=1
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "`length` must be an integer"),
        ({"step": 0}, "`step` must be an integer"),
        ({"length": 101}, "`length` must not exceed.* recording 0 of 100"),
        ({"task": PEOPLE[1:]}, "`task` must have a value for each of the 18"),
        ({"group": [1]}, "`group` must have a value for each"),
        ({"order": "row"}, "`order` must be one of"),
        ({"order": "time", "balance": "classes"}, "`balance` is of no use"),
        (
            {"target": np.arange(18) + 0.5, "balance": "classes"},
            "`balance` needs classes",
        ),
        ({"target": np.arange(18)}, "`kind` must say"),
        ({"cut": "first"}, "`cut` needs `order`"),
        ({"features": ["x"]}, "`features` needs a table"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_bad_recordings_are_named():
    other = signals()
    other[3] = other[3][:, :1]
    with pytest.raises(ValueError, match="`recordings` must be arrays"):
        make(other)
    broken = signals()
    broken[7][50, 1] = np.nan
    with pytest.raises(ValueError, match="such values in recording 7"):
        make(broken)
