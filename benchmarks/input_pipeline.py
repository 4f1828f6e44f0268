"""Images per second of the input pipeline, beside its parts and its peers.

    python benchmarks/input_pipeline.py --data_dir=… [--torch]

Everything is measured on the same pictures, those of the training split of `--data_dir`
(JPEG records of 256×256), in turns, in one process; the figures are medians over the
turns. "raw" are the same pictures as uncompressed records. The peers: the colour
operations of `tf.image` one by one, `keras.utils.image_dataset_from_directory` with
Keras' preprocessing layers, and PIL with torchvision's definitions of the same
transforms in one process a core: to uint8 pixels by `multiprocessing`, and with
`--torch` by `torch.utils.data.DataLoader`, also to the normalised floats that PyTorch's
own ImageNet example feeds to AlexNet (ToTensor, Normalize). Ours leaves that to the
model.

"of crop's speed" compares CPU seconds, what decides where all cores are busy and what
other load disturbs least: turn by turn, then the median. Last, what it takes to start
late in an epoch, and the peak memory.
"""

import dataclasses
import gc
import glob
import multiprocessing
import os
import random
import re
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import keras
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import tensorflow as tf
from absl import app, flags

from alexnet_tf.pipeline import augmentation
from alexnet_tf.pipeline.batches import training_batches
from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.pipeline.reading import parse_record
from alexnet_tf.recipes import RECIPES
from benchmarks.records import convert, with_train

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared set.", required=True)
_TORCH = flags.DEFINE_bool("torch", False, "Measure torch's DataLoader too.")
_PEERS = flags.DEFINE_bool("peers", True, "Measure the peers too.")
_TURNS = flags.DEFINE_integer("turns", 3, "Turns; medians are printed.")
_IMAGES = flags.DEFINE_integer("images", 3000, "Images of a turn.")
_BATCH = 128
_RECIPE = dataclasses.replace(RECIPES["paper"], global_batch_size=_BATCH)
_LARGE = 15_000  # examples; more than a window
_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
_IMAGENET_MEAN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def records(data_set):
    """The records of the training split, endless."""
    return tf.data.TFRecordDataset(data_set.splits["train"].filenames).repeat()


def mapped(dataset, function):
    """Batches of what `function` makes of each element, in parallel."""
    return dataset.map(function, tf.data.AUTOTUNE).batch(_BATCH).prefetch(2)


def decode_only(data_set):
    """`tf.io.decode_jpeg` alone."""
    return mapped(
        records(data_set),
        lambda r: tf.io.decode_jpeg(parse_record(r)[0], **_JPEG),
    )


def random_window():
    """Top, left, height and width of a random crop."""
    corner = tf.random.uniform([2], 0, 33, tf.int32)
    return tf.concat([corner, [224, 224]], 0)


def decode_and_crop(data_set):
    """`tf.io.decode_and_crop_jpeg`, or a slice of raw pixels."""

    def function(record):
        image_bytes, label = parse_record(record)
        window = random_window()
        if data_set.encoding == "raw":
            image = tf.reshape(tf.io.decode_raw(image_bytes, tf.uint8), (256, 256, 3))
            begin = [window[0], window[1], 0]
            return tf.slice(image, begin, [224, 224, 3]), label
        return tf.io.decode_and_crop_jpeg(image_bytes, window, **_JPEG), label

    return mapped(records(data_set), function)


def tf_image(data_set):
    """Decode, crop, and `tf.image` one operation after another."""

    def function(record):
        image_bytes, label = parse_record(record)
        image = tf.io.decode_jpeg(image_bytes, **_JPEG)
        image = tf.image.random_crop(image, [224, 224, 3])
        image = tf.image.random_flip_left_right(image)
        image = tf.image.convert_image_dtype(image, tf.float32)
        image = tf.image.random_brightness(image, augmentation.BRIGHTNESS)
        image = tf.image.random_contrast(image, *augmentation.CONTRAST)
        image = tf.image.random_saturation(image, *augmentation.SATURATION)
        return tf.image.convert_image_dtype(image, tf.uint8, saturate=True), label

    return mapped(records(data_set), function)


