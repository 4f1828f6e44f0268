"""The network: AlexNet as a Keras model, and the layers that Keras lacks.

Read `alexnet.py` first, which reads like the paper's table; then `layers.py`.
"""
