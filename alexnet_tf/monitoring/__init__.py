"""What a run reports about itself while it trains.

Read `metrics_log.py` first (records of numbers, on a disk that may refuse); then
`tensorboard.py` (pictures, histograms, settings; `drawings.py` draws those of the data,
`layer_states.py` looks at the layers) and `progress.py` (the terminal).
"""
