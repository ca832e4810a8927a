"""Kinds of recovery: one file each, in `training/` what they share."""
