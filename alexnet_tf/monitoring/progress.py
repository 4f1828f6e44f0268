from alexnet_tf.monitoring.metrics_log import Progress
