"""What a run says about itself while it trains.

Read `metrics_log.py` first (a record of numbers, to a file and to TensorBoard); then
`tensorboard.py` (pictures, histograms, settings).
"""
