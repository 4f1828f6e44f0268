"""Small files of weights as others write them, with nothing of the package's readers.

The numbers of the fields are those of Caffe's and ONNX's public message definitions.
"""

import json

import numpy as np
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

CAFFE = """
name: "net.proto" package: "net"
message_type { name: "Shape"
  field { name: "dim" number: 1 type: TYPE_INT64 label: LABEL_REPEATED
          options { packed: true } } }
message_type { name: "Blob"
  field { name: "num" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "channels" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "height" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "width" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "data" number: 5 type: TYPE_FLOAT label: LABEL_REPEATED
          options { packed: PACKED } }
  field { name: "diff" number: 6 type: TYPE_FLOAT label: LABEL_REPEATED }
  field { name: "shape" number: 7 type: TYPE_MESSAGE type_name: ".net.Shape"
          label: LABEL_OPTIONAL }
  field { name: "double_data" number: 8 type: TYPE_DOUBLE label: LABEL_REPEATED
          options { packed: PACKED } } }
message_type { name: "V1"
  field { name: "bottom" number: 2 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "name" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "type" number: 5 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "blobs" number: 6 type: TYPE_MESSAGE type_name: ".net.Blob"
          label: LABEL_REPEATED } }
message_type { name: "Layer"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "type" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "bottom" number: 3 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "blobs" number: 7 type: TYPE_MESSAGE type_name: ".net.Blob"
          label: LABEL_REPEATED } }
message_type { name: "Net"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "layers" number: 2 type: TYPE_MESSAGE type_name: ".net.V1"
          label: LABEL_REPEATED }
  field { name: "layer" number: 100 type: TYPE_MESSAGE type_name: ".net.Layer"
          label: LABEL_REPEATED } }
"""
ONNX = """
name: "onnx.proto" package: "net"
message_type { name: "Tensor"
  field { name: "dims" number: 1 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "data_type" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "float_data" number: 4 type: TYPE_FLOAT label: LABEL_REPEATED
          options { packed: true } }
  field { name: "name" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "raw_data" number: 9 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "data_location" number: 14 type: TYPE_INT32 label: LABEL_OPTIONAL } }
message_type { name: "Node"
  field { name: "input" number: 1 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "op_type" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Graph"
  field { name: "node" number: 1 type: TYPE_MESSAGE type_name: ".net.Node"
          label: LABEL_REPEATED }
  field { name: "name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "initializer" number: 5 type: TYPE_MESSAGE type_name: ".net.Tensor"
          label: LABEL_REPEATED } }
message_type { name: "Model"
  field { name: "ir_version" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "producer_name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "graph" number: 7 type: TYPE_MESSAGE type_name: ".net.Graph"
          label: LABEL_OPTIONAL } }
"""


def message(schema, name, **replaced):
    """A new message of a schema in protobuf's text format."""
    for old, new in replaced.items():
        schema = schema.replace(old, new)
    file = text_format.Parse(schema, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = pool.FindMessageTypeByName(f"net.{name}")
    return message_factory.GetMessageClass(kind)()


def outputs_first(layers):
    """Kernels as Caffe, ONNX and PyTorch have them: (out, in, height, width)."""
    found = {}
    for layer, variables in layers.items():
        kernel = variables["kernel"]
        if kernel.ndim == 4:
            kernel = np.einsum("hwio->oihw", kernel)
        elif layer == "fc6":  # reads 6×6 maps
            channels = len(layers["conv5"]["bias"])
            maps = kernel.reshape(6, 6, channels, -1)
            kernel = np.einsum("hwio->oihw", maps).reshape(kernel.shape[1], -1)
        else:
            kernel = np.einsum("io->oi", kernel)
        found[layer] = np.ascontiguousarray(kernel), variables["bias"]
    return found


def fill_blob(blob, array, *, legacy, axes=4, double=False):
    """Puts an array into one of Caffe's blobs, with ones before its axes."""
    shape = (1,) * (axes - array.ndim) + array.shape
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = shape
    else:
        blob.shape.dim.extend(shape)
    (blob.double_data if double else blob.data).extend(array.ravel().tolist())
    blob.diff.extend([7.0])  # a snapshot of the solver has these, too


def write_caffe(path, layers, form="new", *, lrn_first=True, packed=True):
    """Writes a NetParameter: "old" (layers), "new" (layer) or "mixed" (both)."""
    net = message(CAFFE, "Net", PACKED=str(packed).lower())
    net.name = "AlexNet"
    normalizations = [("norm1", "LRN", 15), ("pool1", "Pooling", 17)]
    normalizations = normalizations if lrn_first else normalizations[::-1]
    names = [("data", "Data", 5), ("conv1", "Convolution", 4), *normalizations]
    names += [(name, "InnerProduct", 14) for name in [*layers][1:]]
    arrays = outputs_first(layers)
    for i, (name, kind, number) in enumerate(names):
        old = form == "old" or (form == "mixed" and i % 2)
        layer = (net.layers if old else net.layer).add(name=name)
        layer.type = number if old else kind
        for array in arrays.get(name, ()):
            double = form == "mixed" and name == "fc7"
            axes = {"old": 4, "new": array.ndim, "mixed": 3 if name == "fc6" else 4}
            legacy = form == "old"
            fill_blob(
                layer.blobs.add(), array, legacy=legacy, axes=axes[form], double=double
            )
    path.write_bytes(net.SerializeToString())


def write_onnx(path, layers, *, raw=True, lrn_first=True, data_type=1, location=0):
    """Writes a model as those of the ONNX zoo: initializers conv1_w_0 … fc8_b_0."""
    model = message(ONNX, "Model")
    model.ir_version, model.producer_name = 3, "onnx-caffe2"
    kinds = ["LRN", "MaxPool"] if lrn_first else ["MaxPool", "LRN"]
    for kind in ("Conv", "Relu", *kinds, "Gemm"):
        model.graph.node.add(op_type=kind)
    for layer, arrays in outputs_first(layers).items():
        for suffix, array in zip(("w_0", "b_0"), arrays, strict=True):
            tensor = model.graph.initializer.add(name=f"{layer}_{suffix}")
            tensor.dims.extend(array.shape)
            tensor.data_type, tensor.data_location = data_type, location
            if raw:
                tensor.raw_data = array.astype("<f4").tobytes()
            else:
                tensor.float_data.extend(array.ravel().tolist())
    path.write_bytes(model.SerializeToString())


TORCHVISION = ("features.0", "features.3", "features.6", "features.8", "features.10")
TORCHVISION += ("classifier.1", "classifier.4", "classifier.6")


def torchvision_arrays(layers):
    """The state_dict of torchvision's AlexNet."""
    return {
        f"{name}.{kind}": array
        for name, arrays in zip(
            TORCHVISION, outputs_first(layers).values(), strict=True
        )
        for kind, array in zip(("weight", "bias"), arrays, strict=True)
    }


def write_safetensors(path, arrays):
    """Writes safetensors: the header's length, the header, the values."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        shape = list(array.shape)
        kind = {"float32": "F32", "bfloat16": "BF16"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
