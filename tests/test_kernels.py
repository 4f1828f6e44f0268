"""What GPUs wait for in a training step, read off its graph.

TensorFlow for Linux has the kernels of GPUs registered, with or without one.
"""

import functools

import pytest
import tensorflow as tf
from helpers import make_config, make_trainer
from tensorflow.python.framework import kernels, op_def_registry

from alexnet_tf.pipeline.data_set import open_data_set
from alexnet_tf.recipes import RECIPES
from alexnet_tf.training import optimizers
from alexnet_tf.training.step import Trainer

ON_HOST = {
    "Timestamp": "the clock that says how long training waited for input",
}
# What the host must know of the device's results before it can go on.
WAITED_FOR = {
    "If": "whether loss and gradient are finite; in `original`, whether conv1 moves",
    "Identity": "the same: whether the loop goes on",
}


@functools.cache
def kernels_of(op):
    return kernels.get_registered_kernels_for_op(op).kernel


def find_kernel(node, device="GPU"):
    """The kernel that runs a node on a GPU; None if it runs on the host."""

    def takes_its_types(kernel):
        for constraint in kernel.constraint:
            value = node.attr[constraint.name]
            types = {*value.list.type} or {value.type}
            if not types <= {*constraint.allowed_values.list.type}:
                return False
        return True

    usable = [k for k in kernels_of(node.op) if takes_its_types(k)]
    for name in (device, "DEFAULT"):
        for kernel in usable:
            if kernel.device_type == name:
                return kernel
    return None


@functools.cache
def trace(data_dir, recipe, precision):
    """The functions of the graph of training steps."""
    trainer = make_trainer(data_dir, recipe=recipe, precision=precision)
    steps = trainer.run_steps.get_concrete_function(trainer.batches(), tf.constant(1))
    return functions_of(steps)


def functions_of(concrete):
    return concrete.graph.as_graph_def().library.function


def find_on_host(functions):
    """The kinds of nodes without a kernel for GPUs, or for XLA there."""
    found = set()
    for function in functions:
        compiled = function.attr["_XlaMustCompile"].b
        device = "XLA_GPU_JIT" if compiled else "GPU"
        found |= {n.op for n in function.node_def if not find_kernel(n, device)}
    return found


def find_waited_for(functions):
    """The kinds of nodes that need on the host what another makes on the device."""
    names, found = {function.signature.name for function in functions}, set()
    for function in functions:
        nodes = {node.name: node for node in function.node_def}
        if function.attr["_XlaMustCompile"].b:
            continue
        for node in function.node_def:
            if node.op in names:
                continue
            kernel = find_kernel(node)
            for name, argument in zip(node.input, name_arguments(node), strict=False):
                source, *output = name.split(":")
                if not output or not kernel or argument not in kernel.host_memory_arg:
                    continue
                made_by = find_kernel(nodes[source])
                if made_by and output[0] not in made_by.host_memory_arg:
                    found.add(node.op)
    return found


def name_arguments(node):
    """The name of each input of a node, as its kernels have it."""
    names = []
    for argument in op_def_registry.get(node.op).input_arg:
        count = node.attr[argument.number_attr].i if argument.number_attr else 1
        if argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        names += [argument.name] * count
    return names


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        *((name, "mixed_bfloat16") for name in RECIPES),  # there are fewer kernels
        ("original", "float32"),  # whose layers are all that there are
        ("small", "float32"),
    ],
)
def test_a_step_falls_to_the_host_only_where_it_must(data_dir, recipe, precision):
    functions = trace(data_dir, recipe, precision)
    assert sum(len(function.node_def) for function in functions) > 500
    assert find_on_host(functions) == {*ON_HOST}
    assert find_waited_for(functions) == {*WAITED_FOR}


def test_a_step_does_not_look_at_pixels_that_are_0_to_255(data_dir):
    functions = trace(data_dir, "small", "float32")
    ops = [node.op for function in functions for node in function.node_def]
    assert "Conv2D" in ops
    assert "CheckNumerics" not in ops


def test_a_step_is_a_graph_without_a_loop(data_dir):
    """Else oneDNN may leave out the gradient of a pooling: `Trainer._run_step`."""
    functions = trace(data_dir, "small", "float32")
    inlined = [
        function.signature.name
        for function in functions
        if not function.attr["_noinline"].b
        and any(node.op == "MaxPoolGrad" for node in function.node_def)
    ]
    assert sum(n.op == "MaxPoolGrad" for f in functions for n in f.node_def) == 3
    assert not inlined


def test_what_falls_to_the_host_is_found():
    spec = tf.TensorSpec([2], tf.float32)

    @tf.function
    def takes_apart(x):
        parts = tf.unstack(tf.cast(x, tf.uint64))  # no kernel for a GPU
        return [tf.cast(part, tf.float32) for part in parts]

    @tf.function
    def chooses(x):
        return tf.cond(x[0] > 0, lambda: takes_apart(x)[0], lambda: x[1])

    @tf.function
    def compares(x):
        return tf.cast(x, tf.int32) > 0  # on the host, as int32 is

    @tf.function(input_signature=[spec])
    def everything(x):
        return takes_apart(x), chooses(x), compares(x)

    functions = functions_of(everything.get_concrete_function())
    assert find_on_host(functions) == {"Unpack"}
    assert find_waited_for(functions) >= {"StatelessIf", "Greater"}


def ancestors(nodes, name):
    """The names of all nodes that a node waits for."""
    found, waiting = set(), [name]
    while waiting:
        for wanted in nodes[waiting.pop()].input:
            source = wanted.split(":")[0].removeprefix("^")
            if source in nodes and source not in found:
                found.add(source)
                waiting.append(source)
    return found


def test_gradients_travel_while_the_convolutions_are_computed(data_dir, monkeypatch):
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=2**12)
    monkeypatch.setattr(optimizers, "_PACKS", options)  # for a small network
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    trainer = Trainer(make_config(data_dir), open_data_set(data_dir), strategy)
    steps = trainer.run_steps.get_concrete_function(trainer.batches(), tf.constant(1))
    waits = []
    for function in functions_of(steps):
        nodes = {node.name: node for node in function.node_def}
        for node in function.node_def:
            if node.op.startswith("CollectiveReduce"):
                before = {nodes[name].op for name in ancestors(nodes, node.name)}
                waits.append("Conv2DBackpropFilter" in before)
    # Of both replicas: fc8, fc7 and fc6, each alone, and then the convolutions.
    assert waits.count(False) == 2 * 3
    assert waits.count(True) >= 2 * 2
