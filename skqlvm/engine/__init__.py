"""The torch side of skqlvm: functions on tensors, and modules that hold parameters.

Public, and free to change before 1.0. Nothing here imports scikit-learn, prints, or touches global
state."""
