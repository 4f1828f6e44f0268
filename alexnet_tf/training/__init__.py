"""Training: one step, and the loop around it.

Read `optimizers.py` and `schedules.py`, then `step.py`, which uses them, then `loop.py`
with `timetable.py` (what is due when). `checkpoints.py` keeps what was learned,
`resuming.py` finds unfinished runs, `cluster.py` has several workers agree,
`diagnostics.py` says why a network does not learn, and `training.py` is what train.py
calls.
"""
