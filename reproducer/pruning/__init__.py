"""The shared pruning core: coupled structures, statistics, allocation, the plan, surgery."""
