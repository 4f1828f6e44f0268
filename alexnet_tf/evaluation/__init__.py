"""Exact errors over a split, and what is said of them.

Read `metrics.py` and `evaluator.py` first; then `command.py` (what eval.py runs),
`results.py` (tables, files), `report.py` (a page), `figures.py` (its pictures) and
`occlusion.py` (where the network looks).
"""
