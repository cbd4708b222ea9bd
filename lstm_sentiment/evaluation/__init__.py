"""Metrics, calibration, conformal prediction sets, baselines, significance, behavioural tests."""
