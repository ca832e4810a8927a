"""AdaPruner's solution space, objective and Optuna study."""
