"""The network and a run as Keras users expect them."""

import functools
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import alexnet

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
CLASSES = 3


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), np.uint8)


LABELS = np.arange(8) % CLASSES


def make_model(**kwargs):
    return alexnet(
        CLASSES, "torchvision", width=0.05, dropout_rate=0.0, seed=0, **kwargs
    )


def compile_and_fit(model, images, **kwargs):
    """Two epochs of one step of plain Keras; the losses."""
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    data = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(len(images))
    return model.fit(data, epochs=2, verbose=0).history["loss"]


def expected_losses(model, images):
    """The same by hand, on another copy of the weights."""
    variables = model.trainable_variables
    losses = []
    for _ in range(2):
        with tf.GradientTape() as tape:
            log_p = tf.nn.log_softmax(model(images, training=True))
            loss = -tf.reduce_mean(tf.gather(log_p, LABELS, axis=1, batch_dims=1))
        losses.append(float(loss))
        for variable, gradient in zip(
            variables, tape.gradient(loss, variables), strict=True
        ):
            variable.assign_sub(0.01 * gradient)
    return losses


def test_fit_trains_as_by_hand_whatever_runs_it(images):
    expected = expected_losses(make_model(), images)
    assert expected[1] < expected[0]
    assert compile_and_fit(make_model(), images) == pytest.approx(expected, rel=1e-4)
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        mirrored = make_model()
    losses = compile_and_fit(mirrored, images, jit_compile=False)
    assert losses == pytest.approx(expected, rel=1e-4)


def test_jit_compile_gives_the_same():
    images = tf.random.stateless_uniform((2, 224, 224, 3), (0, 1), 0, 255)
    model = alexnet(CLASSES, "paper", width=0.03, seed=0)
    compiled = tf.function(model, jit_compile=True)(images)
    np.testing.assert_allclose(compiled, model(images), atol=1e-5)
    model = make_model()
    losses = compile_and_fit(model, np.repeat(images, 4, 0), jit_compile=True)
    again = compile_and_fit(make_model(), np.repeat(images, 4, 0))
    assert losses == pytest.approx(again, rel=1e-4)


SCALED = r"reads RGB pixels 0\.\.255 .* of this batch are 0\.\.1: multiply them by 255"


@pytest.mark.parametrize("way", ["fit", "run_eagerly", "rescaled", "mirrored", "call"])
def test_training_refuses_pixels_in_0_to_1(images, way):
    model, pixels = make_model(), images / 255
    if way == "rescaled":
        first = [keras.Input((224, 224, 3)), keras.layers.Rescaling(1 / 255)]
        model, pixels = keras.Sequential([*first, model]), images
    elif way == "mirrored":
        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )
        with strategy.scope():
            model = make_model()
    train = functools.partial(compile_and_fit, run_eagerly=way == "run_eagerly")
    if way == "call":
        train = functools.partial(keras.Model.__call__, training=True)
    before = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match=SCALED):
        train(model, pixels)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_pixels_in_0_to_1_give_no_loss_where_xla_compiles(images):
    losses = compile_and_fit(make_model(), images / 255, jit_compile=True)
    assert np.isnan(losses).all()


@pytest.mark.parametrize("largest", [0.0, 1.01, 255.0])
def test_black_pictures_and_pixels_above_1_are_trained_on(images, largest):
    pixels = images / 255.0 * largest
    expected = make_model()(pixels, training=False)  # without dropout the same
    found = make_model()(pixels, training=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_only_training_looks_at_the_pixels(images, tmp_path):
    model = make_model(dtype="mixed_bfloat16")
    for copy in (model, keras.models.clone_model(model)):
        for training, number in ((True, 1), (False, 0), (None, 0)):
            call = tf.function(lambda x, m=copy, t=training: m(x, training=t))
            graph = call.get_concrete_function(tf.zeros((2, 224, 224, 3))).graph
            ops = [operation.type for operation in graph.get_operations()]
            assert ops.count("CheckNumerics") == number
    model.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    for name in ("exported", "saved"):
        found = (tmp_path / name / "saved_model.pb").read_bytes()
        assert b"Conv2D" in found
        assert b"CheckNumerics" not in found


def test_a_clone_and_a_copy_of_the_disk_are_the_same_network(images, tmp_path):
    model = alexnet(CLASSES, "original", width=0.05, seed=0)
    mean = model.get_layer("input_normalization").mean
    mean.assign(np.random.default_rng(1).uniform(0, 255, mean.shape))
    expected = model(images[:2]).numpy()
    clone = keras.models.clone_model(model)
    layer = clone.get_layer("input_normalization")  # begins with the mean's colour
    np.testing.assert_allclose(layer.mean[7, 9], mean.numpy().mean((0, 1)), rtol=1e-5)
    assert len(str(layer.get_config())) < 3000
    clone.get_layer("fc8").bias.assign_add(np.ones(CLASSES))
    np.testing.assert_array_equal(model(images[:2]), expected)  # weights of its own
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(images[:2]), expected)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images[:2])
    code = (
        "import sys, keras, alexnet_tf, numpy as np; folder = sys.argv[1]\n"
        "model = keras.models.load_model(folder + '/model.keras')\n"
        "np.save(folder + '/answer.npy', model(np.load(folder + '/images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-6)


def test_the_seed_that_nobody_gives_is_as_keras_is_told():
    kernels = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = alexnet(CLASSES, width=0.03)
        kernels.append(model.get_layer("conv1").kernel.numpy())
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])


def test_a_new_head_learns_on_a_base_that_stays(images):
    base = make_model(include_top=False)
    base.trainable = False
    inputs = keras.Input((224, 224, 3))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(base(inputs)))
    before, head = base.get_weights(), model.layers[-1].get_weights()
    losses = compile_and_fit(model, images)
    assert losses[1] < losses[0]
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.any(head[0] != model.layers[-1].get_weights()[0])


def test_a_part_gives_what_the_whole_has_there(images):
    model = make_model()
    part = keras.Model(model.input, model.get_layer("pool5").output)
    x = images[:1]
    for layer in model.layers[1:]:
        x = layer(x)
        if layer.name == "pool5":
            break
    assert x.shape[1:3] == (6, 6)
    np.testing.assert_allclose(part(images[:1]), x, rtol=1e-5, atol=1e-5)


def test_a_global_policy_changes_only_what_is_not_ours(images):
    """The network has its `dtype` of its own; what people add follows the policy."""
    expected = make_model()(images[:1]).numpy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model()
        head = keras.layers.Dense(CLASSES)
        assert head(model(images[:1])).dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in model.variables if "seed" not in v.path} == {"float32"}
    np.testing.assert_array_equal(model(images[:1]), expected)
    mixed = make_model(dtype="mixed_bfloat16")
    assert mixed.get_layer("conv2").compute_dtype == "bfloat16"
    assert mixed(images[:1]).dtype == "float32"


def test_the_summary_counts_the_parameters(capsys):
    lines = []
    alexnet().summary(print_fn=lines.append)
    text = "\n".join(map(str, lines))
    assert "60,965,224" in text
    assert all(name in text for name in ("conv1", "lrn1", "fc6", "dropout7", "fc8"))
