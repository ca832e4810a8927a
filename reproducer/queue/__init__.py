"""The graph of stages, the artifact store, locks and executors; knows no stage by name."""
