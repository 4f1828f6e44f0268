"""Exact errors over a split, and what is told of them.

Read `evaluator.py` first; then `results.py` (tables, files), `report.py` (a page) and
`figures.py` (its pictures).
"""
