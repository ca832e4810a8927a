"""What each stage does, and the expansion of a spec into stages."""
