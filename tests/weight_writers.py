"""Small files of weights as others write them, with nothing of the package's readers.

The numbers of the fields are those of BVLC/caffe `src/caffe/proto/caffe.proto`.
"""

import copy

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_SCHEMA = {
    "Shape": "dim:1:int64*",
    "Blob": (
        "num:1:int32 channels:2:int32 height:3:int32 width:4:int32 data:5:float* "
        "diff:6:float* shape:7:Shape double_data:8:double*"
    ),
    "Conv": (
        "num_output:1:uint32 pad:3:uint32* kernel_size:4:uint32* group:5:uint32 "
        "stride:6:uint32* kernel_h:11:uint32 kernel_w:12:uint32 axis:16:int32 "
        "dilation:18:uint32*"
    ),
    "Dropout": "ratio:1:float scale_train:2:bool",
    "Lrn": (
        "local_size:1:uint32 alpha:2:float beta:3:float norm_region:4:int32 k:5:float"
    ),
    "Pool": (
        "pool:1:int32 kernel_size:2:uint32 stride:3:uint32 pad:4:uint32 "
        "global_pooling:12:bool round_mode:13:int32"
    ),
    "Dense": "num_output:1:uint32 axis:5:int32 transpose:6:bool",
    "Relu": "negative_slope:1:float",
    "Transform": "scale:1:float crop_size:3:uint32 mean_value:5:float*",
    "Data": "source:1:string scale:2:float crop_size:5:uint32",
    "Input": "shape:1:Shape*",
    "V1": (
        "bottom:2:string* top:3:string* name:4:string type:5:int32 blobs:6:Blob* "
        "conv:10:Conv data:11:Data dropout:12:Dropout dense:17:Dense lrn:18:Lrn "
        "pool:19:Pool relu:30:Relu transform:36:Transform"
    ),
    "Layer": (
        "name:1:string type:2:string bottom:3:string* top:4:string* blobs:7:Blob* "
        "transform:100:Transform conv:106:Conv data:107:Data dropout:108:Dropout "
        "dense:117:Dense "
        "lrn:118:Lrn pool:121:Pool relu:123:Relu input:143:Input"
    ),
    "Net": (
        "name:1:string layers:2:V1* input:3:string* input_dim:4:int32* "
        "input_shape:8:Shape* layer:100:Layer*"
    ),
}
_PARAMETERS = (
    *("conv", "dropout", "lrn", "pool", "dense", "relu", "transform", "data"),
)
_OLD_TYPES = {
    "Convolution": 4,
    "Data": 5,
    "Dropout": 6,
    "InnerProduct": 14,
    "LRN": 15,
    "Pooling": 17,
    "ReLU": 18,
    "Softmax": 20,
}


def _new_net(packed: bool):
    """A new message NetParameter, whose repeated floats are packed or not."""
    file = descriptor_pb2.FileDescriptorProto(name="n.proto", package="n")
    for message, fields in _SCHEMA.items():
        described = file.message_type.add(name=message)
        for field in fields.split():
            name, number, kind = field.split(":")
            added = described.field.add(name=name, number=int(number), label=1)
            if kind.endswith("*"):
                added.label = added.LABEL_REPEATED
                added.options.packed = packed and kind in ("float*", "double*")
            kind = kind.rstrip("*")
            if kind in _SCHEMA:
                added.type, added.type_name = added.TYPE_MESSAGE, f".n.{kind}"
            else:
                added.type = getattr(added, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("n.Net"))()


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


