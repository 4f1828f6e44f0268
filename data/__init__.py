"""Data preparation: from what people have to records they can trust.

Read `prepare.py`, the command; what a source of pictures tells it, `source.py`, and the
sources in `sources/`, one small module each, of which `sources/__init__.py` recognises
the right one; what becomes of each picture, in other processes (`workers.py`):
`held_out.py`, `transcode.py`; where it goes: `summary.py` with `counting.py`,
`writer.py`. `check.py` reads a data set that is there; `own_data.py` is the door of
training: it prepares, once, what is no data set yet.
"""
