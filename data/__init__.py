"""Data preparation: from what people have to records they can trust.

Read `prepare.py`, the command; what a source of pictures tells it, `source.py`, and the
sources in `sources/`, whose folders `pictures.py` looks through; what becomes of each
picture, in other processes (`workers.py`): `held_out.py`, `transcode.py`, `depth.py`;
where it goes: `summary.py` with `counting.py`, `writer.py`. `check.py` reads a data set
that is there; `own_pictures.py` finds a folder of pictures where a data set was
expected; `reading.py` reads pictures for a network that is asked.
"""
