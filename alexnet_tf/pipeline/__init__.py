"""From records on disk to batches of uint8 images.

Read in the order of the data: `data_set.py` (the card and the shards), `reading.py`
(the order of the records, from any step of a run on), `augmentation.py` (crops, mirror
images, colours; `color_loop.py` is its fast loop alone) and `batches.py`, where the
chain of training stands beside that of evaluation. They use `examples.py` (from a
record to pixels; bad records are named) and `cache.py` (all training images in memory).
"""
