"""Writes records in shards, in random order, and the card of the data set last.

The order on disk is that of a hash of (seed, split, name), and the range of that hash
is cut into as many equal parts as there are shards. So the same pictures become the
same bytes on any number of processes or machines, and no process needs all of them:
records are first put into bucket files by their hash, and a shard is made of the
buckets of its part, sorted one at a time in memory.
"""

import array
import ast
import collections
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from alexnet_tf.pipeline import data_set as reader
from data.pixels import measure_pixels
from data.source import Item, Source
from data.transcode import Options, Record

_BUCKETS = 2**10  # for each split; of ImageNet's raw pixels, one has 250 MB
_MAX_SHARDS, _SHARD_BYTES = 2**10, 2**26
_KEY_BITS = 63  # of the hash: Beam takes no larger integer
_HEADER = struct.Struct("<QQ")  # in a bucket: of a record the hash, and its length
_LOG = "beam-records"  # what became of the pictures, for a moment


class DataSetWriter:
    """Writes one data set: the records, then what `finish` adds to them."""

    def __init__(self, directory: str, source: Source, options: Options):
        self._directory, self._source, self._options = directory, source, options
        self._shards = _Shards(directory, source.name, options)
        self._labels = range(len(source.class_names))
        self._keys = collections.defaultdict(lambda: array.array("Q"))  # by split
        self._num_bytes = collections.Counter()  # by split
        self._class_counts = collections.Counter()  # by split and label

    def write(self, records: Iterable[Record]) -> None:
        """Writes the shards of all splits."""
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=".") as buckets:
            for record in records:
                key, example = self._count(record), _serialize(record)
                path = os.path.join(buckets, _bucket(record.split, key))
                with open(path, "ab") as bucket:
                    bucket.write(_HEADER.pack(key, len(example)) + example)
            for split in self._keys:
                _write_shards(self._paths(split), _read_buckets(buckets, split))

    def write_with_beam(
        self,
        beam_options: Sequence[str],
        work: Callable[[Sequence[Item]], list[Record]],
    ) -> Iterator[Record]:
        """Prepares the pictures in a Beam pipeline instead.

        Args:
            beam_options: Such as `--runner=DataflowRunner`; by default Beam's runner
                inside this process.
            work: `transcode` with all that it takes but the pictures.

        Returns:
            What became of the pictures, without the pictures themselves.
        """
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        runner = None if any("runner" in o for o in beam_options) else FnApiRunner()
        log = os.path.join(self._directory, _LOG)
        with beam.Pipeline(runner, PipelineOptions(list(beam_options))) as pipeline:
            records = (
                pipeline
                | beam.Create(self._source.parts)
                | "Spread parts" >> beam.Reshuffle()
                | beam.FlatMap(self._source.items)
                | "Spread pictures" >> beam.Reshuffle()
                | beam.FlatMap(lambda item: work([item]))
                | "Keep pictures" >> beam.Reshuffle()  # used twice, made once
            )
            good = records | beam.Filter(lambda record: not record.rejected)
            sizes = good | beam.Map(lambda r: (r.split, r.num_bytes))
            sizes = beam.pvalue.AsDict(sizes | beam.CombinePerKey(sum))
            shards = good | beam.Map(self._shards.place, sizes) | beam.GroupByKey()
            shards | beam.MapTuple(
                lambda path, group: _write_shard(path, sorted(group))
            )
            rest = records | beam.Map(lambda record: tuple(record._replace(image=b"")))
            rest | beam.Map(repr) | beam.io.WriteToText(log)
        yield from self._read_log()
        for path in itertools.chain(*map(self._paths, self._keys)):
            if not tf.io.gfile.exists(path):  # no record's hash is in its part
                _write_shard(path, [])

    def _read_log(self) -> Iterator[Record]:
        """Yields, and counts, what became of the pictures; removes the log of it."""
        for name in sorted(tf.io.gfile.listdir(self._directory)):
            if not name.startswith(_LOG):
                continue
            path = os.path.join(self._directory, name)
            with tf.io.gfile.GFile(path) as lines:
                for line in lines:
                    record = Record(*ast.literal_eval(line))
                    if not record.rejected:
                        self._count(record)
                    yield record
            tf.io.gfile.remove(path)

    def _count(self, record: Record) -> int:
        """Counts a record, and returns the hash that orders it."""
        key = self._shards.key(record)
        self._keys[record.split].append(key)
        self._num_bytes[record.split] += record.num_bytes
        self._class_counts[record.split, record.label] += 1
        return key

    def _paths(self, split: str) -> list[str]:
        return self._shards.paths(split, self._num_bytes[split])

    def finish(self) -> None:
        """Describes the shards, and writes last the card, which makes a data set."""
        splits = {split: self._describe(split) for split in sorted(self._keys)}
        self._write_tfds_metadata(splits)
        card = {
            "format": reader.FORMAT,
            "version": reader.VERSION,
            "name": self._source.name,
            "class_names": list(self._source.class_names),
            "image_size": self._options.image_size,
            "encoding": self._options.encoding,
            "fit": self._options.fit,
            "resampling": self._options.resampling,
            "splits": splits,
            "statistics": reader.STATISTICS_FILE if "train" in splits else None,
            "source": {**self._source.metadata, **vars(self._options)},
        }
        if "train" in splits:
            content = io.BytesIO()
            data_set = reader.from_card(card, self._directory)
            np.savez(content, **vars(measure_pixels(data_set)))
            self._write_file(reader.STATISTICS_FILE, content.getvalue())
        self._write_file(reader.CARD_FILE, json.dumps(card, indent=1).encode())

    def _write_file(self, name: str, content: bytes) -> None:
        with tf.io.gfile.GFile(os.path.join(self._directory, name), "wb") as file:
            file.write(content)

    def _describe(self, split: str) -> dict:
        """What the card says of a split."""
        paths = self._paths(split)
        shards = [_part(key, len(paths)) for key in self._keys[split]]
        return {
            "shards": [os.path.basename(path) for path in paths],
            "shard_lengths": np.bincount(shards, minlength=len(paths)).tolist(),
            "class_counts": [self._class_counts[split, i] for i in self._labels],
        }

    def _write_tfds_metadata(self, splits: dict[str, dict]) -> None:
        """Writes that by which TFDS opens the directory, too."""
        shape = (self._options.image_size, self._options.image_size, 3)
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
        if self._options.encoding == "raw":
            as_bytes = tfds.features.Encoding.BYTES
            image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=as_bytes)
        label = tfds.features.ClassLabel(names=list(self._source.class_names))
        name = tfds.features.Text()
        tfds.folder_dataset.write_metadata(
            data_dir=self._directory,
            features={"image": image, "label": label, "file_name": name},
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=facts["shard_lengths"],
                    num_bytes=self._num_bytes[split],
                )
                for split, facts in splits.items()
            ],
            supervised_keys=("image", "label"),
            check_data=False,
        )


