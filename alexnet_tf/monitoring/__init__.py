"""What a run reports about itself while it trains.

Read `metrics_log.py` first (records of numbers, on a disk that may refuse); then
`tensorboard.py` (pictures, histograms, settings; `layer_states.py` looks at the
layers) and `progress.py` (the terminal).
"""
