"""Shim."""

from alexnet_tf.monitoring.metrics_log import Progress  # noqa: F401
