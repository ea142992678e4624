"""How good a model is: benchmarks as data, official metrics, baselines, intervals, reports."""