@dataclasses.dataclass(frozen=True)
class _Shards:
    """Which shard, and which place in it, a record has.

    Attributes:
        directory: The data set's directory.
        name: The data set's name.
        options: They have the number of shards, and the seed of the order.
    """

    directory: str
    name: str
    options: Options

    def key(self, record: Record) -> int:
        """The hash that orders a record."""
        text = f"{self.options.seed} {record.split} {record.name}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 64 - _KEY_BITS

    def paths(self, split: str, num_bytes: int) -> list[str]:
        """The shards of a split with so many bytes of pictures."""
        fitting = 2 ** int(math.log2(max(1, num_bytes / _SHARD_BYTES)))
        number = self.options.num_shards or min(fitting, _MAX_SHARDS)
        start = os.path.join(self.directory, f"{self.name}-{split}.tfrecord")
        return [f"{start}-{i:05d}-of-{number:05d}" for i in range(number)]

    def place(
        self, record: Record, sizes: Mapping[str, int]
    ) -> tuple[str, tuple[int, bytes]]:
        """The shard of a record, and there (its hash, its example)."""
        paths, key = self.paths(record.split, sizes[record.split]), self.key(record)
        return paths[_part(key, len(paths))], (key, _serialize(record))


def _part(key: int, number: int) -> int:
    """In which of so many equal parts of their range a hash is."""
    return key * number >> _KEY_BITS


def _bucket(split: str, key: int) -> str:
    return f"{split}-{_part(key, _BUCKETS):04d}"


def _read_buckets(directory: str, split: str) -> Iterator[tuple[int, bytes]]:
    """Yields (hash, example) in order, and removes what was read."""
    for number in range(_BUCKETS):
        path = os.path.join(directory, f"{split}-{number:04d}")
        if os.path.exists(path):
            records = []
            with open(path, "rb") as bucket:
                while header := bucket.read(_HEADER.size):
                    key, length = _HEADER.unpack(header)
                    records.append((key, bucket.read(length)))
            os.remove(path)
            yield from sorted(records)


def _write_shards(paths: Sequence[str], records: Iterator[tuple[int, bytes]]) -> None:
    for path in paths:
        _write_shard(path, [])  # where no record's hash is in its part
    for number, group in itertools.groupby(
        records, lambda record: _part(record[0], len(paths))
    ):
        _write_shard(paths[number], group)


def _write_shard(path: str, records: Iterable[tuple[int, bytes]]) -> None:
    with tf.io.TFRecordWriter(path) as writer:
        for _, example in records:
            writer.write(example)


def _serialize(record: Record) -> bytes:
    def feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    label = tf.train.Feature(int64_list=tf.train.Int64List(value=[record.label]))
    features = {"image": feature(record.image), "label": label}
    features["file_name"] = feature(record.name.encode())
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)