def keras_layers(folder):
    """Keras' own loader and layers, called in `map` as its guides do."""
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(256, 256), batch_size=_BATCH, verbose=False
    )
    layers = [
        keras.layers.RandomCrop(224, 224),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomBrightness(augmentation.BRIGHTNESS),
        keras.layers.RandomContrast(0.4),
        keras.layers.RandomSaturation((0.3, 0.7), value_range=(0, 255)),
    ]

    def function(images, labels):
        for layer in layers:
            images = layer(images, training=True)
        return tf.saturate_cast(images, tf.uint8), labels

    return dataset.repeat().map(function, tf.data.AUTOTUNE).prefetch(2)


def pil_transform(filename):
    """RandomCrop, RandomHorizontalFlip and ColorJitter, as torchvision defines them."""
    image = PIL.Image.open(filename).convert("RGB")
    left, top = (random.randint(0, side - 224) for side in image.size)
    image = image.crop((left, top, left + 224, top + 224))
    if random.random() < 0.5:
        image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    brightness = 1 + random.uniform(-1, 1) * augmentation.BRIGHTNESS
    for operation, factor in [
        (PIL.ImageEnhance.Brightness, brightness),
        (PIL.ImageEnhance.Contrast, random.uniform(*augmentation.CONTRAST)),
        (PIL.ImageEnhance.Color, random.uniform(*augmentation.SATURATION)),
    ]:
        image = operation(image).enhance(factor)
    return np.asarray(image)


def to_normalized_tensor(image):
    """ToTensor and Normalize, as torchvision defines them."""
    import torch

    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    tensor = tensor.to(torch.float32).div(255)
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in _IMAGENET_MEAN_STD)
    return tensor.sub_(mean).div_(std)


class PILFiles:
    """A data set as torch wants it: pictures by index."""

    def __init__(self, filenames, normalize):
        self.filenames = filenames
        self.normalize = normalize

    def __len__(self):
        return len(self.filenames)

    def __getitem__(self, index):
        image = pil_transform(self.filenames[index])
        return to_normalized_tensor(image.copy()) if self.normalize else image


def pil_batch(filenames):
    """One batch, made by one process."""
    return np.stack([pil_transform(name) for name in filenames])


