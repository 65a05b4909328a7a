"""What a run is worth: per-field metrics with intervals, calibration, abstention, slices, and two baselines."""
