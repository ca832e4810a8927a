"""One small file a pruning method; `prune` picks one by name."""
