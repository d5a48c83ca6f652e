"""Metrics: a functional core and thin `torchmetrics.Metric` classes."""
