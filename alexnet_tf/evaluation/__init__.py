"""Exact errors over a split, and what is said of them.

Read `metrics.py` and `evaluator.py` first; then `evaluation.py` (what eval.py calls),
`results.py` (tables and files), `report.py` (a page), `figures.py` (its charts),
`mosaics.py` (kernels and maps), `explaining.py` (where the network looks) and
`comparison.py` (several runs side by side).
"""
