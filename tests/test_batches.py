"""Tests of batches.py, reading.py, examples.py and cache.py."""

import dataclasses
import io
import itertools
import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from helpers import make_trainer, python

from alexnet_tf.errors import UserError
from alexnet_tf.pipeline import batches, cache, reading
from alexnet_tf.pipeline.batches import (
    BadRecords,
    evaluation_batches,
    timed_next,
    training_batches,
)
from alexnet_tf.pipeline.data_set import (
    STATISTICS_FILE,
    DataSet,
    PixelStatistics,
    Split,
)
from alexnet_tf.recipes import RECIPES, Recipe

LENGTHS = (9, 1, 14, 0, 6)
N = sum(LENGTHS)
SIDE, CROP = 72, 64
STATISTICS = PixelStatistics(
    mean_image=np.full((SIDE, SIDE, 3), 110, np.float32),
    mean_color=np.array([120.0, 110.0, 100.0]),
    color_eigenvalues=np.array([9000.0, 500.0, 100.0]),
    color_eigenvectors=np.array(
        [[0.6, 0.8, 0.0], [0.6, -0.45, 0.66], [0.53, -0.4, -0.75]]
    ),
    num_images=N,
)


def picture(number, height=SIDE, width=SIDE):
    """A picture whose pixels say where they are: (number, row, column), smooth."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, number), rows, columns], -1).astype(np.uint8)


def encode(image, form="JPEG", **options):
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} | options if form == "JPEG" else options
    PIL.Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def example(image_bytes, label):
    labels = tf.train.Int64List(value=np.atleast_1d(np.array(label, np.int64)))
    feature = {"label": tf.train.Feature(int64_list=labels)}
    if image_bytes is not None:
        image_bytes = tf.train.BytesList(value=[image_bytes])
        feature["image"] = tf.train.Feature(bytes_list=image_bytes)
    return tf.train.Example(
        features=tf.train.Features(feature=feature)
    ).SerializeToString()


def write(folder, records, lengths=LENGTHS, **options):
    records, filenames = iter(records), []
    for i, length in enumerate(lengths):
        filenames.append(str(folder / f"shard-{i}"))
        with tf.io.TFRecordWriter(filenames[-1]) as writer:
            for record in itertools.islice(records, length):
                writer.write(record)
    options = {"image_size": SIDE} | options
    np.savez(folder / STATISTICS_FILE, **vars(STATISTICS))
    split = Split("train", tuple(filenames), tuple(lengths))
    names = tuple(map(str, range(sum(lengths))))
    return DataSet(str(folder), "test", names, {"train": split}, **options)


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def data_set(request, tmp_path_factory):
    """30 pictures, each with its own label, in five shards."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "raw":
        records = [example(picture(i).tobytes(), i) for i in range(N)]
        return write(folder, records, encoding="raw")
    return write(folder, [example(encode(picture(i)), i) for i in range(N)])


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """The same, as JPEG files."""
    folder = tmp_path_factory.mktemp("jpegs")
    return write(folder, [example(encode(picture(i)), i) for i in range(N)])


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Two shards a group, a shuffle of four records: all that a large set has."""
    monkeypatch.setattr(reading, "SIDE_BY_SIDE", 2)
    monkeypatch.setattr(reading, "SHUFFLE_RECORDS", 4)


def make_batches(data_set, **options):
    """`training_batches`, the numbers of the recipe among the other options."""
    names = {field.name for field in dataclasses.fields(Recipe)} & set(options)
    changes = {name: options.pop(name) for name in names}
    recipe = dataclasses.replace(RECIPES["paper"], **changes)
    return training_batches(data_set, recipe, **options)


def take(data_set, steps, **options):
    options = {
        "global_batch_size": 4,
        "seed": 7,
        "image_size": CROP,
        "color": "none",  # whose loop is compiled anew for each size of a chunk
    } | options
    batches = make_batches(data_set, **options).take(steps)
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_have_the_promised_form(jpegs):
    batches = make_batches(
        jpegs,
        global_batch_size=4,
        seed=0,
        image_size=CROP,
        color="pca",
    )
    images, labels = batches.element_spec
    assert images == tf.TensorSpec((4, CROP, CROP, 3), tf.uint8)
    assert labels == tf.TensorSpec((4,), tf.int32)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY


def test_the_first_batch_is_made_before_it_is_asked_for(jpegs):
    """While Python traces the step."""
    dataset = make_batches(jpegs, seed=7, image_size=CROP, global_batch_size=4)
    assert dataset.options().experimental_warm_start


def test_an_epoch_holds_every_example_once_and_epochs_differ(data_set):
    labels = take(data_set, 3 * N // 3, global_batch_size=3)[1]
    epochs = labels.reshape(3, N)
    for epoch in epochs:
        assert sorted(epoch) == list(range(N))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0].tolist() != sorted(epochs[0])


@pytest.mark.parametrize(("lengths", "window"), [((N,), N), ((1,) * N, 1)])
def test_records_are_shuffled_in_a_window_and_shards_as_a_whole(
    tmp_path, monkeypatch, lengths, window
):
    monkeypatch.setattr(reading, "SHUFFLE_RECORDS", window)
    records = [example(picture(i).tobytes(), i) for i in range(N)]
    data_set = write(tmp_path, records, lengths, encoding="raw")
    epochs = take(data_set, 3, global_batch_size=N)[1].reshape(3, N)
    for one, other in itertools.combinations([np.arange(N), *epochs], 2):
        assert np.mean(one == other) < 0.3


def test_batches_depend_on_the_seed_only(jpegs, monkeypatch):
    reference = take(jpegs, 10, color="jitter")
    tf.random.set_seed(3)
    assert same(reference, take(jpegs, 10, color="jitter"))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # many read in parallel
    monkeypatch.setattr(batches, "CHUNK", 3)
    assert same(reference, take(jpegs, 10, color="jitter"))
    images, labels = take(jpegs, 10, color="jitter", seed=8)
    assert not np.array_equal(labels, reference[1])
    by_label = [dict(zip(y, x, strict=True)) for x, y in [reference, (images, labels)]]
    assert all((by_label[0][i] != by_label[1][i]).any() for i in range(N))


def test_starting_at_a_step_yields_what_an_uninterrupted_run_yields(data_set):
    color = "pca" if data_set.encoding == "raw" else "jitter"
    images, labels = take(data_set, 20, color=color)
    for step in (1, 8, 16):  # in the first epoch, the second, the third
        resumed = take(data_set, 4, color=color, start=4 * step)
        rest = slice(4 * step, 4 * step + 16)
        assert same(resumed, (images[rest], labels[rest])), step


def test_workers_together_see_what_one_sees(jpegs):
    workers = 7  # more than there are shards
    options = {"global_batch_size": 14, "start": 28, "color": "jitter"}
    alone = take(jpegs, 5, **options)
    contexts = [tf.distribute.InputContext(workers, i, workers) for i in range(workers)]
    parts = [take(jpegs, 5, input_context=context, **options) for context in contexts]
    for whole, shares in zip(alone, zip(*parts, strict=True), strict=True):
        # Of each of the five batches a worker has rows that follow one another.
        steps = [share.reshape(5, -1, *whole.shape[1:]) for share in shares]
        assert np.array_equal(whole, np.concatenate(steps, axis=1).reshape(whole.shape))


def test_without_random_crops_and_mirror_images_every_image_is_its_centre(tmp_path):
    records = [example(picture(i).tobytes(), i) for i in range(N)]
    data_set = write(tmp_path, records, encoding="raw")
    images, labels = take(data_set, 10, random_crops=False, mirror=False)
    first = (SIDE - CROP) // 2
    window = slice(first, first + CROP)
    for image, label in zip(images, labels, strict=True):
        assert np.array_equal(image, picture(label)[window, window])


def test_crops_are_windows_of_the_picture_or_its_mirror_image(tmp_path):
    records = [example(picture(i).tobytes(), i) for i in range(N)]
    data_set = write(tmp_path, records, encoding="raw")
    images, labels = take(data_set, 100)
    corners, mirrored = [], []
    for image, label in zip(images, labels, strict=True):
        mirrored.append(image[0, 0, 2] > image[0, -1, 2])
        image = image[:, ::-1] if mirrored[-1] else image
        _, top, left = image[0, 0]
        window = picture(label)[top : top + CROP, left : left + CROP]
        assert np.array_equal(image, window)
        corners.append((top, left))
    for places in zip(*corners, strict=True):  # all of them, as often as each other
        assert set(places) == set(range(SIDE - CROP + 1))
        assert max(np.bincount(places)) < 2.2 * len(places) / (SIDE - CROP + 1)
    assert 0.4 < np.mean(mirrored) < 0.6


def test_crops_of_jpeg_records_are_what_pil_decodes(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (N, SIDE // 8, SIDE // 8, 3)).repeat(8, 1).repeat(8, 2)
    files = [encode(image.astype(np.uint8)) for image in noise]
    data_set = write(tmp_path, [example(file, i) for i, file in enumerate(files)])
    ((images, labels),) = evaluation_batches(
        data_set, "train", global_batch_size=N, image_size=CROP
    )
    for image, label in zip(images.numpy(), labels.numpy(), strict=True):
        expected = np.asarray(PIL.Image.open(io.BytesIO(files[label])), int)
        assert np.abs(image - expected[4:-4, 4:-4]).max() <= 2


@pytest.mark.parametrize("cache", [False, True])
def test_bad_records_are_named_and_weigh_nothing(tmp_path, cache):
    records = [example(encode(picture(i)), i) for i in range(N)]
    good = write(tmp_path, records)
    reference = take(good, 15, color="jitter")
    records[2] = example(encode(picture(2))[:300], 2)
    records[11] = example(b"not a picture", 11)
    records[12] = example(None, 12)
    records[13] = example(encode(picture(13, 20, 20)), 13)  # of another size
    records[14] = b"not an example"
    bad = write(tmp_path, records)
    collector = BadRecords()
    options = {"bad_records": collector, "cache": cache, "color": "jitter"}
    images, labels = take(bad, 15, **options)
    lost = np.isin(reference[1], [2, 11, 12, 13, 14])
    assert lost.sum() == 10
    assert (labels[lost] == -1).all()
    assert (images[lost] == 0).all()
    assert same(
        (images[~lost], labels[~lost]), (reference[0][~lost], reference[1][~lost])
    )
    shard = bad.splits["train"].filenames
    assert set(collector.reasons) == {(shard[0], 2)} | {
        (shard[2], index) for index in (1, 2, 3, 4)
    }
    assert len(collector) == 5
    assert all(collector.reasons.values())
    _, labels = next(
        iter(evaluation_batches(bad, "train", global_batch_size=40, image_size=CROP))
    )
    expected = set(range(N)) - {2, 11, 12, 13, 14}
    assert sorted(labels.numpy()) == [-1] * 15 + sorted(expected)


def test_a_batch_of_bad_records_is_still_a_batch(tmp_path):
    data_set = write(tmp_path, [example(b"bad", i) for i in range(8)], (8,))
    collector = BadRecords()
    images, labels = take(data_set, 2, bad_records=collector)
    assert images.shape == (8, CROP, CROP, 3)
    assert labels.tolist() == [-1] * 8
    assert len(collector) == 8


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_shard_that_is_cut_short_or_gone_costs_only_its_records(tmp_path, is_gone):
    data_set = write(tmp_path, [example(encode(picture(i)), i) for i in range(N)])
    reference = take(data_set, 15)
    shard = data_set.splits["train"].filenames[2]  # labels 10 to 23
    if is_gone:
        os.remove(shard)
    else:
        with open(shard, "rb+") as file:
            file.truncate(os.path.getsize(shard) // 2)
    collector = BadRecords()
    images, labels = take(data_set, 15, bad_records=collector)
    lost = labels == -1
    assert set(reference[1][lost]) <= set(range(10, 24))
    assert len(collector) == lost.sum() / 2 > 5
    assert {name for name, _ in collector.reasons} == {shard}
    assert all("cut short" in reason for reason in collector.reasons.values())
    assert same((images[~lost], labels[~lost]), tuple(x[~lost] for x in reference))


@pytest.mark.parametrize("cache", [False, True])
def test_labels_out_of_range_are_bad_records(tmp_path, cache):
    bad = {11: -1, 12: N, 13: 2**32 + 1, 14: -(2**63)}
    images = [picture(i).tobytes() for i in range(N)]
    records = [example(image, i) for i, image in enumerate(images)]
    data_set = write(tmp_path, records, encoding="raw")
    reference = take(data_set, 15, cache=cache)
    records = [example(image, bad.get(i, i)) for i, image in enumerate(images)]
    data_set = write(tmp_path, records, encoding="raw")
    collector = BadRecords()
    images, labels = take(data_set, 15, bad_records=collector, cache=cache)
    lost = np.isin(reference[1], [*bad])
    assert (labels[lost] == -1).all()
    assert (images[lost] == 0).all()
    assert same((images[~lost], labels[~lost]), [x[~lost] for x in reference])
    shard = data_set.splits["train"].filenames[2]  # labels 10 to 23
    assert collector.reasons == {
        (shard, i - 10): f"label {label} is out of range: expected 0..29"
        for i, label in bad.items()
    }
    evaluated = evaluation_batches(
        data_set, "train", global_batch_size=40, image_size=CROP
    )
    expected = [-1] * 14 + [*set(range(N)) - set(bad)]
    assert sorted(next(iter(evaluated))[1].numpy()) == sorted(expected)


def test_bad_records_are_explained(tmp_path, caplog):
    wrong_type = tf.train.Example()
    wrong_type.features.feature["image"].int64_list.value.append(3)
    no_example = (
        "not a tf.train.Example of one image (bytes) and one label (an integer)"
    )
    records = [
        (no_example, b"\xff\xfe not an example"),
        (no_example, wrong_type.SerializeToString()),
        (no_example, example(encode(picture(0)), [])),
        ("label 7 is out of range: expected 0..6", example(encode(picture(0)), 7)),
        (f"not a JPEG of {SIDE}×{SIDE} pixels", example(encode(picture(0, 20, 20)), 1)),
        ("Invalid JPEG data", example(b"not a picture", 1)),
        ("", example(encode(picture(0)), 0)),
    ]
    data_set = write(tmp_path, [record for _, record in records], (7,))
    collector = BadRecords()
    _, labels = take(data_set, 1, global_batch_size=7, bad_records=collector)
    assert sorted(labels) == [-1] * 6 + [0]
    (shard,) = data_set.splits["train"].filenames
    assert len(collector) == 6
    for index, (expected, _) in enumerate(records[:6]):
        assert collector.reasons[shard, index].startswith(expected)
        assert f"bad record {index} of {shard}: {expected}" in caplog.text


def test_cached_batches_are_the_same_batches(data_set):
    plain, cached = (take(data_set, 12, cache=cache, start=12) for cache in (0, 1))
    assert np.array_equal(plain[1], cached[1])
    assert np.array_equal(plain[0], cached[0])


def test_a_cache_that_cannot_fit_is_refused(jpegs):
    huge = Split("train", jpegs.splits["train"].filenames, (10**9,) * 5)
    data_set = dataclasses.replace(jpegs, splits={"train": huge})
    with pytest.raises(UserError, match="GiB"):
        take(data_set, 1, cache=True)


@pytest.mark.parametrize("views", [1, 10])
def test_evaluation_sees_every_example_once(data_set, views):
    options = {"global_batch_size": 8, "image_size": CROP, "views": views}
    batches = evaluation_batches(data_set, "train", **options)
    passes = [list(batches.as_numpy_iterator()) for _ in range(2)]
    for images, labels in passes[0]:
        assert images.shape == (8, 10, CROP, CROP, 3)[: 5 if views == 10 else 1] + (
            () if views == 10 else (CROP, CROP, 3)
        )
        assert labels.shape == (8,)
    labels = np.concatenate([labels for _, labels in passes[0]])
    assert sorted(labels) == [-1, -1, *range(N)]
    assert (labels[-2:] == -1).all()
    for one, other in zip(*passes, strict=True):
        assert same(one, other)
    rest = evaluation_batches(data_set, "train", start=16, **options)
    for one, other in zip(rest.as_numpy_iterator(), passes[0][2:], strict=True):
        assert same(one, other)


@pytest.mark.parametrize(("workers", "replicas"), [(1, 3), (3, 1), (2, 2)])
def test_workers_evaluate_their_own_part_of_each_batch(tmp_path, workers, replicas):
    """All of them have as many batches, and together what one alone has."""
    records = [example(picture(i).tobytes(), i) for i in range(N)]
    records[13] = b"not an example"
    data_set = write(tmp_path, records, encoding="raw")
    options = {"split": "train", "global_batch_size": 12, "image_size": CROP}
    collectors, iterators = [BadRecords() for _ in range(workers)], []
    for worker, collector in enumerate(collectors):
        context = tf.distribute.InputContext(workers, worker, workers * replicas)
        options |= {"input_context": context, "bad_records": collector}
        iterators.append(evaluation_batches(data_set, **options).as_numpy_iterator())
    parts = [
        next(iterator)
        for _ in range(3)  # of 12, for 30 records
        for iterator in iterators  # a worker's replicas come one after another
        for _ in range(replicas)
    ]
    assert {len(labels) for _, labels in parts} == {12 // (workers * replicas)}
    assert all(next(iterator, None) is None for iterator in iterators)
    labels = np.concatenate([labels for _, labels in parts])
    assert labels.tolist() == [*range(13), -1, *range(14, N), *[-1] * 6]
    for image, label in zip(np.concatenate([x for x, _ in parts]), labels, strict=True):
        assert np.array_equal(image, picture(label)[4:-4, 4:-4] * (label >= 0))
    # The others do not even decode it; what fills the last batch up is no bad record.
    assert sorted(map(len, collectors)) == [0] * (workers - 1) + [1]


def test_a_record_that_is_good_when_it_is_read_again_is_an_error(jpegs, monkeypatch):
    """The memory or the network gave out: nothing is wrong with the picture."""
    collector = BadRecords()
    report_bad = collector.add_source(jpegs, jpegs.splits["train"])
    report_bad(tf.constant([11], tf.int64))
    with pytest.raises(UserError, match=r"record 1 of .*shard-2 is good, but"):
        len(collector)

    def fail(filename):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory\nat all")

    report_bad(tf.constant([11], tf.int64))
    monkeypatch.setattr(tf.data, "TFRecordDataset", fail)
    with pytest.raises(UserError, match=r"shard-2 cannot be read: no memory$"):
        len(collector)


def test_memory_is_that_of_the_container(tmp_path, monkeypatch, jpegs):
    monkeypatch.setattr(cache, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cache, "_OWN_CGROUPS", tmp_path / "own")
    machine = cache.memory_limit()
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "memory" / "c").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert cache.memory_limit() == machine
    (tmp_path / "a" / "memory.max").write_text("30000\n")  # of the group above it
    assert cache.memory_limit() == 30_000
    with pytest.raises(UserError, match=r"--cache needs .* train without it"):
        take(jpegs, 1, cache=True)
    (tmp_path / "own").write_text("5:cpu:/\n4:memory,hugetlb:/c\n")  # version 1
    (tmp_path / "memory" / "c" / "memory.limit_in_bytes").write_text("20000\n")
    assert cache.memory_limit() == 20_000


def test_to_look_at_a_batch_loads_no_cache(data_dir, monkeypatch):
    monkeypatch.setattr(batches, "_load_cache", None)
    trainer = make_trainer(data_dir, cache=True, image_size=128)
    assert trainer.next_batch()[0].shape == (32, 128, 128, 3)


def test_the_shuffle_draws_from_what_the_card_tells(jpegs, monkeypatch):
    monkeypatch.undo()
    sizes = [("raw", 256), ("jpeg", 256), ("jpeg", 40), ("raw", 8000)]
    windows = [
        reading.shuffle_window(
            dataclasses.replace(jpegs, encoding=encoding, image_size=size)
        )
        for encoding, size in sizes
    ]
    assert windows == [1365, 5461, 10_000, 1]


def test_to_go_on_reads_no_shard_of_earlier_groups(tmp_path):
    records = [example(picture(i).tobytes(), i) for i in range(N)]
    data_set = write(tmp_path, records, (5,) * 6, encoding="raw")  # two shards a group
    start = 5 * N + 24  # in the last group of the sixth epoch
    images, labels = take(data_set, 1, start=start)
    for i, shard in enumerate(data_set.splits["train"].filenames):
        if not set(labels) & set(range(5 * i, 5 * i + 5)):
            os.remove(shard)
    assert same(take(data_set, 1, start=start), (images, labels))


def test_evaluation_crops_the_centre(tmp_path):
    records = [example(picture(i).tobytes(), i) for i in range(N)]
    data_set = write(tmp_path, records, encoding="raw")
    options = {"global_batch_size": N, "image_size": CROP}
    ((images, labels),) = evaluation_batches(data_set, "train", **options)
    ((views, _),) = evaluation_batches(data_set, "train", views=10, **options)
    for image, ten, label in zip(images, views, labels, strict=True):
        assert np.array_equal(image, picture(label)[4:-4, 4:-4])
        assert np.array_equal(ten[4], image)
        assert np.array_equal(ten[3], picture(label)[8:, 8:])
        assert np.array_equal(ten[9], image[:, ::-1])


@pytest.mark.parametrize("color", ["jitter", "pca"])
def test_color_ends_where_asked(jpegs, color):
    plain, labels = take(jpegs, 15)
    colored, same_labels = take(jpegs, 15, color=color, color_until_epoch=1.2)
    assert np.array_equal(labels, same_labels)
    changed = (plain != colored).any((1, 2, 3))
    assert changed[:36].mean() > 0.8
    assert not changed[36:].any()


def test_arguments_are_checked(jpegs, tmp_path):
    with pytest.raises(UserError, match="holds no examples"):
        take(write(tmp_path, [], (0, 0)), 1)
    with pytest.raises(UserError, match="views must be 1 or 10"):
        evaluation_batches(jpegs, "train", global_batch_size=1, views=5)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_data_service_gives_every_example_once_an_epoch(jpegs, num_workers):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    address = dispatcher.target.split("://")[1]
    workers = [
        service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
        for _ in range(num_workers)
    ]
    options = {"color": "jitter", "data_service": dispatcher.target}
    images, labels = take(jpegs, 100, **options)
    assert images.shape == (400, CROP, CROP, 3)
    # No worker repeats another: an example's augmentations all differ.
    assert len({image.tobytes() for image in images}) == 400
    if num_workers == 1:
        assert same((images, labels), take(jpegs, 100, color="jitter"))
    del workers, dispatcher


def test_timed_next_adds_up_the_time_of_next():
    def slow(x):
        sum(range(1_000_000))
        return x

    def slowly(x):
        return tf.ensure_shape(tf.numpy_function(slow, [x], tf.int64), [])

    waited = tf.Variable(0.0, dtype=tf.float64)

    @tf.function
    def run(batches, steps, step):
        total = tf.constant(0, tf.int64)
        for _ in tf.range(steps):
            total += step(timed_next(batches, waited))
        return total

    def share_of_waiting(dataset, step):
        batches = iter(dataset)
        run(batches, tf.constant(1), step)
        waited.assign(0.0)
        start = tf.timestamp()
        assert run(batches, tf.constant(10), step) == sum(range(1, 11))
        return float(waited / (tf.timestamp() - start))

    numbers = tf.data.Dataset.range(100)
    assert 0.5 < share_of_waiting(numbers.map(slowly), tf.identity) <= 1
    assert 0 < share_of_waiting(numbers, slowly) < 0.5


def test_timed_next_is_not_charged_with_the_step_where_there_is_one_thread(tmp_path):
    # In a file: AutoGraph reads its source.
    (tmp_path / "steps.py").write_text("""
import time
import tensorflow as tf
from alexnet_tf.pipeline.batches import timed_next
waited, matrix = tf.Variable(0.0, dtype=tf.float64), tf.random.normal([700, 700])
@tf.function
def run(batches):
    for _ in tf.range(5):
        product = matrix + tf.cast(timed_next(batches, waited), tf.float32)
        for _ in range(4):
            product = tf.matmul(product, matrix)
        if tf.reduce_sum(product) == 0.5:
            break
batches = iter(tf.data.Dataset.range(100))
run(batches)
waited.assign(0.0)
start = time.perf_counter()
run(batches)
print(float(waited) / (time.perf_counter() - start))
""")
    one_thread = {"TF_NUM_INTEROP_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    code = "import runpy; runpy.run_path(sys.argv[1])"
    process = python(code, tmp_path / "steps.py", env=os.environ | one_thread)
    output, error = process.communicate()
    assert float(output) < 0.5, error
