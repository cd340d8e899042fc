"""The samplers of codes: a histogram as a density, and samples of data from any embedding.

Nothing here imports torch. The estimators are imported from ``skqlvm``; the modules may change
before 1.0.
"""
