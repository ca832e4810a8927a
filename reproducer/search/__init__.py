"""The search for calibration samples and a method's own parameters, as an Optuna study."""
