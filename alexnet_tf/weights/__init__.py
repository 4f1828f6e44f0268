"""Weights that others published, and ours: read, checked and put into a network.

`loading.py` is the one door to a network with weights, `weight_files.py` the one to the
weights alone, which `published.py` puts into a network. Each kind of file has a reader
(`caffe_files.py`, `onnx_files.py`, `torch_files.py`, `numpy_files.py`,
`keras_files.py`) that accounts for everything in the file: `description.py` compares
what it describes with what the recipe builds. `weight_layout.py` says how kernels lie
in files and here, `downloads.py` fetches published files by name.
"""
