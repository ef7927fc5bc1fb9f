"""Settings of all tests."""

import hypothesis

# Shared machines stall; a slow example is not a failing one.
hypothesis.settings.register_profile("crystaljax", deadline=None)
hypothesis.settings.load_profile("crystaljax")
