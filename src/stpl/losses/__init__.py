"""Losses: functions on tensors."""
