"""The pictures of a data set written in other ways, for the benchmarks."""

import dataclasses
import io
import os

import PIL.Image
import tensorflow as tf

from alexnet_tf.pipeline.data_set import Split
from alexnet_tf.pipeline.reading import parse_record


def with_train(data_set, filenames, lengths, **changes):
    """The data set with another training split, of the same statistics."""
    split = Split("train", tuple(filenames), tuple(lengths))
    return dataclasses.replace(data_set, splits={"train": split}, **changes)


def write_records(path, data_set, examples, **changes):
    """Writes (image bytes, label) into one shard; returns it as a data set."""
    count = 0
    with tf.io.TFRecordWriter(path) as writer:
        for image_bytes, label in examples:
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_bytes]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
            feature = {"image": image, "label": label}
            features = tf.train.Features(feature=feature)
            writer.write(tf.train.Example(features=features).SerializeToString())
            count += 1
    return with_train(data_set, [path], [count], **changes)


def convert(data_set, folder):
    """Writes the pictures as files in folders of classes, and as raw records."""
    pictures = []
    for record in tf.data.TFRecordDataset(data_set.splits["train"].filenames):
        image_bytes, label = (x.numpy() for x in parse_record(record))
        path = f"{folder}/files/{label}/{len(pictures)}.jpg"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(image_bytes)
        image = PIL.Image.open(io.BytesIO(image_bytes)).convert("RGB")
        pictures.append((image.tobytes(), int(label)))
    return write_records(f"{folder}/raw", data_set, pictures, encoding="raw")
