"""Serves any LabelStudioMLBase: Label Studio's protocol, jobs and versions. Knows nothing of learning."""
