"""A run for others: a SavedModel and its sisters.

`exporting.py` is the one door. `saved_model.py` writes what servers take, from pictures
to classes; `network_files.py` the network alone, for LiteRT and ONNX;
`framework_files.py` the weights alone, for PyTorch and others. `checking.py` compares
what was written with the checkpoint, `model_card.py` says what it is.
"""
