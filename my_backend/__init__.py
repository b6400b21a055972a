"""Serves any LabelStudioMLBase: Label Studio's protocol, jobs and model versions. Knows nothing of learning."""
