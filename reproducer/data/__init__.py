"""Text, task and instruction sources, and the calibration pool."""
