"""Training: one step, and the loop around it.

Read `step.py` first; then `optimizers.py` and `schedules.py`, which it uses; then
`loop.py`, `checkpoints.py` and `diagnostics.py`.
"""