def caffe_net(*, pools_first=False):
    """The layers of models/bvlc_alexnet or, where it pools first, of CaffeNet."""
    net = [{"name": "data", "type": "Data", "top": ["data", "label"]}]

    def add(kind, name, in_place=False, **numbers):
        before = net[-1]["top"][0]
        top = [before if in_place else name]
        net.append({"name": name, "type": kind, "bottom": [before], "top": top})
        net[-1].update(numbers)

    def conv(number, kernel_size, **numbers):
        numbers = {name: [v] if name != "group" else v for name, v in numbers.items()}
        numbers["kernel_size"] = [kernel_size]
        add("Convolution", f"conv{number}", conv=numbers)
        add("ReLU", f"relu{number}", in_place=True)

    def shrink(number):
        lrn = {"local_size": 5, "alpha": 1e-4, "beta": 0.75}
        steps = [("LRN", f"norm{number}", {"lrn": lrn}), pool(number)]
        for kind, name, numbers in steps[::-1] if pools_first else steps:
            add(kind, name, **numbers)

    def pool(number):
        window = {"kernel_size": 3, "stride": 2}
        return "Pooling", f"pool{number}", {"pool": window}

    conv(1, 11, stride=4)
    shrink(1)
    conv(2, 5, pad=2, group=2)
    shrink(2)
    conv(3, 3, pad=1)
    conv(4, 3, pad=1, group=2)
    conv(5, 3, pad=1, group=2)
    kind, name, numbers = pool(5)
    add(kind, name, **numbers)
    for number in (6, 7):
        add("InnerProduct", f"fc{number}")
        add("ReLU", f"relu{number}", in_place=True)
        add("Dropout", f"drop{number}", in_place=True)
    add("InnerProduct", "fc8")
    add("Softmax", "prob")
    return net


def change(net, name, **changes):
    """A network with something changed in the layer of a name."""
    net = copy.deepcopy(net)
    (layer,) = (layer for layer in net if layer["name"] == name)
    layer.update(changes)
    return net


def insert(net, after, layer, **numbers):
    """A network with a layer more, whose output the next one reads."""
    net = copy.deepcopy(net)
    place = next(i for i, x in enumerate(net) if x["name"] == after)
    kind, name = layer
    top = net[place]["top"][:1]
    net.insert(place + 1, {"name": name, "type": kind, "bottom": top, "top": top})
    net[place + 1].update(numbers)
    return net


def remove(net, kind):
    """A network without layers of a kind: the next ones read what these have read."""
    before = {x["top"][0]: x["bottom"][0] for x in net if x["type"] == kind}
    return [
        x | {"bottom": [before.get(name, name) for name in x.get("bottom", ())]}
        for x in net
        if x["type"] != kind
    ]


def write_caffe(path, layers, net=None, *, old=False, packed=True, legacy=None):
    """Writes a NetParameter, of the older form or the newer.

    `legacy` shapes are four numbers, as files before 2014's end have them.
    """
    message = _new_net(packed)
    message.name = "AlexNet"
    legacy = old if legacy is None else legacy
    arrays = outputs_first(layers)
    for described in net or caffe_net():
        layer = (message.layers if old else message.layer).add(name=described["name"])
        kind = described["type"]
        layer.type = _OLD_TYPES.get(kind, 99) if old else kind
        layer.bottom.extend(described.get("bottom", ()))
        layer.top.extend(described["top"])
        for name in _PARAMETERS:
            for key, value in described.get(name, {}).items():
                numbers = getattr(layer, name)
                if isinstance(value, list):
                    getattr(numbers, key).extend(value)
                else:
                    setattr(numbers, key, value)
        name = described.get("arrays", described["name"])
        for array in arrays.get(name, ()):
            _fill(layer.blobs.add(), array, legacy=legacy, double=name == "fc7")
    path.write_bytes(message.SerializeToString())


def change_caffe(path, change):
    """Changes the message of a file that `write_caffe` wrote."""
    message = _new_net(packed=True)
    message.ParseFromString(path.read_bytes())
    change(message)
    path.write_bytes(message.SerializeToString())


def _fill(blob, array, *, legacy, double):
    """Puts an array into one of Caffe's blobs."""
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        blob.num, blob.channels, blob.height, blob.width = shape
    else:
        blob.shape.dim.extend(array.shape)
    (blob.double_data if double else blob.data).extend(array.ravel().tolist())
    blob.diff.extend([7.0])  # a snapshot of the solver has these, too


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
