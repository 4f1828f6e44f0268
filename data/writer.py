"""Writes records as a TensorFlow Datasets directory, through TFDS's own writer."""

import dataclasses
import os
import resource

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
from data.transcode import Options, Record

# A split larger than this is shuffled on disk (TFDS would take a gigabyte of memory).
shuffle.MAX_MEM_BUFFER_SIZE = 64 << 20
_FILE_FORMAT = file_adapters.FileFormat.TFRECORD


@dataclasses.dataclass(frozen=True)
class _ShardConfig(shard_utils.ShardConfig):
    def get_number_shards(self, total_size, num_examples, *args, **kwargs):
        num_shards = super().get_number_shards(
            total_size, num_examples, *args, **kwargs
        )
        return min(num_shards, num_examples)


class DataSetWriter:
    """Shuffles records by the hash of (seed, split, name) and writes them in shards."""

    def __init__(
        self,
        directory: str,
        source: Source,
        options: Options,
        num_shards: int | None,
        seed: int,
    ):
        self._directory = directory
        self._source = source
        self._num_shards = num_shards
        self._seed = seed
        self._writers = {}
        shape = (options.image_size, options.image_size, 3)
        image = (
            tfds.features.Tensor(
                shape=shape, dtype="uint8", encoding=tfds.features.Encoding.BYTES
            )
            if options.encoding == "raw"
            else tfds.features.Image(shape=shape, encoding_format="jpeg")
        )
        self._features = tfds.features.FeaturesDict(
            {
                "image": image,
                "label": tfds.features.ClassLabel(names=list(source.class_names)),
                "file_name": tfds.features.Text(),
            }
        )
        # The shuffle on disk keeps a thousand files open for each split.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    def add(self, record: Record) -> None:
        """Writes one record."""
        if record.split not in self._writers:
            self._writers[record.split] = self._split_writer(record.split)
        # Pictures and labels are encoded already, as the features would do it.
        example = {
            "image": record.image,
            "label": record.label,
            "file_name": record.name,
        }
        self._writers[record.split].write(record.name.encode(), example)

    def _split_writer(self, split: str) -> writer.Writer:
        return writer.Writer(
            serializer=example_serializer.ExampleSerializer(
                self._features.get_serialized_info()
            ),
            filename_template=self._filename_template(split),
            hash_salt=f"{self._seed} {split}",
            disable_shuffling=False,
            example_writer=writer.ExampleWriter(file_format=_FILE_FORMAT),
            shard_config=_ShardConfig(num_shards=self._num_shards),
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
                data_dir=os.fspath(self._directory),
                module_name="data.prepare",
            ),
            features=self._features,
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(metadata),
        )
        info.set_file_format(_FILE_FORMAT)
        info.set_splits(splits.SplitDict(infos))
        info.write_to_directory(self._directory)
