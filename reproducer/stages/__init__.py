"""One file a kind of stage, and `expand`, which makes rows of stages out of a spec. Stages are where rooms meet."""
