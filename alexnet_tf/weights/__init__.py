"""Weights that others published, and ours: read, checked and put into a network.

`loading.py` is the one door to a network with weights, `published.py` the one to the
weights alone. `weight_files.py` tells the kinds of files apart; each kind has a reader
(`caffe_files.py`, `onnx_files.py`, `torch_files.py`, `numpy_files.py`,
`keras_files.py`) that accounts for everything in the file: `description.py` compares
what it describes with what the recipe builds. `weight_layout.py` says how kernels lie
in files and here, `downloads.py` fetches published files by name.
"""
