"""A run for others: a SavedModel and its sisters.

`export.py` is the one door. `saved_model.py` writes what servers take, from pictures to
classes; `network_files.py` the network alone. `checking.py` compares what was written
with the checkpoint, `model_card.py` says what it is.
"""