def repeated_files(folder):
    """The pictures' files over and over, more than are measured."""
    filenames = sorted(glob.glob(f"{folder}/*/*.jpg"))
    wanted = 20 * _IMAGES.value
    return (filenames * (1 + wanted // len(filenames)))[:wanted]


def pil_loader(folder):
    """Endless batches out of one process a core, started afresh."""
    names = repeated_files(folder)
    parts = [names[i : i + _BATCH] for i in range(0, len(names), _BATCH)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.imap(pil_batch, parts)


def torch_loader(folder, normalize):
    """The same by torch."""
    import torch.utils.data

    return torch.utils.data.DataLoader(
        PILFiles(repeated_files(folder), normalize),
        batch_size=_BATCH,
        num_workers=os.cpu_count(),
        multiprocessing_context="spawn",
    )


def measure(batches):
    """Returns what runs one turn: seconds of the clock and of the CPU, an image."""
    iterator = iter(batches)
    for _ in range(4):
        next(iterator)

    def cpu_seconds():  # the other processes' too, which are still running
        total = time.process_time()
        for child in multiprocessing.active_children():
            with open(f"/proc/{child.pid}/stat") as file:
                ticks = file.read().rsplit(")", 1)[1].split()[11:13]
            total += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return total

    def turn():
        images, start, cpu_start = 0, time.perf_counter(), cpu_seconds()
        while images < _IMAGES.value:
            batch = next(iterator)
            images += len(batch[0] if isinstance(batch, tuple | list) else batch)
        seconds = time.perf_counter() - start
        return seconds / images, (cpu_seconds() - cpu_start) / images

    return turn


def enlarge(data_set, path):
    """The same records over and over, in one large shard: nothing to jump over."""
    train = data_set.splits["train"]
    copies = -(-_LARGE // train.num_examples)
    with open(path, "wb") as shard:
        for _ in range(copies):
            for name in train.filenames:
                with open(name, "rb") as file:
                    shard.write(file.read())
    return with_train(data_set, [path], [copies * train.num_examples])


def seconds_to_first_batch(data_set, step):
    """How long it takes to start at a step."""
    start = step * _RECIPE.global_batch_size
    batches = training_batches(data_set, _RECIPE, seed=0, start=start)
    start = time.perf_counter()
    next(iter(batches))
    return time.perf_counter() - start


def peak_memory(data_set):
    """GiB of its own that this process has held, going through more than two windows.

    Pages of mapped files are not its own: the system takes them back when it likes.
    """
    peak = 0
    batches = training_batches(data_set, _RECIPE, seed=0)
    for _ in batches.take(_LARGE // _BATCH):
        with open("/proc/self/status") as file:
            peak = max(peak, int(re.search(r"RssAnon:\s*(\d+)", file.read())[1]))
    return peak / 2**20


def main(_):
    """Measures and prints."""
    data_set = open_data_set(_DATA_DIR.value)
    with tempfile.TemporaryDirectory() as folder:
        raw = convert(data_set, folder)

        def ours(data, color, cache=False):
            recipe = dataclasses.replace(_RECIPE, color=color)
            return training_batches(data, recipe, seed=0, cache=cache)

        rows = {
            "decode only": lambda: decode_only(data_set),
            "decode + crop": lambda: decode_and_crop(data_set),
            "ours, --color=none": lambda: ours(data_set, "none"),
            "ours, --color=jitter": lambda: ours(data_set, "jitter"),
            "ours, --color=pca": lambda: ours(data_set, "pca"),
            "raw: crop": lambda: decode_and_crop(raw),
            "raw: ours, --color=none": lambda: ours(raw, "none"),
            "raw: ours, --color=jitter": lambda: ours(raw, "jitter"),
            "cached: ours, --color=none": lambda: ours(data_set, "none", True),
            "cached: ours, --color=jitter": lambda: ours(data_set, "jitter", True),
        }
        if _PEERS.value:
            rows["tf.image, one by one"] = lambda: tf_image(data_set)
            files = f"{folder}/files"
            rows["Keras loader and layers"] = lambda: keras_layers(files)
            rows["PIL, a process a core"] = lambda: pil_loader(files)
            if _TORCH.value:
                rows["torch, PIL to uint8"] = lambda: torch_loader(files, False)
                rows["torch, PIL to floats"] = lambda: torch_loader(files, True)
        results = {name: [] for name in rows}
        for _ in range(_TURNS.value):
            for name, make in rows.items():
                results[name].append(measure(make())())
                gc.collect()  # or its buffers stay
                for child in multiprocessing.active_children():
                    child.terminate()
        print(f"{'':32}images/s  CPU s / 1,000  of crop's speed")
        per_image = {
            name: [statistics.median(x) for x in zip(*turns, strict=True)]
            for name, turns in results.items()
        }
        crops = results["decode + crop"]
        for name, (seconds, cpu) in per_image.items():
            pairs = zip(crops, results[name], strict=True)
            ratio = statistics.median(crop[1] / own[1] for crop, own in pairs)
            print(f"{name:32}{1 / seconds:8.0f}{1000 * cpu:15.3f}{ratio:12.2f}")
        print()
        for data in (data_set, raw):
            large = enlarge(data, f"{folder}/large")
            last = large.splits["train"].num_examples // _BATCH - 1
            seconds_to_first_batch(large, 0)  # the file into the system's memory
            first, later = (seconds_to_first_batch(large, step) for step in (0, last))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak = pool.apply(peak_memory, [large])
            prefix = "raw: " if data is raw else ""
            through = last * _BATCH * per_image[prefix + "ours, --color=jitter"][0]
            print(
                f"{data.encoding}: first batch {first:.2f} s from the start, "
                f"{later:.2f} s after {last * _BATCH:,} examples "
                f"(going through them: {through:.1f} s); peak memory {peak:.2f} GiB"
            )


if __name__ == "__main__":
    app.run(main)
