"""Writes records as a TensorFlow Datasets directory, through TFDS's own writers.

These are TFDS's private modules. The public `tfds.dataset_builders` cannot carry this:
they write one split after another where ours come mixed (every picture would have to be
decoded twice), take no seed for the order and no metadata, leave the order of a
record's features to chance, and hold a gigabyte in memory before they use the disk.
"""

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import (
    dataset_info,
    example_serializer,
    file_adapters,
    naming,
    shuffle,
    splits,
    writer,
)
from tensorflow_datasets.core.utils import shard_utils

from data.source import Source
from data.transcode import Options, Record, transcode

# A split larger than this is shuffled on disk (TFDS would take a gigabyte of memory).
shuffle.MAX_MEM_BUFFER_SIZE = 16 << 20
_FILE_FORMAT = file_adapters.FileFormat.TFRECORD
_RECORDS = "beam-records"  # what became of the pictures, for a moment


@dataclasses.dataclass(frozen=True)
class _ShardConfig(shard_utils.ShardConfig):
    """No shard is empty, and Beam makes as many as the writer without it."""

    def get_number_shards(self, total_size, num_examples, **_):
        return min(super().get_number_shards(total_size, num_examples), num_examples)


class _Serializer(example_serializer.ExampleSerializer):
    """Gives the same bytes in every run; TFDS leaves the order to chance."""

    def serialize_example(self, example: dict) -> bytes:
        """Returns a serialised `tf.train.Example`."""
        return self.get_tf_example(example).SerializeToString(deterministic=True)


class DataSetWriter:
    """Shuffles records by the hash of (seed, split, name) and writes them in shards."""

    def __init__(
        self,
        directory: str,
        source: Source,
        options: Options,
        num_shards: int | None = None,
        seed: int = 0,
    ):
        self._directory = directory
        self._source = source
        self._options = options
        self._shard_config = _ShardConfig(num_shards=num_shards)
        self._seed = seed
        self._features = _features(source, options)
        self._writers = {}

    def write(self, records: Iterator[Record]) -> None:
        """Takes the records on, those in memory or in temporary files."""
        # The shuffle on disk keeps a thousand files open for each split.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        for record in records:
            if record.split not in self._writers:
                self._writers[record.split] = self._split_writer(
                    writer.Writer, record.split
                )
            self._writers[record.split].write(*_example(record))

    def write_with_beam(
        self, beam_options: Sequence[str], thresholds: Mapping[int, int]
    ) -> Iterator[Record]:
        """Prepares the pictures in a Beam pipeline instead.

        Args:
            thresholds: As `transcode` takes them.
            beam_options: Such as `--runner=DataflowRunner`; by default Beam's runner
                inside this process.

        Returns:
            What became of the pictures, without the pictures themselves.
        """
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        options, source = self._options, self._source
        runner = None if any("runner" in o for o in beam_options) else FnApiRunner()
        pipeline_options = PipelineOptions(list(beam_options))
        log = os.path.join(self._directory, _RECORDS)
        with beam.Pipeline(runner, pipeline_options) as pipeline:
            records = (
                pipeline
                | beam.Create(source.parts)
                | "Spread parts" >> beam.Reshuffle()
                | beam.FlatMap(source.items)
                | "Spread pictures" >> beam.Reshuffle()
                | beam.FlatMap(lambda item: transcode([item], options, thresholds))
            )
            for split in source.splits:
                self._writers[split] = self._split_writer(writer.BeamWriter, split)
                (
                    records
                    | f"Select {split}"
                    >> beam.Filter(lambda r, s=split: r.split == s and not r.rejected)
                    | f"Example {split}" >> beam.Map(_example)
                    | f"Write {split}"
                    >> beam.ptransform_fn(
                        lambda examples, w: w.write_from_pcollection(examples)
                    )(self._writers[split])
                )
            (records | beam.Map(_to_json) | beam.io.WriteToText(log))
        for name in sorted(tf.io.gfile.listdir(self._directory)):
            if name.startswith(_RECORDS):
                path = os.path.join(self._directory, name)
                with tf.io.gfile.GFile(path) as lines:
                    yield from map(_from_json, lines)
                tf.io.gfile.remove(path)

    def _split_writer(self, kind: type, split: str) -> writer.Writer:
        return kind(
            serializer=_Serializer(self._features.get_serialized_info()),
            filename_template=self._filename_template(split),
            hash_salt=f"{self._seed} {split}",
            disable_shuffling=False,
            example_writer=writer.ExampleWriter(file_format=_FILE_FORMAT),
            shard_config=self._shard_config,
        )

    def _filename_template(self, split: str) -> naming.ShardedFileTemplate:
        return naming.ShardedFileTemplate(
            data_dir=self._directory,
            dataset_name=self._source.name,
            split=split,
            filetype_suffix=_FILE_FORMAT.value,
        )

    def finish(self, metadata: dict) -> None:
        """Writes the shards and, last, what makes the directory a data set."""
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        infos = []
        for split in sorted(self._writers):
            shard_lengths, num_bytes = self._writers[split].finalize()
            infos.append(
                splits.SplitInfo(
                    name=split,
                    shard_lengths=shard_lengths,
                    num_bytes=num_bytes,
                    filename_template=self._filename_template(split),
                )
            )
        info = tfds.core.DatasetInfo(
            builder=dataset_info.DatasetIdentity(
                name=self._source.name,
                version=tfds.core.Version("1.0.0"),
                data_dir=self._directory,
                module_name="data.prepare",
            ),
            features=self._features,
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(metadata),
        )
        info.set_file_format(_FILE_FORMAT)
        info.set_splits(splits.SplitDict(infos))
        info.write_to_directory(self._directory)


def _features(source: Source, options: Options) -> tfds.features.FeaturesDict:
    shape = (options.image_size, options.image_size, 3)
    if options.encoding == "raw":
        as_bytes = tfds.features.Encoding.BYTES
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=as_bytes)
    else:
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    return tfds.features.FeaturesDict(
        {
            "image": image,
            "label": tfds.features.ClassLabel(names=list(source.class_names)),
            "file_name": tfds.features.Text(),
        }
    )


def _example(record: Record) -> tuple[bytes, dict]:
    """Returns the key of the shuffle, and the example as the features encode it."""
    example = {"image": record.image, "label": record.label, "file_name": record.name}
    return record.name.encode(), example


def _to_json(record: Record) -> str:
    facts = record._replace(image=b"", digest=record.digest.hex())._asdict()
    return json.dumps(facts | {"image": ""})


def _from_json(line: str) -> Record:
    facts = json.loads(line)
    facts["digest"] = bytes.fromhex(facts["digest"])
    facts["conversions"] = tuple(facts["conversions"])
    return Record(**facts | {"image": b""})
