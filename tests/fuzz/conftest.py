"""Hypothesis tries the same inputs in every run, so that the same code has the same result."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("new", settings.get_profile("same"), derandomize=False, max_examples=5000)
settings.load_profile("same")
